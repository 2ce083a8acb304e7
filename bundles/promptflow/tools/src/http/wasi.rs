//! The world outside, by WASI: requests go through the host's one door, `wasi:http/outgoing-handler`.

use std::time::Duration;

use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{
    self, ErrorCode, Fields, IncomingBody, OutgoingBody, OutgoingRequest, RequestOptions, Scheme,
};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

use serde_json::Value;

use crate::component::flowcell::tool::host;
use crate::http::{Host, Method, NetworkError, Request, Response};

/// How long the package `openai` waits for a connection, and for bytes.
const CONNECT: Duration = Duration::from_secs(5);
const BYTES: Duration = Duration::from_secs(600);
/// How much is written at once, as WASI allows it, and read.
const WRITTEN: usize = 4096;
const READ: u64 = 64 << 10;

/// The host.
pub struct Wasi;

impl Host for Wasi {
    fn send(&self, request: Request) -> Result<Response, NetworkError> {
        let outgoing = head(&request)?;
        let body = outgoing
            .body()
            .map_err(|()| refused("the request takes no body"))?;
        let options = RequestOptions::new();
        // A host that has none of these waits as long as it likes.
        let _ = options.set_connect_timeout(Some(nanoseconds(CONNECT)));
        let _ = options.set_first_byte_timeout(Some(nanoseconds(BYTES)));
        let _ = options.set_between_bytes_timeout(Some(nanoseconds(BYTES)));
        let answer = handle(outgoing, Some(options)).map_err(|code| network(&code))?;
        let stream = body
            .write()
            .map_err(|()| refused("the request takes no body"))?;
        let written = write(&stream, &request.body);
        drop(stream);
        // A server may answer before it has read all, so the answer counts first.
        let finished =
            written.and_then(|()| OutgoingBody::finish(body, None).map_err(|code| network(&code)));
        answer.subscribe().block();
        let incoming = match answer.get() {
            Some(Ok(incoming)) => incoming.map_err(|code| network(&code))?,
            Some(Err(())) | None => return Err(refused("there is no answer")),
        };
        if incoming.status() < 400 {
            finished?;
        }
        let headers = incoming.headers().entries();
        let headers = headers.into_iter().map(|(name, value)| {
            (
                name.to_lowercase(),
                String::from_utf8_lossy(&value).into_owned(),
            )
        });
        let headers = headers.collect();
        let body = incoming
            .consume()
            .map_err(|()| refused("the answer has no body"))?;
        let stream = body
            .stream()
            .map_err(|()| refused("the answer has no body"))?;
        Ok(Response {
            status: incoming.status(),
            headers,
            body: Box::new(Body {
                stream,
                _body: body,
                ended: false,
            }),
        })
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }

    fn emit(&self, part: &Value) {
        host::emit(&part.to_string());
    }

    fn start_span(&self, name: &str, attributes: &Value) -> u64 {
        host::start_span(None, name, &attributes.to_string())
    }

    fn end_span(&self, span: u64, attributes: &Value, error: Option<&str>) {
        host::end_span(span, &attributes.to_string(), error);
    }

    fn records_content(&self) -> bool {
        host::records_content()
    }
}

fn head(request: &Request) -> Result<OutgoingRequest, NetworkError> {
    let (scheme, rest) = match request.url.split_once("://") {
        Some(("http", rest)) => (Scheme::Http, rest),
        Some(("https", rest)) => (Scheme::Https, rest),
        _ => {
            let why = "Request URL is missing an 'http://' or 'https://' protocol.";
            return Err(refused(why));
        }
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let path = path.split('#').next().unwrap_or_default();
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let mut headers: Vec<(String, Vec<u8>)> = request
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), value.clone().into_bytes()))
        .collect();
    if request.method == Method::Post {
        let length = request.body.len().to_string();
        headers.push(("content-length".to_owned(), length.into_bytes()));
    }
    let headers =
        Fields::from_list(&headers).map_err(|_| refused("a header of the request is not valid"))?;
    let outgoing = OutgoingRequest::new(headers);
    let method = match request.method {
        Method::Get => types::Method::Get,
        Method::Post => types::Method::Post,
    };
    outgoing
        .set_method(&method)
        .and_then(|()| outgoing.set_scheme(Some(&scheme)))
        .and_then(|()| outgoing.set_authority(Some(authority)))
        .and_then(|()| outgoing.set_path_with_query(Some(&path)))
        .map_err(|()| refused("the address is not valid"))?;
    Ok(outgoing)
}

fn write(stream: &OutputStream, body: &[u8]) -> Result<(), NetworkError> {
    for part in body.chunks(WRITTEN) {
        stream
            .blocking_write_and_flush(part)
            .map_err(|error| broken(&error))?;
    }
    Ok(())
}

/// An answer's body as it comes.
struct Body {
    // Before the body that it is of: a resource outlives its children.
    stream: InputStream,
    _body: IncomingBody,
    ended: bool,
}

impl Iterator for Body {
    type Item = Result<Vec<u8>, NetworkError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        match self.stream.blocking_read(READ) {
            Ok(bytes) => Some(Ok(bytes)),
            Err(error) => {
                self.ended = true;
                match error {
                    StreamError::Closed => None,
                    failed => Some(Err(broken(&failed))),
                }
            }
        }
    }
}

fn broken(error: &StreamError) -> NetworkError {
    let code = match error {
        StreamError::LastOperationFailed(error) => types::http_error_code(error),
        StreamError::Closed => None,
    };
    match code {
        // Before the answer this is said in other words.
        Some(ErrorCode::HttpResponseIncomplete | ErrorCode::ConnectionTerminated) | None => {
            refused(
                "peer closed connection without sending complete message body (incomplete chunked read)",
            )
        }
        Some(code) => network(&code),
    }
}

fn refused(why: &str) -> NetworkError {
    NetworkError::Connection(why.to_owned())
}

fn network(code: &ErrorCode) -> NetworkError {
    let why = match code {
        ErrorCode::DnsTimeout
        | ErrorCode::ConnectionTimeout
        | ErrorCode::ConnectionReadTimeout
        | ErrorCode::ConnectionWriteTimeout
        | ErrorCode::HttpResponseTimeout => return NetworkError::TimedOut,
        ErrorCode::DnsError(_) | ErrorCode::DestinationNotFound => "the host's name is not known",
        ErrorCode::DestinationUnavailable | ErrorCode::DestinationIpUnroutable => {
            "the host cannot be reached"
        }
        ErrorCode::DestinationIpProhibited => "the host's address is not allowed here",
        ErrorCode::HttpRequestDenied => "the request is not allowed here",
        ErrorCode::ConnectionRefused => "Connection refused",
        // promptflow asks again for this one, and knows it by its words.
        ErrorCode::ConnectionTerminated | ErrorCode::HttpResponseIncomplete => {
            "Server disconnected without sending a response."
        }
        ErrorCode::ConnectionLimitReached => "there are too many connections",
        ErrorCode::TlsProtocolError | ErrorCode::TlsAlertReceived(_) => "TLS failed",
        ErrorCode::TlsCertificateError => "the host's certificate is not trusted",
        ErrorCode::HttpRequestBodySize(_) => "the request is larger than is allowed here",
        ErrorCode::HttpResponseBodySize(_) => "the answer is larger than is allowed here",
        ErrorCode::HttpRequestUriInvalid => "the address is not valid",
        ErrorCode::InternalError(Some(why)) => why,
        _ => "the exchange failed",
    };
    refused(why)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
