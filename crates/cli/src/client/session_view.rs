//! Sessions, as people see them, and how they are named.

use std::time::SystemTime;

use clap::Args;
use flowcell_egress::Rule;
use flowcell_server::api::flows::FlowView;
use flowcell_server::api::hibernation::StoredView;
use flowcell_server::api::requests::RequestView;
use flowcell_server::api::sessions::{HappeningView, SessionView, ToolView};
use flowcell_session::{Identity, Name};

use super::api::Api;
use super::error::ClientError;
use super::table::{count, duration, maybe_time, pairs, size, table, time};

/// A session, by its identifier or by its flow.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The session's identifier, or its flow.
    #[arg(value_name = "SESSION|FLOW", required_unless_present = "flow")]
    session: Option<Name>,
    /// The session's flow.
    #[arg(long, value_name = "NAME", conflicts_with = "session")]
    flow: Option<Name>,
}

impl Which {
    /// The session of this identifier or flow.
    pub(crate) fn named(session: Name) -> Self {
        Self {
            session: Some(session),
            flow: None,
        }
    }

    /// The session's identifier.
    pub(crate) async fn find(&self, api: &Api) -> Result<String, ClientError> {
        if let Some(name) = &self.session {
            let name = name.as_str();
            if api.find(api.here(["sessions", name])).await?.is_some() {
                return Ok(name.to_owned());
            }
            return match api.find(api.here(["flows", name])).await? {
                Some(flow) => of_flow(&flow.read()?),
                None => Err(ClientError::with_help(
                    format!(
                        "workspace {} has neither a session nor a flow '{name}'",
                        api.workspace()
                    ),
                    "`flowcell session list` and `flowcell flow list` tell what there is",
                )),
            };
        }
        let flow = self.flow.as_ref().map(Name::as_str).unwrap_or_default();
        of_flow(&api.get(api.here(["flows", flow])).await?.read()?)
    }
}

fn of_flow(flow: &FlowView) -> Result<String, ClientError> {
    let session = flow.session.as_ref().map(ToString::to_string);
    session.ok_or_else(|| {
        ClientError::with_help(
            format!("flow '{}' has no session", flow.name),
            format!("`flowcell session start --flow {}` starts one", flow.name),
        )
    })
}

pub(super) fn sessions(sessions: &[SessionView]) -> String {
    let rows: Vec<Vec<String>> = sessions
        .iter()
        .map(|session| {
            vec![
                session.flow.to_string(),
                session.id.to_string(),
                session.state.as_str().to_owned(),
                session.compute.name.to_string(),
                session.compute.instance_type.to_string(),
                session.user.to_string(),
                session.active_calls.to_string(),
                session
                    .stored
                    .map(|stored| format!("{} for {}", size(stored.bytes), age(&stored)))
                    .unwrap_or_default(),
                time(session.last_use),
            ]
        })
        .collect();
    let heads = [
        "FLOW", "SESSION", "STATE", "COMPUTE", "TYPE", "USER", "CALLS", "STORED", "LAST USE",
    ];
    table(&heads, &rows)
}

pub(super) fn session(session: &SessionView) -> String {
    let compute = &session.compute;
    let identity = match &session.identity {
        Identity::UserIdentity => "user_identity".to_owned(),
        Identity::Managed { client_id: None } => "managed".to_owned(),
        Identity::Managed {
            client_id: Some(id),
        } => format!("managed:{id}"),
    };
    let mut shown = vec![
        ("session", session.id.to_string()),
        ("flow", session.flow.to_string()),
        ("user", session.user.to_string()),
        (
            "state",
            format!("{}: {}", session.state.as_str(), session.reason),
        ),
        ("since", time(session.since)),
        (
            "compute",
            format!("{} ({})", compute.name, compute.kind.as_str()),
        ),
        (
            "type",
            format!("{} ({})", compute.instance_type, compute.choice),
        ),
        ("idle time", duration(session.idle_seconds)),
        ("identity", identity),
        ("network", rule(&session.network)),
        ("base image", session.base_image.reference.clone()),
        (
            "instances",
            format!(
                "{} busy, {} idle",
                session.instances.busy, session.instances.idle
            ),
        ),
        ("memory", size(session.memory_bytes)),
        ("CPU time", format!("{:.3} s", session.cpu_seconds)),
        (
            "calls",
            format!(
                "{} ended, {} under way",
                session.calls, session.active_calls
            ),
        ),
        ("created", time(session.created)),
        ("last use", time(session.last_use)),
        ("deleted at", maybe_time(session.evict_at)),
        (
            "revision",
            format!("{}, life {}", session.revision, session.generation),
        ),
    ];
    if let Some(now) = &session.base_image.available {
        let text = format!(
            "{} is {} by now; `flowcell session reset --update-image` takes it",
            now.reference, now.digest
        );
        shown.push(("newer image", text));
    }
    if let Some(note) = &session.base_image.note {
        shown.push(("note", note.clone()));
    }
    shown.extend(memory(session));
    pairs(&shown)
}

