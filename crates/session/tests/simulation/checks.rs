//! The rules, as checks of a state, and of what has become of one in a step.

use std::collections::{BTreeSet, HashMap};

use flowcell_session::machine::{Effect, Event, Refusal, Step, Wish};
use flowcell_session::{
    Compute, ComputeKind, ComputeState, Image, Name, Quota, Registry as _, Resources, Session,
    SessionState, State, Stored, Used, UserName, Workspace,
};
use jiff::Timestamp;

use crate::world::{Checked, RULES, World};

macro_rules! check {
    ($is_kept:expr, $($broken:tt)+) => {
        if !$is_kept {
            return Err(format!($($broken)+));
        }
    };
}

fn is_over(now: Timestamp, last_use: Timestamp, idle_seconds: u64) -> bool {
    now.duration_since(last_use).as_secs() >= i64::try_from(idle_seconds).unwrap()
}

fn add(used: &mut Used, compute: &Compute) {
    used.computes += 1;
    if compute.state != ComputeState::Stopped {
        used.resources.memory_mib += compute.resources.memory_mib;
        used.resources.cpu_millis += compute.resources.cpu_millis;
        used.resources.instances += compute.resources.instances;
    }
}

/// What a workspace uses, and each of its users, counted one by one.
fn used(workspace: &Workspace) -> (Used, HashMap<UserName, Used>) {
    let mut all = Used::default();
    let mut by: HashMap<UserName, Used> = HashMap::new();
    for compute in workspace.computes.values() {
        add(&mut all, compute);
        add(by.entry(compute.user.clone()).or_default(), compute);
    }
    for session in workspace.sessions.values() {
        if session.state.is_live() {
            all.sessions += 1;
            by.entry(session.user.clone()).or_default().sessions += 1;
        }
    }
    (all, by)
}

fn is_within(used: &Used, quota: &Quota) -> bool {
    used.sessions <= quota.sessions
        && used.computes <= quota.computes
        && used.resources.memory_mib <= quota.resources.memory_mib
        && used.resources.cpu_millis <= quota.resources.cpu_millis
        && used.resources.instances <= quota.resources.instances
}

fn sum(used: &Used, more: &Used) -> Used {
    Used {
        sessions: used.sessions + more.sessions,
        computes: used.computes + more.computes,
        resources: Resources {
            memory_mib: used.resources.memory_mib + more.resources.memory_mib,
            cpu_millis: used.resources.cpu_millis + more.resources.cpu_millis,
            instances: used.resources.instances + more.resources.instances,
        },
    }
}

/// What must be true at every moment.
pub(crate) fn state(state: &State) -> Checked {
    let mut reserved = Resources::default();
    for workspace in state.workspaces.values() {
        let (all, by) = used(workspace);
        check!(workspace.used == all, "used are {all}");
        check!(workspace.used_by == by, "users use {by:?}");
        reserved.memory_mib += all.resources.memory_mib;
        reserved.cpu_millis += all.resources.cpu_millis;
        reserved.instances += all.resources.instances;
        let quotas = &RULES.quotas;
        check!(
            is_within(&all, &quotas.workspace),
            "beyond the quota: {all}"
        );
        for used in by.values() {
            check!(
                is_within(used, &quotas.user),
                "beyond a user's quota: {used}"
            );
        }
        indexes(workspace)?;
        for session in workspace.sessions.values() {
            check!(!session.reason.is_empty(), "a session without a reason");
            check!(!session.choice.is_empty(), "a session without a choice");
            check!(
                session.stored.is_some() == (session.state == SessionState::Hibernated),
                "session {} is {} with {:?} stored",
                session.id,
                session.state.as_str(),
                session.stored
            );
            check!(
                session.stored.is_none_or(|stored| stored.instances > 0),
                "session {} is hibernated with nothing",
                session.id
            );
            if session.state.is_live() {
                place(workspace, session)?;
            }
        }
        for compute in workspace.computes.values() {
            held(workspace, compute)?;
        }
    }
    check!(state.reserved == reserved, "reserved are {reserved:?}");
    let capacity = &RULES.capacity;
    let fits = reserved.memory_mib <= capacity.memory_mib
        && reserved.cpu_millis <= capacity.cpu_millis
        && reserved.instances <= capacity.instances;
    check!(fits, "the host has promised {reserved:?}");
    Ok(())
}

