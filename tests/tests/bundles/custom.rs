//! Base images over others: packages, files and variables.

use flowcell_tests::index::{Index, Wheel};
use flowcell_tests::{Answer, FlowFolder};
use serde_json::{Value, json};

use crate::{BASE, at, fails, json_at, with};

const TOOL: &str = "import os\nfrom promptflow import tool\n\n\
    def change(path):\n    try:\n        open(path, 'w')\n        return 'changed'\n    except OSError:\n        return 'refused'\n\n\
    @tool\ndef t():\n    import greeting\n    import listed\n    return {\n        'greeting': greeting.hello(),\n        'listed': listed.NAME,\n        \
    'where': greeting.__file__,\n        'data': open('/data/deep/note.txt').read(),\n        'single': open('/opt/single/one.txt').read(),\n        \
    'mode': os.environ.get('MODE'),\n        'change': change('/data/deep/note.txt'),\n    }\n";

/// A home of its own with the base bundle, and what is compiled of it.
fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let source = flowcell_tests::home();
    let shown = json_at(source, &["bundle", "show", BASE]).to_string();
    let digests = regex::Regex::new("sha256:([0-9a-f]{64})").unwrap();
    let copy = |name: &str| {
        let target = home.path().join(name);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        if source.join(name).exists() {
            std::fs::copy(source.join(name), target).unwrap();
        }
    };
    copy("bundles/promptflow/0.1.0");
    let engines = std::fs::read_dir(source.join("cache/compiled")).unwrap();
    let engines: Vec<_> = engines.map(|engine| engine.unwrap().file_name()).collect();
    for found in digests.captures_iter(&shown) {
        let hex = &found[1];
        for folder in ["blobs/sha256", "built", "manifests"] {
            copy(&format!("{folder}/{hex}"));
        }
        for engine in &engines {
            let engine = engine.to_str().unwrap();
            copy(&format!("cache/compiled/{engine}/{hex}.cwasm"));
        }
    }
    home
}

#[test]
fn a_base_image_with_a_wheel_a_requirement_a_file_and_a_variable() {
    let home = home();
    let wheel = Wheel::new("greeting", "1.0").file(
        "greeting/__init__.py",
        "def hello():\n    return 'hello from a wheel'\n",
    );
    let index = Index::start();
    index.add(&Wheel::new("listed", "2.0").file("listed.py", "NAME = 'listed 2.0'\n"));
    let recipe = "name = \"custom\"\nversion = \"1\"\nchannels = [\"latest\"]\nfrom = \"promptflow:0.1.0\"\n\
        [python]\nrequirements = \"requirements.txt\"\nwheels = [\"wheels/greeting-1.0-py3-none-any.whl\"]\n\
        [[file]]\nsource = \"data/\"\ntarget = \"/data/\"\n[[file]]\nsource = \"one.txt\"\ntarget = \"/opt/single\"\n\
        [environment]\nMODE = \"of the image\"\n";
    let folder = FlowFolder::new()
        .file("bundle.toml", recipe)
        .file("requirements.txt", "listed==2.0\n")
        .file("wheels/greeting-1.0-py3-none-any.whl", wheel.bytes())
        .file("data/deep/note.txt", "a note")
        .file("one.txt", "one");
    let source = folder.path();
    let url = index.url();
    let host = index.host();
    let variables = [
        ("FLOWCELL_INDEX_URL", url.as_str()),
        ("FLOWCELL_TRUSTED_HOST", &host),
    ];
    let arguments = [
        "bundle",
        "build",
        "--source",
        source.to_str().unwrap(),
        "--output",
        "json",
    ];
    let (is_built, text) = with(home.path(), &variables, "", &arguments);
    assert!(is_built, "{text}");
    assert!(text.contains("making the base image"), "{text}");
    assert!(!text.contains("runs without images"), "{text}");

    let shown = json_at(home.path(), &["bundle", "show", "custom:latest"]);
    let bundle = &shown["bundle"];
    let packages = bundle["python"]["packages"].as_array().unwrap();
    for package in [
        json!({"name": "greeting", "version": "1.0"}),
        json!({"name": "listed", "version": "2.0"}),
    ] {
        assert!(packages.contains(&package), "{packages:?}");
    }
    let mounts: Vec<&Value> = bundle["trees"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tree| &tree["mount"])
        .collect();
    assert_eq!(mounts, ["/python", "/packages", "/data", "/opt/single"]);
    let runner = |bundle: &Value| bundle["components"][0]["start"]["image"].clone();
    let base = json_at(home.path(), &["bundle", "show", "promptflow:0.1.0"]);
    let base = &base["bundle"];
    assert_eq!(runner(bundle)["shell"], runner(base)["shell"]);
    assert_ne!(runner(bundle)["base"], runner(base)["base"]);
    assert_eq!(
        bundle["trees"][0], base["trees"][0],
        "Python's library is the same"
    );

    let flow = FlowFolder::python(TOOL, &[]);
    let test = |more: &[&str]| {
        let path = flow.path();
        let mut all = vec![
            "flow",
            "test",
            "--flow",
            path.to_str().unwrap(),
            "--image",
            "custom:1",
            "--output",
            "json",
        ];
        all.extend(more);
        Answer::of(at(home.path(), &all)).outputs()["out"].clone()
    };
    let out = test(&[]);
    assert_eq!(
        out,
        json!({
            "greeting": "hello from a wheel",
            "listed": "listed 2.0",
            "where": "/packages/greeting/__init__.py",
            "data": "a note",
            "single": "one",
            "mode": "of the image",
            "change": "refused",
        })
    );
    let given = test(&["--environment-variables", "MODE=of the caller"]);
    assert_eq!(given["mode"], "of the caller");
}

