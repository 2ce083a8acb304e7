//! What this process takes.

use std::fs;

use flowcell_benches::peers::Result;

/// Memory in KiB, and the number of mappings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) private: u64,
    pub(crate) pss: u64,
    pub(crate) mappings: u64,
}

impl Memory {
    pub(crate) fn now() -> Result<Self> {
        let rollup = fs::read_to_string("/proc/self/smaps_rollup")?;
        let sum = |names: &[&str]| -> u64 {
            let lines = rollup.lines().filter_map(|line| line.split_once(':'));
            lines
                .filter(|(name, _)| names.contains(name))
                .filter_map(|(_, value)| value.split_whitespace().next()?.parse::<u64>().ok())
                .sum()
        };
        Ok(Self {
            private: sum(&["Private_Dirty"]),
            pss: sum(&["Pss"]),
            mappings: fs::read_to_string("/proc/self/maps")?.lines().count() as u64,
        })
    }

    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            private: self.private.saturating_sub(before.private),
            pss: self.pss.saturating_sub(before.pss),
            mappings: self.mappings.saturating_sub(before.mappings),
        }
    }

    pub(crate) fn divided(&self, by: u64) -> Self {
        Self {
            private: self.private / by,
            pss: self.pss / by,
            mappings: self.mappings / by,
        }
    }
}
