//! Connections: accepted up to a number, with time limits, over TLS or not, and closed gracefully.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// A pause after an accept that failed for want of file descriptors or memory.
const EXHAUSTED: Duration = Duration::from_millis(50);
/// Bytes of a request's head.
const MAX_HEAD: usize = 64 << 10;

/// How connections are served.
pub(crate) struct Listening {
    pub(crate) listener: TcpListener,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) router: Router,
    /// Most connections at once; more are not accepted, so they wait in the system's queue.
    pub(crate) connections: usize,
    /// Time for a TLS handshake, and for a request's head.
    pub(crate) head_time: Duration,
    /// Time for connections under way once the end has come.
    pub(crate) end_time: Duration,
}

impl Listening {
    /// Serves until `ending`, then lets what is under way come to its end.
    pub(crate) async fn run(self, ending: CancellationToken) {
        let places = Arc::new(Semaphore::new(self.connections));
        let graceful = GracefulShutdown::new();
        loop {
            let place = tokio::select! {
                place = Arc::clone(&places).acquire_owned() => place,
                () = ending.cancelled() => break,
            };
            // The semaphore is never closed.
            let Ok(place) = place else { break };
            let (stream, address) = tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(EXHAUSTED).await;
                        continue;
                    }
                },
                () = ending.cancelled() => break,
            };
            // Small answers go out at once.
            let _ = stream.set_nodelay(true);
            let (router, tls) = (self.router.clone(), self.tls.clone());
            let (watcher, head_time) = (graceful.watcher(), self.head_time);
            tokio::spawn(async move {
                match tls {
                    None => serve(stream, address, router, watcher, head_time).await,
                    Some(tls) => {
                        if let Some(stream) = shake_hands(&tls, stream, head_time).await {
                            serve(stream, address, router, watcher, head_time).await;
                        }
                    }
                }
                drop(place);
            });
        }
        drop(self.listener);
        if tokio::time::timeout(self.end_time, graceful.shutdown())
            .await
            .is_err()
        {
            tracing::warn!("connections were cut: their time was up");
        }
    }
}

async fn shake_hands(
    tls: &TlsAcceptor,
    stream: TcpStream,
    time: Duration,
) -> Option<impl AsyncRead + AsyncWrite + Unpin + Send + use<>> {
    match tokio::time::timeout(time, tls.accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    address: SocketAddr,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
    head_time: Duration,
) {
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(address));
        router.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_time)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "a connection ended early");
    }
}