fn indexes(workspace: &Workspace) -> Checked {
    let mut session_of: HashMap<&Name, &Name> = HashMap::new();
    let mut on_compute: HashMap<&Name, BTreeSet<&Name>> = HashMap::new();
    for session in workspace.sessions.values() {
        let other = session_of.insert(&session.flow, &session.id);
        check!(other.is_none(), "flow {} has two sessions", session.flow);
        if session.state.is_live() {
            let of_compute = on_compute.entry(&session.compute).or_default();
            of_compute.insert(&session.id);
        }
    }
    let same = workspace.session_of.len() == session_of.len()
        && workspace
            .session_of
            .iter()
            .all(|(flow, session)| session_of.get(flow) == Some(&session));
    check!(same, "session_of should be {session_of:?}");
    let same = workspace.on_compute.len() == on_compute.len()
        && workspace.on_compute.iter().all(|(compute, sessions)| {
            on_compute
                .get(compute)
                .is_some_and(|expected| sessions.iter().eq(expected.iter().copied()))
        });
    check!(same, "on_compute should be {on_compute:?}");
    Ok(())
}

/// A session that is not stopped has a place that is its user's.
fn place(workspace: &Workspace, session: &Session) -> Checked {
    let id = &session.id;
    let Some(compute) = workspace.computes.get(&session.compute) else {
        return Err(format!("session {id} is on a compute that is not there"));
    };
    check!(
        compute.user == session.user,
        "session {id} is on somebody else's compute"
    );
    check!(
        compute.kind == session.compute_kind && compute.instance_type == session.instance_type,
        "session {id} is on another compute than it says"
    );
    check!(
        session.state == SessionState::Stopping || compute.state == ComputeState::Running,
        "session {id} is {} on a compute that is {}",
        session.state.as_str(),
        compute.state.as_str()
    );
    Ok(())
}

/// What a compute holds is what its state says.
fn held(workspace: &Workspace, compute: &Compute) -> Checked {
    let name = &compute.name;
    check!(!compute.reason.is_empty(), "compute {name} has no reason");
    let on_it = || {
        let sessions = workspace.sessions.values();
        sessions.filter(|session| session.compute == *name && session.state.is_live())
    };
    let count = on_it().count();
    match compute.kind {
        ComputeKind::Serverless => {
            check!(count > 0, "serverless compute {name} has no session");
            check!(
                matches!(
                    compute.state,
                    ComputeState::Running | ComputeState::Deleting
                ),
                "serverless compute {name} is {}",
                compute.state.as_str()
            );
            check!(
                compute.idle_seconds.is_none(),
                "serverless compute {name} has an idle time"
            );
        }
        ComputeKind::Instance => {
            let idle = RULES.min_idle_seconds..=RULES.max_idle_seconds;
            let is_idle = compute
                .idle_seconds
                .is_some_and(|seconds| idle.contains(&seconds));
            check!(is_idle, "the idle time of {name} is out of range");
        }
    }
    match compute.state {
        ComputeState::Running => {}
        ComputeState::Stopped => check!(count == 0, "compute {name} is stopped and holds sessions"),
        ComputeState::Stopping | ComputeState::Deleting => {
            check!(count > 0, "compute {name} waits for nothing");
            let all = on_it().all(|session| session.state == SessionState::Stopping);
            check!(all, "compute {name} waits for a session that is not ending");
        }
    }
    Ok(())
}

/// Why an event was refused is true.
pub(crate) fn refusal(
    state: &State,
    workspace: &Name,
    event: &Event,
    refusal: &Refusal,
) -> Checked {
    let workspace = &state.workspaces[workspace];
    let is_true = match refusal {
        Refusal::NotFound { what, name } => match *what {
            "flow" => !workspace.flows.contains_key(name.as_str()),
            "session" => !workspace.sessions.contains_key(name.as_str()),
            "compute" => !workspace.computes.contains_key(name.as_str()),
            _ => false,
        },
        Refusal::NotYours { what, name, owner } => {
            let (asking, name) = (user(event), name.as_str());
            if *what == "session" {
                let session = workspace.sessions.get(name);
                session.is_some_and(|session| session.user == *owner)
                    && asking.is_some_and(|asking| asking != owner)
            } else {
                let compute = workspace.computes.get(name);
                compute.is_some_and(|compute| compute.user == *owner) && asking.is_some()
            }
        }
        Refusal::Stale { seen, current } => seen != current,
        Refusal::Quota(exceeded) => {
            let (all, by) = used(workspace);
            let asking = session(workspace, event).map(|session| &session.user);
            let asking = asking.or(user(event)).unwrap();
            let (used, quota) = if exceeded.whose.starts_with("workspace") {
                (all, &RULES.quotas.workspace)
            } else {
                (
                    by.get(asking).copied().unwrap_or_default(),
                    &RULES.quotas.user,
                )
            };
            exceeded.used == used && !is_within(&sum(&used, &exceeded.wanted), quota)
        }
        // There are never so many here.
        Refusal::TooManyFlows(_) | Refusal::TooMany(_) => false,
        Refusal::Missing(_) => workspace.identities.is_empty(),
        Refusal::Forbidden(_) => {
            let own = workspace.identities.keys().next();
            let of_session = session(workspace, event).map(|session| &session.user);
            let asking = of_session.or(user(event));
            asking
                .zip(own)
                .is_some_and(|(asking, own)| !workspace.may_assign(asking, own))
        }
        Refusal::HostFull { reserved, .. } => *reserved == state.reserved,
        Refusal::Conflict(_) => conflicts(workspace, event),
        Refusal::Invalid { problem, .. } => !problem.is_empty(),
    };
    check!(is_true, "the refusal is not true: {refusal}");
    Ok(())
}

