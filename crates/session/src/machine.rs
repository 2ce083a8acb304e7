//! The life of computes and sessions, as one pure function: a state and an event give changes and effects.
//!
//! Everything that waits, stores or calls is outside. Whoever runs it stores the changes first, then carries out the
//! effects; should the host die in between, [`recover`] gives the effects that are still due.

mod compute;
mod fork;
mod hibernation;
mod place;
mod session;

use flowcell_egress::Rule;
use jiff::Timestamp;

use crate::compute::{Catalog, Resources};
use crate::name::{Name, UserName};
use crate::quota::{QuotaExceeded, Quotas};
use crate::session::{Identity, Image, Packages, Session, SessionState};
use crate::state::{Change, State, Workspace};

/// What the operator has set.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// The instance types.
    pub catalog: Catalog,
    /// The quotas.
    pub quotas: Quotas,
    /// What the computes of the whole host may be promised together. More than the host has is sensible, since most
    /// computes use little of their share.
    pub capacity: Resources,
    /// Idle time of sessions that do not say one, in seconds.
    pub idle_seconds: u64,
    /// Shortest idle time that can be asked for.
    pub min_idle_seconds: u64,
    /// Longest idle time that can be asked for.
    pub max_idle_seconds: u64,
}

/// What an event meets, besides the state.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The time.
    pub now: Timestamp,
    /// The operator's settings.
    pub rules: &'a Rules,
    /// Memory that the host has free at this moment, in MiB: the load, when the host chooses a type.
    pub free_memory_mib: u64,
}

