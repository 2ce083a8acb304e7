//! Asking before something is lost.

use std::io::{BufRead as _, IsTerminal as _};

use super::error::ClientError;
use crate::terminal;

/// Whether there is somebody to ask.
pub(super) fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks, if there is somebody to ask; an answer but "y" or "yes" ends the command.
pub(crate) async fn confirm(question: &str) -> Result<(), ClientError> {
    if !can_ask() {
        return Ok(());
    }
    terminal::ask(question);
    let (answered, answer) = tokio::sync::oneshot::channel();
    // A thread that nobody waits for: Ctrl-C ends the command all the same.
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line);
        let _ = answered.send(read.map(|_| line));
    });
    let line = answer.await.ok().and_then(Result::ok).unwrap_or_default();
    match line.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(ClientError::new("nothing was done")),
    }
}
