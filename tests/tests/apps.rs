//! Apps: a flow with its whole environment in one component, run where there is nothing else.
#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use flowcell_tests::index::{Index, Wheel, sha256};
use flowcell_tests::server::{Server, Setup, make_home, workspace};
use flowcell_tests::{Answer, Finished, FlowFolder, flowcell_with, home, repository};
use serde_json::{Value, json};
use tempfile::TempDir;
use wasm_encoder::{ComponentSection as _, CustomSection};
use wasmparser::{Parser, Payload, Validator, WasmFeatures};

/// The class of what is no app, or a bad one.
const INVALID: &str = "InvalidApp";
const INPUTS: [(&str, &str); 1] = [("text", "string")];
/// It draws a number when it is imported, so whoever has the same number has not imported it.
const TOOL: &str = "import os, uuid\nfrom promptflow.core import tool\nimport thing, bs4\nDRAWN = uuid.uuid4().hex\nMODE = os.environ.get('MODE', 'none')\n@tool\ndef tool(text):\n    return {'version': thing.VERSION, 'file': thing.__file__, 'text': bs4.BeautifulSoup(text, 'html.parser').text, 'drawn': DRAWN, 'mode': MODE, 'here': sorted(os.listdir())}\n";
const LIST: &str = "# what the flow needs\nthing>=1\n";

fn flow() -> FlowFolder {
    FlowFolder::python(TOOL, &INPUTS).file("requirements.txt", LIST)
}

fn wheel() -> Wheel {
    Wheel::new("thing", "1.5")
        .file("thing.py", "import helper\nVERSION = '1.5' + helper.MORE\n")
        .requires("helper")
        .metadata("License-Expression: MIT")
}

fn helper() -> Wheel {
    Wheel::new("helper", "2.0+local").file("helper.py", "MORE = '!'\n")
}

/// One app for all tests: the index that it was made with is gone.
struct Built {
    _folder: TempDir,
    app: PathBuf,
    bytes: Vec<u8>,
    sbom: Value,
    answer: Value,
}

static BUILT: LazyLock<Built> = LazyLock::new(|| {
    let index = Index::start();
    index.add(&wheel());
    index.add(&helper());
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    make_home(&home);
    let app = folder.path().join("app.wasm");
    let flow = flow();
    let before = flow.snapshot();
    let url = index.url();
    let environment = [
        ("FLOWCELL_INDEX_URL", url.as_str()),
        ("FLOWCELL_HOME", home.to_str().unwrap()),
    ];
    let built = flowcell_with(
        repository(),
        &environment,
        [
            "flow",
            "build",
            "--flow",
            flow.path().to_str().unwrap(),
            "--output",
            app.to_str().unwrap(),
            "--format",
            "json",
        ],
    );
    assert_eq!(built.code, Some(0), "{built:#?}");
    assert_eq!(flow.snapshot(), before, "the flow's folder has changed");
    let sbom = fs::read(folder.path().join("app.cdx.json")).unwrap();
    Built {
        bytes: fs::read(&app).unwrap(),
        sbom: serde_json::from_slice(&sbom).unwrap(),
        answer: serde_json::from_str(&built.stdout).unwrap(),
        app,
        _folder: folder,
    }
});

/// A home that has what is compiled, and nothing else: compiling the runner anew takes many seconds, and is tried once.
fn bare_home() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("cache")).unwrap();
    let compiled = fs::canonicalize(home().join("cache/compiled")).unwrap();
    std::os::unix::fs::symlink(compiled, folder.path().join("cache/compiled")).unwrap();
    folder
}

fn run(home: &Path, app: &Path, arguments: &[&str]) -> Finished {
    // Whoever would ask an index here hears nothing good.
    let environment = [
        ("FLOWCELL_HOME", home.to_str().unwrap()),
        ("FLOWCELL_INDEX_URL", "http://127.0.0.1:9/simple/"),
    ];
    let mut all = vec!["run", app.to_str().unwrap(), "--output", "json"];
    all.extend(arguments);
    flowcell_with(repository(), &environment, all)
}

