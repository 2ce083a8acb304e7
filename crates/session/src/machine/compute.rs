//! The life of a compute.

use jiff::Timestamp;

use super::{Refusal, Scene, Step, check_seen, is_over, shown};
use crate::compute::{Compute, ComputeKind, ComputeState};
use crate::name::{Name, UserName};
use crate::quota::{self, Used};
use crate::session::SessionState;
use crate::state::Change;

impl Scene<'_> {
    /// A compute that the user may use.
    pub(super) fn own_compute(&self, user: &UserName, name: &Name) -> Result<&Compute, Refusal> {
        let compute = self.find_compute(name)?;
        if compute.user == *user {
            Ok(compute)
        } else {
            Err(Refusal::NotYours {
                what: "compute",
                name: name.to_string(),
                owner: compute.user.clone(),
            })
        }
    }

    fn find_compute(&self, name: &Name) -> Result<&Compute, Refusal> {
        let found = self.workspace.computes.get(name);
        found.ok_or_else(|| Refusal::NotFound {
            what: "compute",
            name: name.to_string(),
        })
    }

    /// The compute in another state.
    fn turned(&self, compute: &Compute, state: ComputeState, reason: String) -> Compute {
        Compute {
            state,
            reason,
            since: self.context.now,
            revision: compute.revision + 1,
            ..compute.clone()
        }
    }

    pub(super) fn started(&self, compute: &Compute, reason: &str) -> Compute {
        Compute {
            last_use: self.context.now,
            ..self.turned(compute, ComputeState::Running, reason.to_owned())
        }
    }

    /// The compute, used just now.
    pub(super) fn compute_used(&self, compute: &Compute) -> Change {
        Change::PutCompute(Compute {
            last_use: self.context.now,
            ..compute.clone()
        })
    }

    pub(super) fn create_compute(
        &self,
        user: &UserName,
        name: &Name,
        instance_type: Option<&str>,
        idle_seconds: Option<u64>,
    ) -> Result<Step, Refusal> {
        if let Some(existing) = self.workspace.computes.get(name) {
            return Err(Refusal::Conflict(format!(
                "there is a compute '{name}' of {} already; choose another name",
                existing.user
            )));
        }
        let idle_seconds = self.idle_seconds(idle_seconds)?;
        let base = Used {
            computes: 1,
            ..Used::default()
        };
        let (instance_type, choice) = self.instance_type(user, instance_type, base)?;
        let compute = Compute {
            workspace: self.workspace.record.name.clone(),
            name: name.clone(),
            user: user.clone(),
            kind: ComputeKind::Instance,
            instance_type: instance_type.name.clone(),
            resources: instance_type.resources,
            idle_seconds: Some(idle_seconds),
            state: ComputeState::Running,
            reason: format!("created; {choice}"),
            since: self.context.now,
            created: self.context.now,
            last_use: self.context.now,
            revision: 1,
        };
        Ok(Step {
            changes: vec![Change::PutCompute(compute)],
            effects: Vec::new(),
        })
    }

    pub(super) fn update_compute(
        &self,
        _user: &UserName,
        name: &Name,
        seen: Option<u64>,
        idle_seconds: u64,
    ) -> Result<Step, Refusal> {
        let compute = self.find_compute(name)?;
        check_seen(seen, compute.revision)?;
        if compute.kind == ComputeKind::Serverless {
            return Err(Refusal::Invalid {
                field: "idle_seconds",
                problem: format!(
                    "compute '{name}' is serverless: it goes with its last session, so set the session's idle time"
                ),
            });
        }
        let changed = Compute {
            idle_seconds: Some(self.idle_seconds(Some(idle_seconds))?),
            revision: compute.revision + 1,
            ..compute.clone()
        };
        Ok(Step {
            changes: vec![Change::PutCompute(changed)],
            effects: Vec::new(),
        })
    }

    pub(super) fn start_compute(&self, user: &UserName, name: &Name) -> Result<Step, Refusal> {
        let compute = self.own_compute(user, name)?;
        match compute.state {
            ComputeState::Running => Ok(Step::default()),
            ComputeState::Stopped => {
                let wanted = Used {
                    resources: compute.resources,
                    ..Used::default()
                };
                quota::check(&self.context.rules.quotas, self.workspace, user, wanted)?;
                self.check_host(&compute.resources)?;
                let started = self.started(compute, &format!("started by {user}"));
                Ok(Step {
                    changes: vec![Change::PutCompute(started)],
                    effects: Vec::new(),
                })
            }
            ComputeState::Stopping | ComputeState::Deleting => Err(Refusal::Conflict(format!(
                "compute '{name}' is {}; try again when that is done",
                compute.state.as_str()
            ))),
        }
    }

    pub(super) fn stop_compute(&self, user: &UserName, name: &Name) -> Result<Step, Refusal> {
        let compute = self.find_compute(name)?;
        let reason = format!("compute '{name}' was stopped by {user}");
        match (compute.kind, compute.state) {
            // It has no life without its sessions.
            (ComputeKind::Serverless, _) => self.delete_compute(user, name),
            (_, ComputeState::Running) => {
                Ok(self.shut_down(compute, ComputeState::Stopping, &reason, Some(user)))
            }
            (_, ComputeState::Stopping | ComputeState::Stopped | ComputeState::Deleting) => {
                Ok(Step::default())
            }
        }
    }

    pub(super) fn delete_compute(&self, user: &UserName, name: &Name) -> Result<Step, Refusal> {
        let compute = self.find_compute(name)?;
        let reason = format!("compute '{name}' was deleted by {user}");
        Ok(self.shut_down(compute, ComputeState::Deleting, &reason, Some(user)))
    }

    pub(super) fn compute_idle(&self, name: &Name, last_use: Timestamp) -> Step {
        let Some(compute) = self.workspace.computes.get(name) else {
            return Step::default();
        };
        let (Some(idle_seconds), ComputeState::Running) = (compute.idle_seconds, compute.state)
        else {
            return Step::default();
        };
        let starting = self
            .workspace
            .sessions_on(name)
            .any(|session| session.state == SessionState::Starting);
        // Those of sessions too that are about to leave, which nobody but the registry knows any more.
        let sessions = self.workspace.sessions_on(name);
        let last_use = sessions
            .map(|session| session.last_use)
            .fold(last_use.max(compute.last_use), Timestamp::max);
        if starting || !is_over(self.context.now, last_use, idle_seconds) {
            return Step::default();
        }
        let reason = format!(
            "compute '{name}' shut down: not used for {}",
            shown(idle_seconds)
        );
        self.shut_down(compute, ComputeState::Stopping, &reason, None)
    }

    /// Stops the sessions of a compute; the compute follows with the last of them.
    fn shut_down(
        &self,
        compute: &Compute,
        state: ComputeState,
        reason: &str,
        by: Option<&UserName>,
    ) -> Step {
        let mut step = Step::default();
        let mut live = false;
        for session in self.workspace.sessions_on(&compute.name) {
            live = true;
            if session.state != SessionState::Stopping {
                self.stopping(session, reason, by, &mut step);
            }
        }
        if live {
            let turned = self.turned(compute, state, reason.to_owned());
            step.changes.push(Change::PutCompute(turned));
        } else {
            step.changes.push(self.at_rest(compute, state, reason));
        }
        step
    }

    /// A compute without sessions, when `state` was to be reached.
    fn at_rest(&self, compute: &Compute, state: ComputeState, reason: &str) -> Change {
        if state == ComputeState::Deleting || compute.kind == ComputeKind::Serverless {
            Change::DeleteCompute {
                workspace: compute.workspace.clone(),
                compute: compute.name.clone(),
            }
        } else {
            Change::PutCompute(self.turned(compute, ComputeState::Stopped, reason.to_owned()))
        }
    }

    /// What becomes of a compute when a session leaves it.
    pub(super) fn left(&self, compute: &Name, session: &Name) -> Option<Change> {
        let compute = self.workspace.computes.get(compute)?;
        let others = self
            .workspace
            .sessions_on(&compute.name)
            .any(|other| other.id != *session);
        if others {
            return None;
        }
        match (compute.kind, compute.state) {
            (ComputeKind::Serverless, _)
            | (_, ComputeState::Stopping | ComputeState::Deleting | ComputeState::Stopped) => {
                Some(self.at_rest(compute, compute.state, &compute.reason))
            }
            // Its idle time begins.
            (ComputeKind::Instance, ComputeState::Running) => Some(self.compute_used(compute)),
        }
    }
}
