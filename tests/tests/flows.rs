//! Every folder of `tests/flows`: a flow with an `expected.json`, run through the binary and compared exactly.
//!
//! ```json
//! { "inputs": {…}, "node": "n", "variant": "${n.v}", "environment_variables": {"K": "V"},
//!   "expect": { "status": "Completed", "outputs": {…}, "error": {"class": "…", "message": "…"}, "metrics": {…} } }
//! ```
//! What `expect` leaves out is not compared, except that a flow with no metrics there must have none.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use flowcell_tests::{Answer, difference, flowcell, normalised, repository};
use libtest_mimic::{Arguments, Failed, Trial};
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What the flow is there for.
    #[serde(default, rename = "about")]
    _about: String,
    #[serde(default)]
    inputs: Map<String, Value>,
    node: Option<String>,
    variant: Option<String>,
    #[serde(default)]
    environment_variables: BTreeMap<String, String>,
    expect: Expected,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    status: String,
    outputs: Option<Value>,
    error: Option<ExpectedError>,
    #[serde(default)]
    metrics: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedError {
    class: String,
    message: Option<String>,
}

fn main() {
    let arguments = Arguments::from_args();
    let mut folders: Vec<PathBuf> = fs::read_dir(repository().join("tests/flows"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("expected.json").is_file())
        .collect();
    folders.sort();
    let trials = folders
        .into_iter()
        .map(|folder| {
            let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
            Trial::test(name, move || run(&folder))
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

fn run(folder: &Path) -> Result<(), Failed> {
    let text = fs::read_to_string(folder.join("expected.json")).unwrap();
    let case: Case = serde_json::from_str(&text)?;
    let temporary = tempfile::tempdir().unwrap();
    let inputs = temporary.path().join("inputs.json");
    fs::write(&inputs, Value::from(case.inputs).to_string()).unwrap();
    let mut arguments: Vec<String> = [
        "flow",
        "test",
        "--output",
        "json",
        "--flow",
        folder.to_str().unwrap(),
    ]
    .map(str::to_owned)
    .into();
    arguments.extend([
        "--inputs-file".to_owned(),
        inputs.to_str().unwrap().to_owned(),
    ]);
    for (option, value) in [("--node", case.node), ("--variant", case.variant)] {
        if let Some(value) = value {
            arguments.extend([option.to_owned(), value]);
        }
    }
    if !case.environment_variables.is_empty() {
        arguments.push("--environment-variables".to_owned());
        arguments.extend(
            case.environment_variables
                .iter()
                .map(|(name, value)| format!("{name}={value}")),
        );
    }
    let replace = [(folder.to_str().unwrap().to_owned(), "<flow>")];
    let got = normalised(&Answer::of(flowcell(arguments)).json, &replace);
    let want = case.expect;
    let mut differences = Vec::new();
    differences.extend(difference(&json!(want.status), &got["status"], "status"));
    if let Some(outputs) = want.outputs {
        differences.extend(difference(&outputs, &got["outputs"], "outputs"));
    }
    if let Some(error) = want.error {
        differences.extend(difference(
            &json!(error.class),
            &got["error"]["class"],
            "error.class",
        ));
        if let Some(message) = error.message {
            differences.extend(difference(
                &json!(message),
                &got["error"]["message"],
                "error.message",
            ));
        }
    }
    differences.extend(difference(&want.metrics.into(), &got["metrics"], "metrics"));
    if differences.is_empty() {
        Ok(())
    } else {
        Err(format!("{}\nthe whole answer: {got:#}", differences.join("\n")).into())
    }
}
