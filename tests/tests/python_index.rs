//! Flows whose requirements come from a real Python index (pypiserver), which has real packages.
#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use flowcell_tests::server::{Server, Setup, make_home, wait_until};
use flowcell_tests::{Answer, FlowFolder, flowcell_with, repository};
use serde_json::{Value, json};

const DAG: &str = "inputs:\n  text:\n    type: string\n    default: <p>one</p><p>two</p>\noutputs:\n  out:\n    type: object\n    reference: ${tool.output}\nnodes:\n- name: tool\n  type: python\n  source:\n    type: code\n    path: tool.py\n  inputs:\n    text: ${inputs.text}\n";
/// Other versions than those of the base image, so that they come from the index.
const REQUIREMENTS: &str = "beautifulsoup4==4.13.4\nrequests==2.32.4\njinja2==3.1.5\nmarkupsafe==3.0.3\npyyaml==6.0.2\ntenacity==9.1.2\npython-dotenv==1.1.1\npypdf==5.8.0\nPyPDF2==3.0.1\n";
const TOOL: &str = r#"
import io
from importlib.metadata import version

import bs4
import dotenv
import jinja2
import pypdf
import PyPDF2
import requests
import tenacity
import yaml
from promptflow.core import tool

calls = []

@tenacity.retry(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_none(), reraise=True)
def flaky():
    calls.append(1)
    if len(calls) % 2:
        raise ValueError("not yet")
    return len(calls)

def pages(library):
    writer = library.PdfWriter()
    writer.add_blank_page(width=100, height=50)
    file = io.BytesIO()
    writer.write(file)
    file.seek(0)
    reader = library.PdfReader(file)
    return [len(reader.pages), float(reader.pages[0].mediabox.width)]

@tool
def tool(text: str):
    request = requests.Request("GET", "https://example.com/a", params={"q": "x y"}).prepare()
    return {
        "soup": [p.get_text() for p in bs4.BeautifulSoup(text, "html.parser").find_all("p")],
        "url": request.url,
        "template": jinja2.Template("{{ a | upper }}{{ '<' | e }}").render(a="x"),
        "yaml": yaml.safe_load("a: [1, 2.5, yes]"),
        "retried": flaky(),
        "dotenv": dict(dotenv.dotenv_values(stream=io.StringIO("A=1\nB='two'"))),
        "pypdf": pages(pypdf),
        "PyPDF2": pages(PyPDF2),
        "versions": {name: version(name) for name in ["beautifulsoup4", "requests", "jinja2", "pyyaml", "markupsafe"]},
    }
"#;

fn flow() -> FlowFolder {
    FlowFolder::new()
        .file("flow.dag.yaml", DAG)
        .file("tool.py", TOOL)
        .file("requirements.txt", REQUIREMENTS)
}

fn expected() -> Value {
    json!({
        "soup": ["one", "two"],
        "url": "https://example.com/a?q=x+y",
        "template": "X&lt;",
        "yaml": { "a": [1, 2.5, true] },
        "retried": 2,
        "dotenv": { "A": "1", "B": "two" },
        "pypdf": [1, 100.0],
        "PyPDF2": [1, 100.0],
        "versions": {
            "beautifulsoup4": "4.13.4",
            "requests": "2.32.4",
            "jinja2": "3.1.5",
            "pyyaml": "6.0.2",
            "markupsafe": "3.0.3",
        },
    })
}

/// A pypiserver; killed when dropped.
struct Index {
    process: Child,
    address: String,
}

impl Drop for Index {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Index {
    fn start(options: &[&str]) -> Self {
        let mut script = Command::new("bash");
        script
            .arg(repository().join("tests/python-index.sh"))
            .stderr(Stdio::inherit());
        let output = script.output().unwrap();
        assert!(output.status.success(), "tests/python-index.sh");
        let paths = String::from_utf8(output.stdout).unwrap();
        let (program, wheels) = paths.trim_end().split_once('\n').unwrap();
        // It cannot choose a port itself. One that was free a moment ago may be taken: then it ends, and tries another.
        loop {
            let address = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr();
            let address = address.unwrap();
            let mut process = Command::new(program)
                .args(["run", "-i", "127.0.0.1", "-p", &address.port().to_string()])
                .args(options)
                .arg(wheels)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let listens = wait_until("pypiserver listens", || {
                if process.try_wait().unwrap().is_some() {
                    return Some(false);
                }
                TcpStream::connect(address).ok().map(|_| true)
            });
            if listens {
                return Self {
                    process,
                    address: address.to_string(),
                };
            }
        }
    }

    fn url(&self) -> String {
        format!("http://{}/simple/", self.address)
    }
}

#[test]
fn real_packages_run_from_the_command_line() {
    let home = tempfile::tempdir().unwrap();
    make_home(home.path());
    for options in [&[][..], &["--hash-algo", "sha512"], &["--hash-algo", "off"]] {
        let index = Index::start(options);
        let url = index.url();
        let environment = [
            ("FLOWCELL_INDEX_URL", url.as_str()),
            ("FLOWCELL_HOME", home.path().to_str().unwrap()),
        ];
        let flow = flow();
        let path = flow.path();
        let arguments = [
            "flow",
            "test",
            "--flow",
            path.to_str().unwrap(),
            "--output",
            "json",
        ];
        let answer = Answer::of(flowcell_with(repository(), &environment, arguments));
        assert_eq!(answer.outputs()["out"], expected());
    }
}

#[test]
fn real_packages_run_in_sessions() {
    let index = Index::start(&[]);
    let config = format!(
        "[packages]\nindex_url = {:?}\ntrusted_hosts = [{:?}]\n",
        index.url(),
        index.address
    );
    let server = Server::with(Setup::config(config));
    let client = server.admin();
    client.upload("f", &flow()).expect(201);
    let session = client.session("f");
    assert_eq!(session.out(json!({})), expected());
    let listed = client.get(&session.path("/packages")).is(200).json;
    let from_index = listed["packages"].as_array().unwrap().iter();
    let mut names: Vec<&str> = from_index
        .filter(|one| one["source"] == "requirements")
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "beautifulsoup4",
            "jinja2",
            "markupsafe",
            "pypdf",
            "pypdf2",
            "python-dotenv",
            "pyyaml",
            "requests",
            "tenacity",
        ]
    );
    // Without the index: what is there is used.
    drop(index);
    client.upload("g", &flow()).expect(201);
    assert_eq!(client.session("g").out(json!({})), expected());
}