#[test]
fn recipes_that_cannot_be_followed() {
    let home = home();
    let build = |recipe: &str| {
        let folder = FlowFolder::new()
            .file(
                "bundle.toml",
                format!("name = \"x\"\nversion = \"1\"\n{recipe}"),
            )
            .file("data/a.txt", "a")
            .link("linked", "/etc")
            .file("wheels/none.whl", "none")
            .file("wheels/x-1.0-py3-none-any.whl", "no zip archive");
        let source = folder.path();
        at(
            home.path(),
            &["bundle", "build", "--source", source.to_str().unwrap()],
        )
    };
    let from = "from = \"promptflow:0.1.0\"\n";
    for (recipe, words) in [
        ("from = \"gone:1\"\n", &["gone:1", "promptflow:0.1.0"][..]),
        ("from = \"promptflow\"\n", &["bundle.toml", "name:version"]),
        (
            "[[file]]\nsource = \"data\"\ntarget = \"/flow/x\"\n",
            &["/flow/x", "hide /flow"],
        ),
        (
            "[[file]]\nsource = \"data\"\ntarget = \"/site\"\n",
            &["hide /site"],
        ),
        (
            "[[file]]\nsource = \"data\"\ntarget = \"../x\"\n",
            &["absolute path"],
        ),
        (
            "[[file]]\nsource = \"gone\"\ntarget = \"/data\"\n",
            &["gone"],
        ),
        (
            "[[file]]\nsource = \".\"\ntarget = \"/data\"\n",
            &["linked", "no ordinary file"],
        ),
        (
            "[python]\nwheels = [\"wheels/x-1.0-py3-none-any.whl\"]\n",
            &["`from`"],
        ),
        (
            &format!("{from}[python]\nwheels = [\"wheels/gone.whl\"]\n"),
            &["gone.whl"],
        ),
        (
            &format!("{from}[python]\nwheels = [\"wheels/none.whl\"]\n"),
            &["none.whl", "no wheel's"],
        ),
        (
            &format!("{from}[python]\nwheels = [\"wheels/x-1.0-py3-none-any.whl\"]\n"),
            &["no zip archive"],
        ),
        (
            &format!("{from}[python]\nrequirements = \"../secret.txt\"\n"),
            &["../secret.txt"],
        ),
    ] {
        fails(&build(recipe), words);
    }
}
