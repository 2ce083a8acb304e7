//! Requirements of flows: from a Python index to imports in the sandbox, by the command line and by sessions.
#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::fs;

use flowcell_tests::index::{Fault, Index, Wheel};
use flowcell_tests::server::{Server, Session, Setup, make_home, wait_until};
use flowcell_tests::{Answer, Finished, FlowFolder, flowcell_with, repository};
use serde_json::{Value, json};
use tempfile::TempDir;

const DAG: &str = "inputs: {}\noutputs:\n  out:\n    type: object\n    reference: ${tool.output}\nnodes:\n- name: tool\n  type: python\n  source:\n    type: code\n    path: tool.py\n  inputs: {}\n";
const TOOL: &str = "from promptflow.core import tool\nimport thing\n@tool\ndef tool():\n    return {'version': thing.VERSION, 'file': thing.__file__}\n";
/// The error's class of whatever is wrong with requirements.
const CLASS: &str = "EnvironmentError";

/// A home and an index of one test.
struct Fixture {
    index: Index,
    home: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        make_home(home.path());
        let index = Index::start();
        Self { index, home }
    }

    fn with(wheels: &[Wheel]) -> Self {
        let fixture = Self::new();
        wheels.iter().for_each(|wheel| fixture.index.add(wheel));
        fixture
    }

    fn run(&self, arguments: &[&str]) -> Finished {
        let url = self.index.url();
        let home = self.home.path().to_str().unwrap();
        let environment = [
            ("FLOWCELL_INDEX_URL", url.as_str()),
            ("FLOWCELL_HOME", home),
        ];
        flowcell_with(repository(), &environment, arguments)
    }

    fn test(&self, flow: &FlowFolder) -> Answer {
        let path = flow.path();
        let flow = path.to_str().unwrap();
        Answer::of(self.run(&["flow", "test", "--flow", flow, "--output", "json"]))
    }

    /// The error of a flow with these requirements.
    fn refused(&self, requirements: &str, words: &[&str]) {
        self.test(&flow(requirements)).assert_failure(CLASS, words);
    }
}

fn thing(version: &str) -> Wheel {
    Wheel::new("thing", version).file("thing.py", format!("VERSION = {version:?}\n"))
}

fn flow(requirements: &str) -> FlowFolder {
    FlowFolder::new()
        .file("flow.dag.yaml", DAG)
        .file("tool.py", TOOL)
        .file("requirements.txt", requirements)
}

/// A flow whose tool gives the value of an expression.
fn flow_of(requirements: &str, imports: &str, expression: &str) -> FlowFolder {
    let tool = format!(
        "from promptflow.core import tool\nimport {imports}\n@tool\ndef tool():\n    return {{'value': {expression}}}\n"
    );
    flow(requirements).file("tool.py", tool)
}

#[test]
fn a_requirement_becomes_an_import() {
    let fixture = Fixture::with(&[thing("1.0"), thing("2.0"), thing("2.1rc1")]);
    let answer = fixture.test(&flow("thing\n"));
    assert_eq!(
        answer.outputs()["out"],
        json!({ "version": "2.0", "file": "/site/thing.py" })
    );
    // What is there is not fetched again.
    assert_eq!(
        fixture.test(&flow("thing\n")).outputs()["out"]["version"],
        "2.0"
    );
    assert_eq!(fixture.index.downloads("thing-2.0-py3-none-any.whl"), 1);
    for (requirement, version) in [
        ("thing<2", "1.0"),
        ("thing==2.*", "2.0"),
        ("Thing ~= 1.0", "1.0"),
        ("thing==2.1rc1", "2.1rc1"),
        (
            "thing>2.0.post1 ; python_version < '3'\nthing<2 ; sys_platform == 'wasi'",
            "1.0",
        ),
        ("--pre\nthing", "2.1rc1"),
        ("# a comment\n\nthing \\\n  <2  # another", "1.0"),
    ] {
        let answer = fixture.test(&flow(requirement));
        assert_eq!(answer.outputs()["out"]["version"], version, "{requirement}");
    }
}

#[test]
fn indexes_may_speak_html() {
    let fixture = Fixture::with(&[thing("1.0")]);
    fixture.index.speak_html();
    assert_eq!(
        fixture.test(&flow("thing")).outputs()["out"]["version"],
        "1.0"
    );
}

