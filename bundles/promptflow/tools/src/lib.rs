//! Prompt flow's built-in tools: prompts rendered as Jinja2 renders them, and calls of models and services.
//!
//! Templates are a tenant's text, so they are parsed and rendered here, in a sandbox, never by the host. Secrets are not
//! here: a connection's key is a text without meaning, which the host replaces on its way out.

pub mod coerce;
pub mod connection;
pub mod failure;
pub mod http;
pub mod integer;
pub mod jinja_error;
pub mod messages;
pub mod number;
pub mod openai;
pub mod prompt;
pub mod python;
pub mod tags;
pub mod tools;
pub mod variables;

#[cfg(target_family = "wasm")]
mod component;
