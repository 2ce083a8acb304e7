//! How a run is watched.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use flowcell_sandbox::{Listener, Stream};

use crate::result::NodeResult;
use crate::streaming::Parts;

/// Told what happens, while it happens. It is called between the steps of the run, so it should not take long: hand
/// events on through a channel.
pub type Observer = Arc<dyn Fn(RunEvent<'_>) + Send + Sync>;

/// Something that happened in a run.
///
/// A node that starts has ended before the run is over. A node that is bypassed, or is stopped before it began, ends
/// without having started. A node starts after all the nodes that it reads from have ended.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum RunEvent<'a> {
    /// A node is to be called.
    NodeStarted {
        /// Its name.
        node: &'a str,
    },
    /// A node's tool has printed or logged something; the same text is in the node's result later. This is told on the
    /// thread on which the tool runs.
    Printed {
        /// The node's name.
        node: &'a str,
        /// Where it was printed to.
        stream: Stream,
        /// The text: some of a line, or several.
        text: &'a str,
    },
    /// A node has ended, in one way or another. One whose answer is a stream has when the stream begins.
    NodeEnded(&'a NodeResult),
    /// The stream of a node that had ended before is over.
    StreamEnded(&'a NodeResult),
}

/// What a run should tell, beyond its result. The default is nothing.
#[derive(Clone, Default)]
pub struct RunOptions {
    /// Who hears of the run's events.
    pub observer: Option<Observer>,
    /// Whether each node's result has its inputs and output. Without it, values go from node to node without being
    /// looked at; with it, each Python object that a node reads or returns is written as JSON once more.
    pub capture: bool,
    /// Who takes an output that is a stream, item by item. Without it, streams are read to their end.
    pub parts: Option<Parts>,
    /// Whether the spans of nodes hold what was asked and answered.
    pub record_content: bool,
    /// The time of the line, if it is to be less than the session's.
    pub line_time: Option<Duration>,
}

impl RunOptions {
    pub(crate) fn tell(&self, event: RunEvent<'_>) {
        if let Some(observer) = &self.observer {
            observer(event);
        }
    }

    /// Who hears what a node's tool prints.
    pub(crate) fn listener(&self, node: &str) -> Option<Listener> {
        let observer = self.observer.clone()?;
        let node = node.to_owned();
        Some(Arc::new(move |stream, text| {
            observer(RunEvent::Printed {
                node: &node,
                stream,
                text,
            });
        }))
    }
}

impl fmt::Debug for RunOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RunOptions")
            .field("observed", &self.observer.is_some())
            .field("capture", &self.capture)
            .field("parts", &self.parts.is_some())
            .field("record_content", &self.record_content)
            .field("line_time", &self.line_time)
            .finish()
    }
}
