//! Whether a flow's folder will run here: each requirement, each import and each node, looked at before anything is started.

use flowcell_bundle::Reference;
use flowcell_environment::{Image, LOCK_FILE, LockedPackage};
use flowcell_flow::Severity;
use flowcell_sandbox::{Access, Argument, Environment, Instance, Limits, Mount, Outcome, Request};
use serde::{Deserialize, Serialize};

use crate::check::{Problem, check};
use crate::components::Components;
use crate::connections::SessionConnections;
use crate::environment::{EnvironmentOptions, FlowEnvironment, make_environment};
use crate::error::RunError;
use crate::host::Host;
use crate::session::{SessionOptions, mounts};
use crate::workspace::Workspace;

/// The runner's function that lists imports.
const IMPORTS: &str = "flowcell_runner.inspecting:imports";

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// The base image.
    Image,
    /// A package of the requirements, or all of them.
    Requirement,
    /// An import of a Python file.
    Import,
    /// The flow's file, or a node.
    Flow,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// What was looked at.
    pub subject: Subject,
    /// Which one.
    pub name: String,
    /// Whether it will do.
    pub ok: bool,
    /// Where it was found, or what is wrong.
    pub what: String,
    /// The way out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// An import, as the runner tells it.
#[derive(Debug, Deserialize)]
struct Import {
    file: String,
    line: u64,
    name: String,
    #[serde(rename = "where")]
    place: Option<String>,
    optional: bool,
    problem: Option<String>,
}

impl Diagnosis {
    fn new(subject: Subject, name: impl Into<String>, ok: bool, what: impl Into<String>) -> Self {
        Self {
            subject,
            name: name.into(),
            ok,
            what: what.into(),
            help: None,
        }
    }

    fn failed(subject: Subject, name: impl Into<String>, error: &RunError) -> Self {
        Self {
            help: error.help.clone(),
            ..Self::new(subject, name, false, error.message.clone())
        }
    }
}

/// Looks at a flow's folder. What is installed for that stays in the store, and a session finds it there.
///
/// # Errors
/// When the look itself cannot be had: the default image is not there, say.
pub async fn diagnose(
    host: &Host,
    workspace: &Workspace,
    image: Option<&Reference>,
    options: SessionOptions,
    environment: &EnvironmentOptions,
) -> Result<Vec<Diagnosis>, RunError> {
    let made = make_environment(host, workspace, image, &options.bundle, environment).await;
    let (found, mut all) = match made {
        Ok(found) => {
            let all = of_environment(host, &found)?;
            (Some(found), all)
        }
        Err(error) => {
            let subject = Subject::Requirement;
            (
                None,
                vec![Diagnosis::failed(subject, "requirements", &error)],
            )
        }
    };
    let options = SessionOptions {
        image: found
            .as_ref()
            .map(|found| found.image.clone())
            .or_else(|| image.cloned()),
        site: found.as_ref().and_then(|found| found.site.clone()),
        ..options
    };
    all.extend(of_imports(host, workspace, &options).await?);
    // What the requirements could not bring is told once.
    let has_environment = all.iter().all(|one| one.ok);
    for problem in check(host, workspace, &options).await? {
        let is_import = problem.class == "PythonLoadError";
        if problem.severity == Severity::Error && (has_environment || !is_import) {
            all.push(of_problem(problem));
        }
    }
    Ok(all)
}

fn of_environment(host: &Host, found: &FlowEnvironment) -> Result<Vec<Diagnosis>, RunError> {
    let name = found.image.to_string();
    let mut all = vec![Diagnosis::new(
        Subject::Image,
        name.clone(),
        true,
        found.digest.to_string(),
    )];
    let manifest = host.store.manifest(&found.image)?;
    let image = Image {
        name: &name,
        digest: &found.digest,
        manifest: &manifest,
    };
    for package in found.lock.iter().flat_map(|lock| &lock.packages) {
        let installed = found.site.iter().flat_map(|site| &site.packages);
        let brought = installed.into_iter().any(|one| one.name == package.name);
        let what = if brought {
            package
                .index
                .clone()
                .map_or_else(|| "its address".to_owned(), |index| format!("from {index}"))
        } else {
            format!("the image {} has it", image.name)
        };
        all.push(Diagnosis::new(
            Subject::Requirement,
            LockedPackage::shown(package),
            true,
            what,
        ));
    }
    let here = found.lock.iter().filter_map(|lock| lock.here());
    for component in here.flat_map(|here| &here.components) {
        let from = format!("a component package, from {}", component.repository);
        let subject = Subject::Requirement;
        all.push(Diagnosis::new(subject, component.shown(), true, from));
    }
    for note in &found.notes {
        all.push(Diagnosis::new(
            Subject::Requirement,
            "note",
            true,
            note.clone(),
        ));
    }
    Ok(all)
}

