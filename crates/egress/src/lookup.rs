//! Names become addresses.

use std::io;
use std::net::{IpAddr, SocketAddr};

/// Looks names up.
#[async_trait::async_trait]
pub trait Lookup: std::fmt::Debug + Send + Sync {
    /// The addresses of a host.
    ///
    /// # Errors
    /// When it has none.
    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// As the system does it.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemLookup;

#[async_trait::async_trait]
impl Lookup for SystemLookup {
    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let found = tokio::net::lookup_host((host, 0)).await?;
        Ok(found.map(|address: SocketAddr| address.ip()).collect())
    }
}
