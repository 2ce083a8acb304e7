//! What is told of a job in one step of its future, which goes to the host together: each message alone would wake this
//! process's writer and the host's reader once more.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

/// A message to be sent.
#[derive(Debug, PartialEq)]
pub(crate) struct Frame {
    pub(crate) message: Vec<u8>,
    /// How much of it counts as waiting news.
    pub(crate) news: usize,
}

/// Frames that go together, one after the other.
pub(crate) type Frames = mpsc::UnboundedSender<Vec<Frame>>;

/// The way of what is told of one job.
pub(crate) struct Steps {
    frames: Frames,
    /// What was told in the step under way. There is none while the job waits: what its other tasks tell then goes at once.
    step: Mutex<Option<Vec<Frame>>>,
}

impl Steps {
    pub(crate) fn new(frames: Frames) -> Self {
        Self {
            frames,
            step: Mutex::default(),
        }
    }

    /// Tells something of the job: when the step under way is over, or at once.
    pub(crate) fn tell(&self, frame: Frame) {
        let mut step = self.step();
        match &mut *step {
            Some(told) => told.push(frame),
            None => self.send(vec![frame]),
        }
    }

    /// What was told in the step under way, for whoever sends it together with something else.
    pub(crate) fn take(&self) -> Vec<Frame> {
        self.step().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Does the job, step by step.
    pub(crate) async fn follow(self: Arc<Self>, job: impl Future<Output = ()>) {
        let mut job = pin!(job);
        poll_fn(|context| {
            *self.step() = Some(Vec::new());
            let polled = job.as_mut().poll(context);
            // Sent while it is locked, so that what is told later is sent later.
            let mut step = self.step();
            if let Some(told) = step.take().filter(|told| !told.is_empty()) {
                self.send(told);
            }
            polled
        })
        .await;
    }

    fn send(&self, told: Vec<Frame>) {
        // Fails when the host is gone.
        let _ = self.frames.send(told);
    }

    fn step(&self) -> MutexGuard<'_, Option<Vec<Frame>>> {
        self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(message: u8) -> Frame {
        Frame {
            message: vec![message],
            news: 0,
        }
    }

    #[tokio::test]
    async fn what_is_told_in_a_step_goes_together_and_in_order() {
        let (frames, mut sent) = mpsc::unbounded_channel();
        let steps = Arc::new(Steps::new(frames));
        let told = Arc::clone(&steps);
        let job = Arc::clone(&steps).follow(async move {
            told.tell(frame(1));
            told.tell(frame(2));
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            told.tell(frame(3));
            assert_eq!(told.take(), [frame(3)]);
            told.tell(frame(4));
        });
        let mut job = pin!(job);
        assert!(futures_util::poll!(&mut job).is_pending());
        // Another task of the job, while the job itself waits.
        steps.tell(frame(5));
        job.await;
        steps.tell(frame(6));
        drop(steps);
        let mut all = Vec::new();
        while let Some(together) = sent.recv().await {
            let messages = together.into_iter().map(|frame| frame.message[0]);
            all.push(messages.collect::<Vec<_>>());
        }
        assert_eq!(all, [vec![1, 2], vec![5], vec![4], vec![6]]);
    }
}
