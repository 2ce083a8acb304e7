//! One line through the graph.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flowcell_flow::{Decision, JsonMap, Node, decide};
use flowcell_sandbox as sandbox;
use flowcell_sandbox::{Call, Fault, Logs, Request, ToolError};
use indexmap::IndexMap;
use tokio::task::JoinSet;

use crate::error::RunError;
use crate::inputs::{Argument, Arguments, Brought, Moved, home};
use crate::lanes::{Held, Lanes};
use crate::result::{FlowResult, NodeResult, NodeStatus, is_strict_json};
use crate::session::Inner;
use crate::tools::{Resolved, Tool};
use crate::value::Value;

/// What the tasks of one line share.
pub(crate) struct Line {
    pub(crate) session: Arc<Inner>,
    pub(crate) inputs: JsonMap,
    /// Those of the inputs that have images, loaded.
    pub(crate) media: HashMap<String, Value>,
    pub(crate) lanes: Lanes,
    deadline: tokio::time::Instant,
    values: Mutex<HashMap<String, Value>>,
}

/// How a node's task ended.
pub(crate) struct NodeEnd {
    pub(crate) index: usize,
    pub(crate) outcome: Result<Option<Value>, RunError>,
    pub(crate) logs: Logs,
    pub(crate) metrics: Vec<(String, String)>,
    pub(crate) duration: Duration,
}

/// Runs the whole flow: a line, and aggregation over it.
pub(crate) async fn run_flow(session: &Arc<Inner>, given: &JsonMap) -> FlowResult {
    let inputs = session
        .flow
        .flow_test_inputs(given)
        .and_then(|inputs| session.flow.coerce_inputs(&inputs, Some(0)));
    let inputs = match inputs {
        Ok(inputs) => inputs,
        Err(error) => return FlowResult::failed(error.into()),
    };
    let line = match Line::with_images_loaded(session, inputs).await {
        Ok(line) => Arc::new(line),
        Err(error) => return FlowResult::failed(error),
    };
    let mut result = FlowResult {
        outputs: Ok(String::new()),
        metrics: IndexMap::new(),
        nodes: Vec::new(),
        warnings: session.graph.warnings.clone(),
    };
    let work = async {
        line.run_nodes(&mut result.nodes).await?;
        let outputs = line.outputs(&mut result.warnings).await?;
        line.aggregate(&mut result).await;
        Ok(outputs)
    };
    let ended = tokio::time::timeout_at(line.deadline, work).await;
    line.lanes.close().await;
    result.outputs = ended.unwrap_or_else(|_| Err(timeout(session.line_time)));
    result
}

/// Runs one node.
pub(crate) async fn run_single(session: &Arc<Inner>, node: &str, given: &JsonMap) -> FlowResult {
    let prepared = session
        .flow
        .node_test_inputs(node, given)
        .and_then(|given| {
            let inputs = session.flow.coerce_node_inputs(node, &given.flow_inputs)?;
            Ok((given, inputs))
        });
    let (given, inputs) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return FlowResult::failed(error.into()),
    };
    let line = match Line::with_images_loaded(session, inputs).await {
        Ok(line) => Arc::new(line),
        Err(error) => return FlowResult::failed(error),
    };
    for (name, value) in &given.node_outputs {
        match line.load_output(value).await {
            Ok(value) => line.settle(name, value),
            Err(error) => {
                line.lanes.close().await;
                return FlowResult::failed(error);
            }
        }
    }
    let Some(index) = session
        .flow
        .nodes
        .iter()
        .position(|other| other.name == node)
    else {
        return FlowResult::failed(RunError::user(
            "UserErrorException",
            format!("Cannot find {node} in the flow."),
        ));
    };
    let mut result = FlowResult {
        outputs: Ok(String::new()),
        metrics: IndexMap::new(),
        nodes: Vec::new(),
        warnings: given
            .unknown
            .iter()
            .map(|name| format!("'{name}' is given, but node '{node}' does not read it"))
            .collect(),
    };
    let work = async {
        let end = Arc::clone(&line).node(index, false).await;
        let value = line.ended(end, &mut result)?;
        line.dumped(node, value.unwrap_or(Value::Bypassed)).await
    };
    let ended = tokio::time::timeout_at(line.deadline, work).await;
    line.lanes.close().await;
    result.outputs = ended.unwrap_or_else(|_| Err(timeout(session.line_time)));
    result
}

