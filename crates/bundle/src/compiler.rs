//! Where components are compiled: in this process, or, for those of tenants and of pulled bundles, in one of their own
//! with limits.
//!
//! Cranelift's time and memory grow faster than the code that it is given, and a tenant chooses the code. So it runs in
//! a process that bounds itself before it reads the component, and may take nobody else down with it.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use flowcell_sandbox::{CodeKind, MAX_COMPONENT, ProgramError, Sandbox, SandboxConfig};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

/// Compilations of tenants' components that one process has under way at once; more wait.
const AT_ONCE: usize = 2;
/// Threads of the compiler, and heaps of its allocator: each takes address space of the limit.
const THREADS: &str = "4";
/// Address space that the program's allocator reserves at once. What it has reserved before the limits are set comes on top of
/// them, and 1 GiB is what it would choose.
const RESERVE: &str = "64MiB";
/// Longest text of an error, in bytes.
const MAX_TEXT: u64 = 4 << 10;
/// How much longer than its CPU time a compilation may take, on a machine that is busy with other things.
const PATIENCE: u32 = 4;
/// Bytes of machine code for each byte of a component, at most; beyond a constant for small ones.
const EXPANSION: u64 = 32;

const NOT_WASM: u8 = 3;
const CORE_MODULE: u8 = 4;
const INVALID: u8 = 5;
const UNUSABLE: u8 = 6;

/// What the compilation of one component may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileLimits {
    /// Address space beyond that of the process at its start, in bytes.
    pub memory: u64,
    /// CPU time over all its threads, in whole seconds.
    pub cpu_seconds: u64,
}

impl CompileLimits {
    /// What a bundle's component may use: the Python runner is larger than what tenants bring.
    pub(crate) const fn of_bundles() -> Self {
        Self {
            memory: 4 << 30,
            cpu_seconds: 900,
        }
    }
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self {
            memory: 2 << 30,
            cpu_seconds: 120,
        }
    }
}

/// Where tenants' components are compiled.
#[derive(Debug, Clone)]
pub enum Compiler {
    /// In this process, for whoever runs no code but their own.
    Here,
    /// In a process for each.
    Process(CompileProcess),
}

/// How a process that compiles is started.
#[derive(Debug, Clone)]
pub struct CompileProcess {
    program: PathBuf,
    arguments: Vec<OsString>,
    limits: CompileLimits,
    places: Arc<Places>,
}

impl CompileProcess {
    /// A program whose process calls [`compile_for_parent`] when it gets these arguments and, behind them, two of this
    /// type's own.
    pub fn new(program: PathBuf, arguments: Vec<OsString>, limits: CompileLimits) -> Self {
        Self {
            program,
            arguments,
            limits,
            places: Arc::default(),
        }
    }

