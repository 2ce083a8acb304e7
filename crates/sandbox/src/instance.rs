//! One live instance, and calls into it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::time::error::Elapsed;
use wasmtime::{Store, Trap};
use wasmtime_wasi::I32Exit;

use crate::contract::runner::PythonRunner;
use crate::contract::tool::ToolComponent;
use crate::contract::{Argument, LoadError, Outcome, Request, ToolError, ToolInfo};
use crate::engine::Sandbox;
use crate::environment::Environment;
use crate::error::{Fault, SandboxError};
use crate::guest::Guest;
use crate::json::{is_json, is_python_json};
use crate::limits::Limits;
use crate::metered::{CpuTimeExceeded, Metered};
use crate::output::{Listener, Logs};
use crate::program::{Linked, Program};
use crate::slice::Seat;

/// Headroom over the output limit for what travels with a value (names, tracebacks, other host calls).
const TRANSFER_SLACK: usize = 1 << 20;
/// Time for the destructors of kept objects: nobody waits for what they do, but everybody for their end.
const FORGET_TIME: Duration = Duration::from_secs(2);
/// Longest message or traceback of a guest's error, in bytes: it is read by people.
const MAX_MESSAGE: usize = 64 << 10;
/// Longest class name.
const MAX_NAME: usize = 256;

/// Runs one call into the guest under the instance's limits.
macro_rules! bounded {
    ($self:ident, $store:ident, $exports:ident => $call:expr) => {{
        let started = Instant::now();
        let mut usage = Usage::default();
        let slice = $self.seat.slice();
        slice.count_call();
        // Should the future be dropped halfway, the instance stays marked.
        $self.broken = true;
        let ended = {
            let $store = &mut $self.store;
            let $exports = &$self.exports;
            let call = async { $call.await };
            let metered = Metered::new(Box::pin(call), &mut usage, $self.limits.cpu_time, slice);
            tokio::time::timeout($self.limits.wall_time, metered).await
        };
        usage.wall = started.elapsed();
        $self.conclude(usage, ended)
    }};
}

/// How a call's future ended: out of time, out of CPU time, with a trap, or with an answer.
type Ended<T> = Result<Result<wasmtime::Result<T>, CpuTimeExceeded>, Elapsed>;

/// What came of a call, whether or not it succeeded.
#[derive(Debug)]
pub struct Call<T> {
    /// The guest's answer, or why there is none.
    pub result: Result<T, Fault>,
    /// What it printed.
    pub logs: Logs,
    /// Metrics that it recorded: name and JSON value.
    pub metrics: Vec<(String, String)>,
    /// What it used.
    pub usage: Usage,
}

/// What a call used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Wall-clock time.
    pub wall: Duration,
    /// CPU time.
    pub cpu: Duration,
    /// How long it was held up because the CPU share of its slice, or of one above it, was used up.
    pub throttled: Duration,
}

/// A live instance of a [`Program`] in a session's [`Environment`].
///
/// One call at a time. After a [`Fault`], or when a call's future is dropped, the instance is [broken](Self::is_broken):
/// whatever its memory holds is of no use, and a pool does not take it back.
pub struct Instance {
    id: u64,
    store: Store<Guest>,
    exports: Exports,
    limits: Limits,
    broken: bool,
    // Last, so that it is given back when the engine has the rest back.
    seat: Arc<Seat>,
}

enum Exports {
    Tool(ToolComponent),
    PythonRunner(PythonRunner),
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Instance")
            .field("id", &self.id)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

impl Instance {
    /// Makes a fresh instance, which no pool knows.
    ///
    /// # Errors
    /// When the environment's slice has no room, a directory cannot be mounted, the engine has no instance left, or
    /// start-up code traps.
    pub async fn start(
        sandbox: &Sandbox,
        program: &Program,
        environment: &Environment,
    ) -> Result<Self, SandboxError> {
        let seat = environment
            .slice
            .admit(program.memory())
            .map_err(|refused| SandboxError::NoRoom(refused.full))?;
        Self::start_in(seat, sandbox, program, environment).await
    }

    /// Makes a fresh instance where there is room for it.
    pub(crate) async fn start_in(
        seat: Seat,
        sandbox: &Sandbox,
        program: &Program,
        environment: &Environment,
    ) -> Result<Self, SandboxError> {
        static NEXT: AtomicU64 = AtomicU64::new(1);

        let limits = environment.limits.clone();
        let seat = Arc::new(seat);
        let guest = Guest::new(environment, Arc::clone(&seat))?;
        let mut store = Store::new(sandbox.engine(), guest);
        store.limiter(|guest| &mut guest.memory);
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        store.set_hostcall_fuel(limits.output.saturating_add(TRANSFER_SLACK));
        let exports = async {
            match &program.linked {
                Linked::Tool(pre) => pre.instantiate_async(&mut store).await.map(Exports::Tool),
                Linked::PythonRunner(pre) => pre
                    .instantiate_async(&mut store)
                    .await
                    .map(Exports::PythonRunner),
            }
        };
        let mut usage = Usage::default();
        let exports = Metered::new(Box::pin(exports), &mut usage, limits.cpu_time, seat.slice());
        let exports = match tokio::time::timeout(limits.wall_time, exports).await {
            Ok(Ok(exports)) => exports,
            Ok(Err(CpuTimeExceeded)) => {
                Err(wasmtime::format_err!("start-up used too much CPU time"))
            }
            Err(_) => Err(wasmtime::format_err!("start-up did not finish in time")),
        };
        let refused = store.data_mut().memory.take_refused();
        let exports = exports.map_err(|error| {
            refused.map_or_else(|| SandboxError::Start(error), SandboxError::Memory)
        })?;
        Ok(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            store,
            exports,
            limits,
            broken: false,
            seat,
        })
    }

