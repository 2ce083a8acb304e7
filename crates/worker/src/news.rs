//! What happens in a run, for whoever watches: printed text line by line, whatever pieces it comes in.

use std::sync::{Arc, Mutex, PoisonError};

use flowcell_executor::{NodeStatus, Observer, RunEvent};
use flowcell_sandbox::Stream;
use serde::{Deserialize, Serialize};

/// Longest text without an end of line that is held back, in bytes.
const MAX_UNFINISHED: usize = 8 << 10;

/// Something that happened in a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum News {
    /// A node began.
    NodeStarted {
        /// The node.
        node: String,
    },
    /// A node printed or logged something.
    Printed {
        /// The node.
        node: String,
        /// Where to.
        stream: Stream,
        /// The text: whole lines, if they are not too long.
        text: String,
    },
    /// A node ended.
    NodeEnded {
        /// The node.
        node: String,
        /// How.
        status: NodeStatus,
        /// How long it took, in milliseconds.
        duration_ms: f64,
    },
}

/// What is heard of a job before its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Heard {
    /// The flow's files were read: they may change from now on.
    Opened,
    /// Something happened.
    News(News),
}

/// Whoever hears it. It is called between the steps of a run, and should not take long.
pub type Hear = Arc<dyn Fn(Heard) + Send + Sync>;

/// Tells a run's events as news.
pub(crate) fn observer(hear: Hear) -> Observer {
    // Text without its end of line yet, by node and stream.
    let unfinished: Mutex<Vec<Unfinished>> = Mutex::default();
    let tell = move |news| hear(Heard::News(news));
    Arc::new(move |event| match event {
        RunEvent::NodeStarted { node } => tell(News::NodeStarted {
            node: node.to_owned(),
        }),
        RunEvent::Printed { node, stream, text } => {
            let mut unfinished = unfinished.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(lines) = hold(&mut unfinished, node, stream, text) {
                tell(printed(node, stream, lines));
            }
        }
        RunEvent::NodeEnded(ended) => {
            let mut unfinished = unfinished.lock().unwrap_or_else(PoisonError::into_inner);
            for held in unfinished.extract_if(.., |held| held.node == ended.name) {
                if !held.text.is_empty() {
                    tell(printed(&held.node, held.stream, held.text));
                }
            }
            drop(unfinished);
            tell(News::NodeEnded {
                node: ended.name.clone(),
                status: ended.status,
                duration_ms: (ended.duration.as_secs_f64() * 1e6).round() / 1e3,
            });
        }
        _ => {}
    })
}

struct Unfinished {
    node: String,
    stream: Stream,
    text: String,
}

/// Takes in some text; gives what there is of whole lines.
fn hold(
    unfinished: &mut Vec<Unfinished>,
    node: &str,
    stream: Stream,
    text: &str,
) -> Option<String> {
    let found = unfinished
        .iter()
        .position(|held| held.node == node && held.stream == stream);
    let at = found.unwrap_or_else(|| {
        unfinished.push(Unfinished {
            node: node.to_owned(),
            stream,
            text: String::new(),
        });
        unfinished.len() - 1
    });
    let held = &mut unfinished.get_mut(at)?.text;
    held.push_str(text);
    let whole = if held.len() > MAX_UNFINISHED {
        held.len()
    } else {
        held.rfind('\n').map_or(0, |end| end + 1)
    };
    (whole > 0).then(|| held.drain(..whole).collect())
}

fn printed(node: &str, stream: Stream, text: String) -> News {
    News::Printed {
        node: node.to_owned(),
        stream,
        text,
    }
}
