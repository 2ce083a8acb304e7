//! `flowcell connection …`, on this machine; and what of it is the same for a host.

mod sign_in;
pub(crate) mod store;

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use flowcell_connection::{
    Connection, ConnectionError, ConnectionSet, Connections, Fields, MAX_FILE,
};
use flowcell_executor::RunError;
use serde_json::{Map, Value, json};

use self::store::{Entry, LocalStore};
use crate::client::{ClientError, confirm, table};
use crate::settings::Settings;
use crate::{Output, terminal};

/// Connections: what flows use services with. They are this machine's, or, with --host, --workspace or a profile, those of
/// a host's workspace.
#[derive(Debug, Subcommand)]
pub(crate) enum ConnectionCommand {
    /// Create a connection from a file, in place of any other of its name.
    Create(CreateArgs),
    /// Change fields of a connection; its other secrets stay.
    Update(UpdateArgs),
    /// Show a connection, secrets as ******.
    Show(NameArgs),
    /// List the connections.
    List,
    /// Delete a connection.
    Delete(DeleteArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// The connection's YAML file, or a .env file, whose variables become the secrets of a custom connection. ${env:NAME} in
    /// a value is a variable of the environment.
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// Fields over those of the file: api_key=…, configs.KEY=…, secrets.KEY=…
    #[arg(long, num_args = 1.., value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// The connection's name, instead of the file's.
    #[arg(long, short, value_name = "NAME")]
    name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    #[command(flatten)]
    which: NameArgs,
    /// The fields: api_key=…, configs.KEY=…, secrets.KEY=… ${env:NAME} is a variable of the environment.
    #[arg(long, num_args = 1.., value_name = "FIELD=VALUE", required = true)]
    set: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// The connection's name.
    #[arg(long, short, value_name = "NAME")]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    pub(crate) which: NameArgs,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl CreateArgs {
    /// The connection that is asked for, whole.
    pub(crate) fn connection(&self) -> Result<Connection, RunError> {
        let text = read(&self.file)?;
        let is_env = self
            .file
            .file_name()
            .is_some_and(|name| name.to_string_lossy().ends_with(".env"));
        let mut fields = if is_env {
            Fields::from_dotenv(&text, self.name.as_deref(), variable)
        } else {
            Fields::from_yaml(&text)
        }
        .map_err(|error| in_file(&self.file, error))?;
        set(&mut fields, &self.set)?;
        if let Some(name) = &self.name {
            fields.set_name(name);
        }
        fields.resolve(variable)?;
        let unknown = fields.unknown();
        if !unknown.is_empty() {
            terminal::note(&format!(
                "no connection of this type has these fields, which are left out: {}",
                unknown.join(", ")
            ));
        }
        let connection = fields.connection()?;
        connection.check()?;
        Ok(connection)
    }
}

impl UpdateArgs {
    /// The connection's name.
    pub(crate) fn name(&self) -> &str {
        &self.which.name
    }

