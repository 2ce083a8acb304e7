//! `flowcell serve`, through the real binary over real HTTP.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops where it fails"
)]

mod calls;
mod connections;
mod durability;
mod events;
mod flows;
mod host;
mod oidc;
mod roles;
mod sessions;
