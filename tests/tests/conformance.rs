//! promptflow's own answers, recorded, against ours: one test for each case of `tests/conformance`.
//!
//! Each folder there is a flow with a `case.json`: inputs, and what promptflow 1.18.5 answered. Status, outputs, metrics
//! and the error's class must agree.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use flowcell_tests::openai::Server;
use flowcell_tests::{Answer, difference, flowcell, lenient_json, normalised, repository};
use libtest_mimic::{Arguments, Failed, Trial};
use regex::Regex;
use serde::Deserialize;
use serde_json::{Value, json};

/// Where flowcell answers differently, on purpose; docs/differences.md gives the reasons at length. A case that agrees
/// must not stand here.
const KNOWN_DIFFERENCES: [(&str, &str); 9] = [
    (
        "import_side_effects",
        "a node's file is imported once, not five times",
    ),
    (
        "shared_objects",
        "a later node cannot change an earlier node's output",
    ),
    (
        "literal_bad_o",
        "numbers and texts of the flow file are Python's own types",
    ),
    (
        "yaml_scalars",
        "numbers and texts of the flow file are Python's own types",
    ),
    ("yaml_date", "a date stays the text that was written"),
    ("yaml_tag", "a tagged scalar is the value that its tag says"),
    ("cycle#2", "`validate` finds cycles"),
    ("badref#2", "`validate` finds references to nothing"),
    ("no_source#2", "`validate` finds nodes without a source"),
];

#[derive(Deserialize)]
struct CaseFile {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    id: String,
    /// The flow's folder, below `tests/conformance`.
    flow: String,
    kind: Kind,
    /// `connection`, for one.
    #[serde(default)]
    needs: Vec<String>,
    node: Option<String>,
    variant: Option<String>,
    #[serde(default)]
    inputs: serde_json::Map<String, Value>,
    #[serde(default)]
    environment_variables: BTreeMap<String, Value>,
    expect: Expected,
    /// Outputs that promptflow itself answers differently each time.
    #[serde(default)]
    nondeterministic: Vec<String>,
    #[serde(default)]
    nondeterministic_parts: Vec<String>,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Test,
    Node,
    Validate,
}

#[derive(Deserialize)]
struct Expected {
    status: String,
    error: Option<ExpectedError>,
    #[serde(default)]
    outputs: Value,
    metrics: Option<Value>,
}

#[derive(Deserialize)]
struct ExpectedError {
    class: Option<String>,
    #[serde(default)]
    message: String,
    /// Where promptflow's command line gives another class than its library.
    cli_class: Option<String>,
    cause: Option<String>,
}

fn main() {
    let arguments = Arguments::from_args();
    let root = repository().join("tests/conformance");
    let mut trials = Vec::new();
    let mut known: BTreeMap<&str, &str> = KNOWN_DIFFERENCES.into();
    let mut folders: Vec<PathBuf> = fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    for folder in folders {
        let text = fs::read_to_string(folder.join("case.json")).unwrap();
        let file: CaseFile = serde_json::from_str(&text).unwrap();
        for case in file.cases {
            let reason = known.remove(case.id.as_str());
            let root = root.clone();
            trials.push(Trial::test(case.id.clone(), move || {
                run(&case, &root, reason)
            }));
        }
    }
    let leftover: Vec<&str> = known.into_keys().collect();
    trials.push(Trial::test("known_differences_are_documented", move || {
        let page = fs::read_to_string(repository().join("docs/differences.md"))?;
        let words: HashSet<&str> = page.split([' ', ',', '\n', '|', '`']).collect();
        let unsaid: Vec<&str> = KNOWN_DIFFERENCES
            .iter()
            .map(|(id, _)| *id)
            .filter(|id| !words.contains(id))
            .collect();
        if leftover.is_empty() && unsaid.is_empty() {
            return Ok(());
        }
        Err(format!("no such cases: {leftover:?}; not in docs/differences.md: {unsaid:?}").into())
    }));
    libtest_mimic::run(&arguments, trials).exit();
}

fn run(case: &Case, root: &Path, reason: Option<&str>) -> Result<(), Failed> {
    let inputs = tempfile::tempdir().unwrap();
    let inputs_file = inputs.path().join("inputs.json");
    fs::write(&inputs_file, Value::from(case.inputs.clone()).to_string()).unwrap();
    let differences = judge(case, &answer(case, root, &inputs_file));
    match (differences.is_empty(), reason) {
        (true, None) | (false, Some(_)) => Ok(()),
        (false, None) => Err(format!("{}\n{}", case.id, differences.join("\n")).into()),
        (true, Some(reason)) => Err(format!(
            "{} agrees with promptflow now; take it off KNOWN_DIFFERENCES and docs/differences.md ({reason})",
            case.id
        )
        .into()),
    }
}

