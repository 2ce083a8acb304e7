//! What one call, and one instance, may use.

use std::time::Duration;

use wasmtime::ResourceLimiter;

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
    refused: bool,
}

impl MemoryLimiter {
    pub(crate) fn new(limit: usize, table_elements: usize) -> Self {
        Self {
            limit,
            table_elements,
            refused: false,
        }
    }

    /// Whether growth was refused since the last time this was asked.
    pub(crate) fn take_refused(&mut self) -> bool {
        std::mem::take(&mut self.refused)
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(
        &mut self,
        _current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let fits = desired <= self.limit && maximum.is_none_or(|most| desired <= most);
        self.refused |= !fits;
        Ok(fits)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= self.table_elements && maximum.is_none_or(|most| desired <= most))
    }
}
