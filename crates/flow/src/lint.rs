//! Every problem of a flow at once, for `flowcell flow validate`.
//!
//! promptflow stops at the first problem, and its own `validate` does not look at the graph at all. The findings here use
//! promptflow's classes and messages where it has them, and classes of our own for what only we notice.

use std::collections::{HashMap, HashSet};

use crate::error::{ErrorKind, FlowError, Location, nearest, suggest};
use crate::graph::{self, source_problem};
use crate::json::{Json, python_str};
use crate::reference::Assignment;
use crate::schema::{Flow, Node, NodeKind, Source, SourceKind};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The flow, or a line of it, cannot run.
    Error,
    /// The flow runs, but perhaps not as meant.
    Warning,
}

/// A problem with a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// promptflow's exception, or our own name for the problem.
    pub class: &'static str,
    /// What is wrong.
    pub message: String,
    /// Where in `flow.dag.yaml`.
    pub location: Option<Location>,
    /// The way out, if we know one.
    pub help: Option<String>,
}

/// How many findings are made; a flow can be wrong in any number of places.
pub(crate) const MAX_FINDINGS: usize = 200;

impl From<FlowError> for Finding {
    fn from(error: FlowError) -> Finding {
        Finding {
            severity: Severity::Error,
            class: error.class(),
            message: error.to_string(),
            location: error.location(),
            help: error.help().map(str::to_owned),
        }
    }
}

impl Flow {
    /// All problems of the flow, in the order of the text.
    ///
    /// Works before and after [`Flow::with_variant`]; before, every variant is looked at, not only the chosen ones. A flow without
    /// errors here passes [`Flow::validate`] once its variants are applied.
    ///
    /// At most 200 findings are made; if there are more, the last is an error of class `TooManyFindings`.
    pub fn lint(&self) -> Vec<Finding> {
        let mut linter = Linter {
            flow: self,
            indices: self.node_indices(),
            findings: self.notes.clone(),
            used_inputs: HashSet::new(),
        };
        linter.inputs();
        if self.entry.is_some() {
            linter.entry();
        } else {
            linter.nodes();
            linter.variants();
            linter.cycles();
            linter.outputs();
            linter.unused();
        }
        let is_full = linter.is_full();
        let mut findings = linter.findings;
        findings.sort_by_key(|finding| (finding.location, finding.severity));
        findings.dedup();
        if is_full {
            findings.push(Finding {
                severity: Severity::Error,
                class: "TooManyFindings",
                message: "There may be more problems than these.".to_owned(),
                location: None,
                help: None,
            });
        }
        findings
    }
}

struct Linter<'f> {
    flow: &'f Flow,
    indices: HashMap<&'f str, usize>,
    findings: Vec<Finding>,
    used_inputs: HashSet<&'f str>,
}

impl<'f> Linter<'f> {
    fn is_full(&self) -> bool {
        self.findings.len() >= MAX_FINDINGS
    }

    fn error(&mut self, error: FlowError) {
        if !self.is_full() {
            self.findings.push(error.into());
        }
    }

    fn warn(&mut self, class: &'static str, message: String, at: Location, help: Option<String>) {
        if !self.is_full() {
            self.findings.push(Finding {
                severity: Severity::Warning,
                class,
                message,
                location: Some(at),
                help,
            });
        }
    }

