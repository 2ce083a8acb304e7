//! Requests that a guest makes: by `wasi:http`, through its session's way out.

use std::sync::Arc;

use flowcell_egress::{Egress, EgressError, Times};
use http_body_util::BodyExt as _;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::output::Capture;

/// Bytes of the headers of one message, as they lie in memory.
pub(crate) const HEADER_BYTES: usize = 128 << 10;
/// Bytes that a guest can write of a body before it has to wait.
const CHUNK: usize = 64 << 10;

/// What an instance's requests go through.
pub(crate) struct Network {
    egress: Option<Arc<Egress>>,
    /// The node that is at work.
    pub(crate) node: Option<Arc<str>>,
    log: Capture,
}

impl Network {
    /// Refusals are told in `log`, since errors of `wasi:http` have no room for reasons.
    pub(crate) fn new(egress: Option<Arc<Egress>>, log: Capture) -> Self {
        Self {
            egress,
            node: None,
            log,
        }
    }
}

type Sent = Result<
    (
        http::Response<WasiBody>,
        Box<dyn Future<Output = Result<(), Error>> + Send>,
    ),
    Error,
>;

impl WasiHttpHooks for Network {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let (egress, node, log) = (self.egress.clone(), self.node.clone(), self.log.clone());
        let options = options.unwrap_or_default();
        Box::new(async move {
            let told = |error: &EgressError| {
                log.append(format!("warning: a request failed: {error}\n").as_bytes());
            };
            let Some(egress) = egress else {
                log.append(b"warning: a request failed: there is no network here\n");
                return Err(Error::HttpRequestDenied);
            };
            let times = Times {
                connect: options.connect_timeout,
                first_byte: options.first_byte_timeout,
                between_bytes: options.between_bytes_timeout,
            };
            let answer = egress.send(request, node.as_deref(), times).await;
            let answer = answer.map_err(|error| {
                told(&error);
                of(error)
            })?;
            let answer = answer.map(|body| body.map_err(of).boxed_unsync());
            let done: Box<dyn Future<Output = _> + Send> = Box::new(async { Ok(()) });
            Ok((answer, done))
        })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK
    }
}

/// The error of `wasi:http` that comes nearest.
fn of(error: EgressError) -> Error {
    match error {
        EgressError::Address(_) => Error::HttpRequestUriInvalid,
        EgressError::Denied { .. }
        | EgressError::Misplaced { .. }
        | EgressError::TooMany { .. } => Error::HttpRequestDenied,
        EgressError::Private { .. } => Error::DestinationIpProhibited,
        EgressError::Unknown { .. } => Error::DestinationNotFound,
        EgressError::TooLarge { what, limit } if what.starts_with("answer") => {
            Error::HttpResponseBodySize(Some(limit))
        }
        EgressError::TooLarge { limit, .. } => Error::HttpRequestBodySize(Some(limit)),
        EgressError::Timeout { what, .. } if what == "the connection" => Error::ConnectionTimeout,
        EgressError::Timeout { .. } => Error::ConnectionReadTimeout,
        EgressError::Connection {
            is_connect: true, ..
        } => Error::ConnectionRefused,
        EgressError::Connection { .. } | EgressError::Broken(_) => Error::ConnectionTerminated,
        EgressError::Guest(_) => Error::HttpProtocolError,
        EgressError::Setup(reason) => Error::InternalError(Some(reason)),
    }
}
