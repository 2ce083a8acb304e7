//! What a flow may ask of the network when it runs from the command line.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use flowcell_egress::{
    Auditor, EgressOptions, Exchange, Gate, HostPattern, Limits, Policy, Rule, SystemLookup,
};
use flowcell_executor::RunError;
use flowcell_worker::read_authorities;

/// What a flow may ask.
#[derive(Debug, Args)]
pub(crate) struct NetworkArgs {
    /// Hosts that the flow's tools may ask: host, host:port, host:*, *.domain or *; all that are public without this.
    #[arg(long = "allow-host", value_name = "HOST")]
    hosts: Vec<HostPattern>,
    /// Methods that they may use, like GET; all without this.
    #[arg(long = "allow-method", value_name = "METHOD")]
    methods: Vec<String>,
    /// Hosts that may have addresses in a private network, or this machine's own.
    #[arg(long = "allow-private-host", value_name = "HOST")]
    private: Vec<HostPattern>,
    /// A PEM file with certificates of authorities that the flow's requests trust besides the system's.
    #[arg(long = "ca-file", value_name = "FILE")]
    authorities: Option<PathBuf>,
}

impl NetworkArgs {
    /// # Errors
    /// When a method is none, or the certificates cannot be read.
    pub(crate) fn gate(&self) -> Result<Arc<Gate>, RunError> {
        let tls = read_authorities(self.authorities.as_deref())?;
        // What is allowed to be private is allowed.
        let hosts = || [self.hosts.as_slice(), &self.private].concat();
        let rule = Rule {
            allowed_hosts: (!self.hosts.is_empty()).then(hosts),
            allowed_methods: (!self.methods.is_empty()).then(|| self.methods.clone()),
        };
        rule.check()
            .map_err(|error| RunError::usage(error.to_string()))?;
        Ok(Gate::new(EgressOptions {
            policy: Policy {
                rules: vec![("this command", rule)],
                private: self.private.clone(),
                // Connections are the user's own here.
                private_endpoints: true,
            },
            limits: Limits::default(),
            lookup: Arc::new(SystemLookup),
            tls: Arc::new(tls),
            auditor: Arc::new(Log),
        }))
    }
}

/// Requests are in the log, `RUST_LOG=flowcell=info`.
#[derive(Debug)]
struct Log;

impl Auditor for Log {
    fn record(&self, exchange: Exchange) {
        tracing::info!(?exchange, "a request");
    }
}