    fn compile(
        &self,
        wasm: &[u8],
        kind: CodeKind,
        limits: CompileLimits,
    ) -> Result<Vec<u8>, ProgramError> {
        if wasm.len() > MAX_COMPONENT {
            return Err(ProgramError::TooLarge {
                size: wasm.len(),
                limit: MAX_COMPONENT,
            });
        }
        let _place = self.places.take();
        let failed = |error: io::Error| ProgramError::Compiler(error.to_string());
        let mut child = self.spawn(limits).map_err(failed)?;
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            end(&mut child);
            return Err(ProgramError::Compiler("it has no pipes".to_owned()));
        };
        let most = (wasm.len() as u64)
            .saturating_mul(EXPANSION)
            .saturating_add(16 << 20);
        let (sender, received) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                // A child that ends early says why by its status.
                let _ = stdin.write_all(&[is_shell(kind)]);
                let _ = stdin.write_all(&(wasm.len() as u64).to_le_bytes());
                let _ = stdin.write_all(wasm);
            });
            scope.spawn(move || sender.send(read(stdout, most)));
            let text = scope.spawn(move || read(stderr, MAX_TEXT));
            let answer = received.recv_timeout(wall_time(limits));
            let is_late = answer.is_err();
            let is_too_long = matches!(&answer, Ok(Ok(None)));
            if is_late || is_too_long {
                // Its pipes close, and the threads end.
                end(&mut child);
            }
            let status = child.wait().map_err(failed)?;
            let text = text.join().ok().and_then(Result::ok).flatten();
            let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
            if is_late {
                let seconds = wall_time(limits).as_secs();
                let limit = format!("{seconds} s");
                return Err(ProgramError::TooCostly { limit });
            }
            if is_too_long {
                let limit = format!("{most} bytes of machine code");
                return Err(ProgramError::TooCostly { limit });
            }
            match (status.success(), answer) {
                (true, Ok(Ok(Some(code)))) => Ok(code),
                (true, _) => Err(ProgramError::Compiler("its answer broke off".to_owned())),
                (false, _) => Err(why(limits, status, text)),
            }
        })
    }

    fn spawn(&self, limits: CompileLimits) -> io::Result<Child> {
        Command::new(&self.program)
            .args(&self.arguments)
            .arg(limits.memory.to_string())
            .arg(limits.cpu_seconds.to_string())
            .arg0("flowcell")
            .env_clear()
            .env("RAYON_NUM_THREADS", THREADS)
            .env("MALLOC_ARENA_MAX", THREADS)
            .env("MIMALLOC_ARENA_RESERVE", RESERVE)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    }
}

fn wall_time(limits: CompileLimits) -> Duration {
    Duration::from_secs(limits.cpu_seconds.max(1)) * PATIENCE
}

/// Why a process ended without compiled code.
fn why(limits: CompileLimits, status: ExitStatus, text: String) -> ProgramError {
    let text = text.trim().to_owned();
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    match code {
        Some(NOT_WASM) => return ProgramError::NotWasm,
        Some(CORE_MODULE) => return ProgramError::CoreModule,
        Some(INVALID) => return ProgramError::Invalid(text),
        Some(UNUSABLE) => return ProgramError::Compiler(text),
        _ => {}
    }
    let CompileLimits {
        memory,
        cpu_seconds,
    } = limits;
    let of = |signal: Signal| status.signal() == Some(signal.as_raw());
    // The limit on CPU time is SIGXCPU, and SIGKILL a second later.
    if of(Signal::XCPU) || of(Signal::KILL) {
        let limit = format!("{cpu_seconds} s of CPU time");
        return ProgramError::TooCostly { limit };
    }
    // Rust's way to end without memory. A thread for which there is no stack is the same.
    if of(Signal::ABORT) || text.contains("memory allocation") || text.contains("os error 11") {
        let limit = format!("{} MiB of memory", memory >> 20);
        return ProgramError::TooCostly { limit };
    }
    ProgramError::Compiler(format!("{status}: {text}"))
}

impl Compiler {
    /// Compiles a component of a tenant.
    pub(crate) fn compile(&self, sandbox: &Sandbox, wasm: &[u8]) -> Result<Vec<u8>, ProgramError> {
        let kind = CodeKind::Ordinary;
        match self {
            Self::Here => sandbox.compile(wasm, kind),
            Self::Process(process) => process.compile(wasm, kind, process.limits),
        }
    }

    /// Compiles a component of a bundle that was pulled.
    pub(crate) fn compile_pulled(
        &self,
        sandbox: &Sandbox,
        wasm: &[u8],
        kind: CodeKind,
    ) -> Result<Vec<u8>, ProgramError> {
        match self {
            Self::Here => sandbox.compile(wasm, kind),
            Self::Process(process) => process.compile(wasm, kind, CompileLimits::of_bundles()),
        }
    }
}

/// For which engine it is to be, as the process is told.
fn is_shell(kind: CodeKind) -> u8 {
    u8::from(kind == CodeKind::Shell)
}

/// All of a stream; `None` when it is longer.
fn read(stream: impl Read, most: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    stream
        .take(most.saturating_add(1))
        .read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}