/// Where a session shall run and with what; nothing means that the host chooses.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Wish {
    /// The kind of compute.
    pub compute_kind: Option<crate::compute::ComputeKind>,
    /// The type of a serverless compute, by name or alias.
    pub instance_type: Option<String>,
    /// A certain compute.
    pub compute: Option<Name>,
    /// The idle time.
    pub idle_seconds: Option<u64>,
    /// The identity.
    pub identity: Option<Identity>,
    /// What its tools may ask of the network.
    pub network: Option<Rule>,
    /// Whether the image was asked for, rather than being the flow's or the default one.
    pub names_image: bool,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A user starts the session of a flow.
    Start {
        /// Whoever asks.
        user: UserName,
        /// The flow.
        flow: Name,
        /// The identifier, if the flow has no session yet.
        id: Name,
        /// The name of a serverless compute, should one have to be made.
        compute: Name,
        /// The image.
        image: Box<Image>,
        /// The settings.
        wish: Wish,
    },
    /// A session's working copy and environment are ready.
    Opened {
        /// The session.
        session: Name,
        /// Its life.
        generation: u64,
        /// Its base image, where it is known only now.
        image: Option<Box<Image>>,
        /// What its requirements have brought.
        packages: Option<Box<Packages>>,
    },
    /// Packages were installed in a session that runs.
    Installed {
        /// The session.
        session: Name,
        /// Its life.
        generation: u64,
        /// What it has from now on.
        packages: Option<Box<Packages>>,
        /// Whoever asked for it.
        by: UserName,
    },
    /// They could not be made ready.
    OpenFailed {
        /// The session.
        session: Name,
        /// Its life.
        generation: u64,
        /// Why, for people.
        why: String,
    },
    /// A session's instances and files are gone.
    Closed {
        /// The session.
        session: Name,
        /// Its life.
        generation: u64,
    },
    /// A session's instances are stored, all of them, and their memory is free.
    Hibernated {
        /// The session.
        session: Name,
        /// Its life.
        generation: u64,
        /// Instances that are stored.
        instances: u64,
        /// Bytes of their files.
        bytes: u64,
        /// Whoever asked for it; nothing where it was not used.
        by: Option<UserName>,
    },
    /// A hibernated session goes on.
    Resumed {
        /// The session.
        session: Name,
        /// Its life.
        generation: u64,
        /// Whoever asked for it; nothing where a call came.
        by: Option<UserName>,
    },
    /// A user makes a flow with a session that are copies of another one's.
    Fork {
        /// Whoever asks.
        user: UserName,
        /// The session that is copied.
        from: Name,
        /// Which of its lives.
        generation: u64,
        /// The new flow.
        flow: Name,
        /// The new session's identifier.
        id: Name,
        /// The name of a serverless compute, should one have to be made.
        compute: Name,
        /// The settings; those that are absent are as the other session has them. `names_image` must be false.
        wish: Wish,
    },
    /// A user changes settings of a session.
    Update {
        /// Whoever asks.
        user: UserName,
        /// The session.
        session: Name,
        /// The revision that the user has seen, if that matters.
        seen: Option<u64>,
        /// The name of a serverless compute, should one have to be made.
        compute: Name,
        /// The settings that change; `names_image` must be false.
        wish: Wish,
    },
    /// A user resets a session.
    Reset {
        /// Whoever asks.
        user: UserName,
        /// The session.
        session: Name,
        /// The revision that the user has seen, if that matters.
        seen: Option<u64>,
        /// The name of a serverless compute, should one have to be made.
        compute: Name,
        /// The image of the next life; without one, it stays the same.
        image: Option<Box<Image>>,
    },
    /// A user stops a session.
    Stop {
        /// Whoever asks.
        user: UserName,
        /// The session.
        session: Name,
    },
    /// A session's idle time seems to be over.
    SessionIdle {
        /// The session.
        session: Name,
        /// When it was last used.
        last_use: Timestamp,
    },
    /// Sessions were used; what [`Event::SessionIdle`] would say is kept from time to time, for a host that dies.
    Used {
        /// The session.
        session: Name,
        /// When.
        at: Timestamp,
    },
    /// A user makes a compute of kind `instance`.
    CreateCompute {
        /// Whoever asks.
        user: UserName,
        /// The name.
        name: Name,
        /// The type, by name or alias; without it the host chooses.
        instance_type: Option<String>,
        /// The idle time.
        idle_seconds: Option<u64>,
    },
    /// A user changes a compute's idle time.
    UpdateCompute {
        /// Whoever asks.
        user: UserName,
        /// The compute.
        compute: Name,
        /// The revision that the user has seen, if that matters.
        seen: Option<u64>,
        /// The idle time.
        idle_seconds: u64,
    },
    /// A user starts a compute that is stopped.
    StartCompute {
        /// Whoever asks.
        user: UserName,
        /// The compute.
        compute: Name,
    },
    /// A user stops a compute, with its sessions.
    StopCompute {
        /// Whoever asks.
        user: UserName,
        /// The compute.
        compute: Name,
    },
    /// A user deletes a compute, with its sessions.
    DeleteCompute {
        /// Whoever asks.
        user: UserName,
        /// The compute.
        compute: Name,
    },
    /// A compute's idle time seems to be over.
    ComputeIdle {
        /// The compute.
        compute: Name,
        /// When one of its sessions was last used.
        last_use: Timestamp,
    },
}

/// Something to be done once the changes are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make a session's working copy and environment ready; then [`Event::Opened`] or [`Event::OpenFailed`].
    Open {
        /// The session.
        session: Name,
        /// Its life.
        generation: u64,
    },
    /// End a session's calls, and delete its instances and its working copy; then [`Event::Closed`].
    Close {
        /// The session.
        session: Name,
        /// Its life.
        generation: u64,
    },
}

/// What an event leads to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Step {
    /// What changes, in this order, together or not at all.
    pub changes: Vec<Change>,
    /// What is to be done then.
    pub effects: Vec<Effect>,
}

impl Step {
    /// The session as the step leaves it.
    pub fn session(&self) -> Option<&Session> {
        self.changes.iter().rev().find_map(|change| match change {
            Change::PutSession(session) => Some(session),
            _ => None,
        })
    }

