//! The life of a session.

use flowcell_egress::Rule;
use jiff::Timestamp;

use super::place::Place;
use super::{Effect, Refusal, Scene, Step, Wish, check_seen, is_over, shown};
use crate::compute::{ComputeKind, ComputeState};
use crate::name::{Name, UserName};
use crate::session::{Happening, Image, Packages, Session, SessionState};
use crate::state::Change;

impl Scene<'_> {
    pub(super) fn start(
        &self,
        user: &UserName,
        flow: &Name,
        id: &Name,
        new_compute: &Name,
        image: &Image,
        wish: &Wish,
    ) -> Result<Step, Refusal> {
        if !self.workspace.flows.contains_key(flow) {
            return Err(Refusal::NotFound {
                what: "flow",
                name: flow.to_string(),
            });
        }
        let old = self.workspace.session_of.get(flow);
        let old = old.and_then(|id| self.workspace.sessions.get(id));
        if let Some(old) = old.filter(|old| old.state.is_live()) {
            return Err(Refusal::Conflict(format!(
                "flow '{flow}' has a session already: {}, of {}, which is {}; stop it first, or use it",
                old.id,
                old.user,
                old.state.as_str()
            )));
        }
        if old.is_none() && self.workspace.sessions.contains_key(id) {
            return Err(Refusal::Conflict(format!(
                "there is a session {id} already"
            )));
        }
        let idle_seconds = self.idle_seconds(wish.idle_seconds)?;
        let place = self.place(user, wish, new_compute, 1)?;
        let identity = wish.identity.clone().unwrap_or_default();
        self.check_identity(user, &identity)?;
        let network = wish.network.clone().unwrap_or_default();
        check_rule(&network)?;
        let now = self.context.now;
        let generation = old.map_or(1, |old| old.generation + 1);
        let before = old.filter(|old| old.user == *user);
        let session = Session {
            workspace: self.workspace.record.name.clone(),
            id: old.map_or(id, |old| &old.id).clone(),
            flow: flow.clone(),
            user: user.clone(),
            owned_since: before.map_or(generation, |old| old.owned_since),
            state: SessionState::Starting,
            reason: format!("started by {user}"),
            since: now,
            created: old.map_or(now, |old| old.created),
            revision: old.map_or(1, |old| old.revision + 1),
            generation,
            compute: place.compute.clone(),
            compute_kind: place.kind,
            instance_type: place.instance_type.clone(),
            choice: place.choice.clone(),
            idle_seconds,
            identity,
            network,
            image: Box::new(image.clone()),
            packages: None,
            last_use: now,
            stored: None,
            forked_from: old.and_then(|old| old.forked_from.clone()),
        };
        let what = format!("{} on compute '{}'", session.reason, session.compute);
        let mut step = Step {
            changes: place.changes,
            effects: Vec::new(),
        };
        self.put(session, &what, Some(user), &mut step);
        Ok(step)
    }

    pub(super) fn opened(
        &self,
        id: &Name,
        generation: u64,
        image: Option<&Image>,
        packages: Option<&Packages>,
    ) -> Step {
        let mut step = Step::default();
        if let Some(session) = self.in_state(id, generation, SessionState::Starting) {
            let running = Session {
                // Its idle time begins; it may have been long in coming.
                last_use: self.context.now,
                image: Box::new(image.unwrap_or(&session.image).clone()),
                packages: packages.cloned().map(Box::new),
                ..self.turned_to(session, SessionState::Running, "ready for calls")
            };
            let what = running.reason.clone();
            let compute = self.workspace.computes.get(&running.compute);
            self.put(running, &what, None, &mut step);
            step.changes
                .extend(compute.map(|compute| self.compute_used(compute)));
        }
        step
    }

    /// Nothing for a life that is over.
    pub(super) fn installed(
        &self,
        id: &Name,
        generation: u64,
        packages: Option<&Packages>,
        by: &UserName,
    ) -> Step {
        let mut step = Step::default();
        let session = self.workspace.sessions.get(id);
        let session = session
            .filter(|session| session.generation == generation && session.state.takes_calls());
        if let Some(session) = session {
            let changed = Session {
                revision: session.revision + 1,
                packages: packages.cloned().map(Box::new),
                ..session.clone()
            };
            let what = match packages.map_or(0, |packages| packages.installed.len()) {
                0 => "has the packages of its image".to_owned(),
                1 => "has 1 package beside those of its image".to_owned(),
                count => format!("has {count} packages beside those of its image"),
            };
            self.put(changed, &what, Some(by), &mut step);
        }
        step
    }

    pub(super) fn open_failed(&self, id: &Name, generation: u64, why: &str) -> Step {
        let mut step = Step::default();
        if let Some(session) = self.in_state(id, generation, SessionState::Starting) {
            let failed = self.turned_to(session, SessionState::Failed, why);
            let compute = failed.compute.clone();
            self.put(failed, &format!("could not start: {why}"), None, &mut step);
            step.changes.extend(self.left(&compute, id));
        }
        step
    }

    pub(super) fn closed(&self, id: &Name, generation: u64) -> Step {
        let mut step = Step::default();
        if let Some(session) = self.in_state(id, generation, SessionState::Stopping) {
            let stopped = self.turned_to(session, SessionState::Stopped, &session.reason);
            let compute = stopped.compute.clone();
            self.put(stopped, "all that it held is gone", None, &mut step);
            step.changes.extend(self.left(&compute, id));
        }
        step
    }

    pub(super) fn update(
        &self,
        user: &UserName,
        id: &Name,
        seen: Option<u64>,
        new_compute: &Name,
        wish: &Wish,
    ) -> Result<Step, Refusal> {
        let session = self.find_session(id)?;
        check_seen(seen, session.revision)?;
        if session.state != SessionState::Starting && !session.state.takes_calls() {
            return Err(Refusal::Conflict(format!(
                "session {id} is {}; only a session that runs can be changed",
                session.state.as_str()
            )));
        }
        let mut changed = Session {
            revision: session.revision + 1,
            ..session.clone()
        };
        let mut what = Vec::new();
        if wish.idle_seconds.is_some() {
            changed.idle_seconds = self.idle_seconds(wish.idle_seconds)?;
            what.push(format!("idle time {}", shown(changed.idle_seconds)));
        }
        let place = self.new_place(session, new_compute, wish)?;
        let kind = place
            .as_ref()
            .map_or(session.compute_kind, |place| place.kind);
        if let Some(identity) = &wish.identity {
            if kind == ComputeKind::Instance {
                return Err(Refusal::Invalid {
                    field: "identity",
                    problem: "on a compute of kind instance only the idle time can be set"
                        .to_owned(),
                });
            }
            self.check_identity(&session.user, identity)?;
            changed.identity = identity.clone();
            what.push("identity".to_owned());
        }
        if let Some(network) = &wish.network {
            check_rule(network)?;
            changed.network = network.clone();
            what.push("network".to_owned());
        }
        let mut step = Step::default();
        let Some(place) = place else {
            let what = if what.is_empty() {
                return Ok(step);
            } else {
                format!("settings changed: {}", what.join(", "))
            };
            self.put(changed, &what, Some(user), &mut step);
            return Ok(step);
        };
        // It begins anew, as at a start.
        self.check_identity(&session.user, &changed.identity)?;
        what.push(format!(
            "now on compute '{}' of type {}",
            place.compute, place.instance_type
        ));
        let old = session.compute.clone();
        self.begin_anew(changed, place, &what.join(", "), user, &mut step);
        step.changes.extend(self.left(&old, id));
        Ok(step)
    }

    /// Where a session goes that changes its compute or type; `None` when it stays.
    fn new_place(
        &self,
        session: &Session,
        new_compute: &Name,
        wish: &Wish,
    ) -> Result<Option<Place>, Refusal> {
        let other_compute = wish
            .compute
            .as_ref()
            .is_some_and(|name| *name != session.compute);
        // Together with the present compute's name these contradict it, which `place` says.
        let other_kind = wish
            .compute_kind
            .is_some_and(|kind| kind != session.compute_kind);
        let catalog = &self.context.rules.catalog;
        let other_type = wish.instance_type.as_ref().is_some_and(|asked| {
            let found = catalog.find(asked);
            found.is_none_or(|found| found.name != session.instance_type)
        });
        if !(other_compute || other_kind || other_type) {
            return Ok(None);
        }
        let stays = !other_kind && wish.compute.is_none();
        if other_type && stays && session.compute_kind == ComputeKind::Instance {
            return Err(Refusal::Invalid {
                field: "instance_type",
                problem: format!(
                    "the session is on compute '{}' of the fixed type {}; name another compute, or compute_kind serverless",
                    session.compute, session.instance_type
                ),
            });
        }
        // A compute can be used by its owner only, so it is looked for among those of the session's user.
        self.place(&session.user, wish, new_compute, 0).map(Some)
    }

    pub(super) fn reset(
        &self,
        user: &UserName,
        id: &Name,
        seen: Option<u64>,
        new_compute: &Name,
        image: Option<&Image>,
    ) -> Result<Step, Refusal> {
        let session = self.find_session(id)?;
        check_seen(seen, session.revision)?;
        let wish = match session.state {
            SessionState::Starting | SessionState::Running | SessionState::Hibernated => None,
            // Its serverless compute is gone.
            SessionState::Failed => Some(Wish {
                instance_type: (session.compute_kind == ComputeKind::Serverless)
                    .then(|| session.instance_type.to_string()),
                compute: (session.compute_kind == ComputeKind::Instance)
                    .then(|| session.compute.clone()),
                ..Wish::default()
            }),
            SessionState::Stopping | SessionState::Stopped => {
                return Err(Refusal::Conflict(format!(
                    "session {id} is {}; start it instead",
                    session.state.as_str()
                )));
            }
        };
        let place = match wish {
            Some(wish) => self.place(&session.user, &wish, new_compute, 1)?,
            None => Place {
                compute: session.compute.clone(),
                kind: session.compute_kind,
                instance_type: session.instance_type.clone(),
                choice: session.choice.clone(),
                changes: Vec::new(),
            },
        };
        self.check_identity(&session.user, &session.identity)?;
        let mut step = Step::default();
        let changed = Session {
            revision: session.revision + 1,
            image: Box::new(image.unwrap_or(&session.image).clone()),
            ..session.clone()
        };
        let what = match image {
            None => format!("reset by {user}"),
            Some(image) => format!("reset by {user} to the image {}", image.reference),
        };
        self.begin_anew(changed, place, &what, user, &mut step);
        Ok(step)
    }

    /// Ends a session's life and begins the next one at a place.
    fn begin_anew(
        &self,
        mut session: Session,
        place: Place,
        what: &str,
        by: &UserName,
        step: &mut Step,
    ) {
        step.changes.extend(place.changes);
        if session.state != SessionState::Failed {
            step.effects.push(Effect::Close {
                session: session.id.clone(),
                generation: session.generation,
            });
        }
        session.generation += 1;
        session.state = SessionState::Starting;
        session.stored = None;
        // What its flow asks for may be something else by now.
        session.packages = None;
        session.reason = what.to_owned();
        session.since = self.context.now;
        session.last_use = self.context.now;
        session.compute = place.compute;
        session.compute_kind = place.kind;
        session.instance_type = place.instance_type;
        session.choice = place.choice;
        self.put(session, what, Some(by), step);
    }

    pub(super) fn stop(&self, user: &UserName, id: &Name) -> Result<Step, Refusal> {
        let session = self.find_session(id)?;
        let mut step = Step::default();
        match session.state {
            SessionState::Starting | SessionState::Running | SessionState::Hibernated => {
                let reason = format!("stopped by {user}");
                self.stopping(session, &reason, Some(user), &mut step);
            }
            SessionState::Failed => {
                let stopped = Session {
                    revision: session.revision + 1,
                    ..self.turned_to(
                        session,
                        SessionState::Stopped,
                        &format!("stopped by {user}"),
                    )
                };
                let what = stopped.reason.clone();
                self.put(stopped, &what, Some(user), &mut step);
            }
            SessionState::Stopping | SessionState::Stopped => {}
        }
        Ok(step)
    }

    /// Begins to stop a session that starts, runs or is hibernated.
    pub(super) fn stopping(
        &self,
        session: &Session,
        reason: &str,
        by: Option<&UserName>,
        step: &mut Step,
    ) {
        let stopping = self.turned_to(session, SessionState::Stopping, reason);
        self.put(stopping, reason, by, step);
    }

    pub(super) fn session_idle(&self, id: &Name, last_use: Timestamp) -> Step {
        let mut step = Step::default();
        let Some(session) = self.workspace.sessions.get(id) else {
            return step;
        };
        let last_use = last_use.max(session.last_use);
        if session.state.takes_calls() && is_over(self.context.now, last_use, session.idle_seconds)
        {
            let reason = format!("idle: not used for {}", shown(session.idle_seconds));
            let session = Session {
                last_use,
                ..session.clone()
            };
            self.stopping(&session, &reason, None, &mut step);
        }
        step
    }

    pub(super) fn used(&self, id: &Name, at: Timestamp) -> Step {
        let mut step = Step::default();
        let Some(session) = self.workspace.sessions.get(id) else {
            return step;
        };
        if !session.state.takes_calls() || session.last_use >= at {
            return step;
        }
        let used = Session {
            last_use: at,
            ..session.clone()
        };
        step.changes.push(Change::PutSession(used));
        let compute = self.workspace.computes.get(&session.compute);
        if let Some(compute) = compute
            .filter(|compute| compute.state == ComputeState::Running && compute.last_use < at)
        {
            let mut compute = compute.clone();
            compute.last_use = at;
            step.changes.push(Change::PutCompute(compute));
        }
        step
    }

    pub(super) fn in_state(
        &self,
        id: &Name,
        generation: u64,
        state: SessionState,
    ) -> Option<&Session> {
        let session = self.workspace.sessions.get(id)?;
        (session.generation == generation && session.state == state).then_some(session)
    }

    /// A session in another state. What was stored of it counts no more: it is gone on from, or goes with its life.
    pub(super) fn turned_to(
        &self,
        session: &Session,
        state: SessionState,
        reason: &str,
    ) -> Session {
        Session {
            state,
            reason: reason.to_owned(),
            since: self.context.now,
            revision: session.revision + 1,
            stored: None,
            ..session.clone()
        }
    }

    /// Puts a session as it now is, its history, and the effect that its state asks for if it has just come to it.
    pub(super) fn put(&self, session: Session, what: &str, by: Option<&UserName>, step: &mut Step) {
        let was = self.workspace.sessions.get(&session.id);
        let came = was
            .is_none_or(|was| was.state != session.state || was.generation != session.generation);
        let effect = match session.state {
            SessionState::Starting => Some(Effect::Open {
                session: session.id.clone(),
                generation: session.generation,
            }),
            SessionState::Stopping => Some(Effect::Close {
                session: session.id.clone(),
                generation: session.generation,
            }),
            SessionState::Running
            | SessionState::Hibernated
            | SessionState::Stopped
            | SessionState::Failed => None,
        };
        step.effects.extend(effect.filter(|_| came));
        step.changes.push(Change::Happened {
            workspace: session.workspace.clone(),
            session: session.id.clone(),
            happening: Happening {
                at: self.context.now,
                state: session.state.as_str().to_owned(),
                what: what.to_owned(),
                by: by.cloned(),
                generation: session.generation,
            },
        });
        step.changes.push(Change::PutSession(session));
    }
}

/// Whether a rule can be.
pub(super) fn check_rule(rule: &Rule) -> Result<(), Refusal> {
    rule.check().map_err(|error| Refusal::Invalid {
        field: "network",
        problem: error.to_string(),
    })
}
