//! Base images: what a session's environment is made of, as files named by their content.
//!
//! A *bundle* `name:version` is a [`Manifest`] over a content-addressed [`Store`]: components (the Python runner, tools)
//! and trees (Python's standard library, packages). Versions are pointers to digests; everything that a digest names is
//! written once and never changed. Compiled code and unpacked trees are caches beside it, and can be deleted at any time.
//!
//! Bundles travel between stores as artifacts in registries ([`push`], [`pull`]). What was pulled is a stranger's: its
//! manifest is checked, its trees are unpacked within limits, and its components are compiled by the [`Compiler`] for
//! tenants' code.
//!
//! This crate never runs a flow. It runs a bundle's own build scripts, on request, on the machine of whoever builds it.

mod app;
mod build;
mod check;
mod collect;
mod compiler;
mod component;
mod distribution;
mod error;
mod lease;
mod manifest;
mod name;
mod names;
mod oci;
mod packages;
mod programs;
mod recipe;
mod store;
mod survey;
mod tree;
mod uses;

pub use app::{App, AppIndex, AppParts, ImportedApp, MAX_APP, write_app};
pub use build::{BuildReport, Ingredients, build};
pub use check::MAX_MEMORY;
pub use collect::{
    Amount, Collected, Collection, DEFAULT_STORE_SIZE, Removed, StoreStats, collect, stats,
};
pub use compiler::{CompileLimits, CompileProcess, Compiler, compile_for_parent};
pub use component::{ComponentArtifact, component_artifact, describe};
pub use distribution::{
    Inspected, Layer, Transfer, TransferProgress, Transferred, inspect, pull, push,
};
pub use error::{BundleError, IoContext, chain};
pub use flowcell_registry::{Digest, DigestError};
pub use lease::{Lease, Thing, Used};
pub use manifest::{
    Component, Manifest, Package, PythonInfo, Reference, Start, Tool, ToolInput, Tree,
};
pub use name::ImageName;
pub use names::{Named, Pulled};
pub use programs::Programs;
pub use recipe::{ComponentRecipe, FileRecipe, PythonRecipe, Recipe};
pub use store::{PartialFolder, Store, touch, trim};
pub use survey::Kind;

/// Tells whoever waits what is being done; called at the start of each long step.
pub type Progress = dyn Fn(&str) + Send + Sync;
