//! Tokens for connections that sign in with an identity, where that is whoever uses this machine: as azure-identity's default,
//! a service principal that the environment names, or whom Azure's command line has signed in.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use flowcell_connection::{Connection, Secret};
use flowcell_egress::{
    Auditor, Egress, EgressOptions, Exchange, Gate, Limits, Origin, Policy, Secrets, SystemLookup,
    Tls,
};
use flowcell_session::{SignIn, Token};
use serde_json::Value;
use tokio::process::Command;

/// What an authority's answer may have, in bytes.
const MAX_ANSWER: u64 = 64 << 10;
/// How long an authority, or Azure's command line, may take.
const TIME: Duration = Duration::from_secs(20);

/// The connection with a token, where it signs in with one.
pub(super) fn signed_in(connection: Arc<Connection>) -> Arc<Connection> {
    let Some(scope) = connection.scope().filter(|_| connection.uses_identity()) else {
        return connection;
    };
    let name = connection.name();
    let is_fit = |origin: &Origin| {
        origin.is_https() || matches!(origin.host(), "127.0.0.1" | "[::1]" | "localhost")
    };
    if !connection.origins().iter().all(is_fit) {
        let why = format!(
            "connection '{name}' signs in with an identity, whose token goes out by https only"
        );
        return Arc::new(connection.with_token(Err(why)));
    }
    // Connections are asked for where nothing can wait, and rarely.
    let token = std::thread::scope(|scope_of_threads| {
        let asking = scope_of_threads.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| error.to_string())?;
            runtime.block_on(token(scope))
        });
        asking
            .join()
            .unwrap_or_else(|_| Err("asking for a token failed".to_owned()))
    });
    let token =
        token.map_err(|why| format!("connection '{name}' signs in with an identity: {why}"));
    Arc::new(connection.with_token(token))
}

async fn token(scope: &str) -> Result<Secret, String> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if let (Some(tenant), Some(client_id), Some(client_secret)) = (
        variable("AZURE_TENANT_ID"),
        variable("AZURE_CLIENT_ID"),
        variable("AZURE_CLIENT_SECRET"),
    ) {
        let sign_in = SignIn {
            tenant,
            client_id,
            client_secret,
            authority: variable("AZURE_AUTHORITY_HOST"),
            scope: None,
        };
        let token = sign_in.token(scope, &way()).await;
        return token
            .map(|Token { text, .. }| text)
            .map_err(|error| error.to_string());
    }
    of_azure_s_command_line(scope).await
}

async fn of_azure_s_command_line(scope: &str) -> Result<Secret, String> {
    let asked = Command::new("az")
        .args([
            "account",
            "get-access-token",
            "--output",
            "json",
            "--scope",
            scope,
        ])
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let answer = match tokio::time::timeout(TIME, asked).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            return Err(
                "there is none here; set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, or sign in with `az login`"
                    .to_owned(),
            );
        }
        Ok(Err(error)) => return Err(format!("`az` cannot be run: {error}")),
        Err(_) => return Err(format!("`az` took more than {} s", TIME.as_secs())),
    };
    if !answer.status.success() {
        let said = String::from_utf8_lossy(&answer.stderr);
        let line = said.lines().next().unwrap_or_default();
        return Err(format!("`az account get-access-token` failed: {line}"));
    }
    let answer: Value = serde_json::from_slice(&answer.stdout).unwrap_or_default();
    match answer["accessToken"].as_str() {
        Some(token) => Ok(token.to_owned().into()),
        None => Err("`az account get-access-token` gave no token".to_owned()),
    }
}

/// The user's own way out: what they name may be anywhere.
fn way() -> Arc<Egress> {
    let gate = Gate::new(EgressOptions {
        policy: Policy {
            private: "*:*".parse().into_iter().collect(),
            ..Policy::default()
        },
        limits: Limits {
            response_bytes: MAX_ANSWER,
            total_seconds: TIME.as_secs(),
            ..Limits::default()
        },
        lookup: Arc::new(SystemLookup),
        tls: Arc::new(Tls::default()),
        auditor: Arc::new(Log),
    });
    Egress::new(gate, Arc::new(Secrets::default()))
}

#[derive(Debug)]
struct Log;

impl Auditor for Log {
    fn record(&self, exchange: Exchange) {
        tracing::info!(?exchange, "a request for a token");
    }
}