    /// A number that no other instance of this process has.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether the instance must not be used again.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Lets `listener` hear what the guest prints from now on, beside what [`Call::logs`] holds; `None` ends that. What
    /// it hears of a call is all that the call's logs hold, and no more.
    pub fn listen(&mut self, listener: Option<Listener>) {
        self.store.data().listen(listener.as_ref());
    }

    /// The tools of a component.
    pub async fn describe(&mut self) -> Call<Vec<ToolInfo>> {
        bounded!(self, store, exports => exports.tool()?.call_describe(store))
    }

    /// Calls a component's tool with a JSON object of inputs.
    pub async fn invoke(&mut self, tool: &str, inputs: String) -> Call<Result<String, ToolError>> {
        let call =
            bounded!(self, store, exports => exports.tool()?.call_invoke(store, tool, &inputs));
        self.accept(call, String::len, |text| is_json(text))
    }

    /// Imports a node's Python file and describes its tool.
    pub async fn load(&mut self, node: &str, source: &str) -> Call<Result<ToolInfo, LoadError>> {
        bounded!(self, store, exports => exports.runner()?.call_load(store, node, source))
    }

    /// Calls a node's Python tool.
    pub async fn call(&mut self, request: &Request) -> Call<Result<Outcome, ToolError>> {
        let call = bounded!(self, store, exports => exports.runner()?.call_call(store, request));
        self.accept(call, outcome_size, is_sound)
    }

    /// Renders a Jinja template with Python's jinja2, for inputs that are Python objects.
    pub async fn render(
        &mut self,
        template: &str,
        inputs: &[(String, Argument)],
    ) -> Call<Result<Outcome, ToolError>> {
        let call = bounded!(self, store, exports => exports.runner()?.call_render(store, template, inputs));
        self.accept(call, outcome_size, is_sound)
    }

    /// Follows a property path into an object.
    pub async fn property(&mut self, object: u64, path: &str) -> Call<Result<Outcome, ToolError>> {
        let call =
            bounded!(self, store, exports => exports.runner()?.call_property(store, object, path));
        self.accept(call, outcome_size, is_sound)
    }

    /// Compares an object with a JSON value by Python's `==`.
    pub async fn equals(&mut self, object: u64, value: String) -> Call<Result<bool, ToolError>> {
        bounded!(self, store, exports => exports.runner()?.call_equals(store, object, &value))
    }

    /// An object as `json.dumps` writes it; the text may hold NaN and Infinity, as Python's does.
    pub async fn dump(&mut self, object: u64) -> Call<Result<String, ToolError>> {
        let call = bounded!(self, store, exports => exports.runner()?.call_dump(store, object));
        self.accept(call, String::len, |text| is_python_json(text))
    }

    /// An object's `repr`, shortened: for messages.
    pub async fn repr(&mut self, object: u64) -> Call<Result<String, ToolError>> {
        bounded!(self, store, exports => exports.runner()?.call_repr(store, object))
    }

    /// An object as bytes, for [`Instance::unpack`] of another instance of the same session.
    pub async fn pack(&mut self, object: u64) -> Call<Result<Vec<u8>, ToolError>> {
        let call = bounded!(self, store, exports => exports.runner()?.call_pack(store, object));
        self.accept(call, Vec::len, |_| true)
    }

    /// Takes in what [`Instance::pack`] gave; the object's number here.
    pub async fn unpack(&mut self, bytes: &[u8]) -> Call<Result<u64, ToolError>> {
        bounded!(self, store, exports => exports.runner()?.call_unpack(store, bytes))
    }

    /// Drops every object that the instance keeps. Their destructors run then, for a short time.
    pub async fn forget(&mut self) -> Call<()> {
        let wall_time = self.limits.wall_time;
        self.limits.wall_time = wall_time.min(FORGET_TIME);
        let call = bounded!(self, store, exports => exports.runner()?.call_forget(store));
        self.limits.wall_time = wall_time;
        call
    }

