//! Checking a flow and putting its nodes in order.
//!
//! Rules: `FlowValidator._validate_nodes_topology` and `_ensure_outputs_valid`, in their order, so that a flow with several problems
//! shows the same one first. [`Flow::lint`] shows all of them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use crate::error::{ErrorKind, FlowError, Location, suggest};
use crate::reference::Assignment;
use crate::schema::{Flow, Node, NodeKind, SourceKind};

/// A flow's nodes in an order in which they can run. All numbers are indices into [`Flow::nodes`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    /// All nodes, each behind those it refers to; among those that could come next, the first in the file does.
    pub order: Vec<usize>,
    /// For each node of the flow, the nodes it refers to by inputs or activate condition; ascending, without repetition.
    pub dependencies: Vec<Vec<usize>>,
    /// The nodes of a line, in order.
    pub line: Vec<usize>,
    /// The nodes that run once after all lines, in order.
    pub aggregation: Vec<usize>,
    /// The names of the outputs that take effect, in the file's order.
    pub outputs: Vec<String>,
    /// promptflow's warnings, e.g. of an output that refers to an aggregation node.
    pub warnings: Vec<String>,
}

impl Node {
    /// Whether promptflow's CLI loads the node's tool first, before the executor loads all of them: it searches for connections
    /// that the tool could take as an input.
    pub fn is_searched(&self) -> bool {
        self.connection.is_none() && !matches!(self.kind, Some(NodeKind::Prompt | NodeKind::Llm))
    }

    /// Whether the node's source can be loaded in that search.
    ///
    /// # Errors
    /// `UserErrorException` without a source, `NotImplementedError` with one of no use.
    pub fn check_search(&self) -> Result<(), FlowError> {
        source_problem(self).map_or(Ok(()), |problem| {
            Err(FlowError::from(problem).at(self.location()))
        })
    }

    /// Whether the executor can load the node's source.
    ///
    /// # Errors
    /// `ResolveToolError` around what [`check_search`](Node::check_search) says.
    pub fn check_source(&self) -> Result<(), FlowError> {
        source_problem(self).map_or(Ok(()), |problem| {
            let kind = ErrorKind::ResolveToolError {
                node: self.name.clone(),
                class: problem.class(),
                message: problem.to_string(),
            };
            Err(FlowError::from(kind).at(self.location()))
        })
    }
}

impl Flow {
    /// Checks the flow as promptflow does before it runs one, and orders its nodes.
    ///
    /// Call [`Flow::with_variant`] first: a node that still has to be replaced by a variant has no source.
    ///
    /// # Errors
    /// The first problem, with its place and, for a wrong name, the name that may have been meant:
    /// nodes without a source (`UserErrorException`) or with one of no use (`ResolveToolError`), `DuplicateNodeName`,
    /// `InputReferenceNotFound`, `NodeReferenceNotFound`, `InvalidNodeReference`, `NodeCircularDependency`, `EmptyOutputReference`,
    /// `OutputReferenceNotFound`.
    pub fn validate(&self) -> Result<Graph, FlowError> {
        self.check_entry()?;
        self.check_sources()?;
        self.check_names()?;
        self.check_flow_inputs()?;
        let dependencies = self.dependencies()?;
        let order =
            topological_order(&dependencies).map_err(|left| self.cycle(&left, &dependencies))?;
        let (outputs, warnings) = self.check_outputs()?;
        let (aggregation, line) = order
            .iter()
            .partition(|index| self.nodes.get(**index).is_some_and(|node| node.aggregation));
        Ok(Graph {
            order,
            dependencies,
            line,
            aggregation,
            outputs,
            warnings,
        })
    }

    /// # Errors
    /// `InvalidFlexFlowEntry` for an entry that names nothing, `NotImplementedError` for one that is not Python.
    pub fn check_entry(&self) -> Result<(), FlowError> {
        match &self.entry {
            Some(entry) => entry.check(self.language),
            None => Ok(()),
        }
    }

