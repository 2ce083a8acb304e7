//! The client against registries: a real one, and some that mean harm. All of them listen on loopback.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops where it fails"
)]

mod hostile;
mod installed;
mod limits;
mod pulls;
mod real;
mod stub;
mod tokens;

use std::path::PathBuf;
use std::time::Duration;

use flowcell_registry::{Blob, Client, Credentials, Digest, ImageReference, Settings};

/// Settings for tests: waits between tries are short, so that none takes long.
fn settings() -> Settings {
    Settings {
        retries: 2,
        retry_delay: Duration::from_millis(1),
        ..Settings::default()
    }
}

fn client() -> Client {
    Client::new(settings()).unwrap()
}

fn image(registry: &str, rest: &str) -> ImageReference {
    format!("{registry}/{rest}").parse().unwrap()
}

fn blob(content: &[u8]) -> Blob {
    Blob {
        digest: Digest::of(content),
        size: content.len() as u64,
    }
}

fn basic(registry: &str) -> Credentials {
    Credentials::basic(registry, "ana", "opensesame").unwrap()
}

fn silent(_: &Digest, _: u64, _: u64) {}

/// An error with all its causes, as a person sees it.
fn text(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

/// A folder for files that are pulled.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn target(&self) -> PathBuf {
        self.0.path().join("blob")
    }

    fn partial(&self) -> PathBuf {
        self.0.path().join(".partial-blob")
    }

    /// The names of all files in it.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<_> = entries
            .map(|entry| name(entry).into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

async fn is_pending(mut future: std::pin::Pin<&mut impl Future>) -> bool {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(future.as_mut().poll(context).is_pending())
    })
    .await
}
