//! The HTTP server: routes, authentication, limits of requests, problem details, and the API's description.
//!
//! It has no rules of its own about sessions: requests become events of `flowcell-session`, and its state becomes JSON.
//! What it decides is who may ask for what.

pub mod api;
mod app;
mod auth;
mod config;
mod extract;
mod keys;
mod linger;
mod listen;
mod metrics;
mod problem;
mod router;
mod serve;
mod telemetry;

pub use config::{Config, ConfigError, ENVIRONMENT};
pub use problem::{Kind, Problem};
pub use router::openapi;
pub use serve::{FirstKey, Ready, Serve, ServeError, serve};
pub use telemetry::Traces;
