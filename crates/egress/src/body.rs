//! Bodies on their way out and in.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{BoxStream, StreamExt as _, TryStreamExt as _, try_unfold};
use http_body::Frame;
use memchr::memmem;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep};

use crate::error::{EgressError, Part, Wait};
use crate::exchange::Record;
use crate::origin::Origin;
use crate::secrets::{Form, PLACEHOLDER, Secrets};

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Bodies of requests that secrets are put into, at most, in bytes.
pub(crate) const MAX_REVEALED: usize = 1 << 20;

pub(crate) type Chunks = BoxStream<'static, Result<Bytes, EgressError>>;

/// The data of a guest's body, counted, up to a limit.
pub(crate) fn limited<B>(body: B, limit: u64, record: &Arc<Mutex<Record>>) -> Chunks
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let record = Arc::clone(record);
    let data = http_body_util::BodyExt::into_data_stream(body);
    let mut sent = 0;
    let counted = data.map(move |chunk| {
        let chunk = chunk.map_err(|error| EgressError::Guest(error.into().to_string()))?;
        sent += chunk.len() as u64;
        if sent > limit {
            return Err(EgressError::TooLarge {
                what: Part::Request,
                limit,
            });
        }
        record
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .sent(sent);
        Ok(chunk)
    });
    counted.boxed()
}

/// Refuses a body that has a placeholder in it.
pub(crate) fn without_placeholders(chunks: Chunks, secrets: Arc<Secrets>, to: Origin) -> Chunks {
    // What of the last chunk could be the beginning of one, or is one of which the end is to come.
    let state = (chunks, Vec::new());
    let checked = try_unfold(state, move |(mut chunks, mut before)| {
        let (secrets, to) = (Arc::clone(&secrets), to.clone());
        async move {
            let Some(chunk) = chunks.try_next().await? else {
                return Ok::<_, EgressError>(None);
            };
            before.extend_from_slice(&chunk);
            if memmem::find(&before, PLACEHOLDER.as_bytes()).is_some() {
                let refused = secrets.reveal(&before, &to, Form::Plain);
                return Err(refused.err().unwrap_or_else(|| unfit(&to)));
            }
            let keep = before.len().min(PLACEHOLDER.len() - 1);
            before.drain(..before.len() - keep);
            Ok(Some((chunk, (chunks, before))))
        }
    });
    checked.boxed()
}

fn unfit(to: &Origin) -> EgressError {
    EgressError::Denied {
        what: format!("a secret in a body for {to}"),
        why: format!(
            "secrets go into headers, queries, and bodies of JSON or forms of at most {MAX_REVEALED} bytes"
        ),
    }
}

/// The beginning of a body, up to the whole of it.
pub(crate) enum Begun {
    Whole(Bytes),
    Part(Bytes),
}

/// Reads a body until it ends, or is too large for secrets.
pub(crate) async fn begun(chunks: &mut Chunks) -> Result<Begun, EgressError> {
    let mut all = BytesMut::new();
    while let Some(chunk) = chunks.try_next().await? {
        all.extend_from_slice(&chunk);
        if all.len() > MAX_REVEALED {
            return Ok(Begun::Part(all.freeze()));
        }
    }
    Ok(Begun::Whole(all.freeze()))
}

/// Puts back what was read of a body.
pub(crate) fn with_begin(begin: Bytes, rest: Chunks) -> Chunks {
    futures_util::stream::iter([Ok(begin)]).chain(rest).boxed()
}

/// Replaces texts in what comes piece by piece. Nothing is held back but what may be the beginning of one of them.
#[derive(Debug)]
pub(crate) struct Replacer {
    /// What is looked for, the longest first, and what takes its place.
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
    held: BytesMut,
}

impl Replacer {
    pub(crate) fn new(pairs: Vec<(Vec<u8>, Vec<u8>)>) -> Self {
        Self {
            pairs,
            held: BytesMut::new(),
        }
    }

    /// What can be handed on after another piece.
    pub(crate) fn push(&mut self, piece: Bytes) -> Bytes {
        if self.pairs.is_empty() {
            return piece;
        }
        self.held.extend_from_slice(&piece);
        self.take(false)
    }

    /// The rest.
    pub(crate) fn end(&mut self) -> Bytes {
        self.take(true)
    }

    fn take(&mut self, is_end: bool) -> Bytes {
        let mut out = BytesMut::with_capacity(self.held.len());
        loop {
            let found = self.pairs.iter().filter_map(|(what, by)| {
                memmem::find(&self.held, what).map(|at| (at, what.len(), by))
            });
            let first = found.min_by_key(|(at, length, _)| (*at, std::cmp::Reverse(*length)));
            let Some((at, length, by)) = first else { break };
            out.extend_from_slice(&self.held.split_to(at));
            out.extend_from_slice(by);
            let _ = self.held.split_to(length);
        }
        let keep = if is_end { 0 } else { self.unfinished() };
        let done = self.held.len() - keep;
        out.extend_from_slice(&self.held.split_to(done));
        out.freeze()
    }

    /// How much at the end may be the beginning of something that is looked for.
    fn unfinished(&self) -> usize {
        let held = &self.held[..];
        let longest = |what: &[u8]| {
            let most = what.len().saturating_sub(1).min(held.len());
            (1..=most)
                .rev()
                .find(|length| held.ends_with(&what[..*length]))
        };
        let all = self.pairs.iter().filter_map(|(what, _)| longest(what));
        all.max().unwrap_or(0)
    }
}