    /// What shall be other than it was.
    pub(crate) fn changes(&self) -> Result<Fields, RunError> {
        let mut fields = Fields::default();
        set(&mut fields, &self.set)?;
        fields.resolve(variable)?;
        Ok(fields)
    }
}

impl DeleteArgs {
    /// Asks, if there is somebody to ask.
    pub(crate) async fn confirm(&self) -> Result<(), ClientError> {
        if self.yes {
            return Ok(());
        }
        confirm(&format!("Delete the connection '{}'?", self.which.name)).await
    }
}

fn set(fields: &mut Fields, pairs: &[String]) -> Result<(), RunError> {
    for pair in pairs {
        // What is behind the '=' may be a secret.
        let (field, value) = plain(pair)
            .split_once('=')
            .filter(|(field, _)| !field.is_empty())
            .ok_or_else(|| RunError::usage("Usage error: --set KEY=VALUE [KEY=VALUE ...]"))?;
        if field == "name" {
            return Err(RunError::usage(
                "--set takes no name: --name gives it, and a connection that is there keeps its own",
            ));
        }
        fields.set(field, plain(value));
    }
    Ok(())
}

/// A text without the quotation marks around it, as promptflow takes it.
fn plain(text: &str) -> &str {
    for quote in ['"', '\''] {
        let inner = text.strip_prefix(quote);
        if let Some(inner) = inner.and_then(|rest| rest.strip_suffix(quote)) {
            return inner;
        }
    }
    text
}

fn in_file(path: &Path, error: ConnectionError) -> RunError {
    let mut error = RunError::from(error);
    error.message = format!("{}: {}", path.display(), error.message);
    error
}

/// The text of a file of connections.
fn read(path: &Path) -> Result<String, RunError> {
    let name = path.display();
    let mut text = String::new();
    let read =
        File::open(path).and_then(|file| file.take(MAX_FILE as u64 + 1).read_to_string(&mut text));
    match read {
        Ok(_) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(RunError::usage(
            format!("No such file or directory: {name}"),
        )),
        Err(error) => Err(RunError::usage(format!("cannot read {name}: {error}"))),
    }
}

/// The connections of a file before those of this machine.
#[derive(Debug)]
struct Given {
    file: ConnectionSet,
    store: LocalStore,
}

impl Connections for Given {
    fn get(&self, name: &str) -> Result<Option<Arc<Connection>>, ConnectionError> {
        let found = match self.file.get(name)? {
            Some(connection) => Some(connection),
            None => self.store.get(name)?,
        };
        Ok(found.map(sign_in::signed_in))
    }
}

/// The connections of a flow that runs on this machine.
pub(crate) fn given(
    settings: &Settings,
    file: Option<&Path>,
) -> Result<Arc<dyn Connections>, RunError> {
    let store = LocalStore::new(settings.home());
    let file = match file {
        Some(path) => {
            let text = read(path)?;
            ConnectionSet::read(&text, variable).map_err(|error| in_file(path, error))?
        }
        None => ConnectionSet::default(),
    };
    Ok(Arc::new(Given { file, store }))
}

pub(crate) async fn run(
    settings: &Settings,
    command: ConnectionCommand,
    output: Output,
) -> ExitCode {
    match local(settings, command, output).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(output),
    }
}

async fn local(
    settings: &Settings,
    command: ConnectionCommand,
    output: Output,
) -> Result<(), ClientError> {
    let store = LocalStore::new(settings.home());
    match command {
        ConnectionCommand::Create(args) => {
            let connection = args.connection()?;
            let name = connection.name().to_owned();
            let entry = store.put(&name, |_| Ok(connection))?;
            print(&entry.shown(), output);
        }
        ConnectionCommand::Update(args) => {
            let changes = args.changes()?;
            let name = args.name();
            let entry = store.put(name, |old| {
                let old = old()?;
                let mut fields = Fields::of(&old);
                fields.merge(changes);
                let mut connection = fields.connection()?;
                connection.keep_secrets(&old);
                Ok(connection)
            })?;
            print(&entry.shown(), output);
        }
        ConnectionCommand::Show(args) => print(&store.show(&args.name)?.shown(), output),
        ConnectionCommand::List => {
            let entries = store.list()?.iter().map(Entry::shown).collect();
            print_list(entries, output);
        }
        ConnectionCommand::Delete(args) => {
            args.confirm().await?;
            store.delete(&args.which.name)?;
            match output {
                Output::Json => terminal::raw("{}"),
                Output::Text => {
                    terminal::line(&format!("deleted the connection '{}'", args.which.name));
                }
            }
        }
    }
    Ok(())
}

impl Entry {
    fn shown(&self) -> Map<String, Value> {
        let mut map = self.connection.shown();
        map.insert("created_date".to_owned(), self.created.to_string().into());
        map.insert(
            "last_modified_date".to_owned(),
            self.modified.to_string().into(),
        );
        map
    }
}

/// Prints a connection as `pf connection show` does.
pub(crate) fn print(shown: &Map<String, Value>, output: Output) {
    let shown = Value::from(shown.clone()).to_string();
    match output {
        Output::Json => terminal::raw(&shown),
        Output::Text => terminal::line(&crate::flow_test::indented(&shown)),
    }
}

/// Prints a list of connections.
pub(crate) fn print_list(entries: Vec<Map<String, Value>>, output: Output) {
    if output == Output::Json {
        terminal::raw(&json!({ "items": entries }).to_string());
        return;
    }
    if entries.is_empty() {
        terminal::note("there are no connections");
        return;
    }
    let rows: Vec<Vec<String>> = entries
        .iter()
        .map(|entry| {
            let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
            let place = ["api_base", "base_url", "endpoint"];
            let place = place.into_iter().map(text).find(|text| !text.is_empty());
            vec![
                text("name").to_owned(),
                text("type").to_owned(),
                place.unwrap_or_default().to_owned(),
                text("last_modified_date").to_owned(),
            ]
        })
        .collect();
    terminal::line(&table(&["NAME", "TYPE", "ADDRESS", "CHANGED"], &rows));
}
