//! The host's side of one instance: its WASI context, its limits, what it printed and measured.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use wasmtime::component::ResourceTable;
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemCtxView};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream};
use wasmtime_wasi::{FsPerms, HostMonotonicClock, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::called::Tools;
use crate::contract::tool::flowcell::tool::{host, types};
use crate::emitted::Emitter;
use crate::environment::{Access, Environment};
use crate::error::SandboxError;
use crate::filesystem::{QuotaFilesystem, WritableDescriptors};
use crate::image::GuestMemory;
use crate::json::is_python_json;
use crate::limits::MemoryLimiter;
use crate::network::{HEADER_BYTES, Network};
use crate::output::{Capture, Listener, Logs, Stream};
use crate::slice::Seat;
use crate::spans::{Recorder, Span};

/// Metrics of one call beyond this number, and names or values beyond [`METRIC_BYTES`], are refused.
const METRICS: usize = 1_000;
/// Longest metric name or value, in bytes.
const METRIC_BYTES: usize = 64 << 10;
/// Table elements of one instance; the Python runner's largest table has 5,870.
pub(crate) const TABLE_ELEMENTS: usize = 20_000;

/// Data of one instance's store.
pub(crate) struct Guest {
    wasi: WasiCtx,
    table: ResourceTable,
    writable: WritableDescriptors,
    stdout: Capture,
    stderr: Capture,
    log: Capture,
    pub(crate) memory: MemoryLimiter,
    /// The instance's memory, if it starts from images.
    pub(crate) linear: OnceLock<Arc<GuestMemory>>,
    clock: Monotonic,
    metrics: Vec<(String, String)>,
    pub(crate) emitter: Emitter,
    pub(crate) spans: Recorder,
    http: WasiHttpCtx,
    pub(crate) network: Network,
    pub(crate) tools: Option<Arc<dyn Tools>>,
    /// CPU time that tools may use which one call of the guest's calls.
    pub(crate) cpu_limit: Duration,
    /// What they have used of it.
    pub(crate) called_cpu: Duration,
}

/// The guest's monotonic time. It goes on where it was when the guest's memory was stored.
#[derive(Debug, Clone, Copy)]
struct Monotonic {
    /// The guest's time when this instance began, in nanoseconds.
    offset: u64,
    began: Instant,
}

impl HostMonotonicClock for Monotonic {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        let since = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.offset.saturating_add(since)
    }
}

impl Guest {
    /// A guest whose monotonic time begins at so many nanoseconds.
    pub(crate) fn new(
        environment: &Environment,
        seat: Arc<Seat>,
        monotonic_ns: u64,
    ) -> Result<Self, SandboxError> {
        let clock = Monotonic {
            offset: monotonic_ns,
            began: Instant::now(),
        };
        let capture = |stream| Capture::new(stream, environment.limits.log);
        let (stdout, stderr) = (capture(Stream::Stdout), capture(Stream::Stderr));
        let mut wasi = WasiCtxBuilder::new();
        wasi.stdout(stdout.clone())
            .stderr(stderr.clone())
            // File operations run where the guest runs: handing each to a thread costs more than the operation, and a
            // guest at work holds its thread anyway.
            .allow_blocking_current_thread(true)
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .monotonic_clock(clock)
            .envs(&environment.variables);
        for mount in &environment.mounts {
            let permissions = match mount.access {
                Access::ReadOnly => FsPerms::ReadOnly,
                Access::ReadWrite => FsPerms::ReadWrite,
            };
            wasi.preopened_dir(&mount.host, &mount.guest, permissions)
                .map_err(|source| SandboxError::Mount {
                    path: mount.host.display().to_string(),
                    guest: mount.guest.clone(),
                    source,
                })?;
        }
        let log = capture(Stream::Log);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(HEADER_BYTES);
        let mut table = ResourceTable::new();
        table.set_max_capacity(environment.limits.resources);
        let mounts = environment
            .mounts
            .iter()
            .map(|mount| mount.access == Access::ReadWrite)
            .collect();
        Ok(Self {
            wasi: wasi.build(),
            table,
            writable: WritableDescriptors::new(environment.quota.clone(), mounts),
            stdout,
            stderr,
            log: log.clone(),
            memory: MemoryLimiter::new(environment.limits.memory, TABLE_ELEMENTS, seat),
            linear: OnceLock::new(),
            clock,
            metrics: Vec::new(),
            emitter: Emitter::new(environment.limits.output),
            spans: Recorder::default(),
            http,
            network: Network::new(environment.network.clone(), log),
            tools: environment.tools.clone(),
            cpu_limit: environment.limits.cpu_time,
            called_cpu: Duration::ZERO,
        })
    }

    pub(crate) fn listen(&self, listener: Option<&Listener>) {
        for capture in [&self.stdout, &self.stderr, &self.log] {
            capture.listen(listener.cloned());
        }
    }

