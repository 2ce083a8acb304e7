//! Profiles: hosts by name, with a workspace and a key. They are in one file that only its owner can read.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use flowcell_session::Name;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::connection::{address, is_key};
use super::error::ClientError;
use super::table::{pairs, table};
use crate::{Output, OutputArgs, terminal};

/// Longest key or token, in bytes.
const MAX_KEY: u64 = 16 << 10;

/// The file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Profiles {
    /// The profile that is used when none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    profiles: BTreeMap<String, Profile>,
}

/// A host, a workspace and a key; each may be absent.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Profile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) workspace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<String>,
}

/// Keep hosts, workspaces and keys under a name.
#[derive(Debug, Subcommand)]
pub(crate) enum ProfileCommand {
    /// Make or change a profile; what is not given stays.
    Set(SetArgs),
    /// List the profiles.
    List(OutputArgs),
    /// Use a profile from now on.
    Use(NameArgs),
    /// Show a profile.
    Show(ShowArgs),
    /// Delete a profile.
    Delete(NameArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// The profile's name.
    name: Name,
    /// The host's address.
    #[arg(long, value_name = "URL")]
    host: Option<String>,
    /// The workspace.
    #[arg(long, value_name = "NAME")]
    workspace: Option<Name>,
    /// Read the key from standard input.
    #[arg(long)]
    key_stdin: bool,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// The profile's name.
    name: Name,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The profile's name; the one in use, if absent.
    name: Option<Name>,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(command: &ProfileCommand) -> ExitCode {
    let (output, done) = match command {
        ProfileCommand::Set(args) => (args.output.output, set(args)),
        ProfileCommand::List(args) => (args.output, list(args.output)),
        ProfileCommand::Use(args) => (args.output.output, use_it(args)),
        ProfileCommand::Show(args) => (args.output.output, show(args)),
        ProfileCommand::Delete(args) => (args.output.output, delete(args)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(output),
    }
}

fn set(args: &SetArgs) -> Result<(), ClientError> {
    let mut profiles = Profiles::read()?;
    let name = args.name.as_str();
    let profile = profiles.profiles.entry(name.to_owned()).or_default();
    if let Some(host) = &args.host {
        let host = address(host)?;
        profile.host = Some(host.as_str().trim_end_matches('/').to_owned());
    }
    if let Some(workspace) = &args.workspace {
        profile.workspace = Some(workspace.to_string());
    }
    if args.key_stdin {
        profile.key = Some(key_from_stdin()?);
    }
    profiles.current.get_or_insert_with(|| name.to_owned());
    profiles.write()?;
    print(&profiles, name, args.output.output);
    Ok(())
}

fn list(output: Output) -> Result<(), ClientError> {
    let profiles = Profiles::read()?;
    let names = profiles.profiles.keys();
    if output == Output::Json {
        let items: Vec<Value> = names.map(|name| profiles.json(name)).collect();
        terminal::raw(&json!({ "items": items }).to_string());
        return Ok(());
    }
    let rows: Vec<Vec<String>> = names
        .map(|name| {
            let shown = profiles.shown(name);
            let mark = if profiles.is_current(name) { "*" } else { "" };
            let mut row = vec![name.clone(), mark.to_owned()];
            row.extend(shown.into_iter().map(|(_, value)| value));
            row
        })
        .collect();
    if rows.is_empty() {
        terminal::note("there are no profiles; `flowcell profile set NAME --host URL` makes one");
        return Ok(());
    }
    let heads = ["NAME", "IN USE", "HOST", "WORKSPACE", "KEY"];
    terminal::line(&table(&heads, &rows));
    Ok(())
}

fn use_it(args: &NameArgs) -> Result<(), ClientError> {
    let mut profiles = Profiles::read()?;
    profiles.find(args.name.as_str())?;
    profiles.current = Some(args.name.to_string());
    profiles.write()?;
    print(&profiles, args.name.as_str(), args.output.output);
    Ok(())
}

fn show(args: &ShowArgs) -> Result<(), ClientError> {
    let profiles = Profiles::read()?;
    let name = args.name.as_ref().map(Name::as_str);
    let name = name.or(profiles.current.as_deref()).ok_or_else(|| {
        ClientError::with_help(
            "no profile is in use",
            "name one, or choose one with `flowcell profile use NAME`",
        )
    })?;
    profiles.find(name)?;
    print(&profiles, name, args.output.output);
    Ok(())
}

fn delete(args: &NameArgs) -> Result<(), ClientError> {
    let mut profiles = Profiles::read()?;
    let name = args.name.as_str();
    profiles.find(name)?;
    profiles.profiles.remove(name);
    if profiles.is_current(name) {
        profiles.current = None;
    }
    profiles.write()?;
    match args.output.output {
        Output::Json => terminal::raw("{}"),
        Output::Text => terminal::line(&format!("deleted profile {name}")),
    }
    Ok(())
}

fn print(profiles: &Profiles, name: &str, output: Output) {
    if output == Output::Json {
        terminal::raw(&profiles.json(name).to_string());
        return;
    }
    let in_use = if profiles.is_current(name) {
        "yes"
    } else {
        "no"
    };
    let mut rows = vec![("name", name.to_owned()), ("in use", in_use.to_owned())];
    rows.extend(profiles.shown(name));
    terminal::line(&pairs(&rows));
}

fn key_from_stdin() -> Result<String, ClientError> {
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .take(MAX_KEY)
        .read_line(&mut line)
        .map_err(|error| ClientError::new(format!("cannot read the key: {error}")))?;
    let key = line.trim();
    if is_key(key) {
        Ok(key.to_owned())
    } else {
        Err(ClientError::with_help(
            "the first line of standard input is no key",
            "flowcell profile set NAME --key-stdin < file-with-the-key",
        ))
    }
}

/// What of a key may be seen: the public part of an API key, and nothing of a token.
fn hidden(key: &str) -> String {
    match key
        .strip_prefix("fc_")
        .and_then(|rest| rest.split_once('_'))
    {
        Some((public, _)) => format!("fc_{public}_..."),
        None => format!("a token of {} characters", key.len()),
    }
}

impl Profiles {
    /// The file; there need be none.
    pub(super) fn read() -> Result<Self, ClientError> {
        let Some(path) = path() else {
            return Ok(Self::default());
        };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => {
                return Err(ClientError::new(format!(
                    "cannot read {}: {error}",
                    path.display()
                )));
            }
        };
        let wrong = |error: toml::de::Error| {
            // The message without the text around the place, which may hold a key.
            ClientError::with_help(
                format!("{} cannot be used: {}", path.display(), error.message()),
                "mend it, or delete it and set the profiles anew",
            )
        };
        let profiles: Self = toml::from_str(&text).map_err(wrong)?;
        warn_of_readers(&path);
        Ok(profiles)
    }

    /// The profile that was named, or the one in use.
    pub(super) fn chosen(&self, name: Option<&str>) -> Result<Option<Profile>, ClientError> {
        match name.or(self.current.as_deref()) {
            Some(name) => Ok(Some(self.find(name)?.clone())),
            None => Ok(None),
        }
    }

    fn find(&self, name: &str) -> Result<&Profile, ClientError> {
        self.profiles.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.profiles.keys().map(String::as_str).collect();
            ClientError::with_help(
                format!("there is no profile '{name}'"),
                if names.is_empty() {
                    format!("`flowcell profile set {name} --host URL` makes it")
                } else {
                    format!("there are: {}", names.join(", "))
                },
            )
        })
    }