/// promptflow's error for a line that takes too long.
fn timeout(limit: Duration) -> RunError {
    RunError::user(
        "LineExecutionTimeoutError",
        format!(
            "Line 0 execution timeout for exceeding {} seconds",
            limit.as_secs_f64()
        ),
    )
}

impl Line {
    fn new(session: &Arc<Inner>, inputs: JsonMap) -> Self {
        Self {
            session: Arc::clone(session),
            inputs,
            media: HashMap::new(),
            lanes: Lanes::new(session.python.clone(), session.wait),
            deadline: tokio::time::Instant::now() + session.line_time,
            values: Mutex::default(),
        }
    }

    async fn with_images_loaded(session: &Arc<Inner>, inputs: JsonMap) -> Result<Self, RunError> {
        let mut line = Self::new(session, inputs);
        let loaded = line.load_inputs().await;
        if loaded.is_err() {
            line.lanes.close().await;
        }
        loaded.map(|()| line)
    }

    pub(crate) fn is_aggregation(&self, node: &str) -> bool {
        self.session
            .flow
            .node(node)
            .is_some_and(|node| node.aggregation)
    }

    /// The output of a node that has run or was bypassed.
    pub(crate) fn output(&self, node: &str) -> Result<Value, RunError> {
        self.values().get(node).cloned().ok_or_else(|| {
            RunError::system(
                "SystemErrorException",
                format!("the output of node '{node}' is not there yet"),
            )
        })
    }

    pub(crate) fn settle(&self, node: &str, value: Value) {
        self.values().insert(node.to_owned(), value);
    }

