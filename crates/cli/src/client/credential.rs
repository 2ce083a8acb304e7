//! `flowcell credential …`.

use std::io::Read as _;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use flowcell_server::api::credentials::{CredentialView, PutCredential};
use flowcell_session::{CredentialKind, MAX_SECRET, Name};
use reqwest::{Method, Url};

use super::api::Api;
use super::error::ClientError;
use super::table::{pairs, table, time};

/// What package indexes, registries and endpoints of connections get to know: yours, or an identity's. Nobody can read them again.
#[derive(Debug, Subcommand)]
pub(crate) enum CredentialCommand {
    /// List kinds and hosts.
    List(OfIdentity),
    /// Set a credential, in place of any other for the same kind and host: a token, with --username a password, or with --tenant
    /// and --client-id the secret of a client that gets tokens for a connection.
    Set(Box<SetArgs>),
    /// Delete a credential.
    Delete(WhichArgs),
}

#[derive(Debug, Args)]
pub(crate) struct OfIdentity {
    /// An identity of the workspace (owners only); yours, if absent.
    #[arg(long, value_name = "NAME")]
    identity: Option<Name>,
}

#[derive(Debug, Args)]
pub(crate) struct WhichArgs {
    /// The only host that it is sent to; with its port unless that is 443.
    #[arg(value_name = "HOST[:PORT]")]
    for_host: String,
    /// What it is for.
    #[arg(long, value_enum, value_name = "KIND")]
    kind: KindArg,
    #[command(flatten)]
    of: OfIdentity,
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// The user whose password it is; without it, it is a token.
    #[arg(long, value_name = "USER")]
    username: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
    #[command(flatten)]
    value: ValueArgs,
}

/// Where tokens for a connection come from; the secret is the client's.
#[derive(Debug, Args)]
struct ClientArgs {
    /// The tenant of a client (a service principal) that gets tokens for a connection.
    #[arg(
        long,
        value_name = "TENANT",
        requires = "client_id",
        conflicts_with = "username"
    )]
    tenant: Option<String>,
    /// The client's number.
    #[arg(long, value_name = "ID", requires = "tenant")]
    client_id: Option<String>,
    /// Who gives tokens, instead of https://login.microsoftonline.com.
    #[arg(long, value_name = "URL", requires = "tenant")]
    authority: Option<String>,
    /// What tokens are for, instead of what the connection's type needs at Azure.
    #[arg(long, value_name = "SCOPE", requires = "tenant")]
    scope: Option<String>,
}

/// Where the secret is. It is on no command line, where everybody on the machine can read it.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct ValueArgs {
    /// Read token, password or secret from standard input.
    #[arg(long)]
    value_stdin: bool,
    /// Read it from a file.
    #[arg(long, value_name = "FILE")]
    value_file: Option<PathBuf>,
    /// Read it from an environment variable.
    #[arg(long, value_name = "VARIABLE")]
    value_env: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum KindArg {
    /// An index of Python packages.
    Index,
    /// A registry of base images.
    Registry,
    /// The endpoint of connections that sign in with an identity (auth_mode: meid_token).
    Connection,
}

impl From<KindArg> for CredentialKind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::Index => Self::Index,
            KindArg::Registry => Self::Registry,
            KindArg::Connection => Self::Connection,
        }
    }
}

impl OfIdentity {
    fn path<'a>(&'a self, api: &Api, more: &[&'a str]) -> Url {
        let own = ["me", "credentials"];
        match &self.identity {
            None => api.here(own.into_iter().chain(more.iter().copied())),
            Some(identity) => {
                let path = ["identities", identity.as_str(), "credentials"];
                api.here(path.into_iter().chain(more.iter().copied()))
            }
        }
    }

    fn whose(&self) -> String {
        let of = |identity: &Name| format!("identity {identity}");
        self.identity.as_ref().map_or("you".to_owned(), of)
    }
}

impl WhichArgs {
    fn path(&self, api: &Api) -> Url {
        let kind = CredentialKind::from(self.kind).as_str();
        self.of.path(api, &[kind, &self.for_host])
    }
}

impl ValueArgs {
    /// The secret, without the end of its line.
    fn read(&self) -> Result<String, ClientError> {
        // One that is longer is refused by the host, which says how long it may be.
        let most = MAX_SECRET as u64 + 16;
        let mut text = String::new();
        let (place, read) = if let Some(path) = &self.value_file {
            let read = std::fs::File::open(path)
                .and_then(|file| file.take(most).read_to_string(&mut text));
            (path.display().to_string(), read)
        } else if let Some(name) = &self.value_env {
            text = std::env::var(name).map_err(|_| {
                ClientError::new(format!(
                    "there is no text in the environment variable {name}"
                ))
            })?;
            (name.clone(), Ok(0))
        } else {
            let read = std::io::stdin().take(most).read_to_string(&mut text);
            ("standard input".to_owned(), read)
        };
        read.map_err(|error| ClientError::new(format!("cannot read {place}: {error}")))?;
        let text = text.trim_end_matches(['\r', '\n']).to_owned();
        if text.is_empty() {
            return Err(ClientError::new(format!("{place} is empty")));
        }
        Ok(text)
    }
}

pub(super) async fn run(api: &Api, command: CredentialCommand) -> Result<(), ClientError> {
    match command {
        CredentialCommand::List(of) => {
            let items = api.list(of.path(api, &[])).await?;
            api.show_list(items, credentials, "there are no credentials")
        }
        CredentialCommand::Set(args) => {
            let args = *args;
            let value = args.value.read()?;
            let ClientArgs {
                tenant,
                client_id,
                authority,
                scope,
            } = args.client;
            let body = match args.username {
                None if tenant.is_some() => PutCredential {
                    tenant,
                    client_id,
                    client_secret: Some(value),
                    authority,
                    scope,
                    ..PutCredential::default()
                },
                None => PutCredential {
                    token: Some(value),
                    ..PutCredential::default()
                },
                Some(username) => PutCredential {
                    username: Some(username),
                    password: Some(value),
                    ..PutCredential::default()
                },
            };
            let request = api.request(Method::PUT, args.which.path(api)).json(&body);
            let answer = api.send(request).await?;
            api.show(&answer, |view: &CredentialView| {
                pairs(&[
                    ("host", view.host.clone()),
                    ("kind", view.kind.as_str().to_owned()),
                    ("of", args.which.of.whose()),
                    ("value", view.value.clone()),
                ])
            })
        }
        CredentialCommand::Delete(which) => {
            let request = api.request(Method::DELETE, which.path(api));
            api.send(request).await?;
            api.done(&format!(
                "deleted the credential of {} for {}",
                which.of.whose(),
                which.for_host
            ));
            Ok(())
        }
    }
}

fn credentials(credentials: &[CredentialView]) -> String {
    let rows: Vec<Vec<String>> = credentials
        .iter()
        .map(|one| {
            vec![
                one.host.clone(),
                one.kind.as_str().to_owned(),
                one.value.clone(),
                one.set_by.to_string(),
                time(one.set),
            ]
        })
        .collect();
    table(&["HOST", "KIND", "VALUE", "SET BY", "SET"], &rows)
}
