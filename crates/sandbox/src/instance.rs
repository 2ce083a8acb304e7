//! One live instance, and calls into it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::error::Elapsed;
use wasmtime::component::TypedFunc;
use wasmtime::{Store, Trap};
use wasmtime_wasi::I32Exit;

use crate::answer::{Answer, is_sound, outcome_size};
use crate::contract::runner::PythonRunner;
use crate::contract::tool::ToolComponent;
use crate::contract::{Argument, LoadError, Outcome, Request, ToolError, ToolInfo};
use crate::emitted::TooMuch;
use crate::engine::Sandbox;
use crate::environment::Environment;
use crate::error::{Fault, SandboxError};
use crate::guest::Guest;
use crate::image::{
    self, AtRest, Destination, Image, ImageError, Mode, Owner, StoreError, Stored, made_by,
};
use crate::json::{is_json, is_python_json};
use crate::limits::Limits;
use crate::metered::{CpuTimeExceeded, Metered};
use crate::output::{Listener, Logs};
use crate::program::{Linked, LinkedShell, Program};
use crate::slice::Seat;
use crate::spans::Span;

/// Headroom over the output limit for what travels with a value (names, tracebacks, other host calls).
const TRANSFER_SLACK: usize = 1 << 20;
/// Time for the destructors of kept objects: nobody waits for what they do, but everybody for their end.
const FORGET_TIME: Duration = Duration::from_secs(2);
/// Bytes of a page of WebAssembly's.
const WASM_PAGE: u64 = 64 << 10;
/// CPU time for a guest to get ready for its memory to be stored, or to go on from there.
const SUSPEND_CPU: Duration = Duration::from_secs(2);
/// How long that may take where others want the processor too: it ends guests that wait for something. Others may wait for
/// the room.
const SUSPEND_TIME: Duration = Duration::from_secs(5);
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
    /// The parts of its work that it told of.
    pub spans: Vec<Span>,
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
    stored: Option<FromImage>,
    /// The file that it went on from, which is deleted with it.
    pub(crate) slept_in: Option<PathBuf>,
    // Last, so that it is given back when the engine has the rest back.
    seat: Arc<Seat>,
}

/// What an instance that started from an image needs in order to be stored itself.
struct FromImage {
    image: Image,
    owner: Owner,
    mode: Mode,
    settle: TypedFunc<(), (i32,)>,
    /// How often the guest took its standard streams and directories: once more after each time it was stored.
    rounds: usize,
}

enum Exports {
    Tool(ToolComponent),
    PythonRunner(Box<PythonRunner>),
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
    /// Makes a fresh instance, which no pool knows; of a shell from an image, or from its base.
    ///
    /// # Errors
    /// When the environment's slice has no room, a directory cannot be mounted, the engine has no instance left, the image
    /// cannot be used, or start-up code traps.
    pub async fn start(
        sandbox: &Sandbox,
        program: &Program,
        environment: &Environment,
        image: Option<&Image>,
    ) -> Result<Self, SandboxError> {
        let seat = environment
            .slice
            .admit(image.map_or(program.memory(), Image::memory))
            .await
            .map_err(|refused| SandboxError::NoRoom(refused.full))?;
        Self::start_in(seat, sandbox, program, environment, image).await
    }

