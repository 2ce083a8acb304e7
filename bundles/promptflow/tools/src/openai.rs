//! The API of OpenAI, and Azure's form of it.
//!
//! What is sent is what promptflow's tools send with the package `openai`.

pub mod error;
pub mod retry;
pub mod span;
pub mod stream;

use serde_json::Value;

use crate::connection::Connection;
use crate::failure::Failure;
use crate::http::{Host, Method, Request, Response, escaped};
use crate::openai::error::{ApiError, CallError};
use crate::openai::span::Span;
use crate::openai::stream::Chunks;

const OPENAI: &str = "https://api.openai.com/v1";
const AZURE_VERSION: &str = "2024-02-01";
/// What promptflow's telemetry headers say.
const USER_AGENT: &str = concat!("promptflow-sdk/1.18.5 flowcell/", env!("CARGO_PKG_VERSION"));
const TRACKING: &str = r#"{"execution_target": "dag"}"#;

/// An API at an address, with a key.
pub struct Client<'h> {
    host: &'h dyn Host,
    base: String,
    /// Azure's: which version of its API.
    version: Option<String>,
    headers: Vec<(String, String)>,
}

impl<'h> Client<'h> {
    /// An API by its connection. `called_from` is what Azure is told of the tool.
    pub fn new(
        host: &'h dyn Host,
        connection: &Connection,
        called_from: &str,
    ) -> Result<Self, Failure> {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let bearer = |key: &str| header("authorization", &format!("Bearer {key}"));
        let mut headers = vec![
            header("content-type", "application/json"),
            header("accept", "application/json"),
            header("x-ms-useragent", USER_AGENT),
            header("ms-azure-ai-promptflow", TRACKING),
        ];
        let (base, version) = match connection.class.as_str() {
            "AzureOpenAIConnection" => {
                let key = connection.key()?;
                headers.push(if connection.has_identity() {
                    bearer(key)
                } else {
                    header("api-key", key)
                });
                headers.push(header("ms-azure-ai-promptflow-called-from", called_from));
                let base = connection.required("api_base")?.trim_end_matches('/');
                let version = connection.field("api_version").unwrap_or(AZURE_VERSION);
                (format!("{base}/openai"), Some(version.to_owned()))
            }
            "OpenAIConnection" => {
                headers.push(bearer(connection.required("api_key")?));
                let organization = connection.field("organization");
                headers.extend(organization.map(|name| header("openai-organization", name)));
                (
                    connection.field("base_url").unwrap_or(OPENAI).to_owned(),
                    None,
                )
            }
            "ServerlessConnection" => {
                headers.push(bearer(connection.required("api_key")?));
                let base = connection.required("api_base")?;
                let suffix = if base.ends_with("/v1") { "" } else { "/v1" };
                (format!("{base}{suffix}"), None)
            }
            other => {
                return Err(Failure::user(
                    "InvalidConnectionType",
                    format!(
                        "Not Support connection type '{other}'. Connection type should be in [AzureOpenAIConnection, \
                         OpenAIConnection, ServerlessConnection]."
                    ),
                ));
            }
        };
        let base = base.trim_end_matches('/').to_owned();
        Ok(Self {
            host,
            base,
            version,
            headers,
        })
    }

    fn url(&self, path: &str, body: &Value) -> String {
        let base = &self.base;
        let Some(version) = &self.version else {
            return format!("{base}{path}");
        };
        let deployment = escaped(body["model"].as_str().unwrap_or_default(), "");
        let version = escaped(version, "");
        format!("{base}/deployments/{deployment}{path}?api-version={version}")
    }

    /// Sends a request; what is no success is an error.
    fn send(&self, path: &str, body: &Value) -> Result<Response, CallError> {
        let request = Request {
            method: Method::Post,
            url: self.url(path, body),
            headers: self.headers.clone(),
            body: body.to_string().into_bytes(),
        };
        let response = self.host.send(request).map_err(ApiError::from)?;
        if (200..300).contains(&response.status) {
            return Ok(response);
        }
        Err(ApiError::of(response)?.into())
    }

    /// The answer to a request.
    pub fn call(&self, path: &str, body: &Value) -> Result<Value, CallError> {
        let mut span = self.span(path, body);
        let answer = self.send(path, body).and_then(|response| {
            let text = response.text().map_err(ApiError::from)?;
            Ok(serde_json::from_str(&text).map_err(|error| not_json(&error))?)
        });
        match &answer {
            Ok(answer) => span.answered(answer),
            Err(error) => span.failed(error),
        }
        answer
    }

    /// The answer as a stream of texts.
    pub fn stream(&self, path: &str, body: &Value) -> Result<Chunks<'h>, CallError> {
        let mut span = self.span(path, body);
        match self.send(path, body) {
            Ok(response) => Ok(Chunks::new(self.host, span, response.body)),
            Err(error) => {
                span.failed(&error);
                Err(error)
            }
        }
    }

    fn span(&self, path: &str, body: &Value) -> Span<'h> {
        let provider = match self.version {
            Some(_) => "azure.ai.openai",
            None => "openai",
        };
        Span::begin(self.host, provider, path, body)
    }
}

/// Python's exception for what is not JSON.
pub fn not_json(error: &serde_json::Error) -> Failure {
    let (line, column) = (error.line(), error.column().max(1));
    Failure::python(
        "JSONDecodeError",
        format!(
            "Expecting value: line {line} column {column} (char {})",
            column - 1
        ),
    )
}