fn user(event: &Event) -> Option<&UserName> {
    match event {
        Event::Start { user, .. }
        | Event::Fork { user, .. }
        | Event::Update { user, .. }
        | Event::Reset { user, .. }
        | Event::Stop { user, .. }
        | Event::CreateCompute { user, .. }
        | Event::UpdateCompute { user, .. }
        | Event::StartCompute { user, .. }
        | Event::StopCompute { user, .. }
        | Event::DeleteCompute { user, .. } => Some(user),
        Event::Hibernated { by, .. } | Event::Resumed { by, .. } => by.as_ref(),
        Event::Installed { by, .. } => Some(by),
        Event::Opened { .. }
        | Event::OpenFailed { .. }
        | Event::Closed { .. }
        | Event::SessionIdle { .. }
        | Event::Used { .. }
        | Event::ComputeIdle { .. } => None,
    }
}

/// The session that an event names.
fn session<'a>(workspace: &'a Workspace, event: &Event) -> Option<&'a Session> {
    match event {
        Event::Opened { session, .. }
        | Event::Installed { session, .. }
        | Event::OpenFailed { session, .. }
        | Event::Closed { session, .. }
        | Event::Hibernated { session, .. }
        | Event::Resumed { session, .. }
        | Event::Update { session, .. }
        | Event::Reset { session, .. }
        | Event::Stop { session, .. }
        | Event::SessionIdle { session, .. }
        | Event::Used { session, .. } => workspace.sessions.get(session),
        _ => None,
    }
}

/// Whether the state of anything that an event touches may stand against it.
fn conflicts(workspace: &Workspace, event: &Event) -> bool {
    let is_passing = |compute: &Name| {
        workspace.computes.get(compute).is_some_and(|compute| {
            matches!(
                compute.state,
                ComputeState::Stopping | ComputeState::Deleting
            )
        })
    };
    let any_passing = || workspace.computes.keys().any(&is_passing);
    let exists = |compute: &Name| workspace.computes.contains_key(compute);
    match event {
        Event::Start {
            flow, id, compute, ..
        } => {
            let has_one = workspace
                .sessions
                .values()
                .any(|session| session.flow == *flow && session.state.is_live());
            has_one || any_passing() || exists(compute) || workspace.sessions.contains_key(id)
        }
        Event::Fork {
            from,
            generation,
            flow,
            id,
            compute,
            ..
        } => {
            let from = &workspace.sessions[from];
            let runs = matches!(from.state, SessionState::Running | SessionState::Hibernated);
            !runs
                || from.generation != *generation
                || workspace.flows.contains_key(flow)
                || any_passing()
                || exists(compute)
                || workspace.sessions.contains_key(id)
        }
        Event::Update {
            session, compute, ..
        } => {
            let session = &workspace.sessions[session];
            let runs = matches!(
                session.state,
                SessionState::Starting | SessionState::Running | SessionState::Hibernated
            );
            !runs || any_passing() || exists(compute)
        }
        Event::Reset {
            session, compute, ..
        } => {
            let session = &workspace.sessions[session];
            let ends = matches!(
                session.state,
                SessionState::Stopping | SessionState::Stopped
            );
            ends || is_passing(&session.compute) || exists(compute)
        }
        Event::CreateCompute { name, .. } => exists(name),
        Event::StartCompute { compute, .. } => is_passing(compute),
        _ => false,
    }
}