const TEXT: [&str; 2] = ["--inputs", "text=<b>hello</b>"];

#[test]
fn an_app_runs_where_there_is_nothing() {
    let built = &*BUILT;
    assert_eq!(built.answer["pre_initialised"], true);
    // The very first run on a machine, with nothing compiled.
    let empty = tempfile::tempdir().unwrap();
    let first = Answer::of(run(empty.path(), &built.app, &TEXT));
    let out = &first.outputs()["out"];
    assert_eq!(out["version"], "1.5!");
    assert_eq!(out["file"], "/site/thing.py");
    assert_eq!(out["text"], "hello");
    assert_eq!(
        out["here"],
        json!([
            "flow.dag.yaml",
            "pylock.toml",
            "requirements.txt",
            "tool.py"
        ])
    );
    let again = Answer::of(run(empty.path(), &built.app, &TEXT));
    assert_eq!(again.outputs(), first.outputs());
    // Elsewhere too: it was drawn when the app was built.
    let other = bare_home();
    let elsewhere = Answer::of(run(other.path(), &built.app, &TEXT));
    assert_eq!(elsewhere.outputs(), first.outputs());
    let node = ["--node", "tool", "--inputs", "text=x"];
    let node = Answer::of(run(other.path(), &built.app, &node));
    assert_eq!(node.outputs()["drawn"], out["drawn"]);
}

#[test]
fn other_variables_import_the_modules_anew() {
    let built = &*BUILT;
    let home = bare_home();
    let plain = Answer::of(run(home.path(), &built.app, &TEXT));
    let with: Vec<&str> = [&TEXT[..], &["--environment-variables", "MODE=fast"]].concat();
    let answer = Answer::of(run(home.path(), &built.app, &with));
    assert_eq!(answer.outputs()["out"]["mode"], "fast");
    let drawn = |answer: &Answer| answer.outputs()["out"]["drawn"].clone();
    assert_ne!(drawn(&plain), drawn(&answer));
    assert!(
        answer.process.stderr.contains("imported anew"),
        "{answer:#?}"
    );
}

#[test]
fn it_is_one_component() {
    let bytes = &BUILT.bytes;
    Validator::new_with_features(WasmFeatures::all())
        .validate_all(bytes)
        .unwrap();
    let mut names = Vec::new();
    let mut exports = Vec::new();
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.unwrap() {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::CustomSection(section) if depth == 0 => {
                names.push(section.name().to_owned());
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                exports.extend(
                    section
                        .into_iter()
                        .map(|one| one.unwrap().name.name.to_owned()),
                );
            }
            _ => {}
        }
    }
    assert!(names.contains(&"flowcell:app".to_owned()), "{names:?}");
    for wheel in [wheel(), helper()] {
        let name = format!("flowcell:raw:{}", sha256(&wheel.bytes()));
        assert!(names.contains(&name), "{names:?}");
    }
    assert!(
        exports
            .iter()
            .any(|name| name.starts_with("flowcell:tool/runner@")),
        "{exports:?}"
    );
}

