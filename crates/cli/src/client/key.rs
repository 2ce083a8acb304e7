//! `flowcell key …`: API keys.

use clap::{Args, Subcommand};
use flowcell_server::api::users::{CreateKey, KeyView, Me};
use flowcell_session::UserName;
use reqwest::Method;

use super::api::Api;
use super::error::ClientError;
use super::table::{maybe_time, pairs, table, time};
use crate::{Output, terminal};

/// API keys: yours, or those of another user.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// List the keys, without their secrets.
    List(OfUser),
    /// Make a key. It is shown this once.
    Create(CreateArgs),
    /// Revoke a key. It holds at once.
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct OfUser {
    /// Whose keys; yours, if absent.
    #[arg(long, value_name = "USER")]
    user: Option<UserName>,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    of: OfUser,
    /// What the key is for.
    #[arg(long, value_name = "TEXT", default_value = "")]
    description: String,
    /// After how many days it is refused; never, if absent.
    #[arg(long, value_name = "DAYS")]
    expires_in_days: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// The key's public part, as `flowcell key list` shows it.
    key: String,
    #[command(flatten)]
    of: OfUser,
}

impl OfUser {
    async fn name(&self, api: &Api) -> Result<String, ClientError> {
        match &self.user {
            Some(user) => Ok(user.to_string()),
            None => {
                let me: Me = api.get(api.at(["me"])).await?.read()?;
                Ok(me.name.to_string())
            }
        }
    }
}

pub(super) async fn run(api: &Api, command: KeyCommand) -> Result<(), ClientError> {
    match command {
        KeyCommand::List(of) => {
            let user = of.name(api).await?;
            let items = api.list(api.at(["users", &user, "keys"])).await?;
            api.show_list(items, keys, "there are no keys")
        }
        KeyCommand::Create(args) => {
            let user = args.of.name(api).await?;
            let body = CreateKey {
                description: args.description,
                expires_in_days: args.expires_in_days,
            };
            let answer = api.create(api.at(["users", &user, "keys"]), &body).await?;
            let view: KeyView = answer.read()?;
            api.show(&answer, |view: &KeyView| {
                pairs(&[
                    ("key", view.key.clone().unwrap_or_default()),
                    ("user", user.clone()),
                    ("description", view.description.clone()),
                    ("created", time(view.created)),
                    ("expires", maybe_time(view.expires)),
                ])
            })?;
            match view.key {
                // The answer with the key was lost on its way.
                None => Err(ClientError::with_help(
                    format!("key {} was made, but not received", view.id),
                    format!("`flowcell key revoke {}`, and make another one", view.id),
                )),
                Some(_) => {
                    if api.output() == Output::Text {
                        terminal::note("keep the key: it is not shown again");
                    }
                    Ok(())
                }
            }
        }
        KeyCommand::Revoke(args) => {
            let user = args.of.name(api).await?;
            // Whoever has the whole key at hand may give that.
            let public = args.key.strip_prefix("fc_").unwrap_or(&args.key);
            let public = public.split('_').next().unwrap_or_default();
            let url = api.at(["users", &user, "keys", public]);
            api.send(api.request(Method::DELETE, url)).await?;
            api.done(&format!("revoked key {public} of {user}"));
            Ok(())
        }
    }
}

fn keys(keys: &[KeyView]) -> String {
    let rows: Vec<Vec<String>> = keys
        .iter()
        .map(|key| {
            vec![
                key.id.clone(),
                time(key.created),
                maybe_time(key.expires),
                key.description.clone(),
            ]
        })
        .collect();
    table(&["KEY", "CREATED", "EXPIRES", "DESCRIPTION"], &rows)
}
