//! On which compute a session runs.

use super::{Refusal, Scene, Wish};
use crate::compute::{Compute, ComputeKind, ComputeState, InstanceType, Resources};
use crate::name::{Name, UserName};
use crate::quota::{self, Used};
use crate::state::Change;

/// A place for a session.
pub(super) struct Place {
    pub(super) compute: Name,
    pub(super) kind: ComputeKind,
    pub(super) instance_type: Name,
    pub(super) choice: String,
    /// What must change for it: a compute is made or started.
    pub(super) changes: Vec<Change>,
}

impl Scene<'_> {
    /// Finds or makes the compute that a wish means; `sessions` is how many sessions the quota must have room for.
    pub(super) fn place(
        &self,
        user: &UserName,
        wish: &Wish,
        new: &Name,
        sessions: u64,
    ) -> Result<Place, Refusal> {
        match (&wish.compute, wish.compute_kind) {
            (Some(name), kind) => self.place_on(user, name, kind, wish, sessions),
            (None, Some(ComputeKind::Instance)) => {
                let name = self.only_instance(user)?;
                self.place_on(user, &name, None, wish, sessions)
            }
            (None, _) => self.serverless(user, wish.instance_type.as_deref(), new, sessions),
        }
    }

    fn place_on(
        &self,
        user: &UserName,
        name: &Name,
        kind: Option<ComputeKind>,
        wish: &Wish,
        sessions: u64,
    ) -> Result<Place, Refusal> {
        let compute = self.own_compute(user, name)?;
        if let Some(kind) = kind.filter(|kind| *kind != compute.kind) {
            return Err(Refusal::Invalid {
                field: "compute_kind",
                problem: format!(
                    "compute '{name}' is of kind {}, not {}",
                    compute.kind.as_str(),
                    kind.as_str()
                ),
            });
        }
        let same_type = |asked: &String| {
            let found = self.context.rules.catalog.find(asked);
            found.is_some_and(|found| found.name == compute.instance_type)
        };
        if wish
            .instance_type
            .as_ref()
            .is_some_and(|asked| !same_type(asked))
        {
            return Err(Refusal::Invalid {
                field: "instance_type",
                problem: format!(
                    "compute '{name}' is of the fixed type {}; leave the type out, or name another compute",
                    compute.instance_type
                ),
            });
        }
        if compute.kind == ComputeKind::Instance {
            let fixed = [
                ("identity", wish.identity.is_some()),
                ("base_image", wish.names_image),
            ];
            if let Some((field, _)) = fixed.into_iter().find(|(_, given)| *given) {
                return Err(Refusal::Invalid {
                    field,
                    problem: format!(
                        "on a compute of kind instance ('{name}') only the idle time can be set; use serverless compute for the rest"
                    ),
                });
            }
        }
        let mut wanted = Used {
            sessions,
            ..Used::default()
        };
        let changes = match compute.state {
            ComputeState::Running => vec![self.compute_used(compute)],
            ComputeState::Stopped => {
                wanted.resources = compute.resources;
                self.check_host(&compute.resources)?;
                vec![Change::PutCompute(
                    self.started(compute, "a session uses it"),
                )]
            }
            ComputeState::Stopping | ComputeState::Deleting => {
                return Err(Refusal::Conflict(format!(
                    "compute '{name}' is {}; try again when that is done",
                    compute.state.as_str()
                )));
            }
        };
        quota::check(&self.context.rules.quotas, self.workspace, user, wanted)?;
        Ok(Place {
            compute: name.clone(),
            kind: compute.kind,
            instance_type: compute.instance_type.clone(),
            choice: format!("compute '{name}' was named"),
            changes,
        })
    }

    /// The one compute of kind instance that the user has.
    fn only_instance(&self, user: &UserName) -> Result<Name, Refusal> {
        let mut own = self
            .workspace
            .computes
            .values()
            .filter(|compute| compute.user == *user && compute.kind == ComputeKind::Instance);
        let problem = match (own.next(), own.next()) {
            (Some(only), None) => return Ok(only.name.clone()),
            (None, _) => "you have no compute of kind instance; create one first".to_owned(),
            (Some(one), Some(other)) => {
                format!(
                    "you have several, such as '{}' and '{}'; name one",
                    one.name, other.name
                )
            }
        };
        Err(Refusal::Invalid {
            field: "compute",
            problem,
        })
    }

    fn serverless(
        &self,
        user: &UserName,
        asked: Option<&str>,
        name: &Name,
        sessions: u64,
    ) -> Result<Place, Refusal> {
        if self.workspace.computes.contains_key(name) {
            return Err(Refusal::Conflict(format!(
                "there is a compute '{name}' already"
            )));
        }
        let base = Used {
            sessions,
            computes: 1,
            ..Used::default()
        };
        let (instance_type, choice) = self.instance_type(user, asked, base)?;
        let compute = Compute {
            workspace: self.workspace.record.name.clone(),
            name: name.clone(),
            user: user.clone(),
            kind: ComputeKind::Serverless,
            instance_type: instance_type.name.clone(),
            resources: instance_type.resources,
            idle_seconds: None,
            state: ComputeState::Running,
            reason: "a session needs it".to_owned(),
            since: self.context.now,
            created: self.context.now,
            last_use: self.context.now,
            revision: 1,
        };
        Ok(Place {
            compute: name.clone(),
            kind: ComputeKind::Serverless,
            instance_type: instance_type.name.clone(),
            choice,
            changes: vec![Change::PutCompute(compute)],
        })
    }

    /// The type that was asked for, or the cheapest that fits; checked against the quotas together with `base`.
    pub(super) fn instance_type(
        &self,
        user: &UserName,
        asked: Option<&str>,
        base: Used,
    ) -> Result<(&InstanceType, String), Refusal> {
        let rules = self.context.rules;
        let fits = |instance_type: &InstanceType| -> Result<(), Refusal> {
            let wanted = Used {
                resources: instance_type.resources,
                ..base
            };
            quota::check(&rules.quotas, self.workspace, user, wanted)?;
            self.check_host(&instance_type.resources)
        };
        if let Some(asked) = asked {
            let found = rules.catalog.find(asked).ok_or_else(|| Refusal::Invalid {
                field: "instance_type",
                problem: format!(
                    "there is no type '{asked}'; there are: {}",
                    rules.catalog.names()
                ),
            })?;
            fits(found)?;
            return Ok((found, format!("type {} was named", found.name)));
        }
        let mut ruled_out = Vec::new();
        let mut first_refusal = None;
        let mut candidates: Vec<&InstanceType> = Vec::new();
        for instance_type in &rules.catalog.0 {
            match fits(instance_type) {
                Ok(()) => candidates.push(instance_type),
                Err(refusal) => {
                    ruled_out.push(format!("{} does not fit the quota", instance_type.name));
                    first_refusal.get_or_insert(refusal);
                }
            }
        }
        // Under load a type that could not even get its memory now comes after those that can.
        let free = self.context.free_memory_mib;
        candidates.sort_by(|a, b| {
            let loaded = |one: &InstanceType| one.resources.memory_mib > free;
            loaded(a)
                .cmp(&loaded(b))
                .then(a.price_per_hour.total_cmp(&b.price_per_hour))
                .then(b.resources.memory_mib.cmp(&a.resources.memory_mib))
        });
        let Some(best) = candidates.first().copied() else {
            return Err(first_refusal.unwrap_or_else(|| Refusal::Invalid {
                field: "instance_type",
                problem: "this host has no instance types; its operator must configure one"
                    .to_owned(),
            }));
        };
        let mut choice = format!(
            "{} was chosen: the cheapest ({} an hour) of the types that fit the quota; {free} MiB of the host's memory are free",
            best.name, best.price_per_hour
        );
        for why in ruled_out {
            choice.push_str("; ");
            choice.push_str(&why);
        }
        Ok((best, choice))
    }

    pub(super) fn check_host(&self, wanted: &Resources) -> Result<(), Refusal> {
        let capacity = &self.context.rules.capacity;
        let reserved = &self.state.reserved;
        if wanted.fits(&capacity.minus(reserved)) {
            Ok(())
        } else {
            Err(Refusal::HostFull {
                wanted: *wanted,
                reserved: *reserved,
                capacity: *capacity,
            })
        }
    }
}