/// What an accepted event has led to; `world.state` is what came of `before`.
pub(crate) fn step(
    world: &mut World,
    before: &State,
    workspace: &Name,
    event: &Event,
    step: &Step,
) -> Checked {
    for (name, other) in &before.workspaces {
        let same = name == workspace || world.state.workspaces.get(name) == Some(other);
        check!(same, "another workspace has changed");
    }
    let old = &before.workspaces[workspace];
    let mut effects = Vec::new();
    let mut lines = Vec::new();
    {
        let new = &world.state.workspaces[workspace];
        check!(
            old.sessions.keys().all(|id| new.sessions.contains_key(id)),
            "a session has vanished with its history"
        );
        for (id, session) in &new.sessions {
            let was = old.sessions.get(id);
            let begins = was.is_none_or(|was| {
                was.generation != session.generation || was.identity != session.identity
            });
            if begins {
                let holder = old.holder(&session.user, &session.identity);
                check!(
                    holder.is_ok(),
                    "session {id} has an identity that is not for it"
                );
            }
            if was != Some(session) {
                lines.extend(became(world, workspace, event, was, session, &mut effects)?);
            }
        }
        for compute in old.computes.values() {
            compute_became(world.now, event, compute, new.computes.get(&compute.name))?;
        }
        let key = |effect: &Effect| format!("{effect:?}");
        let mut emitted = step.effects.clone();
        for (index, effect) in emitted.iter().enumerate() {
            if let Effect::Open { session, .. } = effect {
                let late = emitted[index..].iter().any(
                    |effect| matches!(effect, Effect::Close { session: other, .. } if other == session),
                );
                check!(!late, "a life begins before the last one has ended");
            }
        }
        emitted.sort_by_key(key);
        effects.sort_by_key(key);
        check!(emitted == effects, "effects should be {effects:?}");
        expected(world, old, new, workspace, event, step)?;
    }
    for (session, number) in lines {
        world.lines.insert((workspace.clone(), session), number);
    }
    remember(world, old, workspace, event);
    Ok(())
}

/// A session has changed. Gives the number of its latest line of history, if it has a new one.
fn became(
    world: &World,
    workspace: &Name,
    event: &Event,
    was: Option<&Session>,
    session: &Session,
    effects: &mut Vec<Effect>,
) -> Checked<Option<(Name, u64)>> {
    use SessionState::{Failed, Hibernated, Running, Starting, Stopped, Stopping};
    let id = &session.id;
    // What happens by itself, again and again, is no change that anybody waits for.
    let is_quiet = matches!(
        event,
        Event::Hibernated { by: None, .. } | Event::Resumed { by: None, .. }
    );
    if let Some(was) = was {
        check!(was.flow == session.flow, "{id} is of another flow now");
        check!(was.created == session.created, "{id} was created anew");
        check!(was.last_use <= session.last_use, "{id} was used earlier");
        let same = Session {
            last_use: was.last_use,
            ..session.clone()
        };
        if same == *was {
            let is_use = matches!(event, Event::Used { .. });
            check!(is_use, "the last use of {id} has changed");
            return Ok(None);
        }
        check!(
            (session.revision > was.revision) != is_quiet,
            "the revision of {id} went from {} to {}",
            was.revision,
            session.revision
        );
        check!(
            was.forked_from == session.forked_from,
            "{id} is a copy of another session now"
        );
        let begins = session.generation > was.generation;
        check!(
            begins || session.generation == was.generation,
            "{id} lives an old life"
        );
        let is_allowed = match (was.state, session.state) {
            (Starting | Running | Hibernated | Stopped | Failed, Starting) if begins => true,
            (Starting, Starting | Running | Failed | Stopping)
            | (Running, Running | Hibernated | Stopping)
            | (Hibernated, Hibernated | Running | Stopping)
            | (Stopping | Failed, Stopped) => !begins,
            _ => false,
        };
        check!(
            is_allowed,
            "{id} went from {} to {}",
            was.state.as_str(),
            session.state.as_str()
        );
        if begins || was.state != session.state {
            check!(session.since == world.now, "{id} is so since another time");
        }
        let ended = matches!(was.state, Starting | Running | Hibernated)
            && (begins || session.state == Stopping);
        if ended {
            effects.push(Effect::Close {
                session: id.clone(),
                generation: was.generation,
            });
        }
    } else {
        check!(
            session.state == Starting && session.generation == 1 && session.revision == 1,
            "{id} does not begin at the beginning"
        );
    }
    if session.state == Starting && was.is_none_or(|was| was.generation < session.generation) {
        effects.push(Effect::Open {
            session: id.clone(),
            generation: session.generation,
        });
    }
    if is_quiet {
        return Ok(None);
    }
    let history = world.disk.history(workspace, id, None, 2).unwrap();
    let key = (workspace.clone(), id.clone());
    let before = world.lines.get(&key).copied();
    check!(
        history.get(1).map(|(number, _)| *number) == before,
        "{id} has changed, and its history has not one line more"
    );
    let (number, line) = &history[0];
    check!(
        !line.what.is_empty()
            && line.state == session.state.as_str()
            && line.generation == session.generation
            && line.at == world.now,
        "the history of {id} says {line:?}"
    );
    check!(
        line.by.as_ref() == user(event),
        "the history of {id} does not say who did it: {line:?}"
    );
    let says = match event {
        Event::SessionIdle { .. } => line.what.contains("idle"),
        Event::ComputeIdle { compute, .. }
        | Event::StopCompute { compute, .. }
        | Event::DeleteCompute { compute, .. } => {
            line.what.contains("compute") && line.what.contains(compute.as_str())
        }
        _ => true,
    };
    check!(says, "the history of {id} does not say why: {line:?}");
    if session.state == Stopping {
        check!(
            session.reason == line.what,
            "{id} stops for another reason than it says"
        );
    }
    if let (Stopped, Some(was)) = (session.state, was)
        && was.state == Stopping
    {
        check!(
            session.reason == was.reason,
            "{id} has forgotten why it stopped"
        );
    }
    Ok(Some((id.clone(), *number)))
}