    /// Whether a profile is used when none is named.
    pub(super) fn has_current(&self) -> bool {
        self.current.is_some()
    }

    fn is_current(&self, name: &str) -> bool {
        self.current.as_deref() == Some(name)
    }

    /// What of a profile is shown.
    fn shown(&self, name: &str) -> [(&'static str, String); 3] {
        let profile = self.profiles.get(name).cloned().unwrap_or_default();
        [
            ("host", profile.host.unwrap_or_default()),
            ("workspace", profile.workspace.unwrap_or_default()),
            (
                "key",
                profile.key.as_deref().map(hidden).unwrap_or_default(),
            ),
        ]
    }

    fn json(&self, name: &str) -> Value {
        let mut entry = json!({ "name": name, "in_use": self.is_current(name) });
        for (field, value) in self.shown(name) {
            entry[field] = match value.as_str() {
                "" => Value::Null,
                value => value.into(),
            };
        }
        entry
    }

    fn write(&self) -> Result<(), ClientError> {
        let path = path().ok_or_else(|| {
            ClientError::new(
                "there is no place for profiles: neither XDG_CONFIG_HOME nor HOME is set",
            )
        })?;
        let failed = |error: std::io::Error| {
            ClientError::new(format!("cannot write {}: {error}", path.display()))
        };
        let text = toml::to_string(self)
            .map_err(|error| ClientError::new(format!("cannot write the profiles: {error}")))?;
        let folder = path.parent().unwrap_or(&path);
        fs::create_dir_all(folder).map_err(failed)?;
        // A new file that only its owner can read takes the place of the old one.
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

fn path() -> Option<PathBuf> {
    let absolute = |variable: &str| {
        std::env::var_os(variable)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let config = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(config.join("flowcell/profiles.toml"))
}

#[cfg(unix)]
fn warn_of_readers(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt as _;

    let mode = fs::metadata(path).map(|metadata| metadata.permissions().mode());
    if mode.is_ok_and(|mode| mode & 0o077 != 0) {
        terminal::note(&format!(
            "others can read the keys in {0}; `chmod 600 {0}`",
            path.display()
        ));
    }
}

#[cfg(not(unix))]
fn warn_of_readers(_: &std::path::Path) {}
