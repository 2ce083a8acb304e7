//! `flowcell serve`, through the real binary over real HTTP.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test stops where it fails, and says when it cannot run"
)]

mod calls;
mod connections;
mod durability;
mod events;
mod flex;
mod flow_connections;
mod flows;
mod hibernation;
mod host;
mod identities;
mod identity_tokens;
mod images;
mod oidc;
mod private_feeds;
mod requests;
mod roles;
mod secret_keys;
mod sessions;
mod streaming;
mod traces;
mod workers;