#[test]
fn what_the_image_has_needs_no_index() {
    let fixture = Fixture::new();
    let flow = flow_of(
        "beautifulsoup4\nrequests>=2\nPyYAML\njinja2\ntenacity\npython-dotenv",
        "bs4, requests, yaml, jinja2, tenacity, dotenv",
        "[bs4.BeautifulSoup('<b>x</b>', 'html.parser').b.text, yaml.safe_load('[1]'), yaml.__file__]",
    );
    let answer = fixture.test(&flow);
    assert_eq!(
        answer.outputs()["out"]["value"],
        json!(["x", [1], "/packages/yaml/__init__.py"])
    );
    assert_eq!(fixture.index.requests(), Vec::<String>::new());
}

#[test]
fn other_versions_take_the_place_of_the_images() {
    let jinja = Wheel::new("jinja2", "99.0")
        .file("jinja2/__init__.py", "__version__ = '99.0'\n")
        .file("jinja2/more.py", "WHERE = __file__\n");
    let fixture = Fixture::with(&[jinja]);
    let flow = flow_of(
        "jinja2>=99",
        "jinja2, jinja2.more",
        "[jinja2.__version__, jinja2.more.WHERE]",
    );
    assert_eq!(
        fixture.test(&flow).outputs()["out"]["value"],
        json!(["99.0", "/site/jinja2/more.py"])
    );
}

#[test]
fn dependencies_extras_and_constraints() {
    let fixture = Fixture::with(&[
        thing("1.0")
            .requires("helper>=2")
            .requires("more ; extra == 'all'"),
        Wheel::new("helper", "2.0").file("helper.py", "V = '2.0'\n"),
        Wheel::new("helper", "3.0").file("helper.py", "V = '3.0'\n"),
        Wheel::new("more", "1.0").file("more.py", "V = 'more'\n"),
    ]);
    let constrained = flow_of(
        "-r deps/base.txt\n-c deps/limits.txt\n",
        "thing, helper, more",
        "[helper.V, more.V]",
    )
    .file("deps/base.txt", "thing[all]\n")
    .file("deps/limits.txt", "helper<3\n");
    assert_eq!(
        fixture.test(&constrained).outputs()["out"]["value"],
        json!(["2.0", "more"])
    );
    let without = flow_of("thing", "thing, helper", "[helper.V]");
    assert_eq!(
        fixture.test(&without).outputs()["out"]["value"],
        json!(["3.0"])
    );
}

#[test]
fn the_file_has_any_name_and_place() {
    let fixture = Fixture::with(&[thing("1.0")]);
    let named = DAG.to_owned() + "environment:\n  python_requirements_txt: needs/these.in\n";
    let flow = FlowFolder::new()
        .file("flow.dag.yaml", named)
        .file("tool.py", TOOL)
        .file("needs/these.in", "\u{feff}thing\r\n");
    assert_eq!(fixture.test(&flow).outputs()["out"]["version"], "1.0");
    let outside = DAG.to_owned()
        + "environment:\n  python_requirements_txt: ../shared.txt\nadditional_includes:\n- ../shared.txt\n";
    let flow = FlowFolder::new()
        .file("flow.dag.yaml", outside)
        .file("tool.py", TOOL)
        .file("../shared.txt", "thing");
    assert_eq!(fixture.test(&flow).outputs()["out"]["version"], "1.0");
    let missing = DAG.to_owned() + "environment:\n  python_requirements_txt: nowhere.txt\n";
    let flow = FlowFolder::new()
        .file("flow.dag.yaml", missing)
        .file("tool.py", TOOL);
    fixture
        .test(&flow)
        .assert_failure(CLASS, &["nowhere.txt", "additional_includes"]);
}

#[test]
fn conflicts_are_told_in_the_resolvers_words() {
    let fixture = Fixture::with(&[
        thing("1.0").requires("helper==1"),
        Wheel::new("helper", "1.0"),
        Wheel::new("helper", "2.0"),
    ]);
    fixture.refused(
        "thing\nhelper==2.0",
        &["thing", "helper==1", "helper==2.0", "unsatisfiable"],
    );
    fixture.refused("nothing-of-this-name", &["nothing-of-this-name"]);
    fixture.refused("thing>=5", &["thing", "5"]);
}

