//! Base images: what a session's environment is made of, as files named by their content.
//!
//! A *bundle* `name:version` is a [`Manifest`] over a content-addressed [`Store`]: components (the Python runner, tools)
//! and trees (Python's standard library, packages). Versions are pointers to digests; everything that a digest names is
//! written once and never changed. Compiled code and unpacked trees are caches beside it, and can be deleted at any time.
//!
//! This crate never runs a flow. It runs a bundle's own build scripts, on request, on the machine of whoever builds it.

mod build;
mod compiler;
mod digest;
mod error;
mod manifest;
mod programs;
mod recipe;
mod store;
mod tree;

pub use build::{BuildReport, build};
pub use compiler::{CompileLimits, CompileProcess, Compiler, compile_for_parent};
pub use digest::{Digest, DigestError};
pub use error::{BundleError, IoContext};
pub use manifest::{
    Component, Manifest, Package, PythonInfo, Reference, Start, Tool, ToolInput, Tree,
};
pub use programs::Programs;
pub use recipe::Recipe;
pub use store::{Store, touch, trim};

/// Tells whoever waits what is being done; called at the start of each long step.
pub type Progress = dyn Fn(&str) + Send + Sync;
