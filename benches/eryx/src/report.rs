//! Reading this machine's figures, and printing.

use std::time::{Duration, Instant};

use crate::Result;

/// Private memory and PSS in KiB, and the number of mappings.
pub(crate) fn memory() -> Result<[u64; 3]> {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let field = |name: &str| -> u64 {
        let mut lines = rollup.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
        line.and_then(|number| number.parse().ok()).unwrap_or(0)
    };
    let mappings = std::fs::read_to_string("/proc/self/maps")?.lines().count();
    let private = field("Private_Clean:") + field("Private_Dirty:");
    Ok([private, field("Pss:"), mappings as u64])
}

/// The measured times of each row.
#[derive(Default)]
pub(crate) struct Table(Vec<(&'static str, Vec<Duration>)>);

impl Table {
    pub(crate) fn add(&mut self, row: &'static str, started: Instant) {
        let time = started.elapsed();
        match self.0.iter_mut().find(|(name, _)| *name == row) {
            Some((_, times)) => times.push(time),
            None => self.0.push((row, vec![time])),
        }
    }

    /// Prints medians and 99th percentiles, without the times of warming up.
    pub(crate) fn print(mut self) {
        print_row("", &["p50 us", "p99 us", "runs"]);
        for (row, times) in &mut self.0 {
            let times = &mut times[crate::WARM_UP..];
            times.sort_unstable();
            let micros =
                |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e6;
            let [median, p99] = [50, 99].map(|percent| format!("{:.1}", micros(percent)));
            print_row(row, &[median, p99, times.len().to_string()]);
        }
    }
}

pub(crate) fn print_row(name: &str, cells: &[impl AsRef<str>]) {
    print!("  {name:<42}");
    for cell in cells {
        print!(" {:>9}", cell.as_ref());
    }
    println!();
}

pub(crate) fn print_machine() -> Result<()> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let cpu = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let locked = |name: &str| {
        let start = format!("name = \"{name}\"\nversion = \"");
        let (_, rest) = include_str!("../Cargo.lock").split_once(&start)?;
        rest.split('"').next()
    };
    println!(
        "machine: {}, {} cores, load {} at the start; eryx {}, wasmtime {}",
        cpu.map_or("unknown CPU", |(_, name)| name),
        std::thread::available_parallelism()?,
        load.split(' ').take(3).collect::<Vec<_>>().join(" "),
        locked("eryx").unwrap_or("?"),
        locked("wasmtime").unwrap_or("?"),
    );
    Ok(())
}
