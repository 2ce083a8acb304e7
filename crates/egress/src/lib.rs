//! The way out: what becomes of the requests that guests make.
//!
//! A session has one [`Gate`]. Each request is held to its [`Policy`] by name, and to what is public by address: the
//! addresses that a name has are looked up here, checked, and are those that are connected to. Nothing follows redirects, so
//! where one leads is another request.
//!
//! Guests know *placeholders* in the place of secrets. What a request to a secret's own origin has of them becomes the secret
//! on its way out, and the secret becomes the placeholder again in the answer; a request to anywhere else that has one is
//! refused ([`Secrets`]). Each request leaves an [`Exchange`] for whoever audits.

mod address;
mod body;
mod egress;
mod error;
mod exchange;
mod host;
mod lookup;
mod origin;
mod policy;
mod secrets;
mod tls;

pub use address::is_public;
pub use body::{Body, BoxError};
pub use egress::{Egress, EgressOptions, Gate, Limits, Times};
pub use error::{EgressError, Part, Wait};
pub use exchange::{Auditor, Exchange, Outcome};
pub use host::{HTTPS, HostPattern, HostPatternError};
pub use lookup::{Lookup, SystemLookup};
pub use origin::Origin;
pub use policy::{MAX_HOSTS, MAX_METHODS, MAX_RULE, Policy, Rule, RuleError};
pub use secrets::{Keeper, PLACEHOLDER, Secret, Secrets};
pub use tls::Tls;