    /// The sessions that the step stops.
    pub fn stops(&self) -> impl Iterator<Item = &Session> {
        self.changes.iter().filter_map(|change| match change {
            Change::PutSession(session) if session.state == SessionState::Stopping => Some(session),
            _ => None,
        })
    }
}

/// An event that cannot be.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The thing is not there.
    #[error("there is no {what} '{name}' in this workspace")]
    NotFound {
        /// Kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The thing belongs to somebody else.
    #[error("{what} '{name}' belongs to {owner}; only its owner can use it")]
    NotYours {
        /// Kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
        /// Its owner.
        owner: UserName,
    },
    /// The thing is not in a state for this.
    #[error("{0}")]
    Conflict(String),
    /// The settings contradict each other or the rules.
    #[error("{field}: {problem}")]
    Invalid {
        /// The setting.
        field: &'static str,
        /// What is wrong, and the way out.
        problem: String,
    },
    /// The thing is not there; the text says what can be done.
    #[error("{0}")]
    Missing(String),
    /// The user may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// There are as many as there may be.
    #[error("{0}")]
    TooMany(String),
    /// The workspace has as many flows as it may have.
    #[error("the workspace has {0} flows, which is the most; delete some")]
    TooManyFlows(usize),
    /// A quota is full.
    #[error(transparent)]
    Quota(#[from] QuotaExceeded),
    /// The host is full.
    #[error(
        "the host has no room for this: wanted are {wanted}; computes of {reserved} exist, and {capacity} is the most; stop some, or choose a smaller type"
    )]
    HostFull {
        /// What is needed.
        wanted: Resources,
        /// What all computes may use.
        reserved: Resources,
        /// The most that they may.
        capacity: Resources,
    },
    /// Somebody else changed it meanwhile.
    #[error("its revision is {current}, and If-Match names {seen}; look at it again")]
    Stale {
        /// The revision that the user has seen.
        seen: u64,
        /// The revision that there is.
        current: u64,
    },
}

/// Decides what an event leads to. It changes nothing itself.
///
/// An event that has become pointless (a session that is used again, a life that is over) leads to nothing.
///
/// # Errors
/// When the event is somebody's wish and cannot be fulfilled.
pub fn step(
    state: &State,
    context: Context<'_>,
    workspace: &Name,
    event: &Event,
) -> Result<Step, Refusal> {
    let workspace = state.workspace(workspace)?;
    let scene = Scene {
        state,
        workspace,
        context,
    };
    match event {
        Event::Start {
            user,
            flow,
            id,
            compute,
            image,
            wish,
        } => scene.start(user, flow, id, compute, image, wish),
        Event::Opened {
            session,
            generation,
            image,
            packages,
        } => Ok(scene.opened(session, *generation, image.as_deref(), packages.as_deref())),
        Event::Installed {
            session,
            generation,
            packages,
            by,
        } => Ok(scene.installed(session, *generation, packages.as_deref(), by)),
        Event::OpenFailed {
            session,
            generation,
            why,
        } => Ok(scene.open_failed(session, *generation, why)),
        Event::Closed {
            session,
            generation,
        } => Ok(scene.closed(session, *generation)),
        Event::Hibernated {
            session,
            generation,
            instances,
            bytes,
            by,
        } => Ok(scene.hibernated(session, *generation, (*instances, *bytes), by.as_ref())),
        Event::Resumed {
            session,
            generation,
            by,
        } => Ok(scene.resumed(session, *generation, by.as_ref())),
        Event::Fork {
            user,
            from,
            generation,
            flow,
            id,
            compute,
            wish,
        } => scene.fork(user, (from, *generation), flow, (id, compute), wish),
        Event::Update {
            user,
            session,
            seen,
            compute,
            wish,
        } => scene.update(user, session, *seen, compute, wish),
        Event::Reset {
            user,
            session,
            seen,
            compute,
            image,
        } => scene.reset(user, session, *seen, compute, image.as_deref()),
        Event::Stop { user, session } => scene.stop(user, session),
        Event::SessionIdle { session, last_use } => Ok(scene.session_idle(session, *last_use)),
        Event::Used { session, at } => Ok(scene.used(session, *at)),
        Event::CreateCompute {
            user,
            name,
            instance_type,
            idle_seconds,
        } => scene.create_compute(user, name, instance_type.as_deref(), *idle_seconds),
        Event::UpdateCompute {
            user,
            compute,
            seen,
            idle_seconds,
        } => scene.update_compute(user, compute, *seen, *idle_seconds),
        Event::StartCompute { user, compute } => scene.start_compute(user, compute),
        Event::StopCompute { user, compute } => scene.stop_compute(user, compute),
        Event::DeleteCompute { user, compute } => scene.delete_compute(user, compute),
        Event::ComputeIdle { compute, last_use } => Ok(scene.compute_idle(compute, *last_use)),
    }
}

