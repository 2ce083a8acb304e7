//! What people read: answers on standard output, everything else on standard error.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use anstream::{eprint, eprintln, println};
use flowcell_executor::RunError;
use flowcell_server::Traces;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

const BOLD_RED: &str = "\x1b[1;31m";
const CYAN: &str = "\x1b[36m";
const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

/// Shows what happens inside from this level on, unless `RUST_LOG` says otherwise; spans also go to `traces`.
pub(crate) fn start_logging(level: LevelFilter, traces: Option<&Traces>) {
    // What a client of package indexes tries again is told when it gives up.
    let quiet = "reqwest_retry=error".parse();
    let filter = EnvFilter::builder()
        .with_default_directive(level.into())
        .from_env_lossy();
    let filter = match quiet {
        Ok(quiet) if std::env::var_os("RUST_LOG").is_none() => filter.add_directive(quiet),
        _ => filter,
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false);
    tracing_subscriber::registry()
        .with(filter)
        .with(traces.map(Traces::layer))
        .with(lines)
        .init();
}

/// Somebody else's text, without the control characters that a terminal would obey.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && !matches!(character, '\n' | '\t') {
            plain.extend(character.escape_default());
        } else {
            plain.push(character);
        }
    }
    plain
}

/// A line of the answer. A reader that has gone away is no error of ours.
pub(crate) fn line(text: &str) {
    let _ = streamed_line(text);
}

/// The answer as it is: for machines.
pub(crate) fn raw(text: &str) {
    let _ = streamed_raw(text);
}

/// A line of an answer that goes on and on, as long as it is read.
pub(crate) fn streamed_line(text: &str) -> Reader {
    writeln!(anstream::stdout(), "{}", plain(text)).into()
}

/// The same for machines.
pub(crate) fn streamed_raw(text: &str) -> Reader {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).into()
}

/// Whether there is anybody who reads standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    Reads,
    IsGone,
}

impl From<std::io::Result<()>> for Reader {
    fn from(written: std::io::Result<()>) -> Self {
        match written {
            Ok(()) => Self::Reads,
            Err(_) => Self::IsGone,
        }
    }
}

/// What is being done, for steps that take long.
pub(crate) fn progress(step: &str) {
    eprintln!("{DIM}{step} ...{RESET}");
}

/// Something that the user may want to know.
pub(crate) fn note(text: &str) {
    eprintln!("{CYAN}note:{RESET} {}", plain(text));
}

/// An error that ends the command.
pub(crate) fn fail(message: &str) -> ExitCode {
    eprintln!("{BOLD_RED}error:{RESET} {message}");
    ExitCode::FAILURE
}

/// An error that ends the command, in words that may be somebody else's, and the ways out.
pub(crate) fn fail_helping(message: &str, help: &[String]) -> ExitCode {
    let mut text = plain(message);
    for line in help {
        let _ = write!(text, "\n  {CYAN}help:{RESET} {}", plain(line));
    }
    fail(&text)
}

/// What is asked for, or what comes; it follows on the same line.
pub(crate) fn prompt(text: &str) {
    eprint!("{CYAN}{text}{RESET}");
    let _ = std::io::stderr().flush();
}

/// A part of an answer.
pub(crate) fn part(text: &str) {
    let mut out = anstream::stdout();
    let _ = write!(out, "{}", plain(text)).and_then(|()| out.flush());
}

/// A question; the answer is typed behind it.
pub(crate) fn ask(question: &str) {
    eprint!("{} [y/N] ", plain(question));
    let _ = std::io::stderr().flush();
}

/// A flow's error, with the tool's frames and the way out.
pub(crate) fn fail_with(command: &str, error: &RunError) -> ExitCode {
    let mut text = format!(
        "{command} failed with {}: {}",
        plain(&error.class),
        plain(&error.message)
    );
    if let Some(traceback) = &error.traceback {
        let _ = write!(text, "\n{}", plain(traceback.trim_end()));
    }
    if let Some(node) = error
        .node
        .as_ref()
        .filter(|node| !error.message.contains(*node))
    {
        let _ = write!(text, "\n  {CYAN}node:{RESET} {node}");
    }
    if let Some(help) = &error.help {
        let _ = write!(text, "\n  {CYAN}help:{RESET} {help}");
    }
    fail(&text)
}

/// A heading and what belongs to it.
pub(crate) fn section(heading: &str, text: &str) {
    eprintln!("{DIM}{heading}{RESET}");
    for line in plain(text).lines() {
        eprintln!("{DIM}  |{RESET} {line}");
    }
}

/// One finding of a check.
pub(crate) fn finding(is_error: bool, place: &str, class: &str, message: &str, help: Option<&str>) {
    let (color, word) = if is_error {
        (BOLD_RED, "error")
    } else {
        (CYAN, "warning")
    };
    println!(
        "{place}: {color}{word}:{RESET} [{class}] {}",
        plain(message)
    );
    if let Some(help) = help {
        println!("  {CYAN}help:{RESET} {help}");
    }
}