async fn of_imports(
    host: &Host,
    workspace: &Workspace,
    options: &SessionOptions,
) -> Result<Vec<Diagnosis>, RunError> {
    let (used, _) = host.image(workspace.flow(), options.image.as_ref(), &options.bundle)?;
    let manifest = &used.manifest;
    let Some(runner) = manifest.python_runner() else {
        return Ok(Vec::new());
    };
    let program = host.compiled(|programs, progress| programs.component(runner, progress))?;
    let mut mounts: Vec<Mount> = mounts(host, workspace, manifest, options.site.as_ref())?;
    mounts
        .iter_mut()
        .for_each(|mount| mount.access = Access::ReadOnly);
    let environment = Environment::new(mounts, Vec::new(), Limits::default());
    let site = options.site.as_ref();
    let components = Components::new(
        host,
        manifest.clone(),
        site,
        SessionConnections::new(options)?,
        environment.clone(),
        options.into(),
    );
    let environment = environment.with_tools(components);
    let mut instance = Instance::start(&host.sandbox, &program, &environment, None).await?;
    let request = Request {
        node: IMPORTS.to_owned(),
        source: IMPORTS.to_owned(),
        init: Vec::new(),
        inputs: Vec::<(String, Argument)>::new(),
    };
    let imports: Vec<Import> = match instance.call(&request).await.result {
        Ok(Ok(Outcome::Json(json))) => serde_json::from_str(&json)
            .map_err(|error| RunError::system("SystemErrorException", error.to_string()))?,
        Ok(Ok(Outcome::Object(_))) => Vec::new(),
        Ok(Err(error)) => return Err(RunError::own(error)),
        Err(fault) => return Err(RunError::fault(IMPORTS, fault)),
    };
    Ok(imports.into_iter().map(of_import).collect())
}

fn of_import(import: Import) -> Diagnosis {
    let place = format!("{}:{}", import.file, import.line);
    let subject = Subject::Import;
    if let Some(problem) = import.problem {
        return Diagnosis::new(subject, place, false, format!("cannot be read: {problem}"));
    }
    let name = format!("{} ({place})", import.name);
    match (import.place.as_deref(), import.optional) {
        (Some("flow"), _) => Diagnosis::new(subject, name, true, "a module of the flow"),
        (Some("requirements"), _) => {
            Diagnosis::new(subject, name, true, "the requirements bring it")
        }
        (Some("component"), _) => Diagnosis::new(subject, name, true, "functions of a component"),
        (Some("image"), _) => Diagnosis::new(subject, name, true, "the image has it"),
        (Some(_), _) => Diagnosis::new(subject, name, true, "Python's own library"),
        (None, true) => Diagnosis::new(
            subject,
            name,
            true,
            "is not there; the file may do without, as it stands in a function, a try or behind a condition",
        ),
        (None, false) => Diagnosis {
            help: Some(format!(
                "name the package that has it in requirements.txt (or in {LOCK_FILE}), or put the module into the flow's folder"
            )),
            ..Diagnosis::new(subject, name, false, "no module of this name is there")
        },
    }
}

fn of_problem(problem: Problem) -> Diagnosis {
    let place = problem.location.map_or_else(
        || "flow".to_owned(),
        |location| format!("line {}", location.line),
    );
    Diagnosis {
        help: problem.help,
        ..Diagnosis::new(
            Subject::Flow,
            place,
            false,
            format!("{}: {}", problem.class, problem.message),
        )
    }
}