    /// Turns the end of a call into its result, and the instance back into a usable one if it is.
    fn conclude<T: Answer>(&mut self, usage: Usage, ended: Ended<T>) -> Call<T> {
        let limits = &self.limits;
        let guest = self.store.data_mut();
        let refused = guest.memory.take_refused();
        let disk_full = guest.take_disk_refused();
        let result = match (ended, refused) {
            (Err(_), _) => Err(Fault::Timeout {
                limit: limits.wall_time,
            }),
            (Ok(Err(CpuTimeExceeded)), _) => Err(Fault::CpuTime {
                limit: limits.cpu_time,
            }),
            (Ok(Ok(Ok(answer))), Some(refused)) if answer.is_memory_error() => Err(refused),
            (Ok(Ok(Ok(mut answer))), _) => {
                answer.shorten();
                if disk_full {
                    answer.explain(&format!(
                        "the session's disk is full: it holds {} MiB and {} files",
                        limits.disk_bytes >> 20,
                        limits.disk_files
                    ));
                }
                Ok(answer)
            }
            (Ok(Ok(Err(_))), Some(refused)) => Err(refused),
            (Ok(Ok(Err(error))), None) => Err(fault(&error, limits.output)),
        };
        self.broken = result.is_err();
        tracing::debug!(
            instance = self.id,
            fault = result.as_ref().err().map(tracing::field::display),
            ?usage,
            "call ended"
        );
        Call {
            result,
            logs: guest.take_logs(),
            metrics: guest.take_metrics(),
            usage,
        }
    }

    /// Holds a successful answer to the output limit, and to the contract.
    fn accept<T>(
        &mut self,
        mut call: Call<Result<T, ToolError>>,
        size: impl Fn(&T) -> usize,
        is_sound: impl Fn(&T) -> bool,
    ) -> Call<Result<T, ToolError>> {
        if let Ok(Ok(value)) = &call.result {
            let size = size(value);
            let limit = self.limits.output;
            let refused = if size > limit {
                Some(Fault::OutputTooLarge { size, limit })
            } else {
                (!is_sound(value)).then_some(Fault::NotJson)
            };
            if let Some(fault) = refused {
                self.broken = true;
                call.result = Err(fault);
            }
        }
        call
    }
}

fn is_sound(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Json(json) => is_json(json),
        Outcome::Object(_) => true,
    }
}

fn outcome_size(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Json(json) => json.len(),
        Outcome::Object(_) => 0,
    }
}

fn fault(error: &wasmtime::Error, output: usize) -> Fault {
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return Fault::Exit { code: exit.0 };
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => return Fault::StackOverflow,
        Some(trap) => {
            return Fault::Trap {
                reason: trap.to_string(),
            };
        }
        None => {}
    }
    // The causes above it hold WebAssembly's own frames, which say nothing to a tool's author.
    let reason = error.root_cause().to_string();
    // wasmtime has no type for this one.
    if reason.contains("fuel allocated for hostcalls") {
        return Fault::OutputTooLarge {
            size: 0,
            limit: output,
        };
    }
    Fault::Trap { reason }
}

/// What a guest can answer with: some answers are errors of the guest's own.
trait Answer {
    /// Whether the guest says that it ran out of memory.
    fn is_memory_error(&self) -> bool {
        false
    }

    /// Cuts texts that are for people.
    fn shorten(&mut self) {}

    /// Adds to an error of the operating system's what the guest cannot know.
    fn explain(&mut self, _why: &str) {}
}

impl Answer for () {}
impl Answer for Vec<ToolInfo> {}

impl<T> Answer for Result<T, ToolError> {
    fn is_memory_error(&self) -> bool {
        matches!(self, Err(error) if error.type_name == "MemoryError")
    }

    fn shorten(&mut self) {
        if let Err(error) = self {
            shorten_error(error);
        }
    }

    fn explain(&mut self, why: &str) {
        if let Err(error) = self
            && error.type_name == "OSError"
        {
            error.message.push_str(&format!(" ({why})"));
        }
    }
}

impl Answer for Result<ToolInfo, LoadError> {
    fn is_memory_error(&self) -> bool {
        matches!(self, Err(LoadError::ImportFailed(error)) if error.type_name == "MemoryError")
    }

    fn shorten(&mut self) {
        if let Err(LoadError::ImportFailed(error)) = self {
            shorten_error(error);
        }
    }
}

fn shorten_error(error: &mut ToolError) {
    shorten(&mut error.type_name, MAX_NAME);
    shorten(&mut error.message, MAX_MESSAGE);
    shorten(&mut error.traceback, MAX_MESSAGE);
}

fn shorten(text: &mut String, most: usize) {
    let whole = text.len();
    if whole > most {
        text.truncate(text.floor_char_boundary(most));
        text.push_str(&format!(" [{} more bytes]", whole - text.len()));
    }
}

impl Exports {
    fn tool(
        &self,
    ) -> wasmtime::Result<&crate::contract::tool::exports::flowcell::tool::tool::Guest> {
        match self {
            Self::Tool(tool) => Ok(tool.flowcell_tool_tool()),
            Self::PythonRunner(_) => Err(wasmtime::format_err!(
                "the Python runner has no tools of its own"
            )),
        }
    }

    fn runner(
        &self,
    ) -> wasmtime::Result<&crate::contract::runner::exports::flowcell::tool::runner::Guest> {
        match self {
            Self::PythonRunner(runner) => Ok(runner.flowcell_tool_runner()),
            Self::Tool(_) => Err(wasmtime::format_err!(
                "the component is not a Python runner"
            )),
        }
    }
}
