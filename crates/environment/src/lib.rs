//! What a session's Python code finds beside its flow: requirements, resolved, locked and installed.
//!
//! ```text
//! requirements.txt ──gather──► Requirements ──resolve──► Lock (pylock.toml)
//!                                                          │ choose a wheel of each package
//!                                                          ▼
//!              wheels/<sha256>.whl ──unpack, compile──► layers/<sha256>-cp<version>-<bundle>
//!                                                          │ link side by side, import what lost compiled modules
//!                                                          ▼
//!                                                     sites/<digest>: what instances see as /site
//! ```
//! Everything on the way is named by digest, made once for all sessions, and appears whole or not at all. The code of
//! packages runs in sandboxes only.

mod carried;
mod components;
mod environments;
mod error;
mod fetch;
mod index;
mod layer;
mod local;
mod lock;
mod native;
mod platform;
mod python;
mod requirements;
mod resolve;
mod shares;
mod site;

pub use carried::{CarriedComponent, CarriedWheel, licenses};
pub use components::keep_component;
pub use environments::{Environments, Image, Locked};
pub use error::EnvironmentError;
pub use fetch::keep_wheel;
pub use index::{Credential, Credentials, IndexSettings};
pub use lock::{Archive, LOCK_FILE, Lock, LockedComponent, LockedHere, LockedPackage, LockedWheel};
pub use python::SITE;
pub use requirements::Requirements;
pub use site::{Site, SiteComponent, SitePackage};
