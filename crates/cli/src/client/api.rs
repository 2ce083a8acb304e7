//! Requests to a host, and its answers.

use std::time::Duration;

use flowcell_server::Problem;
use flowcell_session::Name;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, IF_MATCH, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::error::ClientError;
use crate::{Output, terminal};

/// How long an ordinary request may take: longer than hosts let it.
const REQUEST: Duration = Duration::from_secs(120);
/// Largest answer, in bytes.
const MAX_ANSWER: usize = 256 << 20;
/// Most pages of a list.
const MAX_PAGES: usize = 10_000;
/// How often a creation is sent, and the pause before it is sent again, doubled each time.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(250);
/// Longest time that a host which is full may have us wait before a creation is sent again.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// A host, and who asks what of it.
#[derive(Debug)]
pub(crate) struct Api {
    pub(super) http: reqwest::Client,
    pub(super) base: Url,
    pub(super) workspace: Name,
    pub(super) key: Option<String>,
    pub(super) output: Output,
}

/// What a host answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The body as it is.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body).map_err(|error| {
            ClientError::with_help(
                format!("the answer is not what this version understands: {error}"),
                "`--output json` shows it; is the host a flowcell of another version?",
            )
        })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The seconds of `Retry-After`.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        retry_after(&self.headers)
    }
}

fn retry_after(headers: &HeaderMap) -> Option<u64> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()
}

impl Api {
    pub(crate) fn output(&self) -> Output {
        self.output
    }

    pub(crate) fn workspace(&self) -> &Name {
        &self.workspace
    }