#[test]
fn what_is_not_done_is_refused_with_the_way_out() {
    let fixture = Fixture::with(&[thing("1.0")]);
    fixture
        .index
        .add_file("sources", "sources-1.0.tar.gz", b"no wheel");
    for (requirements, words) in [
        (
            "./wheels/x-1.0-py3-none-any.whl",
            &["custom base image", "local"][..],
        ),
        (
            "x @ file:///wheels/x-1.0-py3-none-any.whl",
            &["custom base image"],
        ),
        ("-e .", &["-e", "wheel"]),
        ("git+https://example.com/x.git", &["source"]),
        ("x @ git+https://example.com/x.git@main", &["x", "source"]),
        ("x @ https://example.com/x-1.0.tar.gz", &["source archive"]),
        ("--no-binary :all:\nthing", &["--no-binary"]),
        (
            "--find-links https://example.com/\nthing",
            &["--find-links", "--extra-index-url"],
        ),
        (
            "-i https://${TOKEN}@example.com/simple\nthing",
            &["${TOKEN}", "{private}"],
        ),
        (
            "-i https://{private}@example.com/simple\nthing",
            &["example.com", "identity"],
        ),
        ("-r ../other.txt", &["../other.txt", "outside"]),
        ("-r /etc/passwd", &["/etc/passwd", "outside"]),
        ("--requirement=/etc/passwd", &["/etc/passwd", "outside"]),
        ("-r missing.txt", &["missing.txt"]),
        ("thing ===== 1", &["requirements.txt"]),
        ("sources", &["sources"]),
    ] {
        fixture.refused(requirements, words);
    }
    fixture.refused(&"thing\n".repeat(200_000), &["requirements.txt", "bytes"]);
}

#[test]
fn promptflow_itself_is_the_images() {
    let fixture = Fixture::with(&[thing("1.0").requires("promptflow-core>=1")]);
    let answer = fixture.test(&flow("promptflow==1.10.0\npromptflow-tools\nthing"));
    assert_eq!(answer.outputs()["out"]["version"], "1.0");
    let told = &answer.process.stderr;
    assert!(
        told.contains("promptflow==1.10.0") && told.contains("base image"),
        "{told}"
    );
    assert!(!told.contains("promptflow-tools"), "{told}");
}

#[test]
fn hashes_are_held_to() {
    let wheel = thing("1.0");
    let fixture = Fixture::with(std::slice::from_ref(&wheel));
    let right = format!("thing==1.0 --hash=sha256:{}", sha256(&wheel.bytes()));
    assert_eq!(
        fixture.test(&flow(&right)).outputs()["out"]["version"],
        "1.0"
    );
    let wrong = format!("thing==1.0 --hash=sha256:{}", sha256(b"another"));
    fixture.refused(&wrong, &["thing"]);
    fixture.refused(&format!("{right}\nhelper"), &["helper"]);

    let liar = Fixture::with(std::slice::from_ref(&wheel));
    liar.index.fault(&wheel.filename(), Fault::WrongHash);
    liar.refused("thing", &["thing-1.0", "sha256", "promised"]);
    let changing = Fixture::with(std::slice::from_ref(&wheel));
    changing.index.fault(&wheel.filename(), Fault::OtherBytes);
    changing.refused("thing", &["thing-1.0", "sha256"]);
    // What was refused was not kept.
    for fixture in [liar, changing] {
        let kept = fs::read_dir(fixture.home.path().join("cache/wheels")).unwrap();
        let kept: Vec<_> = kept.flatten().map(|entry| entry.file_name()).collect();
        assert!(kept.is_empty(), "{kept:?}");
    }
}

#[test]
fn addresses_of_wheels() {
    let wheel = thing("1.0");
    let fixture = Fixture::with(std::slice::from_ref(&wheel));
    let url = fixture.index.file_url(&wheel.filename());
    for requirement in [format!("thing @ {url}"), url.clone()] {
        assert_eq!(
            fixture.test(&flow(&requirement)).outputs()["out"]["version"],
            "1.0"
        );
    }
    let hashed = format!("thing @ {url}#sha256={}", sha256(b"another"));
    fixture.refused(&hashed, &["thing"]);
}

