//! Which host, which workspace, with which key: options before the environment before the profile.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use flowcell_session::Name;
use reqwest::{Certificate, Url};

use super::api::Api;
use super::error::ClientError;
use super::profiles::{Profile, Profiles};
use crate::Output;

/// The host that `flowcell serve` makes without being told otherwise.
const DEFAULT_HOST: &str = "http://127.0.0.1:8420";
/// The workspace that a new host has.
const DEFAULT_WORKSPACE: &str = "default";
const CONNECT: Duration = Duration::from_secs(10);
const HEADING: &str = "Host";

/// Options of all commands that speak to a host. The key comes from FLOWCELL_KEY or a profile only: arguments can be
/// seen by everybody on this machine.
#[derive(Debug, Args)]
pub(crate) struct Connection {
    /// The host's address; its key is in FLOWCELL_KEY or in the profile.
    #[arg(
        long,
        global = true,
        env = "FLOWCELL_HOST",
        value_name = "URL",
        help_heading = HEADING
    )]
    host: Option<String>,
    /// The workspace.
    #[arg(
        long,
        global = true,
        env = "FLOWCELL_WORKSPACE",
        value_name = "NAME",
        help_heading = HEADING
    )]
    workspace: Option<String>,
    /// The profile with the host, workspace and key to use (`flowcell profile list`).
    #[arg(
        long,
        global = true,
        env = "FLOWCELL_PROFILE",
        value_name = "NAME",
        help_heading = HEADING
    )]
    profile: Option<String>,
    /// How to print the answer.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(crate) output: Output,
}

impl Connection {
    /// Whether a host is named, by whatever means.
    pub(crate) fn names_host(&self) -> bool {
        let given = [&self.host, &self.workspace, &self.profile];
        let given = given.into_iter().flatten().any(|text| !text.is_empty());
        // What is wrong with the profiles is said when the host is asked.
        given || Profiles::read().map_or(true, |profiles| profiles.has_current())
    }

    pub(crate) fn open(&self) -> Result<Api, ClientError> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let profile = Profiles::read()?.chosen(given(&self.profile).as_deref())?;
        let profile = profile.unwrap_or_default();
        let host = given(&self.host);
        let key = std::env::var("FLOWCELL_KEY").ok();
        let key = key
            .map(|key| key.trim().to_owned())
            .filter(|key| !key.is_empty());
        let key = key.or_else(|| key_for(&profile, host.as_deref()));
        let host = host.or(profile.host);
        let base = address(host.as_deref().unwrap_or(DEFAULT_HOST))?;
        let workspace = given(&self.workspace).or(profile.workspace);
        let workspace = workspace.as_deref().unwrap_or(DEFAULT_WORKSPACE);
        let workspace = Name::new(workspace)
            .map_err(|error| ClientError::new(format!("--workspace: {error}")))?;
        if key.as_deref().is_some_and(|key| !is_key(key)) {
            return Err(ClientError::new(
                "FLOWCELL_KEY holds no key: there are spaces or control characters in it",
            ));
        }
        Ok(Api {
            http: http(&base)?,
            base,
            workspace,
            key,
            output: self.output,
        })
    }
}

/// Whether a text can be sent as a key.
pub(super) fn is_key(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic())
}

/// The profile's key, which is for the profile's host: no other one gets it.
fn key_for(profile: &Profile, host: Option<&str>) -> Option<String> {
    let own = profile.host.as_deref().unwrap_or(DEFAULT_HOST);
    let is_its_host = host.is_none_or(|host| match (address(host), address(own)) {
        (Ok(host), Ok(own)) => host == own,
        _ => false,
    });
    profile.key.clone().filter(|_| is_its_host)
}

/// Reads a host's address.
pub(super) fn address(text: &str) -> Result<Url, ClientError> {
    let wrong = |problem: &str| {
        ClientError::with_help(
            format!("'{text}' is no address of a host: {problem}"),
            format!("an address is like {DEFAULT_HOST}"),
        )
    };
    if !text.starts_with("http://") && !text.starts_with("https://") {
        return Err(wrong("it begins neither with http:// nor with https://"));
    }
    let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("it must not hold a user or password"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("it must not hold '?' or '#'"));
    }
    Ok(url)
}

fn http(base: &Url) -> Result<reqwest::Client, ClientError> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("flowcell/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        // A key is for the host that was named, and for none that it names.
        .redirect(reqwest::redirect::Policy::none());
    let is_this_machine = match base.host_str() {
        Some("localhost" | "[::1]") => true,
        Some(host) => host.starts_with("127."),
        None => false,
    };
    if is_this_machine {
        builder = builder.no_proxy();
    }
    let file = std::env::var_os("FLOWCELL_CA").filter(|file| !file.is_empty());
    if let Some(file) = file.map(PathBuf::from) {
        let name = file.display();
        let pem = std::fs::read(&file).map_err(|error| {
            ClientError::new(format!("FLOWCELL_CA: cannot read {name}: {error}"))
        })?;
        let certificates = Certificate::from_pem_bundle(&pem)
            .ok()
            .filter(|certificates| !certificates.is_empty());
        let certificates = certificates.ok_or_else(|| {
            ClientError::new(format!(
                "FLOWCELL_CA: {name} holds no certificate in PEM format"
            ))
        })?;
        builder = builder.tls_certs_merge(certificates);
    }
    builder
        .build()
        .map_err(|error| ClientError::new(format!("cannot make an HTTP client: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        for good in ["http://127.0.0.1:8420", "https://flows.example.org/base/"] {
            assert!(address(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "127.0.0.1:8420",
            "localhost:8420",
            "ftp://example.org",
            "http://",
            "http://user:password@example.org",
            "http://example.org/?x",
        ] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_goes_to_its_own_host_only() {
        let profile = Profile {
            host: Some("https://example.org".to_owned()),
            workspace: None,
            key: Some("fc_1_2".to_owned()),
        };
        let key = |host| key_for(&profile, host);
        assert!(key(None).is_some());
        assert!(key(Some("https://example.org/")).is_some());
        assert!(key(Some("http://example.org")).is_none());
        assert!(key(Some("https://example.com")).is_none());
    }
}
