//! `flowcell trace`: what happened in calls, of this machine's `flow test` or of a host's sessions.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use flowcell_executor::{RunError, Tokens, Trace};
use flowcell_server::api::traces::{SpanView, TraceSummary, TraceView};
use jiff::Timestamp;

use crate::client::table;
use crate::settings::Settings;
use crate::{Output, terminal};

/// Traces that are kept on this machine.
const KEPT: usize = 100;
/// Longest file of one, in bytes.
const MAX_TRACE: u64 = 64 << 20;

#[derive(Debug, Subcommand)]
pub(crate) enum TraceCommand {
    /// List the traces of late, the last first.
    List,
    /// Show a trace as a tree.
    Show {
        /// The trace, by its number, the beginning of it, or its call; the last one, if absent.
        #[arg(value_name = "TRACE")]
        trace: Option<String>,
    },
}

/// The traces of this machine's runs: a file each, below the home.
struct LocalTraces {
    folder: PathBuf,
}

/// Keeps what happened in a run. A trace that cannot be kept is no failure of the run.
pub(crate) fn keep(settings: &Settings, trace: &Trace) {
    let id = uuid::Uuid::new_v4();
    let Some(view) = TraceView::new(id.as_u128(), "", trace) else {
        return;
    };
    if let Err(error) = LocalTraces::of(settings).put(&view) {
        tracing::debug!(%error, "a trace is not kept");
    }
}

/// Shows what this machine has.
pub(crate) fn run(settings: &Settings, command: &TraceCommand, output: Output) -> ExitCode {
    let traces = LocalTraces::of(settings);
    let shown = match command {
        TraceCommand::List => traces.all().map(|all| {
            let all: Vec<TraceSummary> = all.into_iter().map(|trace| trace.trace).collect();
            print_list(&all, output);
        }),
        TraceCommand::Show { trace } => traces
            .find(trace.as_deref())
            .map(|trace| print(&trace, output)),
    };
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => terminal::fail_with("flowcell.trace", &error),
    }
}

impl LocalTraces {
    fn of(settings: &Settings) -> Self {
        Self {
            folder: settings.home().join("traces"),
        }
    }

    fn put(&self, trace: &TraceView) -> std::io::Result<()> {
        let mut folder = fs::DirBuilder::new();
        folder.recursive(true).mode(0o700).create(&self.folder)?;
        let text = serde_json::to_vec(trace)?;
        let started = trace.trace.started.as_microsecond();
        let name = format!("{started:016}-{}.json", trace.trace.id);
        // It appears whole.
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(&text)?;
        file.persist(self.folder.join(name))?;
        for old in self.files()?.iter().skip(KEPT) {
            let _ = fs::remove_file(old);
        }
        Ok(())
    }

    /// The files, the last first.
    fn files(&self) -> std::io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let paths = entries.flatten().map(|entry| entry.path());
        let mut files: Vec<PathBuf> = paths
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "json")
            })
            .collect();
        files.sort_unstable_by(|a, b| b.cmp(a));
        Ok(files)
    }

    fn all(&self) -> Result<Vec<TraceView>, RunError> {
        let files = self
            .files()
            .map_err(|error| unreadable(&self.folder, &error))?;
        files.iter().take(KEPT).map(|file| read(file)).collect()
    }

    fn find(&self, wanted: Option<&str>) -> Result<TraceView, RunError> {
        let files = self
            .files()
            .map_err(|error| unreadable(&self.folder, &error))?;
        let is_it = |file: &&PathBuf| {
            let name = file.file_stem().unwrap_or_default().to_string_lossy();
            let id = name.split('-').nth(1).unwrap_or_default();
            wanted.is_none_or(|wanted| id.starts_with(&wanted.to_lowercase()))
        };
        match files.iter().find(is_it) {
            Some(file) => read(file),
            None => Err(RunError::usage(match wanted {
                Some(wanted) => format!(
                    "this machine has no trace '{wanted}'; `flowcell trace list` tells which there are, and --session asks a host"
                ),
                None => "this machine has no traces yet; `flowcell flow test` makes one".to_owned(),
            })),
        }
    }
}