#[test]
fn compiled_modules_are_left_out_if_a_package_runs_without() {
    let tag = "cp314-cp314-manylinux_2_17_x86_64";
    let old = "cp39-cp39-manylinux1_x86_64";
    let with_fallback = "try:\n    from ._speed import f\nexcept ImportError:\n    f = lambda: 'slow'\nVERSION = f()\n";
    let fixture = Fixture::with(&[
        Wheel::new("thing", "1.0")
            .tag(tag)
            .file("thing/__init__.py", with_fallback)
            .file("thing/_speed.cpython-314-x86_64-linux-gnu.so", b"\x7fELF"),
        Wheel::new("aged", "1.0")
            .tag(old)
            .file("aged.py", "VERSION = 'aged'\n"),
        Wheel::new("needy", "1.0")
            .tag(tag)
            .file("needy/__init__.py", "from .core import f\n")
            .file("needy/core.cpython-314-x86_64-linux-gnu.so", b"\x7fELF"),
        Wheel::new("bare", "1.0")
            .tag(tag)
            .file("bare.abi3.so", b"\x7fELF"),
        Wheel::new("windows", "1.0")
            .tag("cp314-cp314-win_amd64")
            .file("windows.py", ""),
        Wheel::new("both", "1.0")
            .tag(tag)
            .file("both.py", "KIND = 'compiled'\n"),
        Wheel::new("both", "1.0").file("both.py", "KIND = 'pure'\n"),
    ]);
    assert_eq!(
        fixture.test(&flow("thing")).outputs()["out"]["version"],
        "slow"
    );
    let pure = flow_of("aged\nboth", "aged, both", "[aged.VERSION, both.KIND]");
    assert_eq!(
        fixture.test(&pure).outputs()["out"]["value"],
        json!(["aged", "pure"])
    );
    fixture.refused(
        "needy",
        &[
            "needy==1.0",
            "needy-1.0-cp314-cp314-manylinux_2_17_x86_64",
            "No module named 'needy.core'",
            "py3-none-any",
        ],
    );
    fixture.refused("bare", &["bare==1.0", "compiled"]);
    fixture.refused("windows", &["windows"]);
}

