//! What one call, and one instance, may use.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::ResourceLimiterAsync;

use crate::error::Fault;
use crate::slice::Seat;

/// Limits of a session's instances. Every one is enforced; [`Default`] gives the values for `flow test`.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Linear memory of one instance, in bytes. At most [`crate::SandboxConfig::max_memory`].
    pub memory: usize,
    /// Wall-clock time of one call.
    pub wall_time: Duration,
    /// CPU time of one call.
    pub cpu_time: Duration,
    /// Size of one returned value as JSON text, in bytes.
    pub output: usize,
    /// What one call may print (stdout and stderr each), in bytes; the rest is dropped and the log says so.
    pub log: usize,
    /// Bytes that a session may hold in its writable directories.
    pub disk_bytes: u64,
    /// Files and folders that a session may hold in its writable directories.
    pub disk_files: u64,
    /// Open files, streams and other host resources of one instance.
    pub resources: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 512 << 20,
            // promptflow's line timeout (PF_LINE_TIMEOUT_SEC).
            wall_time: Duration::from_secs(600),
            cpu_time: Duration::from_secs(600),
            output: 64 << 20,
            log: 1 << 20,
            disk_bytes: 256 << 20,
            disk_files: 10_000,
            resources: 1_024,
        }
    }
}

/// Keeps an instance's memory and tables within bounds, and remembers when it had to say no: a guest turns the refusal
/// into an error of its own (Python's `MemoryError`, an abort), and the caller should hear the reason.
#[derive(Debug)]
pub(crate) struct MemoryLimiter {
    limit: usize,
    table_elements: usize,
    seat: Arc<Seat>,
    refused: Option<Fault>,
    held: bool,
}

impl MemoryLimiter {
    pub(crate) fn new(limit: usize, table_elements: usize, seat: Arc<Seat>) -> Self {
        Self {
            limit,
            table_elements,
            seat,
            refused: None,
            held: false,
        }
    }

    /// Refuses all growth while `held`, which is no fault.
    pub(crate) fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// Why growth was refused since the last time this was asked, if it was.
    pub(crate) fn take_refused(&mut self) -> Option<Fault> {
        self.refused.take()
    }
}

#[async_trait::async_trait]
impl ResourceLimiterAsync for MemoryLimiter {
    async fn memory_growing(
        &mut self,
        _current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if self.held {
            return Ok(false);
        }
        let fits = if desired > self.limit || maximum.is_some_and(|most| desired > most) {
            Err(Fault::Memory { limit: self.limit })
        } else {
            let grown = self.seat.grow_to(desired as u64).await;
            grown.map_err(|limit| Fault::ComputeMemory { limit })
        };
        Ok(fits.map_err(|fault| self.refused = Some(fault)).is_ok())
    }

    fn memories(&self) -> usize {
        // The seat counts one memory: what that memory grows to is what the instance has in all.
        1
    }

    async fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= self.table_elements && maximum.is_none_or(|most| desired <= most))
    }
}
