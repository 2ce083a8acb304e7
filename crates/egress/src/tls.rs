//! Whom TLS trusts.

use std::sync::{Arc, OnceLock};

use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls_platform_verifier::Verifier;

use crate::error::EgressError;

/// TLS as the system trusts it, with more authorities. What that takes (milliseconds, for the system's certificates) is done
/// at the first use.
#[derive(Debug, Default)]
pub struct Tls {
    authorities: Vec<CertificateDer<'static>>,
    config: OnceLock<ClientConfig>,
}

impl Tls {
    /// With more authorities: PEM certificates, one or more in each.
    ///
    /// # Errors
    /// When one is none.
    pub fn new(authorities: &[Vec<u8>]) -> Result<Self, EgressError> {
        let mut all = Vec::new();
        for pem in authorities {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|error| setup(&error))?;
                all.push(certificate);
            }
        }
        Ok(Self {
            authorities: all,
            config: OnceLock::new(),
        })
    }

    /// # Errors
    /// When the system's certificates cannot be read.
    pub(crate) fn config(&self) -> Result<ClientConfig, EgressError> {
        if let Some(config) = self.config.get() {
            return Ok(config.clone());
        }
        let provider = Arc::new(default_provider());
        let verifier =
            Verifier::new_with_extra_roots(self.authorities.clone(), Arc::clone(&provider));
        let verifier = verifier.map_err(|error| setup(&error))?;
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| setup(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(self.config.get_or_init(|| config).clone())
    }
}

fn setup(error: &dyn std::fmt::Display) -> EgressError {
    EgressError::Setup(error.to_string())
}
