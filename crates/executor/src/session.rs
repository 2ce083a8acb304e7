//! A flow with its tools resolved, ready to run lines and single nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flowcell_bundle::{Lease, Manifest, Reference};
use flowcell_connection::{ConnectionSet, Connections, PlaceholderKey};
use flowcell_egress::{Egress, Gate};
use flowcell_environment::{SITE, Site};
use flowcell_flow::{
    Flow, Graph, InputDef, Json, JsonMap, NodeTestInputs, ValueType, VariantChoice, python_loads,
};
use flowcell_sandbox::{
    Access, Environment, Hibernated, Isolation, Limits, Mount, Owner, Pool, Slice,
};
use indexmap::IndexMap;

use crate::components::Components;
use crate::connections::SessionConnections;
use crate::error::RunError;
use crate::host::Host;
use crate::images::ImageSink;
use crate::preparing::Preparation;
use crate::result::{FlowResult, LineResult};
use crate::run_options::RunOptions;
use crate::session_images::ImageState;
use crate::tools::{Resolved, Tool, Tools};
use crate::workspace::Workspace;
use crate::{aggregation, runs};

/// promptflow's knob for a line's time, in seconds.
const LINE_TIMEOUT: &str = "PF_LINE_TIMEOUT_SEC";

/// promptflow's variable for what a deployed flow's class is made with, a JSON object.
const INIT: &str = "PF_FLOW_INIT_CONFIG";

/// How a session is set up.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// The bundle to use where the flow does not name one of this store.
    pub bundle: Reference,
    /// A bundle to use whatever the flow says.
    pub image: Option<Reference>,
    /// What the flow's requirements have brought.
    pub site: Option<Site>,
    /// The variant to run instead of a node's default one.
    pub variant: Option<VariantChoice>,
    /// What the class that is a flow's entry is made with; nothing stands for the flow's sample.
    pub init: JsonMap,
    /// Environment variables over those of the flow.
    pub environment_variables: IndexMap<String, String>,
    /// Limits of the session's instances. `wall_time` also bounds a whole line, unless `PF_LINE_TIMEOUT_SEC` says
    /// otherwise.
    pub limits: Limits,
    /// The most that `PF_LINE_TIMEOUT_SEC` can ask for; it comes with flows and calls, so it is not the host's word.
    pub longest_line: Duration,
    /// Whether instances are used again.
    pub isolation: Isolation,
    /// Instances of each component that may be alive at once.
    pub instances: usize,
    /// How long a node waits for an instance.
    pub wait: Duration,
    /// Where images of outputs go.
    pub images: ImageSink,
    /// The share of the host that the session's instances use, perhaps with others.
    pub slice: Arc<Slice>,
    /// What its instances may ask of the network; nothing without it.
    pub network: Option<Arc<Gate>>,
    /// How its instances' memory is stored; `None` for a session that is over with its first run.
    pub stored: Option<StoredOptions>,
    /// Where its connections are.
    pub connections: Arc<dyn Connections>,
    /// What the placeholders of its secrets are made by; a random key, if absent. It must be the same whenever the session
    /// goes on from stored memory, which holds placeholders.
    pub placeholders: Option<PlaceholderKey>,
}

/// How the memory of a session's instances is stored. It takes a working copy that is kept ([`Workspace::open`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredOptions {
    /// The session.
    pub owner: Owner,
    /// Most bytes that may have changed of an idle instance that is stored.
    pub limit: u64,
}

impl SessionOptions {
    /// The settings of `flow test`, over this bundle.
    pub fn new(bundle: Reference) -> Self {
        Self {
            bundle,
            image: None,
            site: None,
            variant: None,
            init: JsonMap::new(),
            environment_variables: IndexMap::new(),
            limits: Limits::default(),
            longest_line: Duration::MAX,
            isolation: Isolation::default(),
            // promptflow runs at most 16 nodes of a line at once.
            instances: 16,
            wait: Duration::from_secs(30),
            images: ImageSink::default(),
            slice: Slice::unlimited(),
            network: None,
            stored: None,
            connections: Arc::new(ConnectionSet::default()),
            placeholders: None,
        }
    }
}

/// A flow, its working copy, and its tools.
#[derive(Debug)]
pub struct Session {
    pub(crate) inner: Arc<Inner>,
    notes: Vec<String>,
}

/// What the tasks of a line share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) flow: Flow,
    pub(crate) graph: Graph,
    /// What the entry's class is made with, if the flow has such an entry.
    pub(crate) init: JsonMap,
    /// For each node of the flow, by its index.
    pub(crate) resolved: Vec<Resolved>,
    pub(crate) components: Arc<Components>,
    pub(crate) connections: Arc<SessionConnections>,
    /// The environment variables as they are written, and as the guests have them.
    variables: Variables,
    pub(crate) python: Option<Arc<Pool>>,
    pub(crate) wait: Duration,
    pub(crate) line_time: Duration,
    pub(crate) images: ImageSink,
    pub(crate) prepared: Option<Preparation>,
    // Deleted with the session.
    pub(crate) _workspace: Workspace,
    // Its instances see folders of the store.
    pub(crate) _leases: Vec<Lease>,
}