    pub(crate) fn take_logs(&self) -> Logs {
        Logs {
            stdout: self.stdout.take(),
            stderr: self.stderr.take(),
            log: self.log.take(),
        }
    }

    /// Takes over what a tool has printed and recorded that the guest has called.
    pub(crate) fn take_over(
        &mut self,
        logs: Logs,
        metrics: Vec<(String, String)>,
        spans: Vec<Span>,
    ) -> wasmtime::Result<()> {
        self.spans.take_over(spans);
        self.stdout.append(logs.stdout.as_bytes());
        self.stderr.append(logs.stderr.as_bytes());
        self.log.append(logs.log.as_bytes());
        for (name, value) in metrics {
            host::Host::metric(self, name, value)?;
        }
        Ok(())
    }

    /// The guest's monotonic time, in nanoseconds.
    pub(crate) fn monotonic_ns(&self) -> u64 {
        self.clock.now()
    }

    /// What the guest holds of the host's, beyond its directories and its standard streams: with `rounds` of those, since
    /// a guest that was made to forget its handles takes new ones.
    pub(crate) fn held(&mut self, rounds: usize) -> Vec<String> {
        let directories = self.writable.preopens();
        let (mut files, mut folders, mut inputs, mut outputs, mut others) = (0, 0, 0, 0, 0);
        for resource in self.table.iter_mut() {
            if let Some(descriptor) = resource.downcast_ref::<Descriptor>() {
                match descriptor {
                    Descriptor::File(_) => files += 1,
                    Descriptor::Dir(_) => folders += 1,
                }
            } else if resource.is::<DynInputStream>() {
                inputs += 1;
            } else if resource.is::<DynOutputStream>() {
                outputs += 1;
            } else {
                others += 1;
            }
        }
        [
            (files, 0, "open files"),
            (folders, directories, "open folders"),
            (inputs, 1, "streams that are read"),
            (outputs, 2, "streams that are written"),
            (others, 0, "sockets, timers or other things of the host's"),
        ]
        .into_iter()
        .filter_map(|(found, usual, what): (usize, usize, _)| {
            let more = found.saturating_sub(usual * rounds);
            (more > 0).then(|| format!("it holds {more} {what}"))
        })
        .collect()
    }

    pub(crate) fn has_written(&self) -> bool {
        self.writable.has_written()
    }

    /// Whether the disk quota refused anything since the last time this was asked.
    pub(crate) fn take_disk_refused(&self) -> bool {
        self.writable.take_refused()
    }

    /// Whether a file could not be opened since the last time this was asked, since too much was open.
    pub(crate) fn take_too_many(&mut self) -> bool {
        self.writable.take_too_many()
    }

    pub(crate) fn take_metrics(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.metrics)
    }

    pub(crate) fn quota_filesystem(&mut self) -> QuotaFilesystem<'_> {
        QuotaFilesystem {
            inner: WasiFilesystemCtxView {
                ctx: self.wasi.filesystem(),
                table: &mut self.table,
            },
            writable: &mut self.writable,
        }
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.network,
            table: &mut self.table,
            ctx: &mut self.http,
        }
    }
}

impl types::Host for Guest {}

impl host::Host for Guest {
    fn log(&mut self, level: host::Level, message: String) -> wasmtime::Result<()> {
        let level = match level {
            host::Level::Debug => "debug",
            host::Level::Info => "info",
            host::Level::Warning => "warning",
            host::Level::Error => "error",
        };
        self.log.append(format!("{level}: {message}\n").as_bytes());
        Ok(())
    }

    fn metric(&mut self, name: String, value: String) -> wasmtime::Result<()> {
        if self.metrics.len() >= METRICS {
            return Err(wasmtime::format_err!("a call may record {METRICS} metrics"));
        }
        if name.len() > METRIC_BYTES || value.len() > METRIC_BYTES {
            return Err(wasmtime::format_err!(
                "a metric's name and value may each have {METRIC_BYTES} bytes"
            ));
        }
        if !is_python_json(&value) {
            return Err(wasmtime::format_err!("a metric's value must be JSON"));
        }
        self.metrics.push((name, value));
        Ok(())
    }

    async fn emit(&mut self, part: String) -> wasmtime::Result<()> {
        self.emitter.emit(part).await
    }

    fn start_span(
        &mut self,
        parent: Option<u64>,
        name: String,
        attributes: String,
    ) -> wasmtime::Result<u64> {
        Ok(self.spans.start(parent, name, &attributes))
    }

    fn end_span(
        &mut self,
        span: u64,
        attributes: String,
        error: Option<String>,
    ) -> wasmtime::Result<()> {
        self.spans.end(span, &attributes, error);
        Ok(())
    }

    fn records_content(&mut self) -> wasmtime::Result<bool> {
        Ok(self.spans.records_content)
    }
}
