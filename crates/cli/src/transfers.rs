//! What people see of blobs on their way: bars on a terminal, a line for each otherwise.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};

use flowcell_bundle::{Digest, Transfer};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::terminal;

const BAR: &str = "{msg:32!} {bar:30} {bytes:>10}/{total_bytes:<10} {bytes_per_sec}";

/// The transfers of one command.
pub(crate) struct Transfers {
    /// `pushing` or `pulling`.
    verb: &'static str,
    all: Option<MultiProgress>,
    bars: Mutex<HashMap<Digest, Option<ProgressBar>>>,
}

impl Transfers {
    pub(crate) fn new(verb: &'static str) -> Self {
        Self {
            verb,
            all: std::io::stderr().is_terminal().then(MultiProgress::new),
            bars: Mutex::default(),
        }
    }

    pub(crate) fn step(&self, step: Transfer<'_>) {
        let Transfer {
            title,
            digest,
            done,
            total,
        } = step;
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bars.entry(*digest).or_insert_with(|| {
            let Some(all) = &self.all else {
                self.say(title, done, total);
                return None;
            };
            let bar = all.add(ProgressBar::new(total));
            if let Ok(style) = ProgressStyle::with_template(BAR) {
                bar.set_style(style);
            }
            bar.set_message(terminal::plain(title));
            Some(bar)
        });
        if let Some(bar) = bar {
            bar.set_position(done);
            if done == total {
                bar.finish();
            }
        }
    }

    fn say(&self, title: &str, done: u64, total: u64) {
        let title = terminal::plain(title);
        if done == total {
            terminal::progress(&format!("{title} is there already"));
        } else {
            terminal::progress(&format!("{} {title} ({})", self.verb, size(total)));
        }
    }
}

/// Bytes, as people read them.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{} KiB", bytes.div_ceil(1_024)),
        _ => format!("{} MiB", bytes.div_ceil(1_048_576)),
    }
}