/// Our answer: status, outputs, error, metrics.
fn answer(case: &Case, root: &Path, inputs: &Path) -> Value {
    let flow = root.join(&case.flow).to_str().unwrap().to_owned();
    // As recorded: the flows were below `<root>/edge`.
    let replace = [(root.to_str().unwrap().to_owned(), "<root>/edge")];
    if case.kind == Kind::Validate {
        let ended = flowcell(["flow", "validate", "--source", &flow, "--output", "json"]);
        let said = lenient_json(&ended.stdout).unwrap();
        let status = if said["result"] == "Failed" {
            "Failed"
        } else {
            "Completed"
        };
        assert_eq!(
            ended.code,
            Some(i32::from(status == "Failed")),
            "{ended:#?}"
        );
        return json!({ "status": status, "error": said["error"] });
    }
    // The connections that promptflow had. Each case has a service of its own, as each recording had.
    let service = case.needs.iter().any(|need| need == "connection");
    let mock = if service {
        Server::start().url()
    } else {
        "http://127.0.0.1:9".to_owned()
    };
    let folder = tempfile::tempdir().unwrap();
    let connections = folder.path().join("connections.json");
    let text = fs::read_to_string(root.join("connections.json")).unwrap();
    fs::write(&connections, text.replace("${mock}", &mock)).unwrap();
    let connections = connections.to_str().unwrap().to_owned();
    let mut arguments: Vec<String> = [
        "flow",
        "test",
        "--flow",
        &flow,
        "--inputs-file",
        inputs.to_str().unwrap(),
        "--connections",
        &connections,
        "--output",
        "json",
    ]
    .map(str::to_owned)
    .into();
    for (option, value) in [("--node", &case.node), ("--variant", &case.variant)] {
        if let Some(value) = value {
            arguments.extend([option.to_owned(), value.clone()]);
        }
    }
    if !case.environment_variables.is_empty() {
        arguments.push("--environment-variables".to_owned());
        arguments.extend(
            case.environment_variables
                .iter()
                .map(|(name, value)| match value {
                    Value::String(text) => format!("{name}={text}"),
                    other => format!("{name}={other}"),
                }),
        );
    }
    normalised(&Answer::of(flowcell(arguments)).json, &replace)
}

fn judge(case: &Case, got: &Value) -> Vec<String> {
    let want = &case.expect;
    if got["status"] != want.status.as_str() {
        return vec![format!(
            "status:\n  want {}\n  got  {} {}",
            want.status, got["status"], got["error"]
        )];
    }
    let is_random = |part: &str| {
        case.nondeterministic_parts
            .iter()
            .any(|random| random == part)
    };
    let mut differences = Vec::new();
    if want.status == "Failed" {
        if !is_random("error_class") {
            differences.extend(wrong_class(want.error.as_ref(), &got["error"]));
        }
    } else if case.kind != Kind::Validate && !case.nondeterministic.iter().any(|name| name == "*") {
        let without_random = |value: &Value| match value {
            Value::Object(entries) => {
                let mut entries = entries.clone();
                entries.retain(|name, _| !case.nondeterministic.contains(name));
                Value::Object(entries)
            }
            other => other.clone(),
        };
        differences.extend(difference(
            &without_random(&want.outputs),
            &without_random(&got["outputs"]),
            "outputs",
        ));
        if !is_random("metrics") {
            let metrics = want.metrics.clone().unwrap_or_else(|| json!({}));
            differences.extend(difference(&metrics, &got["metrics"], "metrics"));
        }
    }
    differences
}

/// promptflow names an error several ways: by its class, by the class that its command line shows, and by the
/// exception's class in brackets in the message. Any of them will do.
fn wrong_class(want: Option<&ExpectedError>, got: &Value) -> Option<String> {
    static IN_BRACKETS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\((\w+)\)").unwrap());
    let want = want?;
    let mut allowed: Vec<&str> = [&want.class, &want.cli_class, &want.cause]
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
    allowed.extend(
        IN_BRACKETS
            .captures_iter(&want.message)
            .filter_map(|found| Some(found.get(1)?.as_str())),
    );
    let class = got["class"].as_str().unwrap_or_default();
    if allowed.contains(&class) {
        return None;
    }
    Some(format!(
        "error:\n  want one of {allowed:?}: {}\n  got  {class}: {}",
        want.message, got["message"]
    ))
}
