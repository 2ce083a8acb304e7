//! A flowcell tool in Rust: `text_statistics` counts a text's words and says which are the most frequent.

pub mod statistics;

#[cfg(target_family = "wasm")]
mod component;
