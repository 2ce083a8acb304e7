//! One line through the graph: which node runs when.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use flowcell_flow::{Assignment, Decision, Json, JsonMap, Node, decide, python_repr};
use flowcell_sandbox::{Logs, Span};
use indexmap::IndexMap;
use tokio::task::JoinSet;

use crate::error::RunError;
use crate::inputs::Argument;
use crate::lanes::Lanes;
use crate::result::{Captured, NodeResult, NodeStatus};
use crate::run_options::{RunEvent, RunOptions};
use crate::session::Inner;
use crate::value::Value;

/// What the tasks of one line share. An aggregation is a line too, whose inputs are lists.
pub(crate) struct Line {
    pub(crate) session: Arc<Inner>,
    pub(crate) options: RunOptions,
    /// Its number, for messages; none where there is no such thing.
    number: Option<u64>,
    pub(crate) inputs: Arc<JsonMap>,
    /// Those of the inputs that have images, loaded.
    pub(crate) media: HashMap<String, Argument>,
    /// In an aggregation what references to the lines' nodes stand for, by the reference. promptflow puts these into
    /// the aggregation nodes in place of the references, so that no aggregation node depends on a line's node.
    pub(crate) gathered: IndexMap<String, Argument>,
    pub(crate) lanes: Arc<Lanes>,
    /// Its time as a whole, and when it is up.
    time: Duration,
    deadline: tokio::time::Instant,
    values: Mutex<HashMap<String, Value>>,
    /// Of prompt nodes whose text is read as a prompt: where it holds text from the flow's inputs, as JSON text.
    prompt_results: Mutex<HashMap<String, Arc<str>>>,
}

/// How a node's task ended.
pub(crate) struct NodeEnd {
    index: usize,
    started: SystemTime,
    duration: Duration,
    pub(crate) outcome: Result<Option<Value>, RunError>,
    pub(crate) logs: Logs,
    pub(crate) metrics: Vec<(String, String)>,
    pub(crate) spans: Vec<Span>,
    /// Captured inputs, if they are asked for.
    pub(crate) inputs: Option<String>,
    output: Option<String>,
}

impl Line {
    /// A line whose inputs are converted already; its time runs from now.
    pub(crate) fn new(
        session: &Arc<Inner>,
        inputs: JsonMap,
        number: Option<u64>,
        options: &RunOptions,
    ) -> Self {
        let time = options.line_time.unwrap_or(session.line_time);
        let time = time.min(session.line_time);
        Self {
            session: Arc::clone(session),
            options: options.clone(),
            number,
            inputs: Arc::new(inputs),
            media: HashMap::new(),
            gathered: IndexMap::new(),
            lanes: Arc::new(Lanes::new(session.python.clone(), session.wait)),
            time,
            deadline: tokio::time::Instant::now() + time,
            values: Mutex::default(),
            prompt_results: Mutex::default(),
        }
    }

    /// The aggregation over this line alone, in its lanes and its time.
    pub(crate) fn alone(&self, gathered: IndexMap<String, Argument>) -> Self {
        let listed = |(name, argument): (String, Argument)| (name, argument.listed());
        let inputs = self.inputs.iter();
        Self {
            session: Arc::clone(&self.session),
            options: self.options.clone(),
            number: None,
            inputs: Arc::new(
                inputs
                    .map(|(name, value)| (name.clone(), Json::Array(vec![value.clone()])))
                    .collect(),
            ),
            media: self.media.clone().into_iter().map(listed).collect(),
            gathered: gathered.into_iter().map(listed).collect(),
            lanes: Arc::clone(&self.lanes),
            time: self.time,
            deadline: self.deadline,
            values: Mutex::new(self.values().clone()),
            // Lists of texts are no prompts.
            prompt_results: Mutex::default(),
        }
    }

    /// Does the line's work in the line's time, and gives its instances back.
    pub(crate) async fn finish<T>(
        &self,
        work: impl Future<Output = Result<T, RunError>>,
    ) -> Result<T, RunError> {
        let ended = tokio::time::timeout_at(self.deadline, work).await;
        self.lanes.close().await;
        ended.unwrap_or_else(|_| Err(self.timeout(self.time)))
    }

    /// promptflow's error for a line that takes too long.
    pub(crate) fn timeout(&self, limit: Duration) -> RunError {
        let number = self
            .number
            .map_or_else(|| "None".to_owned(), |number| number.to_string());
        RunError::user(
            "LineExecutionTimeoutError",
            format!(
                "Line {number} execution timeout for exceeding {} seconds",
                limit.as_secs_f64()
            ),
        )
    }

    /// What a reference stands for in an aggregation, if this is one and it refers to the lines.
    pub(crate) fn gathered(&self, reference: &Assignment) -> Option<&Argument> {
        if self.gathered.is_empty() {
            return None;
        }
        self.gathered.get(&reference.to_string())
    }

    /// The output of a node that has run or was bypassed.
    pub(crate) fn output(&self, node: &str) -> Result<Value, RunError> {
        let values = self.values();
        values.get(node).cloned().ok_or_else(|| {
            let there = values.keys().map(|name| Json::from(name.as_str()));
            RunError::system(
                "InputNotFoundFromAncestorNodeOutput",
                format!(
                    "Flow execution failed. The input '{node}' is not found from ancestor node outputs {}. Please check the node name and try again.",
                    python_repr(&Json::Array(there.collect()))
                ),
            )
        })
    }

    pub(crate) fn settle(&self, node: &str, value: Value) {
        self.values().insert(node.to_owned(), value);
    }