    /// promptflow looks at the tools of all nodes before it looks at the graph.
    fn check_sources(&self) -> Result<(), FlowError> {
        for node in self.nodes.iter().filter(|node| node.is_searched()) {
            node.check_search()?;
        }
        self.nodes.iter().try_for_each(Node::check_source)
    }

    fn check_names(&self) -> Result<(), FlowError> {
        let mut names = HashSet::new();
        match self
            .nodes
            .iter()
            .find(|node| !names.insert(node.name.as_str()))
        {
            Some(node) => Err(duplicate_name(node)),
            None => Ok(()),
        }
    }

    fn check_flow_inputs(&self) -> Result<(), FlowError> {
        for node in &self.nodes {
            for (name, assignment) in &node.inputs {
                if let Some(input) = assignment.flow_input()
                    && !self.inputs.contains_key(input)
                {
                    return Err(self.unknown_input(node, input, node.marks.input(name)));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn unknown_input(&self, node: &Node, input: &str, at: Location) -> FlowError {
        FlowError::from(ErrorKind::InputReferenceNotFound {
            node: node.name.clone(),
            input: input.to_owned(),
        })
        .at(at)
        .with_help(self.suggest_input(input))
    }

    pub(crate) fn suggest_input(&self, input: &str) -> Option<String> {
        // `${inputs.a.b}` looks like property access, which inputs do not have.
        match input.split_once('.') {
            Some((name, _)) if self.inputs.contains_key(name) => Some(format!(
                "a reference to a flow input has no properties; refer to ${{inputs.{name}}} as a whole"
            )),
            _ => suggest(input, self.inputs.keys().map(String::as_str)),
        }
    }

    /// The place of each node name, the first of several.
    pub(crate) fn node_indices(&self) -> HashMap<&str, usize> {
        let mut indices = HashMap::with_capacity(self.nodes.len());
        for (index, node) in self.nodes.iter().enumerate() {
            indices.entry(node.name.as_str()).or_insert(index);
        }
        indices
    }

    /// For each node the nodes it refers to, after checking that they are there and of the right sort.
    fn dependencies(&self) -> Result<Vec<Vec<usize>>, FlowError> {
        let indices = self.node_indices();
        let is_aggregation =
            |index: &usize| self.nodes.get(*index).is_some_and(|node| node.aggregation);
        let mut all = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let condition = node
                .activate
                .as_ref()
                .and_then(|activate| activate.when.node());
            if let (true, Some(reference)) = (node.aggregation, condition)
                && !indices.get(reference).is_some_and(is_aggregation)
            {
                return Err(activated_by_line(node, reference));
            }
            let mut dependencies = Vec::new();
            for (reference, at) in references(node) {
                match indices.get(reference) {
                    Some(index) => dependencies.push(*index),
                    None => return Err(self.unknown_node(node, reference, at)),
                }
            }
            dependencies.sort_unstable();
            dependencies.dedup();
            if !node.aggregation {
                let of_aggregation: Vec<&Node> = dependencies
                    .iter()
                    .filter(|index| is_aggregation(index))
                    .filter_map(|index| self.nodes.get(*index))
                    .collect();
                if !of_aggregation.is_empty() {
                    return Err(aggregation_referenced(node, &of_aggregation));
                }
            }
            all.push(dependencies);
        }
        Ok(all)
    }

    pub(crate) fn unknown_node(&self, node: &Node, reference: &str, at: Location) -> FlowError {
        FlowError::from(ErrorKind::NodeReferenceNotFound {
            node: node.name.clone(),
            reference: reference.to_owned(),
        })
        .at(at)
        .with_help(self.suggest_node(reference))
    }

    pub(crate) fn suggest_node(&self, reference: &str) -> Option<String> {
        if reference != reference.trim() {
            return Some("a reference has no spaces behind '${' or before '}'".to_owned());
        }
        if matches!(reference, "input" | "inputs" | "flow" | "parent_node") {
            return Some("a reference to a flow input is ${inputs.name}".to_owned());
        }
        suggest(reference, self.nodes.iter().map(|node| node.name.as_str()))
    }

    /// The error for nodes that cannot be put in order, with one ring among them.
    pub(crate) fn cycle(&self, left: &[usize], dependencies: &[Vec<usize>]) -> FlowError {
        let name = |index: &usize| self.nodes.get(*index).map_or("", |node| &node.name);
        let mut nodes: Vec<String> = left.iter().map(|index| name(index).to_owned()).collect();
        nodes.sort_unstable();
        let error = FlowError::from(ErrorKind::NodeCircularDependency { nodes });
        let ring = ring(left, dependencies);
        let Some(first) = ring.first().and_then(|index| self.nodes.get(*index)) else {
            return error;
        };
        let names: Vec<&str> = ring.iter().chain(ring.first()).map(name).collect();
        error
            .at(first.location())
            .with_help(format!("one ring of references is {}", names.join(" -> ")))
    }

    fn check_outputs(&self) -> Result<(Vec<String>, Vec<String>), FlowError> {
        let indices = self.node_indices();
        let mut outputs = Vec::new();
        let mut warnings = Vec::new();
        if self.entry.is_some() {
            // What the entry returns are the outputs, whatever the file says of them.
            return Ok((outputs, warnings));
        }
        for (name, output) in &self.outputs {
            let node = output
                .reference
                .node()
                .and_then(|node| self.nodes.get(*indices.get(node)?));
            if let Some(error) = self.output_problem(name, &output.reference, node) {
                return Err(error.at(output.reference_at));
            }
            match node {
                Some(node) if node.aggregation => {
                    warnings.push(ineffective_output(name, &node.name))
                }
                _ => outputs.push(name.clone()),
            }
        }
        Ok((outputs, warnings))
    }

    /// What is wrong with an output's reference; `found` is the node it refers to, if there is one.
    pub(crate) fn output_problem(
        &self,
        name: &str,
        reference: &Assignment,
        found: Option<&Node>,
    ) -> Option<FlowError> {
        let output = name.to_owned();
        match reference {
            Assignment::Literal(value) if value.as_str() == Some("") => {
                Some(ErrorKind::EmptyOutputReference { output }.into())
            }
            Assignment::FlowInput(input) if !self.inputs.contains_key(input) => Some(
                FlowError::from(ErrorKind::OutputInputNotFound {
                    output,
                    input: input.clone(),
                })
                .with_help(self.suggest_input(input)),
            ),
            Assignment::NodeOutput { node, .. } if found.is_none() => Some(
                FlowError::from(ErrorKind::OutputNodeNotFound {
                    output,
                    node: node.clone(),
                })
                .with_help(self.suggest_node(node)),
            ),
            _ => None,
        }
    }
}

/// What is wrong with a node's kind and source, if anything.
pub(crate) fn source_problem(node: &Node) -> Option<ErrorKind> {
    let unsupported = |message: String| Some(ErrorKind::NotImplementedError { message });
    let Some(source) = &node.source else {
        return Some(ErrorKind::NoSource {
            node: node.name.clone(),
        });
    };
    match (node.kind, &source.kind) {
        (Some(NodeKind::Python), SourceKind::Code | SourceKind::Package | SourceKind::Entry)
        | (Some(NodeKind::CustomLlm), SourceKind::PackageWithPrompt)
        | (Some(NodeKind::Wasm), SourceKind::Code | SourceKind::Package)
        | (Some(NodeKind::Prompt | NodeKind::Llm), _) => None,
        (Some(kind @ (NodeKind::Python | NodeKind::CustomLlm | NodeKind::Wasm)), other) => {
            unsupported(format!(
                "Tool source type {other} for {kind} tool is not supported yet."
            ))
        }
        (Some(kind), _) => unsupported(format!(
            "Tool type {} is not supported yet.",
            kind.python_name()
        )),
        (None, _) => unsupported("Tool type None is not supported yet.".to_owned()),
    }
}

pub(crate) fn duplicate_name(node: &Node) -> FlowError {
    FlowError::from(ErrorKind::DuplicateNodeName {
        node: node.name.clone(),
    })
    .at(node.marks.name)
}

pub(crate) fn activated_by_line(node: &Node, reference: &str) -> FlowError {
    let kind = ErrorKind::AggregationActivatedByLine {
        node: node.name.clone(),
        reference: reference.to_owned(),
    };
    FlowError::from(kind).at(node.marks.activate())
}

pub(crate) fn aggregation_referenced(node: &Node, references: &[&Node]) -> FlowError {
    let references = references.iter().map(|node| node.name.clone()).collect();
    FlowError::from(ErrorKind::AggregationReferenced {
        node: node.name.clone(),
        references,
    })
    .at(node.location())
}

pub(crate) fn ineffective_output(output: &str, node: &str) -> String {
    format!("Output '{output}' references a reduce node '{node}', will not take effect.")
}

/// The nodes a node refers to and where it does: the inputs in order, then the activate condition.
pub(crate) fn references(node: &Node) -> impl Iterator<Item = (&str, Location)> {
    let inputs = node
        .inputs
        .iter()
        .filter_map(|(name, input)| Some((input.node()?, node.marks.input(name))));
    let condition = node
        .activate
        .iter()
        .filter_map(|activate| Some((activate.when.node()?, node.marks.activate())));
    inputs.chain(condition)
}

/// An order in which every node comes behind its dependencies, the smallest index first among several; or the nodes that are left
/// when no more can come, ascending.
pub(crate) fn topological_order(dependencies: &[Vec<usize>]) -> Result<Vec<usize>, Vec<usize>> {
    let mut dependents: Vec<Vec<usize>> = vec![Vec::new(); dependencies.len()];
    let mut waiting: Vec<usize> = Vec::with_capacity(dependencies.len());
    for (index, on) in dependencies.iter().enumerate() {
        waiting.push(on.len());
        for dependency in on {
            if let Some(dependents) = dependents.get_mut(*dependency) {
                dependents.push(index);
            }
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> = (0..)
        .zip(&waiting)
        .filter(|(_, waiting)| **waiting == 0)
        .map(|(index, _)| Reverse(index))
        .collect();
    let mut order = Vec::with_capacity(dependencies.len());
    while let Some(Reverse(index)) = ready.pop() {
        order.push(index);
        for dependent in dependents.get(index).into_iter().flatten() {
            if let Some(waiting) = waiting.get_mut(*dependent) {
                *waiting -= 1;
                if *waiting == 0 {
                    ready.push(Reverse(*dependent));
                }
            }
        }
    }
    if order.len() == dependencies.len() {
        return Ok(order);
    }
    Err((0..)
        .zip(&waiting)
        .filter(|(_, waiting)| **waiting > 0)
        .map(|(index, _)| index)
        .collect())
}

/// Some nodes each of which depends on the next, and the last on the first. `left` are nodes of which each depends on another one of
/// them, as [`topological_order`] leaves them.
fn ring(left: &[usize], dependencies: &[Vec<usize>]) -> Vec<usize> {
    let left: HashSet<usize> = left.iter().copied().collect();
    let mut places: HashMap<usize, usize> = HashMap::new();
    let mut walk = Vec::new();
    let mut next = left.iter().min().copied();
    while let Some(node) = next {
        if let Some(place) = places.get(&node) {
            return walk.split_off(*place);
        }
        places.insert(node, walk.len());
        walk.push(node);
        next = dependencies
            .get(node)
            .into_iter()
            .flatten()
            .find(|node| left.contains(node))
            .copied();
    }
    Vec::new()
}
