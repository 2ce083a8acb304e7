//! CPU time of a guest call.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, Sleep, sleep};

use crate::instance::Usage;
use crate::slice::Slice;

/// A future whose time on the thread is counted and charged to a slice, which rests while that slice owes CPU time, and
/// which ends once it has used more than `limit`.
///
/// A running guest yields at every epoch, so limit and share are met to within one tick.
pub(crate) struct Metered<'a, T> {
    inner: Pin<Box<dyn Future<Output = T> + Send + 'a>>,
    usage: &'a mut Usage,
    limit: Duration,
    slice: &'a Slice,
    pause: Option<Pause>,
}

/// Until the slice has earned what was spent.
struct Pause {
    length: Duration,
    sleep: Pin<Box<Sleep>>,
}

/// The limit was reached.
#[derive(Debug, thiserror::Error)]
#[error("too much CPU time was used")]
pub(crate) struct CpuTimeExceeded;

impl<'a, T> Metered<'a, T> {
    pub(crate) fn new(
        inner: Pin<Box<dyn Future<Output = T> + Send + 'a>>,
        usage: &'a mut Usage,
        limit: Duration,
        slice: &'a Slice,
    ) -> Self {
        Self {
            inner,
            usage,
            limit,
            slice,
            // A call that is over before it is first interrupted could not be held up otherwise.
            pause: Pause::new(slice.spend(Duration::ZERO)),
        }
    }

    /// Ends the pause and counts what there was of it.
    fn resume(&mut self) {
        if let Some(pause) = self.pause.take() {
            let ahead = pause.sleep.deadline().duration_since(Instant::now());
            let rested = pause.length.saturating_sub(ahead);
            self.usage.throttled += rested;
            self.slice.count_throttled(rested);
        }
    }
}

impl Pause {
    fn new(length: Duration) -> Option<Self> {
        (!length.is_zero()).then(|| Self {
            length,
            sleep: Box::pin(sleep(length)),
        })
    }
}

impl<T> Future for Metered<'_, T> {
    type Output = Result<T, CpuTimeExceeded>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.sleep.as_mut().poll(cx));
            self.resume();
        }
        let before = thread_time();
        let polled = self.inner.as_mut().poll(cx);
        let spent = thread_time().saturating_sub(before);
        self.usage.cpu += spent;
        let owed = self.slice.spend(spent);
        match polled {
            Poll::Ready(value) => Poll::Ready(Ok(value)),
            Poll::Pending if self.usage.cpu > self.limit => Poll::Ready(Err(CpuTimeExceeded)),
            Poll::Pending => {
                // Whatever wakes the call finds the pause before it.
                self.pause = Pause::new(owed);
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for Metered<'_, T> {
    fn drop(&mut self) {
        self.resume();
    }
}

fn thread_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slice::SliceLimits;

    #[tokio::test]
    async fn a_call_does_not_begin_while_its_slice_owes_time() {
        let limits = SliceLimits {
            cpu: 0.01,
            ..SliceLimits::UNLIMITED
        };
        let slice = Slice::new(limits, None);
        slice.spend(Duration::from_secs(1));
        let mut usage = Usage::default();
        let call = Metered::new(
            Box::pin(async { unreachable!() }),
            &mut usage,
            Duration::MAX,
            &slice,
        );
        let ended: Result<Result<(), _>, _> =
            tokio::time::timeout(Duration::from_millis(1), call).await;
        assert!(ended.is_err());
        assert_eq!(usage.cpu, Duration::ZERO);
        assert!(usage.throttled > Duration::ZERO);
        assert_eq!(slice.usage().throttled, usage.throttled);
    }
}