impl Session {
    /// Applies variants, resolves the tools of all nodes and checks the graph, in this order: promptflow's, which shows
    /// in the error of a flow with several problems.
    ///
    /// It reads files, and compiles components that are new, on the thread that it runs on: call it on one that may
    /// block.
    ///
    /// # Errors
    /// The first problem, in promptflow's class and words.
    pub async fn open(
        host: &Host,
        workspace: Workspace,
        options: SessionOptions,
    ) -> Result<Self, RunError> {
        let Prepared {
            mut flow,
            components,
            connections,
            variables,
            mut tools,
            mut notes,
            line_time,
            leases,
        } = prepare(host, &workspace, &options)?;
        tools.complete(host, &workspace, &mut flow).await?;
        let init = init_values(&flow, &options.init, &variables.resolved)?;
        for node in flow.nodes.iter().filter(|node| node.is_searched()) {
            node.check_search()?;
            tools.search(host, &workspace, node).await?;
        }
        let named = flow
            .nodes
            .iter()
            .filter_map(|node| node.connection.as_deref());
        for name in named.filter(|name| !name.is_empty()) {
            connections.find(name)?;
        }
        let mut resolved = Vec::with_capacity(flow.nodes.len());
        for node in &flow.nodes {
            node.check_source()?;
            resolved.push(tools.resolve(host, &workspace, node).await?);
        }
        let graph = flow.validate()?;
        let may_have_images = |input: &InputDef| {
            matches!(
                input.value_type,
                ValueType::Image | ValueType::List | ValueType::Object
            )
        };
        if flow.inputs.values().any(may_have_images) {
            tools.with_python(host)?;
        }
        notes.extend(workspace.notes().iter().cloned());
        notes.extend(tools.take_notes());
        let prepared = tools.take_preparation();
        let python = tools.python_pool();
        Ok(Self {
            inner: Arc::new(Inner {
                prepared,
                flow,
                graph,
                init,
                resolved,
                components,
                connections,
                variables,
                python,
                wait: options.wait,
                line_time,
                images: options.images,
                _workspace: workspace,
                _leases: leases,
            }),
            notes,
        })
    }

    /// What happened on the way here that the user may want to know.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The flow, with its variant.
    pub fn flow(&self) -> &Flow {
        &self.inner.flow
    }

    /// Its connections, and the placeholders that its guests have for their secrets.
    pub fn connections(&self) -> &Arc<SessionConnections> {
        &self.inner.connections
    }

    /// Takes other connections in place of those that there were, from the next call on. Whether that will do: a session
    /// whose environment variables would have other values must be opened anew.
    pub fn replace_connections(&self, connections: Arc<dyn Connections>) -> bool {
        let inner = &self.inner;
        inner.connections.replace(connections);
        let values = resolved_variables(&inner.variables.written, &inner.connections);
        values.is_ok_and(|values| values == inner.variables.resolved)
    }

    /// Makes the session's image in the background, where that is possible and has not been done; new instances start
    /// from it then. It takes a runtime.
    pub fn prepare(&self, host: &Arc<Host>) {
        if let (Some(preparation), Some(pool)) = (&self.inner.prepared, &self.inner.python) {
            preparation.prepare(host, pool);
        }
    }

    /// Where the session stands with its image.
    pub fn image_state(&self, host: &Host) -> ImageState {
        match (&self.inner.prepared, &self.inner.python) {
            (Some(preparation), Some(pool)) => preparation.state(host, pool),
            (_, None) => ImageState::None("the flow has no Python nodes".to_owned()),
            (None, _) => ImageState::None("its host keeps no images".to_owned()),
        }
    }

    /// Memory that its idle Python instances have for themselves alone, in bytes.
    pub fn private_memory(&self) -> u64 {
        let pool = self.inner.python.as_ref();
        pool.map_or(0, |pool| pool.private_memory())
    }

    /// Stores the Python instances that no call uses, and frees their memory. Instances of components are dropped.
    pub async fn hibernate(&self) -> Hibernated {
        self.shrink_components();
        match &self.inner.python {
            Some(pool) => pool.hibernate(Duration::ZERO).await,
            None => Hibernated::default(),
        }
    }

    /// Goes on from what is stored, so that the next run finds its Python instances in memory.
    ///
    /// # Errors
    /// When what was stored is lost, or instances cannot be made.
    pub async fn resume(&self) -> Result<(), RunError> {
        match &self.inner.python {
            Some(pool) => pool
                .resume()
                .await
                .map_err(|error| RunError::system("SystemErrorException", error.to_string())),
            None => Ok(()),
        }
    }