/// What may be asked of the network; nothing where all of it may.
pub(super) fn rule(rule: &Rule) -> String {
    let list = |texts: Vec<String>| match texts.as_slice() {
        [] => "none".to_owned(),
        texts => texts.join(" "),
    };
    let hosts = rule.allowed_hosts.as_ref().map(|hosts| {
        let hosts = hosts.iter().map(ToString::to_string).collect();
        format!("hosts {}", list(hosts))
    });
    let methods = rule.allowed_methods.clone();
    let methods = methods.map(|methods| format!("methods {}", list(methods)));
    let both: Vec<String> = hosts.into_iter().chain(methods).collect();
    both.join(", ")
}

pub(super) fn requests(requests: &[RequestView]) -> String {
    let rows: Vec<Vec<String>> = requests
        .iter()
        .map(|request| {
            vec![
                time(request.ended),
                request.node.clone().unwrap_or_default(),
                request.method.clone(),
                request.to.clone(),
                request.outcome.as_str().to_owned(),
                request
                    .status
                    .map(|status| status.to_string())
                    .unwrap_or_default(),
                request.sent.to_string(),
                request.received.to_string(),
                format!("{} ms", request.duration_ms),
                request.error.clone().unwrap_or_default(),
            ]
        })
        .collect();
    let heads = [
        "ENDED", "NODE", "METHOD", "TO", "OUTCOME", "STATUS", "SENT", "RECEIVED", "TOOK", "ERROR",
    ];
    table(&heads, &rows)
}

/// How long something has been stored, by this machine's clock.
fn age(stored: &StoredView) -> String {
    let since = SystemTime::from(stored.since).elapsed();
    duration(since.map_or(0, |age| age.as_secs()))
}

/// What is told of a session's memory and of what is stored of it; nothing of what there is not.
fn memory(session: &SessionView) -> Vec<(&'static str, String)> {
    let mut shown = Vec::new();
    if let Some(stored) = &session.stored {
        let text = format!(
            "{} in {}, since {}",
            size(stored.bytes),
            count(
                usize::try_from(stored.instances).unwrap_or(usize::MAX),
                "instance"
            ),
            time(stored.since)
        );
        shown.push(("stored", text));
    }
    for (name, reasons) in [("kept", &session.kept), ("dropped", &session.dropped)] {
        if !reasons.is_empty() {
            shown.push((name, format!("not stored: {}", reasons.join("; "))));
        }
    }
    if let Some(memory) = &session.memory {
        shown.push(("own memory", size(memory.private_bytes)));
        let image = &memory.image;
        let mut text = image.state.clone();
        if let (Some(bytes), Some(changed)) = (image.bytes, image.changed_bytes) {
            text = format!("{text}: {}, {} changed", size(bytes), size(changed));
        }
        if let Some(reason) = &image.reason {
            text = format!("{text}: {reason}");
        }
        shown.push(("image", text));
    }
    let usage = &session.usage;
    if usage.hibernations > 0 || usage.resumes > 0 {
        let text = format!(
            "{} started in {:.3} s ({} of them went on), {} stored in {:.3} s",
            usage.starts,
            usage.start_seconds,
            usage.resumes,
            usage.hibernations,
            usage.hibernate_seconds
        );
        shown.push(("started", text));
    }
    if let Some(from) = &session.forked_from {
        let text = format!(
            "{} of flow {}, life {}",
            from.session, from.flow, from.generation
        );
        shown.push(("forked from", text));
    }
    shown
}

pub(super) fn history(lines: &[HappeningView]) -> String {
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|line| {
            vec![
                time(line.at),
                line.generation.to_string(),
                line.state.clone(),
                line.by
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
                line.what.clone(),
            ]
        })
        .collect();
    table(&["AT", "LIFE", "STATE", "BY", "WHAT"], &rows)
}

pub(super) fn tools(tools: &[ToolView]) -> String {
    let mut text = Vec::new();
    for tool in tools {
        let rows: Vec<(&str, String)> = [
            ("type", tool.kind.clone()),
            ("source", tool.source.clone()),
            ("description", tool.description.clone()),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect();
        text.push(format!("node {}", tool.node));
        text.extend(indented(&pairs(&rows)));
        let inputs: Vec<Vec<String>> = tool
            .inputs
            .iter()
            .flatten()
            .map(|input| {
                let default = match (&input.default, input.required) {
                    (_, true) => "(required)".to_owned(),
                    (Some(default), false) => default.to_string(),
                    (None, false) => String::new(),
                };
                vec![input.name.clone(), input.types.join(", "), default]
            })
            .collect();
        if !inputs.is_empty() {
            text.extend(indented(&table(&["INPUT", "TYPE", "DEFAULT"], &inputs)));
        }
        for problem in &tool.problems {
            let mut line = format!(
                "{}: [{}] {}",
                problem.severity, problem.class, problem.message
            );
            if let Some(help) = &problem.help {
                line = format!("{line}\nhelp: {help}");
            }
            text.extend(indented(&line));
        }
    }
    text.join("\n")
}

fn indented(text: &str) -> Vec<String> {
    text.lines().map(|line| format!("  {line}")).collect()
}