    fn values(&self) -> MutexGuard<'_, HashMap<String, Value>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_bypassed(&self, node: &str) -> bool {
        matches!(self.values().get(node), Some(Value::Bypassed))
    }

    /// Runs the nodes of the line, each as soon as what it refers to is settled; the first failure ends the others.
    async fn run_nodes(self: &Arc<Self>, results: &mut Vec<NodeResult>) -> Result<(), RunError> {
        let graph = &self.session.graph;
        let nodes = &self.session.flow.nodes;
        let mut waiting: Vec<usize> = graph.line.clone();
        let mut settled = HashSet::new();
        let mut running = BTreeMap::new();
        let mut tasks = JoinSet::new();
        loop {
            waiting.retain(|index| {
                let ready = graph.dependencies[*index]
                    .iter()
                    .all(|on| settled.contains(on));
                if ready {
                    tasks.spawn(Arc::clone(self).node(*index, true));
                    running.insert(*index, Instant::now());
                }
                !ready
            });
            let outcome = match tokio::time::timeout_at(self.deadline, tasks.join_next()).await {
                Ok(None) => return Ok(()),
                Ok(Some(Ok(end))) => {
                    running.remove(&end.index);
                    settled.insert(end.index);
                    let (result, outcome) = self.record(end);
                    results.push(result);
                    outcome.map(drop)
                }
                Ok(Some(Err(error))) => Err(RunError::system(
                    "SystemErrorException",
                    format!("a node's task ended unexpectedly: {error}"),
                )),
                Err(_) => {
                    let mut error = timeout(self.session.line_time);
                    error.node = running
                        .keys()
                        .next()
                        .map(|index| nodes[*index].name.clone());
                    Err(error)
                }
            };
            if let Err(error) = outcome {
                // Stops their guests.
                tasks.abort_all();
                results.extend(
                    running
                        .into_iter()
                        .map(|(index, started): (usize, Instant)| NodeResult {
                            name: nodes[index].name.clone(),
                            status: NodeStatus::Canceled,
                            duration: started.elapsed(),
                            logs: Logs::default(),
                            error: None,
                        }),
                );
                return Err(error);
            }
        }
    }

    /// Settles a node that has ended, and says what became of it.
    pub(crate) fn record(&self, end: NodeEnd) -> (NodeResult, Result<Option<Value>, RunError>) {
        let name = &self.session.flow.nodes[end.index].name;
        let status = match &end.outcome {
            Ok(Some(value)) => {
                self.settle(name, value.clone());
                NodeStatus::Completed
            }
            Ok(None) => {
                self.settle(name, Value::Bypassed);
                NodeStatus::Bypassed
            }
            Err(_) => NodeStatus::Failed,
        };
        tracing::debug!(node = name, status = status.as_str(), duration = ?end.duration, "node ended");
        let result = NodeResult {
            name: name.clone(),
            status,
            duration: end.duration,
            logs: end.logs,
            error: None,
        };
        (result, end.outcome)
    }

    /// Records a node outside of a line. Its metrics go nowhere: in promptflow only the aggregation of a run has any.
    fn ended(&self, end: NodeEnd, result: &mut FlowResult) -> Result<Option<Value>, RunError> {
        let (node, outcome) = self.record(end);
        result.nodes.push(node);
        outcome
    }

    /// One node's task: decides whether it runs, and runs it. A node test does not ask for the condition.
    pub(crate) async fn node(self: Arc<Self>, index: usize, conditional: bool) -> NodeEnd {
        let started = Instant::now();
        let node = &self.session.flow.nodes[index];
        let mut end = NodeEnd {
            index,
            outcome: Ok(None),
            logs: Logs::default(),
            metrics: Vec::new(),
            duration: Duration::ZERO,
        };
        end.outcome = match self.decide(node, conditional).await {
            Ok(Decision::Run) => self.execute(node, index, &mut end).await.map(Some),
            Ok(Decision::Bypass(_)) => Ok(None),
            Err(error) => Err(error.in_node(&node.name)),
        };
        end.duration = started.elapsed();
        end
    }

    async fn decide(&self, node: &Node, conditional: bool) -> Result<Decision, RunError> {
        if !conditional {
            return Ok(Decision::Run);
        }
        let met = match &node.activate {
            Some(activate)
                if !activate
                    .when
                    .node()
                    .is_some_and(|when| self.is_bypassed(when)) =>
            {
                self.is_met(&node.name, activate).await?
            }
            _ => false,
        };
        decide(node, |name| self.is_bypassed(name), |_| Ok(met))
    }

    async fn execute(
        &self,
        node: &Node,
        index: usize,
        end: &mut NodeEnd,
    ) -> Result<Value, RunError> {
        let resolved = self.session.resolved.get(index).ok_or_else(|| {
            RunError::system(
                "SystemErrorException",
                format!("node '{}' was not resolved", node.name),
            )
        })?;
        let arguments = self
            .arguments(&node.name, resolved)
            .await
            .map_err(|error| {
                if error.node.is_some() {
                    error
                } else {
                    error.in_node(&node.name)
                }
            })?;
        match &resolved.tool {
            Tool::Python { source } => {
                self.python(&node.name, source, resolved, arguments, end)
                    .await
            }
            Tool::Component { pool, tool } => {
                let inputs = self.json_inputs(&node.name, arguments).await?;
                self.component(&node.name, pool, tool, inputs, end).await
            }
            Tool::Prompt { template, .. } if home(&arguments).is_some() => {
                self.python_prompt(&node.name, template, arguments, end)
                    .await
            }
            Tool::Prompt { pool, template } => {
                let mut inputs = self.json_inputs(&node.name, arguments).await?;
                let template = serde_json::Value::from(template.as_str()).to_string();
                inputs.push(("template".to_owned(), template.into()));
                self.component(&node.name, pool, crate::tools::RENDER, inputs, end)
                    .await
            }
        }
    }

    /// Calls a Python tool in the lane that holds its objects, or in any.
    async fn python(
        &self,
        node: &str,
        source: &str,
        resolved: &Resolved,
        arguments: Arguments,
        end: &mut NodeEnd,
    ) -> Result<Value, RunError> {
        let (mut held, arguments) = self.in_lane(node, arguments).await?;
        let (init, inputs) = arguments
            .into_iter()
            .partition(|(name, _)| resolved.init.contains(name));
        let request = Request {
            node: node.to_owned(),
            source: source.to_owned(),
            init,
            inputs,
        };
        let called = held.instance.call(&request).await;
        let outcome = self.called(node, called, end)?;
        Ok(Value::from_outcome(outcome, held.index))
    }

    /// Renders a prompt over Python objects.
    async fn python_prompt(
        &self,
        node: &str,
        template: &str,
        arguments: Arguments,
        end: &mut NodeEnd,
    ) -> Result<Value, RunError> {
        let (mut held, arguments) = self.in_lane(node, arguments).await?;
        let called = held.instance.render(template, &arguments).await;
        let outcome = self.called(node, called, end)?;
        Ok(Value::from_outcome(outcome, held.index))
    }

    /// A lane for a call, and the call's arguments in it.
    async fn in_lane(
        &self,
        node: &str,
        arguments: Arguments,
    ) -> Result<(Held, Vec<(String, sandbox::Argument)>), RunError> {
        let Some(home) = home(&arguments) else {
            let held = self
                .lanes
                .any()
                .await
                .map_err(|error| RunError::pool(node, error))?;
            let arguments = arguments
                .into_iter()
                .filter_map(|(name, argument)| match argument {
                    Argument::Json(text) => Some((name, sandbox::Argument::Json(text.to_string()))),
                    Argument::Object(_) | Argument::Objects(_) => None,
                });
            return Ok((held, arguments.collect()));
        };
        // Packed before the home lane is taken: two nodes that each hold a lane and want the other's would wait forever.
        let brought = self.bring(node, arguments, home).await?;
        let mut held = self.hold(node, home).await?;
        let mut inputs = Vec::with_capacity(brought.len());
        for (name, argument) in brought {
            let argument = match argument {
                Brought::Json(text) => sandbox::Argument::Json(text.to_string()),
                Brought::Object(moved) => {
                    sandbox::Argument::Object(self.unpacked(node, &mut held, moved).await?)
                }
                Brought::Objects(list) => {
                    let mut objects = Vec::with_capacity(list.len());
                    for moved in list {
                        objects.push(self.unpacked(node, &mut held, moved).await?);
                    }
                    sandbox::Argument::Objects(objects)
                }
            };
            inputs.push((name, argument));
        }
        Ok((held, inputs))
    }

    async fn unpacked(&self, node: &str, held: &mut Held, moved: Moved) -> Result<u64, RunError> {
        match moved {
            Moved::Here(id) => Ok(id),
            Moved::Packed(bytes) => {
                let unpacked = held.instance.unpack(&bytes).await;
                self.ask(node, unpacked)?
                    .map_err(|error| RunError::tool(node, error))
            }
        }
    }

    /// Arguments for a component: objects are written as JSON, which fails for those that have no JSON form.
    async fn json_inputs(
        &self,
        node: &str,
        arguments: Arguments,
    ) -> Result<Vec<(String, Arc<str>)>, RunError> {
        let mut inputs = Vec::with_capacity(arguments.len());
        for (name, argument) in arguments {
            let text = match argument {
                Argument::Json(text) => text,
                Argument::Object(object) => {
                    self.json_form(node, Value::Object(object)).await?.into()
                }
                Argument::Objects(objects) => {
                    let mut items = Vec::with_capacity(objects.len());
                    for object in objects {
                        items.push(self.json_form(node, Value::Object(object)).await?);
                    }
                    format!("[{}]", items.join(", ")).into()
                }
            };
            if !is_strict_json(&text) {
                return Err(RunError::user(
                    "ValueError",
                    format!("Execution failure in '{node}': input '{name}' holds NaN or Infinity, which JSON does not have and a component cannot take"),
                )
                .in_node(node));
            }
            inputs.push((name, text));
        }
        Ok(inputs)
    }

    /// Calls a component's tool in a free instance.
    async fn component(
        &self,
        node: &str,
        pool: &Arc<sandbox::Pool>,
        tool: &str,
        inputs: Vec<(String, Arc<str>)>,
        end: &mut NodeEnd,
    ) -> Result<Value, RunError> {
        let mut instance = pool
            .checkout(self.session.wait)
            .await
            .map_err(|error| RunError::pool(node, error))?;
        let called = instance.invoke(tool, json_object(&inputs)).await;
        let json = self.called(node, called, end)?;
        Ok(Value::Json(json.into()))
    }

    /// A tool's answer; what it printed and recorded goes to the node whether or not it succeeded.
    fn called<T>(
        &self,
        node: &str,
        call: Call<Result<T, ToolError>>,
        end: &mut NodeEnd,
    ) -> Result<T, RunError> {
        end.logs = call.logs;
        end.metrics = call.metrics;
        match call.result {
            Ok(answer) => answer.map_err(|error| RunError::tool(node, error)),
            Err(fault) => Err(self.faulted(node, fault)),
        }
    }

    pub(crate) fn faulted(&self, node: &str, fault: Fault) -> RunError {
        match fault {
            Fault::Timeout { limit } => timeout(limit).in_node(node),
            fault => RunError::fault(node, fault),
        }
    }
}

/// The text of a JSON object whose values are JSON text already.
fn json_object(entries: &[(String, Arc<str>)]) -> String {
    let mut text = String::from("{");
    for (index, (name, value)) in entries.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(&serde_json::Value::from(name.as_str()).to_string());
        text.push(':');
        text.push_str(value);
    }
    text.push('}');
    text
}
