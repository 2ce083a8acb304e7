//! Bodies that are refused before they have ended.
//!
//! A connection that is closed while the client still sends is reset, and the client may never see the answer. So what is
//! left of a body that nobody reads any more is taken in and thrown away, for a short while.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt as _;

/// For how long, and how much, of a refused body is taken in.
const TIME: Duration = Duration::from_secs(2);
const BYTES: usize = 16 << 20;

/// A body whose rest is taken in when it is dropped.
struct Lingering(Body);

/// Lets clients finish sending.
pub(crate) async fn linger(request: Request, next: Next) -> Response {
    next.run(request.map(|body| Body::new(Lingering(body))))
        .await
}

impl HttpBody for Lingering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.0).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.0.size_hint()
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        if self.0.is_end_stream() {
            return;
        }
        let mut rest = std::mem::take(&mut self.0);
        tokio::spawn(tokio::time::timeout(TIME, async move {
            let mut taken = 0;
            while taken < BYTES
                && let Some(Ok(frame)) = rest.frame().await
            {
                taken += frame.data_ref().map_or(0, Bytes::len);
            }
        }));
    }
}
