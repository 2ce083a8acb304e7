//! `flowcell bundle push`, `pull` and `inspect`: bundles in registries.

use std::io::Read as _;
use std::process::ExitCode;

use clap::Args;
use flowcell_bundle::{BundleError, ImageName, Inspected, Reference, Store, Transferred, chain};
use flowcell_executor::RunError;
use flowcell_registry::{Client, Credentials, ImageReference, RegistryError};
use serde_json::json;

use crate::bundle::failed;
use crate::settings::Settings;
use crate::transfers::{Transfers, size};
use crate::{Output, OutputArgs, terminal};

const USERNAME: &str = "FLOWCELL_REGISTRY_USERNAME";
const PASSWORD: &str = "FLOWCELL_REGISTRY_PASSWORD";
/// Bytes of a password. Those that registries give out are tokens of some kilobytes.
const MAX_PASSWORD: u64 = 64 << 10;

#[derive(Debug, Args)]
pub(crate) struct CredentialArgs {
    /// Who you are to the registry. The password comes from --password-stdin or FLOWCELL_REGISTRY_PASSWORD.
    #[arg(long, value_name = "NAME", env = USERNAME)]
    username: Option<String>,
    /// Read the registry's password from standard input.
    #[arg(long)]
    password_stdin: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// The bundle, as name:version.
    bundle: ImageName,
    /// Where to: registry/repository:tag.
    target: ImageReference,
    #[command(flatten)]
    credentials: CredentialArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// The image: registry/repository:tag, or registry/repository@sha256:….
    image: ImageReference,
    #[command(flatten)]
    credentials: CredentialArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The image: registry/repository:tag, or registry/repository@sha256:….
    image: ImageReference,
    #[command(flatten)]
    credentials: CredentialArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn push(settings: &Settings, args: &PushArgs) -> ExitCode {
    let pushed = async {
        let store = settings.store()?;
        let credentials = args.credentials.read(&args.target)?;
        let transfers = Transfers::new("pushing");
        let step = |step: flowcell_bundle::Transfer<'_>| transfers.step(step);
        let (client, target) = (client()?, &args.target);
        flowcell_bundle::push(&store, &client, &args.bundle, target, &credentials, &step)
            .await
            .map_err(told)
    };
    let name = ImageName::from(args.target.clone());
    transferred("flowcell.bundle.push", &name, pushed.await, &args.output)
}

pub(crate) async fn pull(settings: &Settings, args: &PullArgs) -> ExitCode {
    let pulled = async {
        let store = settings.store()?;
        let credentials = args.credentials.read(&args.image)?;
        fetch(&store, &args.image, &credentials).await
    };
    let name = ImageName::from(args.image.clone());
    transferred("flowcell.bundle.pull", &name, pulled.await, &args.output)
}

/// A bundle that is in the store, pulled if it was not; with what the environment has of credentials.
pub(crate) async fn there(store: &Store, image: &ImageName) -> Result<Reference, RunError> {
    let reference = match image {
        ImageName::Local(reference) => return Ok(reference.clone()),
        ImageName::Registry(reference) => reference,
    };
    if let Some(pulled) = store.find_pulled(reference)? {
        return Ok(Reference::from(pulled.bundle));
    }
    let credentials = CredentialArgs {
        username: std::env::var(USERNAME).ok(),
        password_stdin: false,
    };
    let pulled = fetch(store, reference, &credentials.read(reference)?).await?;
    Ok(Reference::from(pulled.bundle))
}

async fn fetch(
    store: &Store,
    image: &ImageReference,
    credentials: &Credentials,
) -> Result<Transferred, RunError> {
    let transfers = Transfers::new("pulling");
    let step = |step: flowcell_bundle::Transfer<'_>| transfers.step(step);
    flowcell_bundle::pull(store, &client()?, image, credentials, &step)
        .await
        .map_err(told)
}

fn transferred(
    command: &str,
    name: &ImageName,
    result: Result<Transferred, RunError>,
    args: &OutputArgs,
) -> ExitCode {
    match (result, args.output) {
        (Ok(Transferred { bundle, artifact }), Output::Json) => {
            let answer = json!({ "reference": name, "artifact": artifact, "digest": bundle });
            terminal::raw(&answer.to_string());
            ExitCode::SUCCESS
        }
        (Ok(Transferred { artifact, .. }), Output::Text) => {
            terminal::line(&format!("{name} {artifact}"));
            ExitCode::SUCCESS
        }
        (Err(error), output) => failed(command, &error, output),
    }
}

pub(crate) async fn inspect(args: &InspectArgs) -> ExitCode {
    let inspected = async {
        let credentials = args.credentials.read(&args.image)?;
        flowcell_bundle::inspect(&client()?, &args.image, &credentials)
            .await
            .map_err(told)
    };
    let name = ImageName::from(args.image.clone());
    match (inspected.await, args.output.output) {
        (Ok(found), Output::Json) => {
            terminal::raw(&inspected_json(&name, &found).to_string());
            ExitCode::SUCCESS
        }
        (Ok(found), Output::Text) => {
            describe(&name, &found);
            ExitCode::SUCCESS
        }
        (Err(error), output) => failed("flowcell.bundle.inspect", &error, output),
    }
}

fn inspected_json(name: &ImageName, found: &Inspected) -> serde_json::Value {
    let layers: Vec<_> = found
        .layers
        .iter()
        .map(|layer| {
            json!({
                "title": layer.title,
                "media_type": layer.media_type,
                "digest": layer.digest,
                "size": layer.size,
            })
        })
        .collect();
    json!({
        "reference": name,
        "artifact": found.digest,
        "is_bundle": found.not_a_bundle.is_none(),
        "name": found.title,
        "version": found.version,
        "layers": layers,
        "tags": found.tags,
    })
}

fn describe(name: &ImageName, found: &Inspected) {
    terminal::line(&format!("{name} {}", found.digest));
    match (&found.not_a_bundle, &found.title, &found.version) {
        (Some(what), ..) => terminal::line(&format!("  it is {what}, and no flowcell bundle")),
        (None, Some(title), Some(version)) => {
            terminal::line(&format!("  bundle {title}:{version}"));
        }
        (None, ..) => terminal::line("  bundle"),
    }
    for layer in &found.layers {
        let title = layer.title.as_deref().unwrap_or("-");
        terminal::line(&format!(
            "  layer {title}  {}  {}",
            size(layer.size),
            layer.media_type
        ));
    }
    let total = found.layers.iter().map(|layer| layer.size);
    let total = total.fold(0, u64::saturating_add);
    terminal::line(&format!("  together {}", size(total)));
    if let Some(tags) = &found.tags {
        terminal::line(&format!("  tags {}", tags.join(", ")));
    }
}

fn client() -> Result<Client, RunError> {
    Client::new(flowcell_registry::Settings::default()).map_err(|error| told(error.into()))
}

/// An error with its causes: what a registry did is in them.
fn told(error: BundleError) -> RunError {
    RunError::system("BundleError", chain(&error))
}

impl CredentialArgs {
    /// What to show to the registry of this image. Passwords are on no command line, where everybody on the machine can
    /// read them.
    fn read(&self, image: &ImageReference) -> Result<Credentials, RunError> {
        let password = if self.password_stdin {
            let mut text = String::new();
            let mut stdin = std::io::stdin().take(MAX_PASSWORD);
            stdin.read_to_string(&mut text).map_err(|error| {
                RunError::usage(format!(
                    "cannot read a password from standard input: {error}"
                ))
            })?;
            Some(text.trim_end_matches(['\r', '\n']).to_owned())
        } else {
            std::env::var(PASSWORD).ok()
        };
        let username = self.username.clone().filter(|name| !name.is_empty());
        match (username, password.filter(|password| !password.is_empty())) {
            (None, None) => Ok(Credentials::anonymous()),
            (Some(user), Some(password)) => Credentials::basic(image.registry(), user, password)
                .map_err(|error: RegistryError| RunError::usage(error.to_string())),
            (Some(user), None) => Err(RunError::usage(format!(
                "there is no password for {user}; give it by --password-stdin or {PASSWORD}"
            ))),
            (None, Some(_)) => Err(RunError::usage(format!(
                "there is a password and no name; give it by --username or {USERNAME}"
            ))),
        }
    }
}