fn read(file: &Path) -> Result<TraceView, RunError> {
    let size = fs::metadata(file)
        .map_err(|error| unreadable(file, &error))?
        .len();
    if size > MAX_TRACE {
        let message = format!("{} has more than {MAX_TRACE} bytes", file.display());
        return Err(RunError::usage(message));
    }
    let bytes = fs::read(file).map_err(|error| unreadable(file, &error))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| RunError::usage(format!("{} is no trace: {error}", file.display())))
}

fn unreadable(path: &Path, error: &std::io::Error) -> RunError {
    RunError::usage(format!("{} cannot be read: {error}", path.display()))
}

/// Prints a list of traces.
pub(crate) fn print_list(traces: &[TraceSummary], output: Output) {
    if output == Output::Json {
        terminal::raw(&serde_json::json!({ "items": traces }).to_string());
        return;
    }
    let rows: Vec<Vec<String>> = traces
        .iter()
        .map(|trace| {
            vec![
                trace.id.clone(),
                trace.call.clone(),
                at(trace.started),
                format!("{} ms", trace.duration_ms),
                status(trace.status),
                trace.spans.to_string(),
                tokens(trace.tokens),
            ]
        })
        .collect();
    let heads = [
        "TRACE", "CALL", "STARTED", "TOOK", "STATUS", "SPANS", "TOKENS",
    ];
    terminal::line(&table(&heads, &rows));
}

/// Prints a trace as a tree.
pub(crate) fn print(trace: &TraceView, output: Output) {
    if output == Output::Json {
        terminal::raw(&serde_json::json!(trace).to_string());
    } else {
        terminal::line(tree(&trace.spans).trim_end());
    }
}

/// The spans, each below the one that it is part of.
fn tree(spans: &[SpanView]) -> String {
    let mut parts: Vec<Vec<usize>> = vec![Vec::new(); spans.len()];
    for (place, span) in spans.iter().enumerate() {
        if let Some(of) = span.parent.filter(|parent| *parent < place) {
            parts[of].push(place);
        }
    }
    let mut text = String::new();
    // Those still to be drawn, the next at the end, with what stands before them and before their parts.
    let mut left: Vec<(usize, String, String)> = match spans.first() {
        Some(_) => vec![(0, String::new(), String::new())],
        None => Vec::new(),
    };
    while let Some((place, before, below)) = left.pop() {
        let Some(span) = spans.get(place) else {
            continue;
        };
        let _ = writeln!(text, "{before}{}", described(span));
        for (index, part) in parts[place].iter().rev().enumerate() {
            let (here, further) = if index == 0 {
                ("└─ ", "   ")
            } else {
                ("├─ ", "│  ")
            };
            left.push((*part, format!("{below}{here}"), format!("{below}{further}")));
        }
    }
    text
}

fn described(span: &SpanView) -> String {
    let kind = serde_json::json!(span.kind);
    let mut text = format!(
        "{} {}  {} ms  {}",
        kind.as_str().unwrap_or_default(),
        span.name,
        span.duration_ms,
        status(span.status)
    );
    let spent = span.attributes.as_object().map(Tokens::of);
    let spent = spent.unwrap_or_default();
    if spent != Tokens::default() {
        let _ = write!(text, "  {} tokens", tokens(spent));
    }
    if let Some(error) = &span.error {
        let line = error.lines().next().unwrap_or_default();
        let _ = write!(text, "  {line}");
    }
    text
}

fn tokens(tokens: Tokens) -> String {
    if tokens == Tokens::default() {
        return String::new();
    }
    format!("{}+{}", tokens.input, tokens.output)
}

fn status(status: impl serde::Serialize) -> String {
    let status = serde_json::json!(status);
    status.as_str().unwrap_or_default().to_owned()
}

fn at(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S").to_string()
}