    /// Makes a fresh instance where there is room for it.
    pub(crate) async fn start_in(
        seat: Seat,
        sandbox: &Sandbox,
        program: &Program,
        environment: &Environment,
        image: Option<&Image>,
    ) -> Result<Self, SandboxError> {
        static NEXT: AtomicU64 = AtomicU64::new(1);

        let limits = environment.limits.clone();
        let seat = Arc::new(seat);
        let image = match (&program.linked, image) {
            (Linked::Shell(shell), None) => Some(&shell.base),
            (_, image) => image,
        };
        if let Some(image) = image {
            check_size(image, &limits)?;
        }
        let monotonic = image.map_or(0, Image::monotonic_ns);
        let guest = Guest::new(environment, Arc::clone(&seat), monotonic)?;
        let engine = &sandbox.runtime(program.code_kind()).engine;
        let mut store = Store::new(engine, guest);
        store.limiter_async(|guest| &mut guest.memory);
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        store.set_hostcall_fuel(limits.output.saturating_add(TRANSFER_SLACK));
        let exports = async {
            match (&program.linked, image) {
                (Linked::Tool(pre), _) => {
                    let tool = pre.instantiate_async(&mut store).await?;
                    Ok((Exports::Tool(tool), None))
                }
                (Linked::PythonRunner(pre), _) => {
                    let runner = pre.instantiate_async(&mut store).await?;
                    Ok((Exports::PythonRunner(Box::new(runner)), None))
                }
                (Linked::Shell(shell), image) => {
                    let image = image.unwrap_or(&shell.base);
                    let (runner, from) =
                        from_image(&mut store, shell, image, &environment.owner).await?;
                    Ok((Exports::PythonRunner(Box::new(runner)), Some(from)))
                }
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
        let (exports, stored) = exports
            .map_err(|error| refused.map_or_else(|| start_error(error), SandboxError::Memory))?;
        let mut instance = Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            store,
            exports,
            limits,
            broken: false,
            stored,
            slept_in: None,
            seat,
        };
        if let Some(image) = image.filter(|image| !image.is_raw()) {
            // What is its session's alone goes on where it was; what many start from does not.
            let is_copy = !image.is_private() || image.info().is_some_and(|info| info.is_copy);
            instance.wake(is_copy).await?;
        }
        Ok(instance)
    }

    /// The first call of an instance that started from an image.
    async fn wake(&mut self, is_copy: bool) -> Result<(), SandboxError> {
        let resumed = self
            .brief(async |instance| instance.resume(is_copy).await)
            .await;
        resumed.result.map_err(SandboxError::Resume)
    }

    /// Runs a call of the host's own with little time: nobody waits for what it does, but everybody for its end.
    async fn brief<T>(&mut self, call: impl AsyncFnOnce(&mut Self) -> T) -> T {
        let limits = (self.limits.wall_time, self.limits.cpu_time);
        self.limits.wall_time = limits.0.min(SUSPEND_TIME);
        self.limits.cpu_time = limits.1.min(SUSPEND_CPU);
        let done = call(self).await;
        (self.limits.wall_time, self.limits.cpu_time) = limits;
        done
    }

    /// How its memory came from an image; `None` for a program that has its data in its code.
    pub fn mode(&self) -> Option<Mode> {
        self.stored.as_ref().map(|from| from.mode)
    }

    /// What it changed of the host's files or folders, or may have changed, since it was made.
    pub fn has_written(&self) -> bool {
        self.store.data().has_written()
    }

    /// The image that it started from; `None` for a program that has its data in its code.
    pub(crate) fn image(&self) -> Option<&Image> {
        self.stored.as_ref().map(|from| &from.image)
    }

    /// Memory that it has for itself alone, in bytes; 0 where that is not known.
    pub fn private_memory(&mut self) -> u64 {
        AtRest::of(&mut self.store).map_or(0, |memory| memory.private())
    }

    /// Stores the instance's memory as it differs from the image that it started from, or, where that was this session's
    /// own, from the one below; [`Instance::start`] can go on from there.
    ///
    /// The instance is at its end then, and [broken](Self::is_broken).
    ///
    /// # Errors
    /// When it holds what would not survive, has changed more than may be stored, or the file cannot be written. It goes
    /// on then, unless it is broken.
    pub async fn store(&mut self, destination: &Destination) -> Result<Stored, StoreError> {
        let image = self.image().cloned();
        let below = match &image {
            Some(image) if image.is_private() => image.below().cloned(),
            image => image.clone(),
        };
        let Some(below) = below else {
            return Err(StoreError::Ordinary);
        };
        let store = |memory: &AtRest<'_>, owner: &Owner, monotonic| {
            image::store(memory, &below, owner, monotonic, destination)
        };
        let stored = self.store_at_rest(store, destination.lasting).await;
        let stored = stored.and_then(|stored| stored);
        match &stored {
            Ok(_) => self.broken = true,
            Err(_) if self.broken => {}
            Err(_) => self.go_on().await,
        }
        stored
    }

    /// The instance's whole memory, for a [`Base`](crate::Base) that many start from.
    ///
    /// # Errors
    /// When it holds what would not survive.
    pub async fn whole_memory(&mut self) -> Result<Vec<u8>, StoreError> {
        let memory = self
            .store_at_rest(|memory, _, _| memory.bytes().to_vec(), true)
            .await;
        self.broken |= memory.is_ok();
        memory
    }