    fn find(&self, name: &str) -> Option<&'f Node> {
        self.flow.nodes.get(*self.indices.get(name)?)
    }

    /// A flow without a graph. Whether the entry takes the inputs is known when it is loaded.
    fn entry(&mut self) {
        if let Err(error) = self.flow.check_entry() {
            self.error(error);
        }
    }

    fn nodes(&mut self) {
        let flow = self.flow;
        if flow.nodes.is_empty() {
            self.warn(
                "NoNodes",
                "The flow has no nodes.".to_owned(),
                Location { line: 1, column: 1 },
                None,
            );
        }
        let mut names = HashSet::new();
        for node in &flow.nodes {
            if !names.insert(node.name.as_str()) {
                self.error(graph::duplicate_name(node));
            }
            if !node.use_variants {
                self.node(node);
            }
        }
    }

    /// The variants of each node, whether chosen or not.
    fn variants(&mut self) {
        let flow = self.flow;
        for node in flow.nodes.iter().filter(|node| node.use_variants) {
            let Some(variants) = flow.node_variants.get(&node.name) else {
                let message = format!("No variant for the node {}.", node.name);
                let help = suggest(&node.name, flow.node_variants.keys().map(String::as_str));
                self.error(
                    FlowError::from(ErrorKind::InvalidFlowError { message })
                        .at(node.location())
                        .with_help(help),
                );
                continue;
            };
            let problem = match &variants.default_variant_id {
                None => Some((
                    format!("Default variant id is not specified for {}.", node.name),
                    None,
                )),
                Some(id) if !variants.variants.contains_key(id) => {
                    let help = suggest(id, variants.variants.keys().map(String::as_str));
                    Some((
                        format!("Cannot find the variant {id} for {}.", node.name),
                        help,
                    ))
                }
                Some(_) => None,
            };
            if let Some((message, help)) = problem {
                self.error(
                    FlowError::from(ErrorKind::InvalidFlowError { message })
                        .at(variants.at)
                        .with_help(help),
                );
            }
        }
        // A variant that took its node's place left its location there.
        let applied: HashSet<Location> = flow
            .node_variants
            .values()
            .flat_map(|variants| variants.variants.values())
            .map(Node::location)
            .collect();
        for (name, variants) in &flow.node_variants {
            if self.is_full() {
                return;
            }
            match self.find(name) {
                None => {
                    let help = nearest(name, flow.nodes.iter().map(|node| node.name.as_str()))
                        .map(|name| format!("did you mean '{name}'?"));
                    let message = format!(
                        "There are variants for the node '{name}', which the flow does not have."
                    );
                    self.warn("UnusedVariants", message, variants.at, help);
                }
                Some(node) if !node.use_variants && !applied.contains(&node.location()) => {
                    let message = format!("The variants of the node '{name}' are not used.");
                    let help = Some("set 'use_variants: true' on the node to use them".to_owned());
                    self.warn("UnusedVariants", message, variants.at, help);
                }
                Some(_) => {}
            }
            for node in variants.variants.values() {
                self.node(node);
            }
        }
    }

    fn node(&mut self, node: &'f Node) {
        if self.is_full() {
            return;
        }
        if let Some(problem) = source_problem(node) {
            let help = match &problem {
                ErrorKind::NoSource { .. } => source_help(node),
                _ if node.kind.is_none() => {
                    Some("set the node's 'type', for example python".to_owned())
                }
                _ => None,
            };
            self.error(FlowError::from(problem).at(node.location()).with_help(help));
        } else if let Some(source) = &node.source {
            self.source(node, source);
        }
        if node.kind == Some(NodeKind::Llm)
            && node.connection.as_deref().unwrap_or_default().is_empty()
        {
            let message = format!("The LLM node '{}' names no connection.", node.name);
            self.warn(
                "NoConnection",
                message,
                node.location(),
                Some("add 'connection: <name>'".to_owned()),
            );
        }
        for (name, assignment) in &node.inputs {
            self.assignment(node, assignment, node.marks.input(name));
        }
        if let Some(activate) = &node.activate {
            let at = node.marks.activate();
            if let Assignment::Literal(when) = &activate.when {
                let message = format!(
                    "The activate condition of the node '{}' compares the literal '{}', so it never changes.",
                    node.name,
                    python_str(when)
                );
                self.warn(
                    "ConstantCondition",
                    message,
                    at,
                    Some("'when' takes a reference like ${inputs.name}".to_owned()),
                );
            }
            self.assignment(node, &activate.when, at);
            if let (true, Some(reference)) = (node.aggregation, activate.when.node())
                && self
                    .flow
                    .node(reference)
                    .is_some_and(|reference| !reference.aggregation)
            {
                self.error(graph::activated_by_line(node, reference));
            }
        }
        if !node.aggregation {
            let mut of_aggregation: Vec<&Node> = node
                .references()
                .filter_map(|name| self.find(name))
                .filter(|node| node.aggregation)
                .collect();
            of_aggregation.dedup_by(|left, right| left.name == right.name);
            if !of_aggregation.is_empty() {
                self.error(graph::aggregation_referenced(node, &of_aggregation));
            }
        }
    }

    /// A source that names nothing to load.
    fn source(&mut self, node: &Node, source: &Source) {
        let missing = match source.kind {
            SourceKind::Package if source.tool.is_none() => "tool",
            SourceKind::PackageWithPrompt if source.tool.is_none() => "tool",
            SourceKind::PackageWithPrompt | SourceKind::Code if source.path.is_none() => "path",
            _ => return,
        };
        let message = format!("The source of the node '{}' has no '{missing}'.", node.name);
        self.error(
            FlowError::from(ErrorKind::InvalidFlowError { message })
                .at(node.location())
                .with_help(source_help(node)),
        );
    }

    fn assignment(&mut self, node: &Node, assignment: &'f Assignment, at: Location) {
        if self.is_full() {
            return;
        }
        match assignment {
            Assignment::FlowInput(input) => {
                self.used_inputs.insert(input);
                if !self.flow.inputs.contains_key(input) {
                    self.error(self.flow.unknown_input(node, input, at));
                }
            }
            Assignment::NodeOutput {
                node: reference,
                section,
                ..
            } => {
                if self.find(reference).is_none() {
                    self.error(self.flow.unknown_node(node, reference, at));
                } else if section != "output" {
                    let help = section_help(reference, section);
                    self.error(
                        FlowError::unsupported_reference(reference, section)
                            .at(at)
                            .with_help(help),
                    );
                }
            }
            Assignment::Literal(Json::String(text)) => self.almost_reference(text, at),
            Assignment::Literal(_) => {}
        }
    }

    /// Text that looks like a reference and is none.
    fn almost_reference(&mut self, text: &str, at: Location) {
        let names_something = text
            .split_once("${")
            .and_then(|(_, rest)| rest.split_once('}'))
            .is_some_and(|(inner, _)| {
                let name = inner.split(['.', '[']).next().unwrap_or_default();
                matches!(name, "inputs" | "flow") || self.find(name).is_some()
            });
        if names_something {
            let message = "The value contains a reference among other text, which is not replaced."
                .to_owned();
            let help = Some(
                "a reference is the whole value; put texts together in a prompt or python node"
                    .to_owned(),
            );
            self.warn("ReferenceInText", message, at, help);
        }
    }

    fn cycles(&mut self) {
        let flow = self.flow;
        let index_of = |name: &str| self.indices.get(name).copied();
        let dependencies: Vec<Vec<usize>> = flow
            .nodes
            .iter()
            .map(|node| {
                let mut on: Vec<usize> = node.references().filter_map(index_of).collect();
                on.sort_unstable();
                on.dedup();
                on
            })
            .collect();
        if let Err(left) = graph::topological_order(&dependencies) {
            self.error(flow.cycle(&left, &dependencies));
        }
    }

    fn inputs(&mut self) {
        let flow = self.flow;
        for (name, input) in flow.checked_inputs() {
            if let Some(default) = &input.default
                && let Err(error) = input.value_type.coerce(default.clone())
            {
                let message = format!(
                    "The default '{}' of the input '{name}' is not type {}: {error}.",
                    python_str(default),
                    input.value_type
                );
                self.error(FlowError::from(ErrorKind::InvalidFlowError { message }).at(input.at));
            }
        }
    }

    fn outputs(&mut self) {
        let flow = self.flow;
        if flow.outputs.is_empty() && !flow.nodes.is_empty() && !flow.has_aggregation() {
            let at = Location { line: 1, column: 1 };
            self.warn("NoOutputs", "The flow has no outputs.".to_owned(), at, None);
        }
        for (name, output) in &flow.outputs {
            if self.is_full() {
                return;
            }
            if let Some(input) = output.reference.flow_input() {
                self.used_inputs.insert(input);
            }
            if let Some(error) = flow.output_problem(
                name,
                &output.reference,
                output.reference.node().and_then(|node| self.find(node)),
            ) {
                self.error(error.at(output.reference_at));
                continue;
            }
            match &output.reference {
                Assignment::NodeOutput { node, .. }
                    if self.find(node).is_some_and(|node| node.aggregation) =>
                {
                    let message = graph::ineffective_output(name, node);
                    let help = Some(
                        "report results of aggregation nodes as metrics, with log_metric"
                            .to_owned(),
                    );
                    self.warn("AggregationOutput", message, output.reference_at, help);
                }
                Assignment::NodeOutput { node, section, .. } if section != "output" => {
                    let message = format!(
                        "The output '{name}' is the whole output of '{node}': '{section}' is not looked at."
                    );
                    self.warn(
                        "IgnoredSection",
                        message,
                        output.reference_at,
                        section_help(node, section),
                    );
                }
                Assignment::Literal(value) => {
                    let message = format!(
                        "The output '{name}' is the literal '{}'.",
                        python_str(value)
                    );
                    let help = Some("a reference is written ${node.output}".to_owned());
                    self.warn("LiteralOutput", message, output.reference_at, help);
                }
                _ => {}
            }
        }
    }

    fn unused(&mut self) {
        let flow = self.flow;
        let history = flow.chat_history();
        for (name, input) in &flow.inputs {
            if !self.used_inputs.contains(name.as_str()) && history != Some(name.as_str()) {
                let message = format!("The input '{name}' is not used.");
                self.warn("UnusedInput", message, input.at, None);
            }
        }
    }
}

/// An example of a source that would do.
fn source_help(node: &Node) -> Option<String> {
    let is_package = node
        .source
        .as_ref()
        .is_some_and(|source| source.kind == SourceKind::Package);
    let example = match node.kind? {
        NodeKind::Python | NodeKind::Wasm if is_package => {
            "{type: package, tool: <package>.<function>}"
        }
        NodeKind::Python => "{type: code, path: <file>.py}",
        NodeKind::Prompt | NodeKind::Llm => "{type: code, path: <file>.jinja2}",
        NodeKind::CustomLlm => {
            "{type: package_with_prompt, tool: <package>.<function>, path: <file>.jinja2}"
        }
        NodeKind::Wasm => "{type: code, path: <file>.wasm}",
        NodeKind::Csharp | NodeKind::Action => return None,
    };
    Some(format!("write 'source: {example}'"))
}

fn section_help(node: &str, section: &str) -> Option<String> {
    let rest = section.strip_prefix("output")?;
    if rest.starts_with('[') {
        return Some(format!(
            "write a dot before the bracket: ${{{node}.output.{rest}}}"
        ));
    }
    Some(format!("did you mean ${{{node}.output}}?"))
}
