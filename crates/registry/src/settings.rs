//! What a client may do, and how much of it.

use std::time::Duration;

use flowcell_egress::HostPattern;

use crate::error::RegistryError;
use crate::place::Place;
use crate::reference::ImageReference;

/// What a client may do, and how much of it. All limits are enforced, whatever a registry announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Most bytes of a manifest. 4 MiB, which the OCI distribution specification asks registries to accept at least
    /// ("Pushing manifests").
    pub max_manifest: u64,
    /// Most bytes of a config. 4 MiB.
    pub max_config: u64,
    /// Most bytes of a blob. 4 GiB.
    pub max_blob: u64,
    /// Most bytes of an artifact: of the config and all layers that a manifest names, or of all blobs of one call. 8 GiB.
    pub max_artifact: u64,
    /// Most layers of a manifest, and blobs of one call. 128.
    pub max_layers: usize,
    /// Most tags of a listing. 10,000.
    pub max_tags: usize,
    /// Blobs that are moved at the same time, by all uses of a client together; at least 1. 4.
    pub max_transfers: usize,
    /// How often a failed request is tried again. 4.
    pub retries: u32,
    /// The wait before the first of these; it doubles from one to the next. Of each wait, a random half or less is left
    /// out. 500 ms.
    pub retry_delay: Duration,
    /// The longest wait between two tries. 10 s.
    pub max_retry_delay: Duration,
    /// The longest rest that a registry can ask for (`Retry-After`); if it wants more, it is not tried again. 60 s.
    pub max_retry_after: Duration,
    /// How long a connection may take to be made. 10 s.
    pub connect_timeout: Duration,
    /// How long nothing may come, or be taken. 60 s.
    pub idle_timeout: Duration,
    /// How long one call may take, with all its tries; for [`pull_blobs`](crate::Client::pull_blobs) each blob. 1 h.
    pub whole_timeout: Duration,
    /// The registries that may be used; any if there is no list.
    pub registries: Option<Vec<HostPattern>>,
    /// The hosts that a registry may refer to for tokens, content and uploads, besides itself; any if there is no list.
    pub other_hosts: Option<Vec<HostPattern>>,
    /// Certificates (PEM, one or more in each) of authorities that are trusted besides the system's.
    pub root_certificates: Vec<Vec<u8>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_manifest: 4 << 20,
            max_config: 4 << 20,
            max_blob: 4 << 30,
            max_artifact: 8 << 30,
            max_layers: 128,
            max_tags: 10_000,
            max_transfers: 4,
            retries: 4,
            retry_delay: Duration::from_millis(500),
            max_retry_delay: Duration::from_secs(10),
            max_retry_after: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            whole_timeout: Duration::from_secs(3600),
            registries: None,
            other_hosts: None,
            root_certificates: Vec::new(),
        }
    }
}

impl Settings {
    /// Whether the registry of an image may be used.
    pub fn allows(&self, image: &ImageReference) -> bool {
        let matches = |allowed: &Vec<HostPattern>| {
            Place::of(image).is_ok_and(|place| place.origin().matches(allowed))
        };
        self.registries.as_ref().is_none_or(matches)
    }

    /// # Errors
    /// When nothing could be done with them.
    pub(crate) fn check(&self) -> Result<(), RegistryError> {
        let timeouts = [self.connect_timeout, self.idle_timeout, self.whole_timeout];
        if self.max_transfers == 0 {
            return Err(RegistryError::Settings(
                "`max_transfers` must be 1 or more".to_owned(),
            ));
        }
        if timeouts.iter().any(Duration::is_zero) {
            return Err(RegistryError::Settings(
                "timeouts must be longer than 0".to_owned(),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_allow_nothing_are_refused() {
        let settings = Settings {
            max_transfers: 0,
            ..Settings::default()
        };
        assert!(settings.check().is_err());
        let settings = Settings {
            idle_timeout: Duration::ZERO,
            ..Settings::default()
        };
        assert!(settings.check().is_err());
        assert!(Settings::default().check().is_ok());
    }
}