#[test]
fn the_bill_of_materials_names_everything() {
    let sbom = &BUILT.sbom;
    assert_eq!(sbom["bomFormat"], "CycloneDX");
    assert_eq!(sbom["specVersion"], "1.6");
    let serial = sbom["serialNumber"].as_str().unwrap();
    assert!(
        serial.starts_with("urn:uuid:") && serial.len() == 45,
        "{serial}"
    );
    assert_eq!(
        sbom["metadata"]["component"]["hashes"][0]["content"],
        sha256(&BUILT.bytes)
    );
    let components = sbom["components"].as_array().unwrap();
    let by = |purl: &str| {
        let found = components.iter().find(|one| one["purl"] == purl);
        assert!(found.is_some(), "no {purl} in {sbom:#}");
        found.unwrap()
    };
    let thing = by("pkg:pypi/thing@1.5");
    assert_eq!(thing["version"], "1.5");
    assert_eq!(thing["licenses"][0]["license"]["name"], "MIT");
    assert_eq!(
        thing["hashes"][0],
        json!({ "alg": "SHA-256", "content": sha256(&wheel().bytes()) })
    );
    by("pkg:pypi/helper@2.0%2Blocal");
    let named = |name: &str| components.iter().find(|one| one["name"] == name).unwrap();
    for name in ["promptflow", "python-runner", "promptflow-tools"] {
        let hash = named(name)["hashes"][0]["content"].as_str().unwrap();
        assert_eq!(hash.len(), 64);
    }
    assert!(
        named("cpython")["version"]
            .as_str()
            .unwrap()
            .starts_with("3.")
    );
    let soup = named("beautifulsoup4");
    assert!(
        soup["purl"]
            .as_str()
            .unwrap()
            .starts_with("pkg:pypi/beautifulsoup4@")
    );
    assert!(soup["licenses"][0]["license"]["name"].is_string(), "{soup}");
    // Each is there once, and the app depends on it.
    let mut references: Vec<&str> = Vec::new();
    references.extend(
        components
            .iter()
            .map(|one| one["bom-ref"].as_str().unwrap()),
    );
    let count = references.len();
    assert_eq!(
        sbom["dependencies"][0]["dependsOn"]
            .as_array()
            .unwrap()
            .len(),
        count
    );
    references.sort_unstable();
    references.dedup();
    assert_eq!(references.len(), count);
}

/// The component without its sections of ours, and those, by name.
fn taken_apart() -> (Vec<u8>, BTreeMap<String, Vec<u8>>) {
    let bytes = &BUILT.bytes;
    let mut sections = BTreeMap::new();
    let (mut depth, mut end) = (0, 0);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.unwrap() {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::CustomSection(section)
                if depth == 0 && section.name().starts_with("flowcell:") =>
            {
                sections.insert(section.name().to_owned(), section.data().to_vec());
                end = end.max(1);
            }
            _ => {}
        }
    }
    assert_eq!(end, 1);
    let mut component = bytes.clone();
    // They are the last.
    for (name, data) in &sections {
        let length = section(name, data).len();
        component.truncate(component.len() - length);
    }
    (component, sections)
}

fn section(name: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    CustomSection {
        name: name.into(),
        data: data.into(),
    }
    .append_to_component(&mut bytes);
    bytes
}

fn put_together(component: &[u8], sections: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let mut bytes = component.to_vec();
    for (name, data) in sections {
        bytes.extend(section(name, data));
    }
    bytes
}

/// A tar archive with one entry, whatever its name is.
fn tar(name: &[u8], kind: tar::EntryType, content: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_entry_type(kind);
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name);
    header.set_cksum();
    builder.append(&header, content).unwrap();
    builder.into_inner().unwrap()
}

/// What a store has beside its empty folders.
fn left(home: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![home.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else if !entry.path().ends_with("leases/lock") {
                found.push(entry.path().display().to_string());
            }
        }
    }
    found
}

