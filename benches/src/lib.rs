//! What the benches share: measuring, printing, and where things are.

#![expect(clippy::print_stdout, reason = "benches print their figures")]

pub mod load;
pub mod peers;
pub mod server;

use std::path::PathBuf;
use std::time::Duration;

/// Prints the machine that the figures are of.
pub fn print_machine() {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| {
            line.strip_prefix("model name")?
                .split_once(": ")
                .map(|(_, name)| name.to_owned())
        })
        .unwrap_or_else(|| "unknown CPU".to_owned());
    let memory: u64 = read("/proc/meminfo")
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemTotal:")?
                .trim()
                .strip_suffix(" kB")?
                .parse()
                .ok()
        })
        .unwrap_or(0);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = read("/proc/loadavg");
    let load = load.split_whitespace().next().unwrap_or("?");
    println!(
        "machine: {cpu}, {cores} cores, {} GiB, load {load} at the start",
        memory >> 20
    );
}

/// The repository's folder.
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The bundle store that `test.sh` and `demo.sh` use, unless FLOWCELL_HOME names another.
pub fn home() -> PathBuf {
    std::env::var_os("FLOWCELL_HOME")
        .map_or_else(|| repository().join("target/flowcell-home"), PathBuf::from)
}

/// Some measured times.
#[derive(Debug, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// Adds one.
    pub fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// The one that was added last.
    pub fn last(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }

    /// The value below which a share of the times lies; 0.5 is the median.
    pub fn quantile(&self, share: f64) -> Duration {
        let mut times = self.0.clone();
        times.sort_unstable();
        let last = times.len().saturating_sub(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index below the length"
        )]
        let index = (last as f64 * share).round() as usize;
        times.get(index).copied().unwrap_or_default()
    }

    /// Prints a row: median, 99th percentile, and the median against another's.
    pub fn print(&self, what: &str, against: Option<&Times>) {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let (median, p99) = (micros(self.quantile(0.5)), micros(self.quantile(0.99)));
        let ratio = against.map_or_else(String::new, |other| {
            let other = micros(other.quantile(0.5));
            format!("  {:.2}x, {:+.1} us", median / other, median - other)
        });
        println!("{what:<58} {median:>10.1} {p99:>10.1}{ratio}");
    }

    /// Prints the head of the table.
    pub fn print_head(title: &str) {
        println!("\n{title:<58} {:>10} {:>10}", "p50 us", "p99 us");
    }
}
