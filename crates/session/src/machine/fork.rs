//! A session that begins as a copy of another one.

use super::session::check_rule;
use super::{Refusal, Scene, Step, Wish};
use crate::compute::ComputeKind;
use crate::name::{Name, UserName};
use crate::session::{ForkedFrom, Session, SessionState};
use crate::state::Change;
use crate::tenancy::{Flow, MAX_FLOWS};

impl Scene<'_> {
    /// `from` is a session and which of its lives, `new` the identifier and the compute of the new one.
    pub(super) fn fork(
        &self,
        user: &UserName,
        (from, generation): (&Name, u64),
        flow: &Name,
        (id, new_compute): (&Name, &Name),
        wish: &Wish,
    ) -> Result<Step, Refusal> {
        let source = self.find_session(from)?;
        if source.user != *user {
            return Err(Refusal::NotYours {
                what: "session",
                name: from.to_string(),
                owner: source.user.clone(),
            });
        }
        if !source.state.takes_calls() {
            return Err(Refusal::Conflict(format!(
                "session {from} is {}; only one that runs or is hibernated can be forked",
                source.state.as_str()
            )));
        }
        if source.generation != generation {
            return Err(Refusal::Conflict(format!(
                "session {from} has begun anew meanwhile; look at it again"
            )));
        }
        if self.workspace.flows.contains_key(flow) {
            return Err(Refusal::Conflict(format!(
                "there is a flow '{flow}' already; a fork is a new flow"
            )));
        }
        if self.workspace.sessions.contains_key(id) {
            return Err(Refusal::Conflict(format!(
                "there is a session {id} already"
            )));
        }
        let Some(files) = self.workspace.flows.get(&source.flow) else {
            return Err(Refusal::NotFound {
                what: "flow",
                name: source.flow.to_string(),
            });
        };
        if self.workspace.flows.len() >= MAX_FLOWS {
            return Err(Refusal::TooManyFlows(MAX_FLOWS));
        }
        let wish = like(source, wish);
        let idle_seconds = self.idle_seconds(wish.idle_seconds)?;
        let place = self.place(user, &wish, new_compute, 1)?;
        let identity = wish.identity.unwrap_or_default();
        let network = wish.network.unwrap_or_default();
        check_rule(&network)?;
        self.check_identity(user, &identity)?;
        let now = self.context.now;
        let flow = Flow {
            revision: 1,
            files: files.files,
            bytes: files.bytes,
            image: files.image.clone(),
            ..Flow::new(files.workspace.clone(), flow.clone(), user.clone(), now)
        };
        let session = Session {
            workspace: source.workspace.clone(),
            id: id.clone(),
            flow: flow.name.clone(),
            user: user.clone(),
            owned_since: 1,
            state: SessionState::Starting,
            reason: format!("forked from session {from} by {user}"),
            since: now,
            created: now,
            revision: 1,
            generation: 1,
            compute: place.compute,
            compute_kind: place.kind,
            instance_type: place.instance_type,
            choice: place.choice,
            idle_seconds,
            identity,
            network,
            // Its memory is only of use to the code that made it.
            image: source.image.clone(),
            packages: source.packages.clone(),
            last_use: now,
            stored: None,
            forked_from: Some(Box::new(ForkedFrom {
                session: source.id.clone(),
                flow: source.flow.clone(),
                generation,
                memory: source.memory(),
            })),
        };
        let mut step = Step::default();
        step.changes.push(Change::CopyFiles {
            workspace: flow.workspace.clone(),
            from: source.flow.clone(),
            to: flow.name.clone(),
        });
        step.changes.push(Change::PutFlow(flow));
        step.changes.extend(place.changes);
        let what = format!("{} on compute '{}'", session.reason, session.compute);
        self.put(session, &what, Some(user), &mut step);
        Ok(step)
    }
}

/// A wish with what it leaves open as another session has it: a place of the same kind and size, since the memory that
/// is copied must have room there.
fn like(source: &Session, wish: &Wish) -> Wish {
    let mut wish = wish.clone();
    wish.idle_seconds = wish.idle_seconds.or(Some(source.idle_seconds));
    wish.network = wish.network.or_else(|| Some(source.network.clone()));
    let leaves_place =
        wish.compute.is_none() && wish.compute_kind.is_none() && wish.instance_type.is_none();
    match source.compute_kind {
        ComputeKind::Serverless if leaves_place => {
            wish.instance_type = Some(source.instance_type.to_string());
        }
        // There only the idle time can be set; a wish for more is one for serverless compute.
        ComputeKind::Instance if leaves_place && wish.identity.is_none() => {
            wish.compute = Some(source.compute.clone());
        }
        _ => {}
    }
    let is_serverless = wish.compute.is_none() && wish.compute_kind != Some(ComputeKind::Instance);
    if is_serverless && wish.identity.is_none() {
        wish.identity = Some(source.identity.clone());
    }
    wish
}
