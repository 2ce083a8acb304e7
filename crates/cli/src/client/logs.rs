//! `flowcell session logs`: what happens in a session, as it happens.

use std::collections::HashMap;
use std::time::Duration;

use clap::Args;
use flowcell_server::api::sessions::SessionView;
use flowcell_session::SessionState;
use reqwest::Method;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::api::Api;
use super::error::ClientError;
use super::session_view::Which;
use super::sse::{self, Event};
use crate::terminal::Reader;
use crate::{Output, terminal};

/// A stream without so much as a sign of life for this time has been cut; hosts send one every 15 s.
const SILENCE: Duration = Duration::from_secs(60);
/// How often in a row a stream may break without an event in between.
const MAX_FAILURES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// Longest part of a line that is kept back until the line is whole, in bytes.
const MAX_LINE: usize = 16 << 10;
/// Lines that may be kept back at once.
const MAX_LINES: usize = 1_000;

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    #[command(flatten)]
    which: Which,
    /// Only what has happened so far.
    #[arg(long)]
    no_follow: bool,
    /// Go on until the session is stopped: the default.
    #[arg(long, conflicts_with = "no_follow")]
    follow: bool,
}

/// How a stream ended.
enum End {
    /// The host ended it.
    Over,
    /// The connection broke.
    Broken(ClientError),
}

pub(super) async fn run(api: &Api, args: &LogsArgs) -> Result<(), ClientError> {
    let id = args.which.find(api).await?;
    let mut follower = Follower {
        api,
        session: id,
        last: None,
        printer: Printer {
            output: api.output(),
            lines: HashMap::new(),
            reader: Reader::Reads,
        },
    };
    let mut failures = 0;
    loop {
        let before = follower.last.clone();
        let ended = follower.stream(!args.no_follow).await;
        follower.printer.flush();
        if follower.printer.reader == Reader::IsGone {
            return Ok(());
        }
        let error = match ended {
            Ok(End::Over) if args.no_follow => return Ok(()),
            Ok(End::Over) => None,
            Ok(End::Broken(error)) => Some(error),
            // The first look tells whether there is anything to see, or will be in a moment.
            Err(error) if follower.last.is_none() && failures == 0 => {
                let starts = error.status() == Some(409) && follower.ended_up().await?.is_none();
                if !starts {
                    return Err(error);
                }
                Some(error)
            }
            Err(error) => Some(error),
        };
        if follower.last != before {
            failures = 0;
        }
        failures += 1;
        if let Some(error) = error.filter(|_| failures > MAX_FAILURES) {
            return Err(error);
        }
        if failures > 1 {
            sleep((PAUSE * 2_u32.pow(failures.min(6))).min(MAX_PAUSE)).await;
        }
        if let Some(session) = follower.ended_up().await? {
            if api.output() == Output::Text {
                let state = session.state.as_str();
                let (id, reason) = (&session.id, &session.reason);
                terminal::note(&format!("session {id} is {state}: {reason}"));
            }
            return Ok(());
        }
        if failures > MAX_FAILURES {
            return Ok(());
        }
    }
}

struct Follower<'a> {
    api: &'a Api,
    session: String,
    last: Option<String>,
    printer: Printer,
}