/// A compute has changed, perhaps.
fn compute_became(now: Timestamp, event: &Event, was: &Compute, is: Option<&Compute>) -> Checked {
    use ComputeState::{Deleting, Running, Stopped, Stopping};
    let name = &was.name;
    let Some(is) = is else {
        let may_go = was.kind == ComputeKind::Serverless
            || was.state == Deleting
            || matches!(event, Event::DeleteCompute { .. });
        check!(may_go, "compute {name} has gone, and nobody deleted it");
        return Ok(());
    };
    if was == is {
        return Ok(());
    }
    check!(
        was.user == is.user
            && was.kind == is.kind
            && was.instance_type == is.instance_type
            && was.resources == is.resources
            && was.created == is.created,
        "compute {name} is another one now"
    );
    check!(
        was.last_use <= is.last_use,
        "compute {name} was used earlier"
    );
    let same = Compute {
        last_use: was.last_use,
        ..is.clone()
    };
    if same == *was {
        return Ok(());
    }
    check!(is.revision > was.revision, "the revision of {name} stayed");
    let is_allowed = matches!(
        (was.state, is.state),
        (Running, Running | Stopping | Stopped | Deleting)
            | (Stopping, Stopping | Stopped | Deleting)
            | (Stopped, Stopped | Running)
            | (Deleting, Deleting)
    );
    check!(
        is_allowed,
        "compute {name} went from {} to {}",
        was.state.as_str(),
        is.state.as_str()
    );
    if was.state != is.state {
        check!(is.since == now, "compute {name} is so since another time");
    }
    Ok(())
}

