//! CPU time of a guest call.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A future whose time on the thread is counted, and which ends once it has used more than `limit`.
///
/// A running guest yields at every epoch, so the limit is met to within one tick.
pub(crate) struct Metered<'a, T> {
    inner: Pin<Box<dyn Future<Output = T> + Send + 'a>>,
    used: &'a mut Duration,
    limit: Duration,
}

/// The limit was reached.
#[derive(Debug)]
pub(crate) struct CpuTimeExceeded;

impl<'a, T> Metered<'a, T> {
    pub(crate) fn new(
        inner: Pin<Box<dyn Future<Output = T> + Send + 'a>>,
        used: &'a mut Duration,
        limit: Duration,
    ) -> Self {
        Self { inner, used, limit }
    }
}

impl<T> Future for Metered<'_, T> {
    type Output = Result<T, CpuTimeExceeded>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let before = thread_time();
        let polled = self.inner.as_mut().poll(cx);
        *self.used += thread_time().saturating_sub(before);
        match polled {
            Poll::Ready(value) => Poll::Ready(Ok(value)),
            Poll::Pending if *self.used > self.limit => Poll::Ready(Err(CpuTimeExceeded)),
            Poll::Pending => Poll::Pending,
        }
    }
}

fn thread_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}
