//! Requests through a session's way out, to servers on this machine.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

mod encrypted;
mod requests;
mod secrets;
mod server;
mod ssrf;