/// What an event has to lead to.
fn expected(
    world: &World,
    old: &Workspace,
    new: &Workspace,
    workspace: &Name,
    event: &Event,
    step: &Step,
) -> Checked {
    let was = session(old, event);
    let is = session(new, event);
    match event {
        Event::Start {
            user,
            flow,
            image,
            wish,
            ..
        } => {
            let of_flow = |workspace: &Workspace| {
                let mut sessions = workspace.sessions.values();
                sessions.find(|session| session.flow == *flow).cloned()
            };
            let (was, is) = (of_flow(old), of_flow(new).unwrap());
            check!(
                was.as_ref().is_none_or(|was| !was.state.is_live()),
                "the flow had a session"
            );
            check!(
                is.state == SessionState::Starting && is.user == *user && is.packages.is_none(),
                "the session does not start"
            );
            check!(
                was.is_none_or(|was| was.id == is.id && was.generation < is.generation),
                "the flow has another session"
            );
            check!(
                is.image == *image
                    && is.identity == wish.identity.clone().unwrap_or_default()
                    && is.network == wish.network.clone().unwrap_or_default(),
                "the session has other settings"
            );
            check!(
                is.idle_seconds == wish.idle_seconds.unwrap_or(RULES.idle_seconds),
                "the session has another idle time"
            );
            placed(new, &is, wish)
        }
        Event::Hibernated {
            generation,
            instances,
            bytes,
            ..
        } => {
            let (was, is) = (was.unwrap(), is.unwrap());
            let due = was.state == SessionState::Running
                && was.generation == *generation
                && *instances > 0;
            check!(due == (is != was), "due for hibernation: {due}");
            let expected = Stored {
                instances: *instances,
                bytes: *bytes,
                since: world.now,
            };
            check!(
                !due || is.stored == Some(expected),
                "stored are {:?}",
                is.stored
            );
            Ok(())
        }
        Event::Resumed { generation, .. } => {
            let (was, is) = (was.unwrap(), is.unwrap());
            let due = was.state == SessionState::Hibernated && was.generation == *generation;
            check!(
                due == (is != was) && (!due || is.state == SessionState::Running),
                "due for resuming: {due}"
            );
            Ok(())
        }
        Event::Fork {
            user,
            from,
            flow,
            id,
            wish,
            ..
        } => {
            let (source, is) = (&old.sessions[from], &new.sessions[id]);
            check!(new.sessions[from] == *source, "the source has changed");
            check!(
                !old.flows.contains_key(flow) && new.flows.contains_key(flow),
                "the flow is not new"
            );
            check!(
                is.state == SessionState::Starting && is.flow == *flow && is.user == *user,
                "the fork does not start"
            );
            let of = is.forked_from.as_ref();
            check!(
                of.is_some_and(|of| of.session == *from && of.generation == source.generation)
                    && is.image == source.image,
                "it is a fork of something else"
            );
            check!(
                is.idle_seconds == wish.idle_seconds.unwrap_or(source.idle_seconds)
                    && is.network
                        == wish
                            .network
                            .clone()
                            .unwrap_or_else(|| source.network.clone()),
                "the session has another idle time, or may ask something else"
            );
            let files = |flow: &Name| world.disk.files(workspace, flow).unwrap();
            check!(
                files(flow) == files(&source.flow),
                "the files are other ones"
            );
            placed(new, is, wish)
        }
        Event::Update { seen, wish, .. } => {
            let (was, is) = (was.unwrap(), is.unwrap());
            check!(
                seen.is_none_or(|seen| seen == was.revision),
                "another revision was seen"
            );
            check!(is.user == was.user, "the session changed its user");
            let asked = |new: Option<u64>, old| new.unwrap_or(old);
            check!(
                is.idle_seconds == asked(wish.idle_seconds, was.idle_seconds),
                "the idle time is another one"
            );
            check!(
                is.identity
                    == wish
                        .identity
                        .clone()
                        .unwrap_or_else(|| was.identity.clone()),
                "the identity is another one"
            );
            check!(
                is.network == wish.network.clone().unwrap_or_else(|| was.network.clone()),
                "it may ask something else"
            );
            check!(is.image == was.image, "the image has changed");
            let moved = is.compute != was.compute;
            check!(
                moved == (is.generation == was.generation + 1),
                "a session begins anew exactly when it moves"
            );
            let needs_move = wish.compute.as_ref().is_some_and(|it| *it != was.compute)
                || wish.compute_kind.is_some_and(|it| it != was.compute_kind)
                || wish.instance_type.as_ref().is_some_and(|it| {
                    RULES
                        .catalog
                        .find(it)
                        .is_none_or(|it| it.name != was.instance_type)
                });
            check!(moved == needs_move, "moved: {moved}");
            let nothing = Wish::default() == *wish;
            check!(!nothing || is == was, "nothing was asked for");
            placed(new, is, wish)
        }
        Event::Reset { seen, image, .. } => {
            let (was, is) = (was.unwrap(), is.unwrap());
            check!(
                seen.is_none_or(|seen| seen == was.revision),
                "another revision was seen"
            );
            check!(
                is.state == SessionState::Starting && is.generation == was.generation + 1,
                "the session does not begin anew"
            );
            let environment = |session: &Session| -> (UserName, Name, u64, Image, ComputeKind) {
                (
                    session.user.clone(),
                    session.instance_type.clone(),
                    session.idle_seconds,
                    image.as_deref().unwrap_or(&session.image).clone(),
                    session.compute_kind,
                )
            };
            check!(
                environment(is) == environment(was)
                    && is.identity == was.identity
                    && is.network == was.network,
                "the environment is another one"
            );
            check!(
                image.as_deref().is_none_or(|image| *is.image == *image),
                "the image is not the one that was asked for"
            );
            let may_move =
                was.state == SessionState::Failed && was.compute_kind == ComputeKind::Serverless;
            check!(
                may_move || is.compute == was.compute,
                "the session is on another compute"
            );
            Ok(())
        }
        Event::Stop { .. } => {
            let (was, is) = (was.unwrap(), is.unwrap());
            let wanted = match was.state {
                SessionState::Starting | SessionState::Running | SessionState::Hibernated => {
                    SessionState::Stopping
                }
                SessionState::Failed => SessionState::Stopped,
                other => other,
            };
            check!(is.state == wanted, "the session does not stop");
            Ok(())
        }
        Event::Opened {
            generation,
            image,
            packages,
            ..
        } => {
            let (was, is) = (was.unwrap(), is.unwrap());
            let due = was.state == SessionState::Starting && was.generation == *generation;
            check!(
                due == (is != was) && (!due || is.state == SessionState::Running),
                "the session does not run"
            );
            check!(
                !due || is.packages == *packages,
                "the session has other packages"
            );
            check!(
                !due || *is.image == *image.as_deref().unwrap_or(&was.image),
                "the session has another image"
            );
            check!(
                !due || is.image.digest.is_some(),
                "the session runs on an image that is not there"
            );
            Ok(())
        }
        Event::Installed {
            generation,
            packages,
            ..
        } => {
            let (was, is) = (was.unwrap(), is.unwrap());
            let due = was.state.takes_calls() && was.generation == *generation;
            let expected = Session {
                revision: was.revision + 1,
                packages: packages.clone(),
                ..was.clone()
            };
            check!(
                *is == if due { expected } else { was.clone() },
                "due for packages: {due}"
            );
            Ok(())
        }
        Event::OpenFailed {
            generation, why, ..
        } => {
            let (was, is) = (was.unwrap(), is.unwrap());
            let due = was.state == SessionState::Starting && was.generation == *generation;
            check!(
                due == (is != was) && (!due || is.state == SessionState::Failed),
                "the session did not fail"
            );
            check!(
                !due || is.reason.contains(why.as_str()),
                "the session does not say why"
            );
            Ok(())
        }
        Event::Closed { generation, .. } => {
            let (was, is) = (was.unwrap(), is.unwrap());
            let due = was.state == SessionState::Stopping && was.generation == *generation;
            check!(
                due == (is != was) && (!due || is.state == SessionState::Stopped),
                "the session is not stopped"
            );
            Ok(())
        }
        Event::SessionIdle { session, .. } => {
            let (was, is) = (was.unwrap(), is.unwrap());
            let stored = world
                .session_use
                .get(&(workspace.clone(), session.clone()))
                .copied();
            let last_use = world.last_use(workspace, session).max(stored.unwrap());
            let due = matches!(was.state, SessionState::Running | SessionState::Hibernated)
                && is_over(world.now, last_use, was.idle_seconds);
            check!(
                due == (is != was) && (!due || is.state == SessionState::Stopping),
                "due for eviction: {due}"
            );
            Ok(())
        }
        Event::Used { at, .. } => {
            let (was, is) = (was.unwrap(), is.unwrap());
            let takes_calls = matches!(was.state, SessionState::Running | SessionState::Hibernated);
            let counts = takes_calls && *at > was.last_use;
            check!(
                is.last_use == if counts { *at } else { was.last_use },
                "the last use is another one"
            );
            Ok(())
        }
        Event::CreateCompute {
            user,
            name,
            instance_type,
            idle_seconds,
        } => {
            let is = &new.computes[name];
            let asked = instance_type.as_ref().map(|asked| {
                let found = RULES.catalog.find(asked);
                found.map(|found| found.name.clone())
            });
            check!(
                !old.computes.contains_key(name)
                    && is.user == *user
                    && is.kind == ComputeKind::Instance
                    && is.state == ComputeState::Running
                    && is.idle_seconds == Some(idle_seconds.unwrap_or(RULES.idle_seconds))
                    && asked.is_none_or(|asked| asked.as_ref() == Some(&is.instance_type)),
                "the compute is not what was asked for"
            );
            Ok(())
        }
        Event::UpdateCompute {
            compute,
            seen,
            idle_seconds,
            ..
        } => {
            let is = &new.computes[compute];
            check!(
                seen.is_none_or(|seen| seen == old.computes[compute].revision)
                    && is.idle_seconds == Some(*idle_seconds),
                "the idle time is not what was asked for"
            );
            Ok(())
        }
        Event::StartCompute { user, compute } => {
            let is = &new.computes[compute];
            check!(
                is.state == ComputeState::Running && is.user == *user,
                "the compute does not run"
            );
            Ok(())
        }
        Event::StopCompute { compute, .. } => shuts_down(old, new, compute, step, false),
        Event::DeleteCompute { compute, .. } => shuts_down(old, new, compute, step, true),
        Event::ComputeIdle { compute, .. } => {
            let was = &old.computes[compute];
            let due = is_unused(world, old, workspace, was);
            check!(
                due == (step.changes.is_empty() != due && due),
                "due for shutting down: {due}"
            );
            check!(
                due != step.changes.is_empty(),
                "due for shutting down: {due}"
            );
            if due {
                shuts_down(old, new, compute, step, false)?;
            }
            Ok(())
        }
    }
}