    fn values(&self) -> MutexGuard<'_, HashMap<String, Value>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the texts of prompt nodes hold text from the flow's inputs, by node.
    pub(crate) fn prompt_results(&self) -> MutexGuard<'_, HashMap<String, Arc<str>>> {
        let results = self.prompt_results.lock();
        results.unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_bypassed(&self, node: &str) -> bool {
        matches!(self.values().get(node), Some(Value::Bypassed))
    }

    /// Runs the nodes of the line, each as soon as what it refers to is settled; the first failure ends the others.
    pub(crate) async fn run_nodes(
        self: &Arc<Self>,
        results: &mut Vec<NodeResult>,
    ) -> Result<(), RunError> {
        let graph = &self.session.graph;
        let mut waiting: Vec<usize> = graph.line.clone();
        let mut settled = vec![false; graph.dependencies.len()];
        let mut running = BTreeMap::new();
        let mut tasks = JoinSet::new();
        while !waiting.is_empty() || !running.is_empty() {
            let is_ready =
                |index: &mut usize| graph.dependencies[*index].iter().all(|on| settled[*on]);
            let ready: Vec<usize> = waiting.extract_if(.., is_ready).collect();
            let now = (SystemTime::now(), Instant::now());
            running.extend(ready.iter().map(|index| (*index, now)));
            let next = async {
                if let ([index], 1) = (ready.as_slice(), running.len()) {
                    // Nothing to do beside it, so it needs no task of its own. A box, because the future is large and
                    // would be moved time and again.
                    return Some(Ok(Box::pin(self.node(*index, true)).await));
                }
                for index in ready {
                    let line = Arc::clone(self);
                    tasks.spawn(async move { line.node(index, true).await });
                }
                tasks.join_next().await
            };
            let ended = tokio::time::timeout_at(self.deadline, next).await;
            let outcome = match ended {
                Ok(Some(Ok(end))) => {
                    running.remove(&end.index);
                    settled[end.index] = true;
                    self.record(end, results).map(drop)
                }
                Ok(Some(Err(error))) => Err(RunError::system(
                    "SystemErrorException",
                    format!("a node's task ended unexpectedly: {error}"),
                )),
                // A graph without rings always has a node that is ready or runs.
                Ok(None) => return Ok(()),
                Err(_) => {
                    let mut error = self.timeout(self.time);
                    let first = running.keys().next();
                    error.node = first.map(|index| self.session.flow.nodes[*index].name.clone());
                    Err(error)
                }
            };
            if let Err(error) = outcome {
                // Stops their guests. What is over by then has ended as it has.
                tasks.abort_all();
                while let Some(ended) = tasks.join_next().await {
                    if let Ok(end) = ended {
                        running.remove(&end.index);
                        let _ = self.record(end, results);
                    }
                }
                for (index, (started, since)) in running {
                    let result = NodeResult {
                        name: self.session.flow.nodes[index].name.clone(),
                        status: NodeStatus::Canceled,
                        started,
                        duration: since.elapsed(),
                        logs: Logs::default(),
                        spans: Vec::new(),
                        error: None,
                        captured: None,
                    };
                    self.options.tell(RunEvent::NodeEnded(&result));
                    results.push(result);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Settles a node that has ended, and adds what became of it to the results.
    pub(crate) fn record(
        &self,
        end: NodeEnd,
        results: &mut Vec<NodeResult>,
    ) -> Result<Option<Value>, RunError> {
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
        let output = end.output;
        let result = NodeResult {
            name: name.clone(),
            status,
            started: end.started,
            duration: end.duration,
            logs: end.logs,
            spans: end.spans,
            error: end.outcome.as_ref().err().cloned(),
            captured: end.inputs.map(|inputs| Captured { inputs, output }),
        };
        self.options.tell(RunEvent::NodeEnded(&result));
        results.push(result);
        end.outcome
    }

    /// One node's turn: decides whether it runs, and runs it. A node test does not ask for the condition.
    pub(crate) async fn node(&self, index: usize, conditional: bool) -> NodeEnd {
        let since = Instant::now();
        let node = &self.session.flow.nodes[index];
        let mut end = NodeEnd {
            index,
            started: SystemTime::now(),
            duration: Duration::ZERO,
            outcome: Ok(None),
            logs: Logs::default(),
            metrics: Vec::new(),
            spans: Vec::new(),
            inputs: None,
            output: None,
        };
        end.outcome = match self.decide(node, conditional).await {
            Ok(Decision::Run) => {
                self.options
                    .tell(RunEvent::NodeStarted { node: &node.name });
                self.execute(node, index, &mut end).await.map(Some)
            }
            Ok(Decision::Bypass(_)) => Ok(None),
            Err(error) => Err(error.in_node(&node.name)),
        };
        end.duration = since.elapsed();
        if let (true, Ok(Some(value))) = (self.options.capture, &end.outcome) {
            end.output = Some(self.captured_value(&node.name, value).await);
        }
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
        let node = self.with_gathered(node);
        decide(&node, |name| self.is_bypassed(name), |_| Ok(met))
    }

    /// The node as an aggregation has it: what is gathered is a literal there.
    fn with_gathered<'a>(&self, node: &'a Node) -> Cow<'a, Node> {
        if self.gathered.is_empty() {
            return Cow::Borrowed(node);
        }
        let mut node = node.clone();
        for input in node.inputs.values_mut() {
            if self.gathered(input).is_some() {
                *input = Assignment::Literal(Json::Null);
            }
        }
        Cow::Owned(node)
    }
}
