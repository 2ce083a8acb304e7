//! What can go wrong between this command and a host, and how people and scripts get to know it.

use std::error::Error;
use std::process::ExitCode;

use flowcell_executor::{RunError, error_json};
use flowcell_server::Problem;
use serde_json::{Map, Value, json};

use crate::{Output, terminal};

/// What people read when the host is not there.
const NO_HOST: &str = "start a host with `flowcell serve`, or name another one with --host, FLOWCELL_HOST or a profile";

/// A command that could not be done.
#[derive(Debug)]
pub(crate) enum ClientError {
    /// The host says no.
    Problem {
        problem: Box<Problem>,
        retry_after: Option<u64>,
    },
    /// The host does not answer.
    Unreachable { host: String, cause: String },
    /// A file of this machine.
    Run(Box<RunError>),
    /// Anything else: what is wrong, and the way out.
    Other {
        message: String,
        help: Option<String>,
    },
}

impl ClientError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self::Other {
            message: message.into(),
            help: None,
        }
    }

    pub(crate) fn with_help(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Other {
            message: message.into(),
            help: Some(help.into()),
        }
    }

    /// A request that got no answer.
    pub(crate) fn unreachable(host: &str, error: &reqwest::Error) -> Self {
        Self::Unreachable {
            host: host.to_owned(),
            cause: innermost(error),
        }
    }

    /// The status of the answer that it is, if there was one.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Problem { problem, .. } => Some(problem.status),
            _ => None,
        }
    }

    /// Prints the error: for people on standard error, for scripts on standard output.
    pub(crate) fn report(&self, output: Output) -> ExitCode {
        if output == Output::Json {
            terminal::raw(&json!({ "error": self.json() }).to_string());
            return ExitCode::FAILURE;
        }
        let (message, help) = match self {
            Self::Problem {
                problem,
                retry_after,
            } => (
                format!("{}: {}", problem.title, problem.detail),
                help(problem, *retry_after),
            ),
            Self::Unreachable { host, cause } => (
                format!("cannot reach {host}: {cause}"),
                vec![way_out(host, cause).to_owned()],
            ),
            Self::Run(error) => (
                format!("{}: {}", error.class, error.message),
                error.help.iter().cloned().collect(),
            ),
            Self::Other { message, help } => (message.clone(), help.iter().cloned().collect()),
        };
        terminal::fail_helping(&message, &help)
    }

    fn json(&self) -> Value {
        match self {
            Self::Problem { problem, .. } => {
                serde_json::to_value(problem).unwrap_or_else(|_| json!({}))
            }
            Self::Unreachable { host, cause } => json!({
                "title": "The host cannot be reached",
                "detail": format!("cannot reach {host}: {cause}"),
                "help": way_out(host, cause),
            }),
            Self::Run(error) => error_json(error),
            Self::Other { message, help } => {
                let mut entry = Map::new();
                entry.insert("detail".to_owned(), message.as_str().into());
                if let Some(help) = help {
                    entry.insert("help".to_owned(), help.as_str().into());
                }
                entry.into()
            }
        }
    }
}

impl From<RunError> for ClientError {
    fn from(error: RunError) -> Self {
        Self::Run(Box::new(error))
    }
}

fn way_out(host: &str, cause: &str) -> &'static str {
    if host.starts_with("https:") && cause.to_ascii_lowercase().contains("certificate") {
        "a certificate of your own is trusted when FLOWCELL_CA names the PEM file of whoever signed it"
    } else {
        NO_HOST
    }
}

/// What the problem's kind lets people do.
fn help(problem: &Problem, retry_after: Option<u64>) -> Vec<String> {
    let mut help = Vec::new();
    if let Some(code) = &problem.code {
        help.push(format!("the error's class is {code}"));
    }
    match problem.kind.rsplit('/').next().unwrap_or_default() {
        "unauthorized" => help.push(
            "give your key in FLOWCELL_KEY, or keep it in a profile: flowcell profile set NAME --host URL --key-stdin"
                .to_owned(),
        ),
        "stale" => help.push("look at it again before you change it".to_owned()),
        _ => {}
    }
    if let Some(quota) = problem.more.get("quota") {
        help.extend(lacking(quota));
    }
    if let Some(seconds) = retry_after {
        help.push(format!("try again in {seconds} s"));
    }
    help
}

/// What of a quota is too little.
fn lacking(quota: &Value) -> Option<String> {
    let (wanted, free) = (&quota["wanted"], &quota["free"]);
    let lacking: Vec<String> = wanted
        .as_object()?
        .iter()
        .filter(|(name, amount)| amount.as_f64() > free[name.as_str()].as_f64())
        .map(|(name, amount)| format!("{name}: {amount} wanted, {} free", free[name.as_str()]))
        .collect();
    (!lacking.is_empty()).then(|| lacking.join("; "))
}

/// The cause of a failure that is nearest to the network.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    cause.to_string()
}