#[test]
fn what_is_damaged_or_hostile_is_refused_and_leaves_nothing() {
    let (component, sections) = taken_apart();
    assert_eq!(put_together(&component, &sections).len(), BUILT.bytes.len());
    let index: Value = serde_json::from_slice(&sections["flowcell:app"]).unwrap();
    let with = |name: &str, data: Option<Vec<u8>>| {
        let mut sections = sections.clone();
        match data {
            Some(data) => sections.insert(name.to_owned(), data),
            None => sections.remove(name),
        };
        put_together(&component, &sections)
    };
    let index_with = |change: &dyn Fn(&mut Value)| {
        let mut index = index.clone();
        change(&mut index);
        with("flowcell:app", Some(index.to_string().into_bytes()))
    };
    // The flow's archive, in the place of the one that is there.
    let flow_of = |archive: &[u8]| {
        let mut sections = sections.clone();
        let mut index = index.clone();
        let digest = sha256(archive);
        index["flow"] = format!("sha256:{digest}").into();
        sections.insert("flowcell:app".to_owned(), index.to_string().into_bytes());
        let packed = zstd::bulk::compress(archive, 1).unwrap();
        sections.insert(format!("flowcell:zstd:{digest}"), packed);
        put_together(&component, &sections)
    };
    let hex = |name: &str| index[name].as_str().unwrap()[7..].to_owned();
    let bundle = format!("flowcell:zstd:{}", hex("bundle"));
    let largest = sections.iter().max_by_key(|(_, data)| data.len()).unwrap();
    let wheel = format!("flowcell:raw:{}", sha256(&wheel().bytes()));
    let delta = sections
        .keys()
        .find(|name| name.starts_with("flowcell:delta:"));
    let flipped = |data: &[u8]| {
        let mut data = data.to_vec();
        let middle = data.len() / 2;
        data[middle] ^= 1;
        data
    };
    let other_code = {
        // In the code of the component, where nothing else notices.
        let mut bytes = BUILT.bytes.clone();
        let at = bytes
            .windows(4)
            .position(|four| four == [0x20, 0x00, 0x20, 0x01])
            .unwrap();
        bytes[at + 1] = 0x01;
        bytes
    };
    let manifest = zstd::bulk::decompress(&sections[&bundle], 1 << 20).unwrap();
    let bundle_and = |change: &dyn Fn(&mut Value), more: &[u8]| {
        let mut manifest: Value = serde_json::from_slice(&manifest).unwrap();
        change(&mut manifest);
        let text = manifest.to_string().into_bytes();
        let digest = sha256(&text);
        let mut sections = sections.clone();
        let mut index = index.clone();
        index["bundle"] = format!("sha256:{digest}").into();
        sections.insert("flowcell:app".to_owned(), index.to_string().into_bytes());
        sections.insert(format!("flowcell:raw:{digest}"), text);
        sections.insert(format!("flowcell:raw:{}", sha256(more)), more.to_vec());
        put_together(&component, &sections)
    };
    let bundle_with = |change: &dyn Fn(&mut Value)| bundle_and(change, b"");
    // An archive whose first file is said to have more than all trees may.
    let mut header = tar::Header::new_gnu();
    header.set_path("zeros").unwrap();
    header.set_size((1 << 30) + 1);
    header.set_mode(0o644);
    header.set_cksum();
    let huge = zstd::bulk::compress(header.as_bytes(), 1).unwrap();
    let huge_tree = bundle_and(
        &|bundle| {
            bundle["trees"][0]["digest"] = format!("sha256:{}", sha256(&huge)).into();
            bundle["trees"][0]["size"] = huge.len().into();
        },
        &huge,
    );
    let bomb = vec![0; 200 << 20];
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("empty", Vec::new(), &["no WebAssembly", "flow build"]),
        ("a text", b"inputs: {}".to_vec(), &["no WebAssembly"]),
        (
            "a core module",
            wat::parse_str("(module)").unwrap(),
            &["core module"],
        ),
        (
            "another component",
            wat::parse_str("(component)").unwrap(),
            &["without a flow"],
        ),
        ("no sections", component.clone(), &["without a flow"]),
        (
            "cut short",
            BUILT.bytes[..BUILT.bytes.len() / 2].to_vec(),
            &["cut short"],
        ),
        (
            "cut at its end",
            BUILT.bytes[..BUILT.bytes.len() - 1].to_vec(),
            &["cut short"],
        ),
        (
            "no bundle",
            with(&bundle, None),
            &["is missing", "manifest"],
        ),
        ("no tree or memory", with(largest.0, None), &["is missing"]),
        ("no wheel", with(&wheel, None), &["is missing", "wheel"]),
        (
            "a damaged tree or memory",
            with(largest.0, Some(flipped(largest.1))),
            &["should be sha256:"],
        ),
        (
            "a damaged wheel",
            with(&wheel, Some(flipped(&sections[&wheel]))),
            &["a wheel should be sha256:"],
        ),
        (
            "a damaged runner",
            with(delta.unwrap(), Some(b"no delta".to_vec())),
            &["cannot be unpacked"],
        ),
        ("other code", other_code, &["code sha256:"]),
        (
            "no index",
            with("flowcell:app", Some(b"{".to_vec())),
            &["cannot be read"],
        ),
        (
            "a long index",
            with("flowcell:app", Some(vec![b' '; 2 << 20])),
            &["too long"],
        ),
        (
            "a future format",
            index_with(&|index| index["schema"] = 2.into()),
            &["format 2"],
        ),
        (
            "more in the index",
            index_with(&|index| index["more"] = 2.into()),
            &["unknown field"],
        ),
        (
            "control characters",
            index_with(&|index| index["name"] = "\u{1b}[2J".into()),
            &["no text"],
        ),
        (
            "other pages",
            index_with(&|index| index["shell-pages"] = 1.into()),
            &["code sha256:"],
        ),
        (
            "far too many pages",
            index_with(&|index| index["shell-pages"] = (1_u64 << 60).into()),
            &["impossible size"],
        ),
        (
            "a missing wheel in the index",
            index_with(&|index| index["wheels"] = json!([])),
            &["does not bring", "thing-1.5"],
        ),
        (
            "a bundle of nonsense",
            bundle_with(&|bundle| bundle["name"] = "../x".into()),
            &["manifest is wrong"],
        ),
        (
            "a tree over the flow",
            bundle_with(&|bundle| bundle["trees"][0]["mount"] = "/flow".into()),
            &["hide /flow"],
        ),
        (
            "another memory",
            bundle_with(&|bundle| {
                bundle["components"][0]["start"]["image"]["pages"] = "0".repeat(64).into()
            }),
            &["memory image"],
        ),
        ("a huge tree", huge_tree, &["more than 1073741824 bytes"]),
        (
            "a small component",
            bundle_with(&|bundle| bundle["components"][1]["size"] = 10.into()),
            &["more than 10 bytes"],
        ),
        (
            "dots",
            flow_of(&tar(b"../../escaped", tar::EntryType::Regular, b"x")),
            &["leads out"],
        ),
        (
            "an absolute name",
            flow_of(&tar(b"/escaped", tar::EntryType::Regular, b"x")),
            &["leads out"],
        ),
        (
            "a link",
            flow_of(&tar(b"link", tar::EntryType::Symlink, b"")),
            &["no ordinary file"],
        ),
        (
            "a bomb",
            flow_of(&tar(b"zeros", tar::EntryType::Regular, &bomb)),
            &["more than"],
        ),
        (
            "no flow",
            flow_of(&tar(b"tool.py", tar::EntryType::Regular, b"")),
            &["flow.dag.yaml"],
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.wasm");
    let keeps = [
        "a missing wheel in the index",
        "dots",
        "an absolute name",
        "a link",
        "no flow",
    ];
    for (name, bytes, words) in cases {
        fs::write(&file, bytes).unwrap();
        let home = tempfile::tempdir().unwrap();
        let answer = Answer::of(run(home.path(), &file, &TEXT));
        assert_eq!(answer.status(), "Failed", "{name}: {answer:#?}");
        for word in words {
            assert!(
                answer.message().contains(word),
                "{name}: no {word:?} in {answer:#?}"
            );
        }
        assert!(
            [INVALID, "UserErrorException", "EnvironmentError"].contains(&answer.class()),
            "{name}: {answer:#?}"
        );
        // A bundle that is whole and right is no harm, whatever the flow beside it is.
        if !keeps.contains(&name) {
            assert_eq!(left(home.path()), Vec::<String>::new(), "{name}");
        }
    }
    let large = fs::File::create(&file).unwrap();
    large.set_len((512 << 20) + 1).unwrap();
    let home = tempfile::tempdir().unwrap();
    let answer = Answer::of(run(home.path(), &file, &TEXT));
    answer.assert_failure("UserErrorException", &["536870912 bytes"]);
    let missing = folder.path().join("nowhere.wasm");
    let answer = Answer::of(run(home.path(), &missing, &TEXT));
    answer.assert_failure("UserErrorException", &["nowhere.wasm"]);
}

#[test]
fn modules_that_cannot_be_carried_are_imported_at_each_start() {
    let code = "from promptflow.core import tool\nFILE = open('/flow/tool.py')\n@tool\ndef tool(text):\n    return [text, len(FILE.readline())]\n";
    let flow = FlowFolder::python(code, &INPUTS);
    let folder = tempfile::tempdir().unwrap();
    let app = folder.path().join("open.wasm");
    let home = folder.path().join("home");
    make_home(&home);
    let environment = [("FLOWCELL_HOME", home.to_str().unwrap())];
    let arguments = ["flow", "build", "--flow"];
    let (source, target) = (flow.path(), app.to_str().unwrap());
    let arguments = [
        &arguments[..],
        &[source.to_str().unwrap(), "--output", target],
    ]
    .concat();
    let built = flowcell_with(repository(), &environment, arguments);
    assert_eq!(built.code, Some(0), "{built:#?}");
    assert!(built.stderr.contains("/flow/tool.py is open"), "{built:#?}");
    let bare = bare_home();
    let answer = Answer::of(run(bare.path(), &app, &TEXT));
    assert_eq!(answer.outputs()["out"], json!(["<b>hello</b>", 33]));
}

/// A server whose store loses all that it has once it runs, but for compiled code.
fn emptied(setup: Setup) -> Server {
    let server = Server::with(setup);
    for shared in ["blobs", "bundles", "cache/trees", "cache/bases"] {
        let path = server.home().join(shared);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
    }
    fs::create_dir(server.home().join("blobs/sha256")).unwrap();
    server
}

#[test]
fn the_api_takes_an_app() {
    let built = &*BUILT;
    let setup = Setup::config("[packages]\nallowed_hosts = [\"nowhere.invalid\"]\n");
    let server = emptied(setup);
    let owner = server.admin();
    let upload = |client: &flowcell_tests::server::Client, flow: &str, bytes: &[u8]| {
        let path = workspace(&format!("/flows/{flow}/files"));
        let headers = [("content-type", "application/wasm")];
        client.send("PUT", &path, &headers, bytes.to_vec())
    };
    let reader = server.user("reader", "reader");
    upload(&reader, "carried", &built.bytes).is_problem(403, "forbidden", &[]);
    let cut = &built.bytes[..built.bytes.len() - 1];
    upload(&owner, "carried", cut).is_problem(422, "invalid", &["cut short"]);
    owner.get(&workspace("/flows/carried")).expect(404);

    let answer = upload(&owner, "carried", &built.bytes).is(201);
    let image = answer.text("image").to_owned();
    assert!(image.starts_with("sha256:"), "{image}");
    let session = owner.session("carried");
    assert_eq!(session.show()["base_image"]["digest"], *image);
    let out = session.out(json!({ "text": "<i>there</i>" }));
    assert_eq!(
        (&out["version"], &out["text"]),
        (&json!("1.5!"), &json!("there"))
    );
    // A session's modules are its own, whatever memory the app has: an edit is in force.
    let edited = TOOL.replace("'drawn': DRAWN", "'drawn': 'edited'");
    owner.write("carried", "tool.py", &edited);
    let out = session.out(json!({ "text": "x" }));
    assert_eq!(out["drawn"], "edited");
    // Other files bring no image.
    let again = owner.upload("carried", &FlowFolder::python(TOOL, &INPUTS));
    assert_eq!(again.json["image"], Value::Null);
}

#[test]
fn the_command_line_uploads_an_app() {
    let built = &*BUILT;
    let server = emptied(Setup::default());
    let owner = server.admin();
    let (url, key) = (server.url(), owner.key().to_owned());
    let environment = [("FLOWCELL_KEY", key.as_str())];
    let source = built.app.to_str().unwrap();
    let arguments = [
        "flow", "upload", "--host", &url, "--source", source, "--name", "x",
    ];
    let uploaded = flowcell_with(repository(), &environment, arguments);
    assert_eq!(uploaded.code, Some(0), "{uploaded:#?}");
    let shown = owner.get(&workspace("/flows/x")).is(200);
    assert_eq!(shown.json["files"], 4);
    assert!(shown.text("image").starts_with("sha256:"));
}