    /// Whether a run is under way, or has not given back all of its instances yet.
    pub fn is_used(&self) -> bool {
        let pool = self.inner.python.as_ref();
        Arc::strong_count(&self.inner) > 1 || pool.is_some_and(|pool| pool.usage().busy() > 0)
    }

    /// Drops the instances that no run uses, with what they hold.
    pub fn shrink(&self) {
        self.shrink_components();
        if let Some(pool) = &self.inner.python {
            pool.shrink(Duration::ZERO);
        }
    }

    fn shrink_components(&self) {
        self.inner.components.shrink();
        // Those of the flow's own files.
        for resolved in &self.inner.resolved {
            if let Tool::Component { pool, .. } = &resolved.tool {
                pool.shrink(Duration::ZERO);
            }
        }
    }

    /// Makes what its entry needs before the first call, if the flow has one: the object of a class.
    ///
    /// # Errors
    /// `FlowEntryInitializationError`.
    pub async fn initialize(&self, options: &RunOptions) -> Result<(), RunError> {
        runs::initialize(&self.inner, options).await
    }

    /// Runs the flow once, aggregation included, as `pf flow test` does.
    pub async fn run(&self, given: &JsonMap, options: &RunOptions) -> FlowResult {
        runs::run_flow(&self.inner, given, options).await
    }

    /// Runs one line of a batch, without the aggregation: promptflow's `FlowExecutor.exec_line`.
    ///
    /// `number` is the line's, from 0, for messages; `None` where there are no lines (a deployed flow).
    pub async fn run_line(
        &self,
        given: &JsonMap,
        number: Option<u64>,
        options: &RunOptions,
    ) -> LineResult {
        runs::run_line(&self.inner, given, number, options).await
    }

    /// Runs the aggregation nodes over the lines that completed: promptflow's `FlowExecutor.exec_aggregation`.
    ///
    /// `inputs` has for each flow input the list of the lines' values, `aggregation_inputs` the same for each key of
    /// [`LineResult::aggregation_inputs`]; all lists are of one length, and a line has the same place in each. Inputs of
    /// the flow that are not given have their default in every line.
    ///
    /// A node that fails is in the result's `nodes` with its error, and those that read it are not; the outputs are
    /// those of the others. A flow without aggregation nodes has the outputs `{}`.
    ///
    /// The outputs are an error when the lists are no lists or not of one length (`InvalidAggregationInput`), when one
    /// that a node reads is missing (`NoNodeExecutedError`), and when the time of a line is up.
    pub async fn aggregate(
        &self,
        inputs: &JsonMap,
        aggregation_inputs: &JsonMap,
        options: &RunOptions,
    ) -> FlowResult {
        aggregation::run_aggregation(&self.inner, inputs, aggregation_inputs, options).await
    }

    /// Runs the aggregation of a flow without a graph over what its entry has returned for each line
    /// ([`LineResult::answer`]). A flow without one has the outputs `{}`.
    pub async fn aggregate_answers(&self, answers: Vec<Json>, options: &RunOptions) -> FlowResult {
        let gathered = aggregation::gathered_answers(&self.inner, answers);
        aggregation::run_aggregation(&self.inner, &JsonMap::new(), &gathered, options).await
    }

    /// Runs a single node. `given` has the flow inputs and the outputs of other nodes that it refers to;
    /// [`Flow::node_test_inputs`] makes that of what the command line takes.
    pub async fn run_node(
        &self,
        node: &str,
        given: &NodeTestInputs,
        options: &RunOptions,
    ) -> FlowResult {
        runs::run_single(&self.inner, node, given, options).await
    }
}

/// What the entry's class is made with: what is given, or else what promptflow's variable says, or the sample; and defaults.
fn init_values(
    flow: &Flow,
    given: &JsonMap,
    variables: &[(String, String)],
) -> Result<JsonMap, RunError> {
    let Some(entry) = &flow.entry else {
        return Ok(JsonMap::new());
    };
    let variable = variables.iter().find(|(name, _)| name == INIT);
    match variable.filter(|_| given.is_empty()) {
        None => Ok(entry.init_values(given)),
        Some((_, text)) => match python_loads(text) {
            Some(Json::Object(values)) => Ok(entry.init_values(&values)),
            _ => Err(RunError::usage(format!("{INIT} is no JSON object"))),
        },
    }
}

/// A session's environment variables.
#[derive(Debug)]
pub(crate) struct Variables {
    written: Vec<(String, String)>,
    /// As guests have them.
    resolved: Vec<(String, String)>,
}