fn end(child: &mut Child) {
    if let Err(error) = child.kill() {
        tracing::warn!(%error, "a compiling process could not be stopped");
    }
}

/// Places for compilations under way.
#[derive(Debug, Default)]
struct Places {
    taken: Mutex<usize>,
    freed: Condvar,
}

/// A place, free again when it is dropped.
struct Place<'p>(&'p Places);

impl Places {
    fn take(&self) -> Place<'_> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = self
            .freed
            .wait_while(taken, |taken| *taken >= AT_ONCE)
            .unwrap_or_else(PoisonError::into_inner);
        *taken += 1;
        Place(self)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.taken.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.freed.notify_one();
    }
}

/// The process's own side: bounds itself, reads a component from standard input, and writes its compiled code to
/// standard output.
pub fn compile_for_parent(limits: CompileLimits) -> ExitCode {
    let (code, text) = match compile(limits) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failed::Program(ProgramError::NotWasm)) => (NOT_WASM, String::new()),
        Err(Failed::Program(ProgramError::CoreModule)) => (CORE_MODULE, String::new()),
        Err(Failed::Program(ProgramError::Invalid(why))) => (INVALID, why),
        Err(Failed::Program(error)) => (UNUSABLE, error.to_string()),
        Err(Failed::Other(why)) => (UNUSABLE, why),
    };
    // Whoever would read it is gone if it cannot be written.
    let _ = io::stderr().write_all(text.as_bytes());
    ExitCode::from(code)
}

enum Failed {
    Program(ProgramError),
    Other(String),
}

fn compile(limits: CompileLimits) -> Result<(), Failed> {
    let other = |error: &dyn std::error::Error| Failed::Other(error.to_string());
    // Before the limits: the engine's address space is none of the component's.
    let sandbox = Sandbox::new(&SandboxConfig {
        instances: 1,
        ..SandboxConfig::default()
    });
    let sandbox = sandbox.map_err(|error| other(&error))?;
    bound(limits).map_err(|error| other(&error))?;
    let mut input = io::stdin().lock();
    let mut is_shell = [0; 1];
    input
        .read_exact(&mut is_shell)
        .map_err(|error| other(&error))?;
    let kind = match is_shell {
        [0] => CodeKind::Ordinary,
        _ => CodeKind::Shell,
    };
    let mut length = [0; 8];
    input
        .read_exact(&mut length)
        .map_err(|error| other(&error))?;
    let length = u64::from_le_bytes(length);
    let mut wasm = Vec::new();
    input
        .take(length)
        .read_to_end(&mut wasm)
        .map_err(|error| other(&error))?;
    if wasm.len() as u64 != length {
        return Err(Failed::Other("the component broke off".to_owned()));
    }
    let code = sandbox.compile(&wasm, kind).map_err(Failed::Program)?;
    io::stdout()
        .write_all(&code)
        .and_then(|()| io::stdout().flush())
        .map_err(|error| other(&error))
}

fn bound(limits: CompileLimits) -> io::Result<()> {
    // It goes with whoever waits for it.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let present = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = present
        .split(' ')
        .next()
        .and_then(|pages| pages.parse().ok())
        .ok_or_else(|| io::Error::other("the size of the process is not known"))?;
    let present = pages.saturating_mul(rustix::param::page_size() as u64);
    let cpu = limits.cpu_seconds;
    for (resource, soft, hard) in [
        (
            Resource::As,
            present.saturating_add(limits.memory),
            present.saturating_add(limits.memory),
        ),
        (Resource::Cpu, cpu, cpu.saturating_add(1)),
        (Resource::Core, 0, 0),
        // It writes to pipes only.
        (Resource::Fsize, 0, 0),
    ] {
        // A limit that is lower already stays.
        let most = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let limit = Rlimit {
            current: Some(soft.min(most)),
            maximum: Some(hard.min(most)),
        };
        setrlimit(resource, limit)?;
    }
    Ok(())
}
