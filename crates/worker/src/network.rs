//! What sessions may ask of the network.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use flowcell_egress::{
    Auditor, EgressOptions, Exchange, Gate, HostPattern, Limits, Policy, Rule, SystemLookup, Tls,
};
use flowcell_executor::RunError;
use serde::{Deserialize, Serialize};

use crate::spec::SessionId;

/// Largest file of certificates, in bytes.
const MAX_CERTIFICATES: u64 = 1 << 20;

/// What a session may ask of the network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// What whoever runs the host allows.
    pub host: Rule,
    /// What of that the workspace allows.
    pub workspace: Rule,
    /// What of that the session allows.
    pub session: Rule,
    /// Hosts that may have addresses in a private network.
    pub private: Vec<HostPattern>,
    /// A PEM file of authorities that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Limits.
    pub limits: Limits,
}

/// Whom TLS trusts, read once for each file.
#[derive(Debug, Default)]
pub(crate) struct Trust(Mutex<Vec<(Option<PathBuf>, Arc<Tls>)>>);

impl Trust {
    fn of(&self, file: Option<&Path>) -> Result<Arc<Tls>, RunError> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, tls)) = known.iter().find(|(of, _)| of.as_deref() == file) {
            return Ok(Arc::clone(tls));
        }
        let tls = Arc::new(read(file)?);
        known.push((file.map(Path::to_owned), Arc::clone(&tls)));
        Ok(tls)
    }
}

/// TLS that trusts the authorities of a PEM file, too.
///
/// # Errors
/// When it cannot be read, or has something else.
pub fn read(file: Option<&Path>) -> Result<Tls, RunError> {
    let Some(path) = file else {
        return Ok(Tls::default());
    };
    let wrong = |why: &dyn std::fmt::Display| {
        RunError::usage(format!("the certificates in {}: {why}", path.display()))
    };
    let size = std::fs::metadata(path)
        .map_err(|error| wrong(&error))?
        .len();
    if size > MAX_CERTIFICATES {
        return Err(wrong(&format!("more than {MAX_CERTIFICATES} bytes")));
    }
    let pem = std::fs::read(path).map_err(|error| wrong(&error))?;
    Tls::new(&[pem]).map_err(|error| wrong(&error))
}

impl NetworkSpec {
    pub(crate) fn policy(&self) -> Policy {
        let rules = [
            ("the server", &self.host),
            ("the workspace", &self.workspace),
            ("the session", &self.session),
        ];
        let rules = rules.into_iter().filter(|(_, rule)| !rule.is_empty());
        Policy {
            rules: rules.map(|(whose, rule)| (whose, rule.clone())).collect(),
            private: self.private.clone(),
            private_endpoints: false,
        }
    }

    /// # Errors
    /// When the certificates cannot be read.
    pub(crate) fn gate(
        &self,
        session: &SessionId,
        trust: &Trust,
        listener: RequestListener,
    ) -> Result<Arc<Gate>, RunError> {
        Ok(Gate::new(EgressOptions {
            policy: self.policy(),
            limits: self.limits.clone(),
            lookup: Arc::new(SystemLookup),
            tls: trust.of(self.ca_file.as_deref())?,
            auditor: Arc::new(Audit {
                session: session.clone(),
                listener,
            }),
        }))
    }
}

/// Hears of each request of a session, once it is over.
pub type RequestListener = Arc<dyn Fn(&SessionId, Exchange) + Send + Sync>;

/// Tells of a session's requests.
struct Audit {
    session: SessionId,
    listener: RequestListener,
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Audit").field(&self.session).finish()
    }
}

impl Auditor for Audit {
    fn record(&self, exchange: Exchange) {
        (self.listener)(&self.session, exchange);
    }
}