/// An answer's body.
pub struct Body {
    rest: Arc<Mutex<Rest>>,
    replacer: Replacer,
    received: u64,
    limit: u64,
    /// The longest that nothing may come.
    pause: Duration,
    /// When all must have come, and how long that is.
    deadline: (Instant, Duration),
    sleep: Pin<Box<Sleep>>,
    record: Arc<Mutex<Record>>,
    /// Ends it at its deadline, whether somebody reads it or not.
    watch: AbortHandle,
}

/// What is to come of a body. Its connection and its place among the session's requests are free when it has ended.
enum Rest {
    Open(
        reqwest::Body,
        #[expect(dead_code, reason = "it is held")] OwnedSemaphorePermit,
    ),
    Ended,
    Late,
}

impl std::fmt::Debug for Body {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Body")
            .field("received", &self.received)
            .finish_non_exhaustive()
    }
}

impl Body {
    pub(crate) fn new(
        inner: reqwest::Body,
        replacer: Replacer,
        limit: u64,
        pause: Duration,
        deadline: (Instant, Duration),
        (record, permit): (Arc<Mutex<Record>>, OwnedSemaphorePermit),
    ) -> Self {
        let first = deadline.0.min(Instant::now() + pause);
        let rest = Arc::new(Mutex::new(Rest::Open(inner, permit)));
        // It holds neither: whoever drops the body lets go of both at once.
        let (watched, of) = (Arc::downgrade(&rest), Arc::downgrade(&record));
        let watch = tokio::spawn(async move {
            tokio::time::sleep_until(deadline.0).await;
            let (Some(rest), Some(record)) = (watched.upgrade(), of.upgrade()) else {
                return;
            };
            let mut rest = rest.lock().unwrap_or_else(PoisonError::into_inner);
            if matches!(*rest, Rest::Open(..)) {
                *rest = Rest::Late;
                let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
                record.failed(&late(deadline.1));
                record.over();
            }
        });
        Self {
            rest,
            replacer,
            received: 0,
            limit,
            pause,
            deadline,
            sleep: Box::pin(tokio::time::sleep_until(first)),
            record,
            watch: watch.abort_handle(),
        }
    }

    fn fail(&mut self, error: EgressError) -> Poll<Option<Result<Frame<Bytes>, EgressError>>> {
        self.record().failed(&error);
        self.end();
        Poll::Ready(Some(Err(error)))
    }

    /// Lets go of the connection, and tells of the request.
    fn end(&mut self) {
        self.watch.abort();
        *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = Rest::Ended;
        self.record().over();
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_ended(&self) -> bool {
        let rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(*rest, Rest::Ended)
    }

    /// What comes next of it; `None` at its end.
    fn poll_rest(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, EgressError>>> {
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        let polled = match &mut *rest {
            Rest::Open(body, _) => http_body::Body::poll_frame(Pin::new(body), cx),
            Rest::Ended => return Poll::Ready(None),
            Rest::Late => return Poll::Ready(Some(Err(late(self.deadline.1)))),
        };
        drop(rest);
        match polled {
            Poll::Pending => match self.is_late(cx) {
                Some(late) => Poll::Ready(Some(Err(late))),
                None => Poll::Pending,
            },
            Poll::Ready(Some(Err(error))) => {
                Poll::Ready(Some(Err(EgressError::Broken(reason(&error)))))
            }
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame))),
            Poll::Ready(None) => Poll::Ready(None),
        }
    }

    fn is_late(&mut self, cx: &mut Context<'_>) -> Option<EgressError> {
        if self.sleep.as_mut().poll(cx).is_pending() {
            return None;
        }
        Some(if Instant::now() >= self.deadline.0 {
            late(self.deadline.1)
        } else {
            EgressError::Timeout {
                what: Wait::Next,
                limit: self.pause,
            }
        })
    }
}

/// All of it took too long.
fn late(limit: Duration) -> EgressError {
    EgressError::Timeout {
        what: Wait::Whole,
        limit,
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.end();
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = EgressError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, EgressError>>> {
        loop {
            let out = match ready!(self.poll_rest(cx)) {
                None => {
                    self.end();
                    self.replacer.end()
                }
                Some(Err(error)) => return self.fail(error),
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else {
                        // Trailers have nothing that guests would miss.
                        continue;
                    };
                    self.received += data.len() as u64;
                    if self.received > self.limit {
                        let limit = self.limit;
                        let what = Part::Answer;
                        return self.fail(EgressError::TooLarge { what, limit });
                    }
                    let received = self.received;
                    self.record().received(received);
                    let next = self.deadline.0.min(Instant::now() + self.pause);
                    self.sleep.as_mut().reset(next);
                    self.replacer.push(data)
                }
            };
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(out))));
            }
            if self.has_ended() {
                return Poll::Ready(None);
            }
        }
    }
}

/// What went wrong, without the address, which may have a secret in its query.
pub(crate) fn reason(error: &reqwest::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    if std::ptr::addr_eq(deepest, error) {
        return "the exchange broke off".to_owned();
    }
    deepest.to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Wherever the pieces end, what comes out is what the whole would have given.
        #[test]
        fn pieces_are_replaced_as_the_whole(text in "[ab]{0,40}", cuts in prop::collection::vec(0usize..40, 0..6)) {
            let pairs = [("aab", "X"), ("ab", "YY"), ("bbb", "")].map(|(what, by)| (what.into(), by.into()));
            let replaced = |pieces: &[&str]| {
                let mut replacer = Replacer::new(pairs.to_vec());
                let pieces = pieces.iter().map(|piece| replacer.push(Bytes::copy_from_slice(piece.as_bytes())));
                let mut out: Vec<u8> = pieces.collect::<Vec<_>>().concat();
                out.extend_from_slice(&replacer.end());
                out
            };
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|ends| &text[ends[0]..ends[1]]).collect();
            prop_assert_eq!(replaced(&pieces), replaced(&[&text]));
        }
    }
}