impl Follower<'_> {
    /// Prints events until the stream ends.
    async fn stream(&mut self, follow: bool) -> Result<End, ClientError> {
        let api = self.api;
        let mut url = api.here(["sessions", &self.session, "events"]);
        if !follow {
            url.query_pairs_mut().append_pair("follow", "false");
        }
        let mut request = api.request(Method::GET, url).timeout(super::call::LONGEST);
        if let Some(last) = &self.last {
            request = request.header("last-event-id", last);
        }
        let mut response = api.begin(request).await?;
        let mut reader = sse::Reader::default();
        loop {
            let chunk = match timeout(SILENCE, response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => return Ok(End::Over),
                Ok(Err(error)) => {
                    return Ok(End::Broken(ClientError::unreachable(api.host(), &error)));
                }
                Err(_) => {
                    return Ok(End::Broken(ClientError::new(format!(
                        "{} has been silent for {} s",
                        api.host(),
                        SILENCE.as_secs()
                    ))));
                }
            };
            let events = reader.read(&chunk);
            for event in events.map_err(|_| ClientError::new("the host sends an endless event"))? {
                self.printer.print(&event);
                self.last = event.id;
            }
            if self.printer.reader == Reader::IsGone {
                return Ok(End::Over);
            }
        }
    }

    /// The session, if nothing more is to come: it is neither at work nor on its way there.
    async fn ended_up(&self) -> Result<Option<SessionView>, ClientError> {
        let url = self.api.here(["sessions", &self.session]);
        let view: SessionView = match self.api.get(url).await {
            Ok(answer) => answer.read()?,
            // It may come back; the next attempt to read the stream will tell.
            Err(ClientError::Unreachable { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let is_live = view.state == SessionState::Starting || view.state.takes_calls();
        Ok((!is_live).then_some(view))
    }
}

/// Makes lines of events.
struct Printer {
    output: Output,
    /// The last, unfinished line of what tools print, by where it was printed.
    lines: HashMap<Place, String>,
    reader: Reader,
}

/// Call, node and stream.
type Place = [String; 3];

impl Printer {
    fn print(&mut self, event: &Event) {
        if self.output == Output::Json {
            self.reader = terminal::streamed_raw(&event.data);
            return;
        }
        let event: Value = serde_json::from_str(&event.data).unwrap_or_default();
        let text = |key: &str| event[key].as_str().unwrap_or_default();
        let milliseconds = || event["duration_ms"].as_f64().unwrap_or(0.0);
        match text("type") {
            "log" => self.log(&event),
            "state" => self.line(&format!("session {}: {}", text("state"), text("reason"))),
            "call_started" => self.line(&format!("call {} started", text("call"))),
            "call_ended" => self.line(&format!(
                "call {} {} after {:.0} ms",
                text("call"),
                text("status"),
                milliseconds()
            )),
            "node_started" => self.line(&format!(
                "  {} {} started",
                short(text("call")),
                text("node")
            )),
            "node_ended" => {
                self.flush_of(Some((text("call"), text("node"))));
                self.line(&format!(
                    "  {} {} {} after {:.0} ms",
                    short(text("call")),
                    text("node"),
                    text("status"),
                    milliseconds()
                ));
            }
            "scaled_to_zero" => {
                self.line(&format!("no instances in memory: {}", text("reason")));
            }
            "not_stored" => {
                let reasons = event["reasons"].as_array().into_iter().flatten();
                let reasons: Vec<&str> = reasons.filter_map(Value::as_str).collect();
                let outcome = match event["dropped"].as_bool() {
                    Some(true) => "dropped",
                    _ => "kept in memory",
                };
                let reasons = reasons.join("; ");
                self.line(&format!("instances {outcome}, not stored: {reasons}"));
            }
            "missed" => terminal::note(&match event["events"].as_u64() {
                Some(0) | None => {
                    "the session has begun anew; events before that may be missing".to_owned()
                }
                Some(number) => format!("{number} events are missing here"),
            }),
            // Of a newer host.
            _ => self.line(&event.to_string()),
        }
    }

    /// What a tool printed may be some of a line, or several.
    fn log(&mut self, event: &Value) {
        let text = |key: &str| event[key].as_str().unwrap_or_default();
        let place = ["call", "node", "stream"].map(|key| text(key).to_owned());
        let mut rest = self.lines.remove(&place).unwrap_or_default();
        rest.push_str(text("text"));
        while let Some((line, after)) = rest.split_once('\n') {
            self.printed(&place, line);
            rest = after.to_owned();
        }
        if rest.len() > MAX_LINE || self.lines.len() >= MAX_LINES {
            self.printed(&place, &rest);
        } else if !rest.is_empty() {
            self.lines.insert(place, rest);
        }
    }

    /// Prints the unfinished lines of a node of a call that has ended, or all of them.
    fn flush_of(&mut self, ended: Option<(&str, &str)>) {
        let is_meant = |[call, node, _]: &Place| {
            ended.is_none_or(|(of_call, of_node)| of_call == call && of_node == node)
        };
        let mut of_node: Vec<(Place, String)> =
            self.lines.extract_if(|place, _| is_meant(place)).collect();
        of_node.sort();
        for (place, line) in of_node {
            self.printed(&place, &line);
        }
    }

    fn flush(&mut self) {
        self.flush_of(None);
    }

    fn printed(&mut self, [call, node, stream]: &Place, line: &str) {
        let line = line.trim_end_matches('\r');
        self.line(&format!("  {} {node} {stream} | {line}", short(call)));
    }

    fn line(&mut self, text: &str) {
        self.reader = terminal::streamed_line(text);
    }
}

/// Enough of a call's identifier to tell calls apart that are under way together.
fn short(call: &str) -> &str {
    call.char_indices()
        .nth(10)
        .map_or(call, |(end, _)| &call[..end])
}
