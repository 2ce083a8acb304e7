//! Prompt flow's built-in tools: prompts rendered as Jinja2 renders them, and what a prompt asks for.
//!
//! Templates are a tenant's text, so they are parsed and rendered here, in a sandbox, never by the host.

pub mod integer;
pub mod jinja_error;
pub mod number;
pub mod prompt;
pub mod python;
pub mod tags;
pub mod variables;

#[cfg(target_family = "wasm")]
mod component;