    /// The address of a path below `/v1`; whatever its parts hold, they stay parts.
    pub(crate) fn at<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push("v1").extend(parts);
        }
        url
    }

    /// The address of a path in the workspace.
    pub(crate) fn here<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.at(["workspaces", self.workspace.as_str()]);
        if let Ok(mut path) = url.path_segments_mut() {
            path.extend(parts);
        }
        url
    }

    /// The address that an answer leads to. Only its path counts: the key goes to this host and no other.
    pub(crate) fn led_to(&self, location: &str) -> Option<Url> {
        let path = self.base.join(location).ok()?.path().to_owned();
        let parts = path.strip_prefix("/v1/")?.split('/');
        Some(self.at(parts))
    }

    pub(crate) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        let request = self.http.request(method, url).timeout(REQUEST);
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// A request whose `If-Match` is this revision, if there is one.
    pub(crate) fn change(&self, method: Method, url: Url, revision: Option<u64>) -> RequestBuilder {
        let request = self.request(method, url);
        match revision {
            Some(revision) => request.header(IF_MATCH, format!("\"{revision}\"")),
            None => request,
        }
    }

    /// Sends a request. An answer that is no success is an error.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Answer, ClientError> {
        let failed = |error: reqwest::Error| ClientError::unreachable(self.host(), &error);
        let response = self.begin(request).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = read(response).await.map_err(failed)?;
        let Some(body) = body else {
            return Err(ClientError::new(format!(
                "the answer has more than {} MiB",
                MAX_ANSWER >> 20
            )));
        };
        Ok(Answer {
            status,
            headers,
            body,
        })
    }

    /// Sends a request and waits for the beginning of its answer, which is a success.
    pub(crate) async fn begin(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let failed = |error: reqwest::Error| ClientError::unreachable(self.host(), &error);
        let response = request
            .header(ACCEPT, "application/json, text/event-stream, */*")
            .send()
            .await
            .map_err(failed)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (status, headers) = (response.status(), response.headers().clone());
        let body = read(response).await.map_err(failed)?.unwrap_or_default();
        Err(refused(self.host(), status, &headers, &body))
    }

    pub(crate) async fn get(&self, url: Url) -> Result<Answer, ClientError> {
        self.send(self.request(Method::GET, url)).await
    }

    /// Asks for something that may not be there.
    pub(crate) async fn find(&self, url: Url) -> Result<Option<Answer>, ClientError> {
        match self.get(url).await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if error.status() == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates something: once, however often the network has the request sent.
    pub(crate) async fn create(
        &self,
        url: Url,
        body: &impl Serialize,
    ) -> Result<Answer, ClientError> {
        let key = uuid::Uuid::new_v4().to_string();
        let mut pause = PAUSE;
        let mut was_sent = false;
        let mut attempt = 1;
        loop {
            let request = self.request(Method::POST, url.clone()).json(body);
            let error = match self.send(request.header("idempotency-key", &key)).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let wait = match &error {
                ClientError::Unreachable { .. } => {
                    was_sent = true;
                    Some(pause)
                }
                ClientError::Problem {
                    problem,
                    retry_after,
                } => match (problem.status, retry_after) {
                    (503, Some(seconds)) => Some(Duration::from_secs(*seconds)),
                    // An earlier attempt arrived, and is at work.
                    (409, _) if was_sent => Some(pause),
                    _ => None,
                },
                _ => None,
            };
            match wait.filter(|wait| *wait <= MAX_PAUSE && attempt < ATTEMPTS) {
                Some(wait) => {
                    if wait > Duration::from_secs(2) {
                        terminal::note(&format!(
                            "the host has no room for it now; trying again in {} s",
                            wait.as_secs()
                        ));
                    }
                    tokio::time::sleep(wait).await;
                }
                None => return Err(error),
            }
            pause *= 2;
            attempt += 1;
        }
    }

    /// All entries of a list, from all its pages.
    pub(crate) async fn list(&self, mut url: Url) -> Result<Vec<Value>, ClientError> {
        let mut items = Vec::new();
        url.query_pairs_mut().append_pair("limit", "1000");
        let mut page = url.clone();
        for _ in 0..MAX_PAGES {
            let mut answer: Value = self.get(page).await?.read()?;
            if let Some(Value::Array(more)) = answer.get_mut("items").map(Value::take) {
                items.extend(more);
            }
            let Some(cursor) = answer["next_cursor"].as_str() else {
                return Ok(items);
            };
            page = url.clone();
            page.query_pairs_mut().append_pair("cursor", cursor);
        }
        Err(ClientError::new("the list does not end"))
    }

    /// What messages call the host.
    pub(crate) fn host(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Prints one thing: as the host sent it, or for people.
    pub(crate) fn show<T: DeserializeOwned>(
        &self,
        answer: &Answer,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), ClientError> {
        match self.output {
            Output::Json => terminal::raw(&answer.text()),
            Output::Text => terminal::line(&text(&answer.read()?)),
        }
        Ok(())
    }

    /// Prints a list: as the host sent it, with all pages in one, or as a table.
    pub(crate) fn show_list<T: DeserializeOwned>(
        &self,
        items: Vec<Value>,
        table: impl FnOnce(&[T]) -> String,
        if_empty: &str,
    ) -> Result<(), ClientError> {
        if self.output == Output::Json {
            terminal::raw(&json!({ "items": items }).to_string());
            return Ok(());
        }
        if items.is_empty() {
            terminal::note(if_empty);
            return Ok(());
        }
        let items: Result<Vec<T>, _> = items.into_iter().map(serde_json::from_value).collect();
        let items = items.map_err(|error| {
            ClientError::with_help(
                format!("the answer is not what this version understands: {error}"),
                "`--output json` shows it; is the host a flowcell of another version?",
            )
        })?;
        terminal::line(&table(&items));
        Ok(())
    }

    /// Says that something without an answer was done.
    pub(crate) fn done(&self, what: &str) {
        match self.output {
            Output::Json => terminal::raw("{}"),
            Output::Text => terminal::line(what),
        }
    }
}

/// The body; nothing if it is too large.
async fn read(mut response: Response) -> reqwest::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER {
            return Ok(None);
        }
    }
    Ok(Some(body))
}

fn refused(host: &str, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> ClientError {
    let is_problem = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|media| media.starts_with("application/problem+json"));
    let problem = serde_json::from_slice::<Problem>(body).ok();
    if let Some(problem) = problem.filter(|_| is_problem) {
        return ClientError::Problem {
            problem: Box::new(problem),
            retry_after: retry_after(headers),
        };
    }
    let text = String::from_utf8_lossy(body);
    let first: String = text.trim().chars().take(200).collect();
    ClientError::with_help(
        format!("{host} answers {status}, and not as a flowcell host does: {first}"),
        "is this the address of a flowcell host? --host names another one",
    )
}
