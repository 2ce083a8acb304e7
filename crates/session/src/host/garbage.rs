//! What sessions have in the store is noted there, so that no collection takes it, whoever starts that; and the host's own
//! collections.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use flowcell_bundle::{BundleError, Collected, Collection, Thing, collect};

use super::{Inner, SessionHost, blocking};
use crate::session::Session;
use crate::state::{Change, State};
use crate::tenancy::Flow;

/// When and how much is collected.
#[derive(Debug, Clone)]
pub struct GarbageSettings {
    /// The time between collections.
    pub every: Duration,
    /// What each is to do.
    pub collection: Collection,
}

impl SessionHost {
    /// Collects garbage now and then, beginning at once, for as long as the host is there.
    pub fn start_collecting(&self, settings: GarbageSettings) {
        let host = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            let mut had = HashSet::new();
            let mut times = tokio::time::interval(settings.every);
            times.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                times.tick().await;
                let Some(host) = host.upgrade() else { return };
                let collection = settings.collection.clone();
                let (has, collected) = host.collect(std::mem::take(&mut had), collection).await;
                had = has;
                match collected {
                    Ok(collected) => tell(&collected, settings.collection.size),
                    // A store that is put together from another's folders is that one's to collect.
                    Err(error @ BundleError::Linked(_)) => {
                        tracing::info!(%error, "no garbage is collected");
                    }
                    Err(error) => tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "garbage could not be collected"
                    ),
                }
            }
        });
    }
}

impl Inner {
    /// Collects; gives what sessions have. What they have `had` the last time stays: a call may be on its way to a worker with
    /// the packages that its session had until a moment ago.
    async fn collect(
        self: Arc<Self>,
        had: HashSet<Thing>,
        collection: Collection,
    ) -> (HashSet<Thing>, Result<Collected, BundleError>) {
        blocking(move || {
            let has = used(&self.ledger.state());
            let collect = || {
                // Those of a host that did not note them, or could not.
                for thing in &has {
                    self.store.add_root(thing)?;
                }
                self.store
                    .retain_roots(|| used(&self.ledger.state()).union(&had).cloned().collect())?;
                collect(&self.store, &collection, &mut |removed| {
                    tracing::debug!(kind = ?removed.kind, name = removed.name, bytes = removed.bytes, "collected");
                })
            };
            let collected = collect();
            (has, collected)
        })
        .await
    }

    /// Notes what sessions will have once these changes are stored.
    pub(super) fn root(&self, changes: &[Change]) {
        for change in changes {
            let Change::PutSession(session) = change else {
                continue;
            };
            for thing in things(session) {
                if let Err(error) = self.store.add_root(&thing) {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "what a session uses could not be noted in the store"
                    );
                }
            }
        }
    }
}

fn tell(collected: &Collected, size: u64) {
    if !collected.removed.is_empty() || collected.leftovers > 0 {
        tracing::info!(
            bytes = collected.before - collected.after,
            things = collected.removed.len(),
            leftovers = collected.leftovers,
            "garbage was collected"
        );
    }
    if collected.after > size {
        tracing::warn!(
            bytes = collected.after,
            limit = size,
            "the store is larger than store.size_mib, and all of it is in use"
        );
    }
}

fn used(state: &State) -> HashSet<Thing> {
    let mut used = HashSet::new();
    for workspace in state.workspaces.values() {
        used.extend(workspace.sessions.values().flat_map(things));
        used.extend(workspace.flows.values().flat_map(carried));
    }
    used
}

/// What came to the store with a flow's files.
fn carried(flow: &Flow) -> Vec<Thing> {
    let Some(image) = &flow.image else {
        return Vec::new();
    };
    let wheels = image
        .wheels
        .iter()
        .map(|wheel| wheel.parse().map(Thing::Wheel));
    let bundle = image.digest.parse().map(Thing::Bundle);
    wheels.chain([bundle]).flatten().collect()
}

/// What a session has in the store. One that has ended has its lock only, which can be asked for.
fn things(session: &Session) -> Vec<Thing> {
    let mut things = Vec::new();
    let packages = session.packages.as_deref();
    if session.state.is_live() {
        let bundle = session.image.digest.as_deref();
        things.extend(bundle.and_then(|bundle| bundle.parse().map(Thing::Bundle).ok()));
        let site = packages.and_then(|packages| packages.site.as_deref());
        things.extend(site.and_then(|site| site.parse().map(Thing::Site).ok()));
    }
    things.extend(packages.and_then(|packages| packages.lock.parse().map(Thing::Blob).ok()));
    things
}