/// What comes before the tools are resolved.
pub(crate) struct Prepared {
    pub(crate) flow: Flow,
    pub(crate) components: Arc<Components>,
    pub(crate) connections: Arc<SessionConnections>,
    pub(crate) variables: Variables,
    pub(crate) tools: Tools,
    pub(crate) notes: Vec<String>,
    pub(crate) line_time: Duration,
    /// Keep what its instances see in the store.
    pub(crate) leases: Vec<Lease>,
}

/// Applies variants and sets up the environment of the session's instances.
pub(crate) fn prepare(
    host: &Host,
    workspace: &Workspace,
    options: &SessionOptions,
) -> Result<Prepared, RunError> {
    let mut flow = workspace.flow().clone();
    flow.with_variant(options.variant.as_ref())?;
    let mut notes = Vec::new();
    let image = options.image.as_ref();
    let (used, note) = host.image(&flow, image, &options.bundle)?;
    let mut leases = vec![used.lease];
    leases.extend(options.site.iter().map(|site| site.lease.clone()));
    let manifest = used.manifest;
    notes.extend(note);
    let given = &options.environment_variables;
    let connections = SessionConnections::new(options)?;
    let written = variables(&manifest.environment, &flow, given);
    let variables = resolved_variables(&written, &connections)?;
    let mut limits = options.limits.clone();
    if let Some((_, seconds)) = variables.iter().find(|(name, _)| name == LINE_TIMEOUT) {
        let seconds = seconds
            .parse()
            .ok()
            .and_then(|s: f64| Duration::try_from_secs_f64(s).ok());
        let asked = seconds.filter(|time| !time.is_zero()).ok_or_else(|| {
            RunError::user(
                "ValueError",
                format!("{LINE_TIMEOUT} is not a number of seconds above zero"),
            )
        })?;
        limits.wall_time = asked.min(options.longest_line);
    }
    let line_time = limits.wall_time;
    let mounts = mounts(host, workspace, &manifest, options.site.as_ref())?;
    let preparation = Preparation::new(&manifest, workspace, options, &variables);
    let owner = options.stored.as_ref().map(|stored| stored.owner.clone());
    let environment = Environment::new(mounts, variables.clone(), limits)
        .with_slice(Arc::clone(&options.slice))
        .with_owner(owner.unwrap_or_default());
    let environment = match &options.network {
        Some(network) => {
            environment.with_network(Egress::new(Arc::clone(network), connections.clone()))
        }
        None => environment,
    };
    let site = options.site.as_ref();
    let components = Components::new(
        host,
        manifest,
        site,
        Arc::clone(&connections),
        environment,
        options.into(),
    );
    let tools = Tools::new(
        Arc::clone(&components),
        Arc::clone(&connections),
        preparation,
        &flow,
    );
    Ok(Prepared {
        flow,
        components,
        connections,
        variables: Variables {
            written,
            resolved: variables.clone(),
        },
        tools,
        notes,
        line_time,
        leases,
    })
}

pub(crate) fn mounts(
    host: &Host,
    workspace: &Workspace,
    manifest: &Manifest,
    site: Option<&Site>,
) -> Result<Vec<Mount>, RunError> {
    let mut mounts = vec![
        Mount {
            host: workspace.flow_folder(),
            guest: "/flow".to_owned(),
            access: Access::ReadWrite,
        },
        Mount {
            host: workspace.temporary_folder(),
            guest: "/tmp".to_owned(),
            access: Access::ReadWrite,
        },
    ];
    for tree in &manifest.trees {
        mounts.push(Mount {
            host: host.store.tree(&tree.digest)?,
            guest: tree.mount.clone(),
            access: Access::ReadOnly,
        });
    }
    mounts.extend(site.map(|site| Mount {
        host: site.folder.clone(),
        guest: SITE.to_owned(),
        access: Access::ReadOnly,
    }));
    Ok(mounts)
}

/// The image's environment variables under the flow's, and these under the caller's; and a home, which programs expect.
/// Some may refer to connections.
pub(crate) fn variables(
    image: &BTreeMap<String, String>,
    flow: &Flow,
    given: &IndexMap<String, String>,
) -> Vec<(String, String)> {
    let mut variables = IndexMap::from([("HOME".to_owned(), "/tmp".to_owned())]);
    variables.extend(image.clone());
    variables.extend(flow.environment_variables.clone());
    variables.extend(given.clone());
    variables.into_iter().collect()
}

/// Environment variables as guests get them: `${connection.field}` is the field's value or placeholder.
pub(crate) fn resolved_variables(
    written: &[(String, String)],
    connections: &SessionConnections,
) -> Result<Vec<(String, String)>, RunError> {
    let resolved = written.iter().map(|(name, value)| {
        let resolved = connections.variable(name, value)?;
        Ok((name.clone(), resolved.unwrap_or_else(|| value.clone())))
    });
    resolved.collect()
}