/// Whether a compute's idle time is over: since its start, since the last session left, and for all that are there.
fn is_unused(world: &World, old: &Workspace, workspace: &Name, compute: &Compute) -> bool {
    let (Some(idle), ComputeState::Running) = (compute.idle_seconds, compute.state) else {
        return false;
    };
    let own = world.compute_use[&(workspace.clone(), compute.name.clone())];
    let mut sessions = old
        .sessions
        .values()
        .filter(|session| session.compute == compute.name && session.state.is_live());
    is_over(world.now, own, idle)
        && sessions.all(|session| {
            let key = (workspace.clone(), session.id.clone());
            let last_use = world.last_use(workspace, &session.id);
            session.state != SessionState::Starting
                && is_over(world.now, world.session_use[&key].max(last_use), idle)
        })
}

/// A session is where a wish wants it.
fn placed(workspace: &Workspace, session: &Session, wish: &Wish) -> Checked {
    let compute = &workspace.computes[&session.compute];
    let kind = wish.compute_kind;
    check!(
        kind.is_none_or(|kind| kind == compute.kind),
        "it is on the wrong kind of compute"
    );
    let name = wish.compute.as_ref();
    check!(
        name.is_none_or(|name| *name == compute.name),
        "it is on the wrong compute"
    );
    let asked = wish.instance_type.as_ref();
    let asked = asked.map(|asked| RULES.catalog.find(asked).map(|found| &found.name));
    check!(
        asked.is_none_or(|asked| asked == Some(&compute.instance_type)),
        "it is on the wrong type"
    );
    check!(
        compute.kind == ComputeKind::Serverless || (wish.identity.is_none() && !wish.names_image),
        "more than the idle time was set on an instance"
    );
    Ok(())
}