/// The effects that a host which died may not have carried out: for each workspace with any.
///
/// Sessions that run or are hibernated are opened on their first use, not here.
pub fn recover(state: &State) -> Vec<(Name, Effect)> {
    let mut effects = Vec::new();
    for workspace in state.workspaces.values() {
        for session in workspace.sessions.values() {
            let (session_id, generation) = (session.id.clone(), session.generation);
            let effect = match session.state {
                SessionState::Starting => Effect::Open {
                    session: session_id,
                    generation,
                },
                SessionState::Stopping => Effect::Close {
                    session: session_id,
                    generation,
                },
                SessionState::Running
                | SessionState::Hibernated
                | SessionState::Stopped
                | SessionState::Failed => continue,
            };
            effects.push((workspace.record.name.clone(), effect));
        }
    }
    effects
}

/// What the parts of [`step`] share.
struct Scene<'a> {
    state: &'a State,
    workspace: &'a Workspace,
    context: Context<'a>,
}

impl<'a> Scene<'a> {
    fn find_session(&self, id: &Name) -> Result<&'a Session, Refusal> {
        self.workspace
            .sessions
            .get(id)
            .ok_or_else(|| Refusal::NotFound {
                what: "session",
                name: id.to_string(),
            })
    }

    /// Whether a session of this user may have, or begin anew with, this identity.
    fn check_identity(&self, user: &UserName, identity: &Identity) -> Result<(), Refusal> {
        self.workspace.holder(user, identity).map(|_| ())
    }

    fn idle_seconds(&self, asked: Option<u64>) -> Result<u64, Refusal> {
        let rules = self.context.rules;
        let seconds = asked.unwrap_or(rules.idle_seconds);
        if (rules.min_idle_seconds..=rules.max_idle_seconds).contains(&seconds) || asked.is_none() {
            Ok(seconds)
        } else {
            Err(Refusal::Invalid {
                field: "idle_seconds",
                problem: format!(
                    "{seconds} is not between {} and {}",
                    rules.min_idle_seconds, rules.max_idle_seconds
                ),
            })
        }
    }
}

/// Whether the time since a last use is over.
fn is_over(now: Timestamp, last_use: Timestamp, idle_seconds: u64) -> bool {
    let idle = now.duration_since(last_use);
    u64::try_from(idle.as_secs()).is_ok_and(|seconds| seconds >= idle_seconds)
}

/// `If-Match`.
pub(crate) fn check_seen(seen: Option<u64>, current: u64) -> Result<(), Refusal> {
    match seen {
        Some(seen) if seen != current => Err(Refusal::Stale { seen, current }),
        _ => Ok(()),
    }
}

/// An idle time, for people.
fn shown(seconds: u64) -> String {
    match seconds {
        seconds if seconds % 3600 == 0 => format!("{} h", seconds / 3600),
        seconds if seconds % 60 == 0 => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}