    async fn store_at_rest<T>(
        &mut self,
        store: impl FnOnce(&AtRest<'_>, &Owner, u64) -> T,
        lasting: bool,
    ) -> Result<T, StoreError> {
        let Some(from) = &self.stored else {
            return Err(StoreError::Ordinary);
        };
        let (settle, owner, rounds) = (from.settle, from.owner.clone(), from.rounds);
        let suspended = self
            .brief(async |instance| instance.suspend(lasting).await)
            .await;
        suspended
            .result
            .map_err(StoreError::Failed)?
            .map_err(StoreError::Busy)?;
        let held = self.store.data_mut().held(rounds);
        if !held.is_empty() {
            return Err(StoreError::Busy(held));
        }
        let settled = self
            .brief(async |instance| {
                bounded!(instance, store, _exports => settle.call_async(store, ()))
            })
            .await;
        match settled.result.map_err(StoreError::Failed)? {
            (0,) => {}
            (global,) => {
                return Err(StoreError::Busy(vec![format!(
                    "it is in the middle of something (global {global})"
                )]));
            }
        }
        // From here on it has forgotten its handles: should it go on, it takes new ones.
        if let Some(from) = &mut self.stored {
            from.rounds += 1;
        }
        let monotonic = self.store.data().monotonic_ns();
        let stored = AtRest::of(&mut self.store).map(|memory| store(&memory, &owner, monotonic));
        stored.ok_or(StoreError::Ordinary)
    }

    /// Lets it go on after its memory could not be stored. Should that fail, it is broken.
    async fn go_on(&mut self) {
        let resumed = self
            .brief(async |instance| instance.resume(false).await)
            .await;
        if let Err(fault) = resumed.result {
            tracing::debug!(instance = self.id, %fault, "it does not go on after it was not stored");
        }
    }

    /// A number that no other instance of this process has.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether it has a place among the instances of its slice.
    pub(crate) fn is_counted(&self) -> bool {
        self.seat.is_counted()
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

    /// Hands the parts of answers to a taker from now on, each as JSON text (Python's, so it may hold NaN and Infinity);
    /// a guest that has another part waits until there is room in the channel. All of them together are no more than an
    /// answer may have. `None` ends that, and closes the channel.
    ///
    /// A guest that emits to a channel whose receiver is gone ends with a fault.
    pub fn emit_to(&mut self, taker: Option<mpsc::Sender<String>>) {
        self.store.data_mut().emitter.give_to(taker);
    }

    /// Says for which node its next calls are, which its requests are recorded with.
    pub fn attribute(&mut self, node: &str) {
        self.store.data_mut().network.node = Some(node.into());
    }

    /// Says whether the spans of its next calls may hold what was asked and answered.
    pub fn record_content(&mut self, records: bool) {
        self.store.data_mut().spans.records_content = records;
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

    /// The same with no more than some CPU time.
    pub(crate) async fn invoke_within(
        &mut self,
        cpu: Duration,
        tool: &str,
        inputs: String,
    ) -> Call<Result<String, ToolError>> {
        let limit = std::mem::replace(&mut self.limits.cpu_time, cpu);
        let call = self.invoke(tool, inputs).await;
        self.limits.cpu_time = limit;
        call
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

    /// What an object is a mapping of, with the outcome for each name; `None` for one that is no mapping.
    pub async fn members(
        &mut self,
        object: u64,
    ) -> Call<Result<Option<Vec<(String, Outcome)>>, ToolError>> {
        let call = bounded!(self, store, exports => exports.runner()?.call_members(store, object));
        self.accept(
            call,
            |members| {
                let members = members.iter().flatten();
                members
                    .map(|(name, value)| name.len() + outcome_size(value))
                    .sum()
            },
            |members| members.iter().flatten().all(|(_, value)| is_sound(value)),
        )
    }

    /// An object as `json.dumps` writes it; the text may hold NaN and Infinity, as Python's does.
    pub async fn dump(&mut self, object: u64) -> Call<Result<String, ToolError>> {
        let call = bounded!(self, store, exports => exports.runner()?.call_dump(store, object));
        self.accept(call, String::len, |text| is_python_json(text))
    }

    /// Hands out an iterator's items to whom [`emit_to`](Self::emit_to) has named.
    pub async fn stream(&mut self, object: u64) -> Call<Result<(), ToolError>> {
        bounded!(self, store, exports => exports.runner()?.call_stream(store, object))
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

    /// Readies the instance for its memory to be stored; `lasting` when many instances will start from it. The answer
    /// names what stands in the way, such as an open file; the instance is of use as before either way.
    pub async fn suspend(&mut self, lasting: bool) -> Call<Result<(), Vec<String>>> {
        // Whatever the guest asks for is then free already, so it can find all of that and clear it.
        self.store.data_mut().memory.hold(true);
        let call = bounded!(self, store, exports => exports.runner()?.call_suspend(store, lasting));
        self.store.data_mut().memory.hold(false);
        call
    }

    /// Makes what came out of stored memory current again: its first call. `copy` when other instances start from the
    /// same memory, which should not share random numbers.
    pub async fn resume(&mut self, copy: bool) -> Call<()> {
        bounded!(self, store, exports => exports.runner()?.call_resume(store, copy))
    }

    /// Turns the end of a call into its result, and the instance back into a usable one if it is.
    fn conclude<T: Answer>(&mut self, mut usage: Usage, ended: Ended<T>) -> Call<T> {
        let limits = &self.limits;
        let guest = self.store.data_mut();
        usage.cpu += std::mem::take(&mut guest.called_cpu);
        let refused = guest.memory.take_refused();
        let disk_full = guest.take_disk_refused();
        let too_many = guest.take_too_many();
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
                if too_many {
                    answer.explain(&format!(
                        "an instance may have {} files, streams and other things open",
                        limits.resources
                    ));
                }
                Ok(answer)
            }
            (Ok(Ok(Err(_))), Some(refused)) => Err(refused),
            (Ok(Ok(Err(error))), None) => Err(fault(&error, limits)),
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
            spans: guest.spans.take(),
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

/// An instance of a shell, with an image as its memory.
async fn from_image(
    store: &mut Store<Guest>,
    shell: &LinkedShell,
    image: &Image,
    owner: &Owner,
) -> wasmtime::Result<(PythonRunner, FromImage)> {
    let (instance, memory) = made_by(shell.pre.instantiate_async(&mut *store)).await;
    let instance = instance?;
    if let Some(memory) = memory {
        // It is new, so nothing else is in its place.
        let _ = store.data().linear.set(memory);
    }
    let has = AtRest::of(store).map_or(0, |memory| memory.bytes().len() as u64);
    let missing = image.memory().saturating_sub(has).div_ceil(WASM_PAGE);
    if missing > 0 {
        let grow: TypedFunc<(i32,), (i32,)> = instance.get_typed_func(&mut *store, shell.grow)?;
        let pages = i32::try_from(missing)?;
        let (before,) = grow.call_async(&mut *store, (pages,)).await?;
        if before < 0 {
            return Err(wasmtime::format_err!("there is no memory for the image"));
        }
    }
    let mode = match AtRest::of(store) {
        Some(mut memory) => image.lay(&mut memory, owner)?,
        None => return Err(wasmtime::format_err!("the component has no memory")),
    };
    let settle = instance.get_typed_func(&mut *store, shell.settle)?;
    let runner = shell.exports.load(&mut *store, &instance)?;
    let from = FromImage {
        image: image.clone(),
        owner: owner.clone(),
        mode,
        settle,
        rounds: 1,
    };
    Ok((runner, from))
}

/// Before anything is allocated for it.
fn check_size(image: &Image, limits: &Limits) -> Result<(), SandboxError> {
    let (needed, limit) = (image.memory(), limits.memory as u64);
    if needed > limit {
        return Err(SandboxError::Image(ImageError::TooLarge { needed, limit }));
    }
    Ok(())
}

fn start_error(error: wasmtime::Error) -> SandboxError {
    match error.downcast::<ImageError>() {
        Ok(error) => SandboxError::Image(error),
        Err(error) => SandboxError::Start(error),
    }
}

fn fault(error: &wasmtime::Error, limits: &Limits) -> Fault {
    if error.is::<CpuTimeExceeded>() {
        return Fault::CpuTime {
            limit: limits.cpu_time,
        };
    }
    if error.is::<TooMuch>() {
        return Fault::OutputTooLarge {
            size: 0,
            limit: limits.output,
        };
    }
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
            limit: limits.output,
        };
    }
    Fault::Trap { reason }
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