#[test]
fn wheels_that_are_none_or_would_break_out() {
    let long = "d/".repeat(400) + "x.py";
    for (name, wheel, words) in [
        (
            "dots",
            Wheel::new("dots", "1").file("../../escaped.py", "x"),
            &["dots-1", "leads out"][..],
        ),
        (
            "root",
            Wheel::new("root", "1").file("/escaped.py", "x"),
            &["root-1", "leads out"],
        ),
        (
            "back",
            Wheel::new("back", "1").file("..\\escaped.py", "x"),
            &["back-1", "leads out"],
        ),
        (
            "long",
            Wheel::new("long", "1").file(&long, "x"),
            &["long-1", "leads out"],
        ),
        (
            "links",
            Wheel::new("links", "1").link("links.py", "/etc/passwd"),
            &["links-1", "no ordinary file"],
        ),
    ] {
        let fixture = Fixture::with(&[wheel]);
        fixture.refused(name, words);
        assert!(!fixture.home.path().join("escaped.py").exists());
        let layers = fs::read_dir(fixture.home.path().join("cache/layers")).unwrap();
        let left: Vec<_> = layers
            .flatten()
            .map(|entry| entry.file_name().into_string().unwrap())
            .filter(|name| !name.starts_with(".lock-"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
    let fixture = Fixture::new();
    fixture
        .index
        .add_file("noise", "noise-1.0-py3-none-any.whl", b"this is no archive");
    fixture.refused("noise", &["noise"]);
    // A wheel that says that it is another one.
    let other = Wheel::new("other", "2.0").file("other.py", "");
    fixture
        .index
        .add_file("fake", "fake-1.0-py3-none-any.whl", &other.bytes());
    fixture.refused("fake", &["fake"]);
}

#[test]
fn a_bomb_is_defused() {
    let zeros = vec![0; (1 << 30) + 1];
    let bomb = Wheel::new("bomb", "1.0").file("bomb.txt", &zeros);
    drop(zeros);
    let fixture = Fixture::with(&[bomb]);
    fixture.refused("bomb", &["bomb-1.0", "larger than"]);
}

#[test]
fn indexes_that_are_out_of_order() {
    let wheel = thing("1.0");
    let file = wheel.filename();
    let works = |name: &str, fault| {
        let fixture = Fixture::with(std::slice::from_ref(&wheel));
        fixture.index.fault(name, fault);
        assert_eq!(
            fixture.test(&flow("thing")).outputs()["out"]["version"],
            "1.0",
            "{fault:?}"
        );
    };
    works(&file, Fault::Status(503, 2));
    works(&file, Fault::Status(429, 1));
    works(&file, Fault::CutOff(2));
    works("thing", Fault::Status(503, 1));
    let fails = |name: &str, fault, words: &[&str]| {
        let fixture = Fixture::with(std::slice::from_ref(&wheel));
        fixture.index.fault(name, fault);
        fixture.refused("thing", words);
    };
    fails(
        &file,
        Fault::Status(500, u32::MAX),
        &["thing-1.0", "500", "tries"],
    );
    fails(&file, Fault::Status(403, u32::MAX), &["thing-1.0", "403"]);
    fails(&file, Fault::CutOff(u32::MAX), &["thing-1.0", "tries"]);
    fails(
        &file,
        Fault::Redirect("ftp://example.com/thing.whl"),
        &["thing-1.0"],
    );
}

#[test]
fn withdrawn_versions_are_taken_only_by_name() {
    let fixture = Fixture::with(&[thing("1.0"), thing("2.0")]);
    fixture.index.yank("thing-2.0-py3-none-any.whl");
    assert_eq!(
        fixture.test(&flow("thing")).outputs()["out"]["version"],
        "1.0"
    );
    assert_eq!(
        fixture.test(&flow("thing==2.0")).outputs()["out"]["version"],
        "2.0"
    );
}

#[test]
fn a_lock_says_exactly_what_is_installed() {
    let fixture = Fixture::with(&[
        thing("1.0").requires("helper"),
        Wheel::new("helper", "1.0").file("helper.py", ""),
    ]);
    let folder = flow("thing\n");
    let path = folder.path();
    let locked = fixture.run(&["lock", "--flow", path.to_str().unwrap()]);
    assert_eq!(locked.code, Some(0), "{locked:?}");
    let text = fs::read_to_string(path.join("pylock.toml")).unwrap();
    for word in [
        "lock-version = \"1.0\"",
        "created-by = \"flowcell\"",
        "name = \"helper\"",
        "[tool.flowcell]",
        "promptflow:",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    // Newer ones that have come since are not taken.
    fixture.index.add(&thing("2.0"));
    assert_eq!(fixture.test(&folder).outputs()["out"]["version"], "1.0");
    fs::remove_file(path.join("pylock.toml")).unwrap();
    assert_eq!(fixture.test(&folder).outputs()["out"]["version"], "2.0");
    // The same by others' hands, with what is not for here.
    let wheel = thing("1.0");
    let other = format!(
        "lock-version = \"1.0\"\ncreated-by = \"somebody\"\n\n[[packages]]\nname = \"pywin32\"\nversion = \"1\"\nmarker = \"sys_platform == 'win32'\"\n[[packages.wheels]]\nurl = \"https://example.com/pywin32-1-cp314-cp314-win32.whl\"\nhashes = {{sha256 = \"00\"}}\n\n[[packages]]\nname = \"thing\"\nversion = \"1.0\"\n[[packages.wheels]]\nurl = \"{}\"\nhashes = {{sha256 = \"{}\"}}\n",
        fixture.index.file_url(&wheel.filename()),
        sha256(&wheel.requires("helper").bytes()),
    );
    let locked = flow("thing>=2").file("pylock.toml", &other);
    assert_eq!(fixture.test(&locked).outputs()["out"]["version"], "1.0");
    for (text, words) in [
        ("nothing", &["pylock.toml", "PEP 751"][..]),
        (
            "lock-version = \"2.0\"\ncreated-by = \"x\"\npackages = []",
            &["pylock.toml", "2.0"],
        ),
        (
            &other.replace("sha256 = \"00\"", "sha256 = 1"),
            &["pylock.toml"],
        ),
        (
            &other.replace("name = \"thing\"", "name = \"other\""),
            &["other", "another package"],
        ),
    ] {
        let flow = flow("thing").file("pylock.toml", text);
        fixture.test(&flow).assert_failure(CLASS, words);
    }
}

#[test]
fn the_doctor_says_what_is_wrong_before_anything_runs() {
    let fixture = Fixture::with(&[thing("1.0")]);
    let well = flow("thing");
    let path = well.path();
    let doctor = |path: &str| {
        let finished = fixture.run(&["doctor", "--flow", path, "--output", "json"]);
        let found: Value = serde_json::from_str(&finished.stdout).unwrap();
        (finished.code, found)
    };
    let (code, found) = doctor(path.to_str().unwrap());
    assert_eq!(
        (code, &found["will_run"]),
        (Some(0), &json!(true)),
        "{found:#}"
    );
    let ill = flow_of("thing", "thing, nowhere_to_be_found, os.path", "1").file(
        "more.py",
        "try:\n    import maybe\nexcept ImportError:\n    maybe = None\nimport thing\n",
    );
    let path = ill.path();
    let (code, found) = doctor(path.to_str().unwrap());
    assert_eq!(
        (code, &found["will_run"]),
        (Some(1), &json!(false)),
        "{found:#}"
    );
    let told = |name: &str| {
        let findings = found["findings"].as_array().unwrap();
        let of = |one: &&Value| {
            one["subject"] == "import" && one["name"].as_str().unwrap().starts_with(name)
        };
        findings.iter().find(of).unwrap().clone()
    };
    assert_eq!(told("nowhere_to_be_found")["ok"], false);
    assert!(
        told("nowhere_to_be_found")["name"]
            .as_str()
            .unwrap()
            .contains("tool.py:2")
    );
    assert_eq!(told("maybe")["ok"], true);
    assert_eq!(told("os")["what"], "Python's own library");
    assert_eq!(told("thing")["what"], "the requirements bring it");
    let (code, found) = doctor(flow("nothing-of-this-name").path().to_str().unwrap());
    assert_eq!(code, Some(1), "{found:#}");
    assert!(
        found.to_string().contains("nothing-of-this-name"),
        "{found:#}"
    );
}

/// A server whose sessions install from an index.
struct Hosted {
    server: Server,
    index: Index,
}

impl Hosted {
    fn new(wheels: &[Wheel]) -> Self {
        let index = Index::start();
        wheels.iter().for_each(|wheel| index.add(wheel));
        let config = format!(
            "[packages]\nindex_url = \"{}\"\ntrusted_hosts = [\"{}\"]\n",
            index.url(),
            index.host()
        );
        let server = Server::with(Setup::config(config));
        Self { server, index }
    }

    fn start(&self, name: &str, flow: &FlowFolder) -> Session {
        let client = self.server.admin();
        client.upload(name, flow).expect(201);
        client.session(name)
    }
}

fn packages(session: &Session, client: &flowcell_tests::server::Client) -> Value {
    client.get(&session.path("/packages")).is(200).json
}

#[test]
fn a_session_has_what_its_flow_requires() {
    let hosted = Hosted::new(&[thing("1.0").metadata("License-Expression: MIT")]);
    let client = hosted.server.admin();
    let session = hosted.start("f", &flow("thing\n"));
    assert_eq!(session.out(json!({}))["version"], "1.0");
    let listed = packages(&session, &client);
    let of = |name: &str| {
        let all = listed["packages"].as_array().unwrap();
        all.iter().find(|one| one["name"] == name).unwrap().clone()
    };
    assert_eq!(of("thing")["source"], "requirements");
    assert_eq!(of("thing")["license"], "MIT");
    assert_eq!(of("jinja2")["source"], "image");
    assert_eq!(listed["outdated"], false);
    let lock = client.get(&session.path("/lock")).is(200);
    let text = String::from_utf8(lock.body).unwrap();
    assert!(text.contains("name = \"thing\""), "{text}");
    // Another session wants the same: nothing is fetched or made again.
    let requests = hosted.index.requests().len();
    let other = hosted.start("g", &flow("thing\n"));
    assert_eq!(other.out(json!({}))["version"], "1.0");
    assert_eq!(hosted.index.requests().len(), requests);
}

#[test]
fn packages_change_while_a_session_runs() {
    let hosted = Hosted::new(&[thing("1.0"), thing("2.0")]);
    let client = hosted.server.admin();
    let session = hosted.start("f", &flow("thing==1.0\n"));
    assert_eq!(session.out(json!({}))["version"], "1.0");
    // Saved, and not installed.
    client
        .write("f", "requirements.txt", "thing==2.0\n")
        .expect(200);
    assert_eq!(packages(&session, &client)["outdated"], true);
    assert_eq!(session.out(json!({}))["version"], "1.0");
    let installed = client.post(&session.path("/install"), json!({}));
    assert!([200, 202].contains(&installed.status), "{installed:?}");
    wait_until("the packages are installed", || {
        let now = packages(&session, &client);
        assert_eq!(now["failed"], Value::Null);
        (now["outdated"] == false).then_some(())
    });
    assert_eq!(session.out(json!({}))["version"], "2.0");
    // One that fails leaves what there is.
    client
        .write("f", "requirements.txt", "thing==9.9\n")
        .expect(200);
    let failed = client.post(&session.path("/install"), json!({}));
    assert!([202, 422].contains(&failed.status), "{failed:?}");
    wait_until("the installation has failed", || {
        let now = packages(&session, &client);
        let why = now["failed"]["why"].as_str()?.to_owned();
        assert!(why.contains("thing"), "{why}");
        Some(())
    });
    assert_eq!(session.out(json!({}))["version"], "2.0");
}

#[test]
fn packages_survive_the_host() {
    let mut hosted = Hosted::new(&[thing("1.0")]);
    let session = hosted.start("f", &flow("thing\n"));
    assert_eq!(session.out(json!({}))["version"], "1.0");
    hosted.server.kill();
    hosted.index.add(&thing("2.0"));
    hosted.server.restart();
    assert_eq!(session.out(json!({}))["version"], "1.0");
    // Even where what can be made again is gone: the lock brings it back.
    hosted.server.kill();
    fs::remove_dir_all(hosted.server.home().join("cache/sites")).unwrap();
    fs::remove_dir_all(hosted.server.home().join("cache/layers")).unwrap();
    fs::remove_dir_all(hosted.server.home().join("cache/wheels")).unwrap();
    hosted.server.restart();
    assert_eq!(session.out(json!({}))["version"], "1.0");
}

#[test]
fn a_session_that_cannot_have_its_packages_says_why() {
    let hosted = Hosted::new(&[]);
    let client = hosted.server.admin();
    client
        .upload("f", &flow("nothing-of-this-name\n"))
        .expect(201);
    let started = client.post("/v1/workspaces/default/sessions", json!({ "flow": "f" }));
    assert!([201, 202].contains(&started.status), "{started:?}");
    let id = started.text("id").to_owned();
    let shown = wait_until("the session has failed", || {
        let shown = client
            .get(&format!("/v1/workspaces/default/sessions/{id}"))
            .is(200)
            .json;
        (shown["state"] == "failed").then_some(shown)
    });
    let reason = shown["reason"].as_str().unwrap();
    assert!(reason.contains("nothing-of-this-name"), "{reason}");
    // Hosts that nobody has allowed are not asked.
    client
        .upload("g", &flow("-i http://127.0.0.1:9/simple\nthing\n"))
        .expect(201);
    let started = client.post("/v1/workspaces/default/sessions", json!({ "flow": "g" }));
    let id = started.text("id").to_owned();
    let shown = wait_until("the session has failed", || {
        let shown = client
            .get(&format!("/v1/workspaces/default/sessions/{id}"))
            .is(200)
            .json;
        (shown["state"] == "failed").then_some(shown)
    });
    let reason = shown["reason"].as_str().unwrap();
    assert!(reason.contains("127.0.0.1:9"), "{reason}");
}

fn sha256(bytes: &[u8]) -> String {
    flowcell_tests::index::sha256(bytes)
}