/// A compute stops or goes, and the step says which sessions it stops.
fn shuts_down(
    old: &Workspace,
    new: &Workspace,
    compute: &Name,
    step: &Step,
    deletes: bool,
) -> Checked {
    let running = old.sessions.values().filter(|session| {
        session.compute == *compute
            && matches!(
                session.state,
                SessionState::Starting | SessionState::Running | SessionState::Hibernated
            )
    });
    let running: BTreeSet<&Name> = running.map(|session| &session.id).collect();
    let said: BTreeSet<&Name> = step.stops().map(|session| &session.id).collect();
    check!(
        running == said,
        "it stops {running:?}, and says that it stops {said:?}"
    );
    let ends = running
        .iter()
        .all(|id| new.sessions[*id].state == SessionState::Stopping);
    check!(ends, "it leaves sessions running");
    let deletes = deletes || old.computes[compute].kind == ComputeKind::Serverless;
    let is_well = match new.computes.get(compute).map(|compute| compute.state) {
        None | Some(ComputeState::Deleting) => {
            deletes || old.computes[compute].state == ComputeState::Deleting
        }
        Some(ComputeState::Stopping | ComputeState::Stopped) => !deletes,
        Some(ComputeState::Running) => false,
    };
    check!(is_well, "the compute does not shut down");
    Ok(())
}

/// Notes what was used when.
fn remember(world: &mut World, old: &Workspace, workspace: &Name, event: &Event) {
    let now = world.now;
    let new = &world.state.workspaces[workspace];
    for (id, session) in &new.sessions {
        let was = old.sessions.get(id);
        let begins = was.is_none_or(|was| was.generation < session.generation);
        let is_ready = session.state == SessionState::Running
            && was.is_some_and(|was| {
                matches!(was.state, SessionState::Starting | SessionState::Hibernated)
            });
        if begins || is_ready {
            let key = (workspace.clone(), id.clone());
            world.session_use.insert(key, now);
        }
    }
    if let Event::Used { session, at } = event {
        let is_running = matches!(
            new.sessions[session].state,
            SessionState::Running | SessionState::Hibernated
        );
        let key = (workspace.clone(), session.clone());
        if let Some(last_use) = world.session_use.get_mut(&key)
            && is_running
        {
            *last_use = (*last_use).max(*at);
        }
    }
    for (name, compute) in &new.computes {
        let was = old.computes.get(name);
        let starts = compute.state == ComputeState::Running
            && was.is_none_or(|was| was.state != ComputeState::Running);
        let count = |workspace: &Workspace| {
            let sessions = workspace.sessions.values();
            sessions
                .filter(|session| session.compute == *name && session.state.is_live())
                .count()
        };
        let left = count(old) > 0 && count(new) == 0;
        if starts || left {
            world
                .compute_use
                .insert((workspace.clone(), name.clone()), now);
        }
    }
}
