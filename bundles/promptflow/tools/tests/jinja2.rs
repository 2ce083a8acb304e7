//! Renders what Jinja2 itself has rendered (`jinja2.json`, written by `record.py`) and compares.

use std::collections::BTreeSet;

use promptflow_tools::{prompt, variables};
use serde_json::{Map, Value};

/// Templates where the two differ on purpose or harmlessly, each with the reason.
const DIFFERENT: &[(&str, &str)] = &[
    (
        "{{ '%s' % i }}",
        "minijinja's % is for numbers; the filter `format` does this",
    ),
    (
        "{{ [0.1, 1e22] ~ '' }}",
        "minijinja's ~ prints the exponents of floats in its own way",
    ),
    ("{{ none.x.y }}", "a literal is not named in the error"),
    (
        "{% for in nums %}{% endfor %}",
        "minijinja takes `in` for a name",
    ),
    ("{{ 'open }}", "fails alike, but in other words"),
];

/// The same, for finding variables.
const DIFFERENT_VARIABLES: &[(&str, &str)] = &[
    (
        "{{ s | nofilter }}",
        "an unknown filter is found when rendering",
    ),
    (
        "{{ s is notest }}",
        "an unknown test is found when rendering",
    ),
    (
        "{% for in nums %}{% endfor %}",
        "minijinja takes `in` for a name",
    ),
    ("{{ 'open }}", "fails alike, but in other words"),
];

fn cases() -> (Map<String, Value>, Vec<Value>) {
    let recorded: Value =
        serde_json::from_str(include_str!("jinja2.json")).expect("jinja2.json is JSON");
    (
        recorded["inputs"].as_object().cloned().unwrap_or_default(),
        recorded["cases"].as_array().cloned().unwrap_or_default(),
    )
}

/// The differing templates are exactly those that are known to differ.
fn check(name: &str, known: &[(&str, &str)], difference: impl Fn(&Value) -> Option<String>) {
    let (_, cases) = cases();
    let known: BTreeSet<&str> = known.iter().map(|(template, _)| *template).collect();
    let mut unexpected = Vec::new();
    for case in &cases {
        let template = case["template"].as_str().unwrap_or_default();
        match (difference(case), known.contains(template)) {
            (Some(difference), false) => unexpected.push(format!("{template:?}\n{difference}")),
            (None, true) => unexpected.push(format!("{template:?} no longer differs")),
            _ => {}
        }
    }
    assert!(
        unexpected.is_empty(),
        "{name}: {} of {}\n{}",
        unexpected.len(),
        cases.len(),
        unexpected.join("\n")
    );
}

fn compare(expected: &str, got: &str) -> Option<String> {
    (expected != got).then(|| format!("  jinja2: {expected:?}\n  here:   {got:?}"))
}

#[test]
fn renders_as_jinja2() {
    let (inputs, _) = cases();
    check("rendering", DIFFERENT, |case| {
        let expected = case["text"]
            .as_str()
            .or(case["raises"].as_str())
            .unwrap_or_default();
        let got = prompt::render(case["template"].as_str().unwrap_or_default(), &inputs)
            .unwrap_or_else(|error| error.to_string());
        compare(expected, &got)
    });
}

#[test]
fn finds_the_variables_that_jinja2_finds() {
    check("variables", DIFFERENT_VARIABLES, |case| {
        let inspected = variables::inspect(case["template"].as_str().unwrap_or_default());
        if let Some(error) = case["inspect"].get("error") {
            return compare(&error.to_string(), &inspected["error"].to_string());
        }
        compare(
            &case["inspect"]["variables"].to_string(),
            &inspected["variables"].to_string(),
        )
    });
}
