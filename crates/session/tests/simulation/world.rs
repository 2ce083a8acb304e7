//! Users, a host and a disk, and what happens to them.

use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;

use flowcell_egress::Rule;
use flowcell_session::machine::{self, Context, Effect, Event, Rules, Wish};
use flowcell_session::{
    Catalog, Change, ChangeError, ComputeKind, ComputeState, Durability, Flow, Identity, Image,
    InstalledPackage, Ledger, Name, NamedBy, Packages, Quota, Quotas, Registry as _, Resources,
    SessionState, State, UserName, WorkspaceRecord, own_identity,
};
use jiff::{SignedDuration, Timestamp};

use crate::checks;
use crate::dice::Dice;
use crate::disk::Disk;

/// A broken rule.
pub(crate) type Checked<T = ()> = Result<T, String>;

pub(crate) struct Names {
    pub(crate) workspaces: Vec<Name>,
    flows: Vec<Name>,
    users: Vec<UserName>,
    computes: Vec<Name>,
}

pub(crate) static NAMES: LazyLock<Names> = LazyLock::new(|| {
    let names = |names: &[&str]| {
        let names = names.iter().map(|name| Name::new(*name).unwrap());
        names.collect::<Vec<_>>()
    };
    Names {
        workspaces: names(&["w", "v"]),
        flows: names(&["f0", "f1", "f2", "f3", "no-flow"]),
        users: ["ada", "ben", "cyd"]
            .iter()
            .map(|name| UserName::new(*name).unwrap())
            .collect(),
        computes: names(&["i0", "i1", "i2"]),
    }
});

/// Small quotas and a small host, so that they are full now and then.
pub(crate) static RULES: LazyLock<Rules> = LazyLock::new(|| {
    let resources = |memory_mib, cpu_millis, instances| Resources {
        memory_mib,
        cpu_millis,
        instances,
    };
    Rules {
        catalog: Catalog::default(),
        quotas: Quotas {
            workspace: Quota {
                sessions: 4,
                computes: 4,
                resources: resources(11_000, 5_000, 40),
            },
            user: Quota {
                sessions: 3,
                computes: 3,
                resources: resources(9_000, 4_000, 30),
            },
        },
        capacity: resources(12_000, 6_000, 60),
        idle_seconds: 300,
        min_idle_seconds: 60,
        max_idle_seconds: 3_600,
    }
});

/// Something that the host is about.
#[derive(Clone, Debug)]
enum Due {
    /// An effect that is not carried out yet.
    Effect(Effect),
    /// The outcome of one, which is not taken in yet.
    Outcome(Box<Event>),
}

pub(crate) type Key = (Name, Name);

pub(crate) struct World {
    pub(crate) now: Timestamp,
    pub(crate) disk: Disk,
    ledger: Ledger,
    /// The state that was last acknowledged.
    pub(crate) state: State,
    due: Vec<(Name, Due)>,
    /// Outcomes that were taken in, for some to come twice.
    outcomes: Vec<(Name, Event)>,
    /// The lives that have a working copy and instances on this host.
    lives: BTreeSet<(Name, Name, u64)>,
    /// When sessions were used, as far as only the host's memory knows.
    uses: HashMap<Key, Timestamp>,
    /// When a session was last used, as far as somebody was told that it is stored.
    pub(crate) session_use: HashMap<Key, Timestamp>,
    /// When a compute was made or started, or the last session left it.
    pub(crate) compute_use: HashMap<Key, Timestamp>,
    /// The number of the latest line of each session's history.
    pub(crate) lines: HashMap<Key, u64>,
    counter: u32,
    /// What happened, if somebody wants to read it.
    pub(crate) trace: Option<Vec<String>>,
}

/// Some packages, or none.
fn packages_of(count: u64, since: Timestamp) -> Option<Box<Packages>> {
    let installed = (1..count).map(|number| InstalledPackage {
        name: format!("package-{number}"),
        version: count.to_string(),
        license: None,
        size: number,
    });
    (count > 0).then(|| {
        Box::new(Packages {
            asked: count.to_string(),
            site: (count > 1).then(|| format!("site-{count}")),
            lock: format!("lock-{count}"),
            installed: installed.collect(),
            notes: Vec::new(),
            since,
        })
    })
}

fn session_of(event: &Event) -> Option<(&Name, u64)> {
    match event {
        Event::Opened {
            session,
            generation,
            ..
        }
        | Event::Installed {
            session,
            generation,
            ..
        }
        | Event::OpenFailed {
            session,
            generation,
            ..
        }
        | Event::Closed {
            session,
            generation,
        }
        | Event::Hibernated {
            session,
            generation,
            ..
        }
        | Event::Resumed {
            session,
            generation,
            ..
        } => Some((session, *generation)),
        _ => None,
    }
}

impl World {
    pub(crate) fn new() -> Self {
        let now = Timestamp::UNIX_EPOCH;
        let disk = Disk::default();
        let names = &*NAMES;
        let mut changes = Vec::new();
        for workspace in &names.workspaces {
            let record = WorkspaceRecord {
                name: workspace.clone(),
                created: now,
                trace_content: false,
                network: Default::default(),
            };
            changes.push(Change::PutWorkspace(record.clone()));
            // One user may assign the workspace's own identity at first.
            let user = names.users[0].clone();
            let own = own_identity(&record, &user);
            let Change::PutIdentity(identity) = &own else {
                panic!("another change");
            };
            let identity = identity.name.clone();
            changes.push(own);
            changes.push(Change::PutGrant {
                workspace: workspace.clone(),
                identity,
                user,
            });
            changes.extend(names.flows[..4].iter().map(|flow| {
                let user = names.users[0].clone();
                Change::PutFlow(Flow::new(workspace.clone(), flow.clone(), user, now))
            }));
        }
        disk.commit(&changes, Durability::Synced).unwrap();
        let ledger = Ledger::open(disk.clone()).unwrap();
        let state = ledger.state().clone();
        Self {
            now,
            disk,
            ledger,
            state,
            due: Vec::new(),
            outcomes: Vec::new(),
            lives: BTreeSet::new(),
            uses: HashMap::new(),
            session_use: HashMap::new(),
            compute_use: HashMap::new(),
            lines: HashMap::new(),
            counter: 0,
            trace: None,
        }
    }

    /// Lives through a history, then comes to rest.
    pub(crate) fn live(&mut self, history: &[u64]) -> Checked {
        for bits in history {
            let mut dice = Dice::new(*bits);
            self.advance(*dice.of(&[0, 0, 0, 1, 30, 60, 400, 4_000]));
            match dice.below(19) {
                0..=5 => self.ask(&mut dice)?,
                6..=10 => self.work(&mut dice)?,
                11 => self.ring(&mut dice)?,
                12 | 13 => self.use_session(&mut dice)?,
                14 | 15 => self.sleep(&mut dice)?,
                16 => self.repeat(&mut dice)?,
                17 => self.own_identity(&mut dice)?,
                _ => self.crash()?,
            }
        }
        self.settle()?;
        self.fall_asleep()
    }

    fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let line = format!("  {:>6} {}", self.now.as_second(), line(self));
            self.trace.get_or_insert_default().push(line);
        }
    }

    fn advance(&mut self, seconds: i64) {
        self.now = self
            .now
            .checked_add(SignedDuration::from_secs(seconds))
            .unwrap();
    }

    /// Something comes to the state machine.
    fn happen(&mut self, workspace: &Name, event: &Event, is_full: bool) -> Checked {
        self.note(|_| format!("{workspace}: {event:?}"));
        let context = Context {
            now: self.now,
            rules: &RULES,
            free_memory_mib: 4_096,
        };
        self.disk.set_full(is_full);
        let changed = self.ledger.change(Durability::Synced, |state| {
            let step = machine::step(state, context, workspace, event)?;
            Ok((step.changes.clone(), step))
        });
        self.disk.set_full(false);
        match changed {
            Err(ChangeError::Refused(refusal)) => {
                self.note(|_| format!("  refused: {refusal}"));
                if *self.ledger.state() != self.state {
                    return Err("a refused event has changed the state".to_owned());
                }
                checks::refusal(&self.state, workspace, event, &refusal)
            }
            Err(ChangeError::Registry(_)) => {
                self.note(|_| "  the disk is full".to_owned());
                if *self.ledger.state() != self.state {
                    return Err("what was not stored has changed the state".to_owned());
                }
                Ok(())
            }
            Ok(step) => {
                let after = self.ledger.state().clone();
                self.note(|_| {
                    let changes = step.changes.iter().map(|change| match change {
                        Change::PutSession(session) => format!(
                            "{} {} gen {} on {}",
                            session.id,
                            session.state.as_str(),
                            session.generation,
                            session.compute
                        ),
                        Change::PutCompute(compute) => {
                            format!("{} {}", compute.name, compute.state.as_str())
                        }
                        Change::DeleteCompute { compute, .. } => format!("{compute} gone"),
                        Change::Happened { happening, .. } => format!("'{}'", happening.what),
                        other => format!("{other:?}"),
                    });
                    let changes: Vec<String> = changes.collect();
                    format!("  {}; {:?}", changes.join(", "), step.effects)
                });
                if step.changes.is_empty() {
                    if after != self.state || !step.effects.is_empty() {
                        return Err("effects without changes".to_owned());
                    }
                } else {
                    if is_full {
                        return Err("stored on a disk that is full".to_owned());
                    }
                    checks::state(&after)?;
                    let reopened = Ledger::open(self.disk.clone()).unwrap();
                    if *reopened.state() != after {
                        return Err("the registry holds another state than memory".to_owned());
                    }
                }
                let before = std::mem::replace(&mut self.state, after);
                checks::step(self, &before, workspace, event, &step)?;
                let effects = step.effects.into_iter().map(Due::Effect);
                self.due
                    .extend(effects.map(|effect| (workspace.clone(), effect)));
                Ok(())
            }
        }
    }

    /// A user wants something.
    fn ask(&mut self, dice: &mut Dice) -> Checked {
        let names = &*NAMES;
        let workspace = dice.of(&[0, 0, 0, 1]);
        let workspace = names.workspaces[*workspace].clone();
        let what = dice.below(15);
        let user = dice.of(&names.users).clone();
        let is_full = dice.rarely(24);
        let of_workspace = &self.state.workspaces[&workspace];
        let sessions: Vec<Name> = of_workspace.sessions.keys().cloned().collect();
        let computes: Vec<Name> = of_workspace.computes.keys().cloned().collect();
        self.counter += 1;
        let unknown = Name::generated("n", &self.counter.to_string());
        let any = |dice: &mut Dice, names: &[Name]| {
            let index = dice.below(names.len() * 4 + 1);
            names
                .get(index % names.len().max(1))
                .filter(|_| index < names.len() * 4)
                .unwrap_or(&unknown)
                .clone()
        };
        // A name for something new is unknown, unless somebody makes a mistake.
        let mistake = dice.rarely(24);
        let fresh = |dice: &mut Dice, names: &[Name]| {
            if mistake {
                any(dice, names)
            } else {
                unknown.clone()
            }
        };
        let seen = |dice: &mut Dice, revision: Option<u64>| match dice.below(8) {
            0..=4 => None,
            5 | 6 => revision,
            _ => revision.map(|revision| revision.saturating_sub(1)),
        };
        let idle = |dice: &mut Dice| *dice.of(&[None, Some(60), Some(600), None, Some(5)]);
        let event = match what {
            0..=4 => Event::Start {
                user,
                flow: dice.of(&names.flows).clone(),
                id: fresh(dice, &sessions),
                compute: fresh(dice, &computes),
                image: Box::new(image(dice)),
                wish: wish(dice, &computes, true),
            },
            5 | 6 => {
                let session = any(dice, &sessions);
                let revision = of_workspace.sessions.get(&session).map(|one| one.revision);
                Event::Update {
                    user,
                    seen: seen(dice, revision),
                    session,
                    compute: fresh(dice, &computes),
                    wish: wish(dice, &computes, false),
                }
            }
            7 => {
                let session = any(dice, &sessions);
                let revision = of_workspace.sessions.get(&session).map(|one| one.revision);
                Event::Reset {
                    user,
                    seen: seen(dice, revision),
                    session,
                    compute: fresh(dice, &computes),
                    image: dice.rarely(3).then(|| Box::new(image(dice))),
                }
            }
            8 => Event::Stop {
                user,
                session: any(dice, &sessions),
            },
            9 => Event::CreateCompute {
                user,
                name: dice.of(&names.computes).clone(),
                instance_type: instance_type(dice),
                idle_seconds: idle(dice),
            },
            10 => {
                let compute = any(dice, &computes);
                let revision = of_workspace.computes.get(&compute).map(|one| one.revision);
                Event::UpdateCompute {
                    user,
                    seen: seen(dice, revision),
                    compute,
                    idle_seconds: idle(dice).unwrap_or(120),
                }
            }
            11 => Event::StartCompute {
                user,
                compute: any(dice, &computes),
            },
            12 => {
                let from = any(dice, &sessions);
                let known = of_workspace.sessions.get(&from);
                let is_late = dice.rarely(8);
                Event::Fork {
                    user: match known {
                        Some(known) if !dice.rarely(8) => known.user.clone(),
                        _ => user,
                    },
                    generation: known.map_or(1, |known| known.generation - u64::from(is_late)),
                    flow: match dice.below(8) {
                        0 => dice.of(&names.flows).clone(),
                        _ => Name::generated("fork", &self.counter.to_string()),
                    },
                    id: fresh(dice, &sessions),
                    compute: fresh(dice, &computes),
                    from,
                    wish: wish(dice, &computes, false),
                }
            }
            13 => Event::StopCompute {
                user,
                compute: any(dice, &computes),
            },
            _ => Event::DeleteCompute {
                user,
                compute: any(dice, &computes),
            },
        };
        self.happen(&workspace, &event, is_full)
    }

    /// An owner makes or deletes a workspace's own identity, or says who may assign it. No session hears of it.
    fn own_identity(&mut self, dice: &mut Dice) -> Checked {
        let names = &*NAMES;
        let name = dice.of(&names.workspaces).clone();
        let user = dice.of(&names.users).clone();
        let record = self.state.workspaces[&name].record.clone();
        let own = self.state.workspaces[&name].identities.keys().next();
        let change = match (own.cloned(), dice.below(4)) {
            (None, _) => own_identity(&record, &user),
            (Some(identity), 0) => Change::DeleteIdentity {
                workspace: name.clone(),
                identity,
            },
            (Some(identity), 1) => Change::DeleteGrant {
                workspace: name.clone(),
                identity,
                user,
            },
            (Some(identity), _) => Change::PutGrant {
                workspace: name.clone(),
                identity,
                user,
            },
        };
        self.note(|_| format!("{name}: {change:?}"));
        let changed = self.ledger.change(Durability::Synced, |_| {
            Ok::<_, std::convert::Infallible>((vec![change], ()))
        });
        changed.map_err(|error| format!("not stored: {error:?}"))?;
        let after = self.ledger.state().clone();
        if *Ledger::open(self.disk.clone()).unwrap().state() != after {
            return Err("the registry holds another state than memory".to_owned());
        }
        let before = std::mem::replace(&mut self.state, after);
        if before.workspaces[&name].sessions != self.state.workspaces[&name].sessions {
            return Err("a session has changed with an identity".to_owned());
        }
        Ok(())
    }

    /// The host does a part of what it is about.
    fn work(&mut self, dice: &mut Dice) -> Checked {
        if self.due.is_empty() {
            return Ok(());
        }
        let (workspace, due) = self.due.swap_remove(dice.below(self.due.len()));
        match due {
            Due::Effect(effect) => {
                let fails = dice.rarely(6);
                self.carry_out(&workspace, effect, fails);
                Ok(())
            }
            Due::Outcome(event) => {
                let is_full = dice.rarely(24);
                self.happen(&workspace, &event, is_full)?;
                // What could not be stored is tried again.
                if is_full {
                    self.due.push((workspace, Due::Outcome(event)));
                } else if !matches!(*event, Event::Resumed { .. }) {
                    // A session that hibernates again can resume again.
                    self.outcomes.push((workspace, *event));
                }
                Ok(())
            }
        }
    }

    fn carry_out(&mut self, workspace: &Name, effect: Effect, fails: bool) {
        self.note(|_| format!("{workspace}: carries out {effect:?}, fails: {fails}"));
        let outcome = match effect {
            Effect::Open {
                session,
                generation,
            } => {
                let known = self.state.workspaces[workspace].sessions.get(&session);
                let is_due = known.is_some_and(|known| {
                    known.generation == generation
                        && (known.state == SessionState::Starting || takes_calls(known.state))
                });
                if !is_due {
                    return;
                }
                if fails {
                    Event::OpenFailed {
                        session,
                        generation,
                        why: "the simulation says so".to_owned(),
                    }
                } else {
                    self.lives
                        .insert((workspace.clone(), session.clone(), generation));
                    // What a fork has stays: its memory is of use to nothing else.
                    let packages = known.and_then(|known| known.packages.clone());
                    let packages = packages.or_else(|| packages_of(generation, self.now));
                    let image = known.map(|known| (*known.image).clone());
                    let image = image.filter(|image| image.digest.is_none());
                    Event::Opened {
                        session,
                        generation,
                        image: image.map(|image| Box::new(pulled(image, generation))),
                        packages,
                    }
                }
            }
            Effect::Close {
                session,
                generation,
            } => {
                self.lives
                    .remove(&(workspace.clone(), session.clone(), generation));
                Event::Closed {
                    session,
                    generation,
                }
            }
        };
        self.due
            .push((workspace.clone(), Due::Outcome(Box::new(outcome))));
    }

    /// A timer rings, whether it should or not.
    fn ring(&mut self, dice: &mut Dice) -> Checked {
        let workspace = dice.of(&NAMES.workspaces).clone();
        let of_workspace = &self.state.workspaces[&workspace];
        let sessions: Vec<Name> = of_workspace.sessions.keys().cloned().collect();
        let computes: Vec<Name> = of_workspace.computes.keys().cloned().collect();
        let index = dice.below(sessions.len() + computes.len());
        if let Some(session) = sessions.get(index) {
            self.ring_session(&workspace, session)
        } else if let Some(compute) = computes.get(index - sessions.len()) {
            self.ring_compute(&workspace, compute)
        } else {
            Ok(())
        }
    }

    fn ring_session(&mut self, workspace: &Name, session: &Name) -> Checked {
        let last_use = self.last_use(workspace, session);
        let event = Event::SessionIdle {
            session: session.clone(),
            last_use,
        };
        self.happen(workspace, &event, false)
    }

    fn ring_compute(&mut self, workspace: &Name, compute: &Name) -> Checked {
        let sessions = self.state.workspaces[workspace].sessions.values();
        let last_use = sessions
            .filter(|session| session.compute == *compute && session.state.is_live())
            .filter_map(|session| self.uses.get(&(workspace.clone(), session.id.clone())))
            .max()
            .copied()
            .unwrap_or(Timestamp::MIN);
        let event = Event::ComputeIdle {
            compute: compute.clone(),
            last_use,
        };
        self.happen(workspace, &event, false)
    }

    /// What the host's memory knows of a session's last use.
    pub(crate) fn last_use(&self, workspace: &Name, session: &Name) -> Timestamp {
        let key = (workspace.clone(), session.clone());
        self.uses.get(&key).copied().unwrap_or(Timestamp::MIN)
    }

    /// Somebody uses a session; sometimes that is stored.
    fn use_session(&mut self, dice: &mut Dice) -> Checked {
        let workspace = dice.of(&NAMES.workspaces).clone();
        let sessions: Vec<Name> = self.state.workspaces[&workspace]
            .sessions
            .keys()
            .cloned()
            .collect();
        if sessions.is_empty() {
            return Ok(());
        }
        let session = dice.of(&sessions).clone();
        let known = self.state.workspaces[&workspace].sessions[&session].clone();
        if takes_calls(known.state) {
            self.note(|_| format!("{workspace}: {session} is used"));
            let key = (workspace.clone(), session.clone());
            self.uses.insert(key, self.now);
            // The call does not wait until that is stored, and it may come late.
            if known.state == SessionState::Hibernated {
                let event = Event::Resumed {
                    session: session.clone(),
                    generation: known.generation,
                    by: None,
                };
                self.due
                    .push((workspace.clone(), Due::Outcome(Box::new(event))));
            }
        }
        if dice.below(2) == 0 {
            let at = self.last_use(&workspace, &session);
            let event = Event::Used { session, at };
            return self.happen(&workspace, &event, false);
        }
        Ok(())
    }

    /// A session hibernates or goes on, by itself or because somebody wants it; perhaps in a life that is over.
    fn sleep(&mut self, dice: &mut Dice) -> Checked {
        let workspace = dice.of(&[0, 0, 0, 1]);
        let workspace = NAMES.workspaces[*workspace].clone();
        let sessions: Vec<Name> = self.state.workspaces[&workspace]
            .sessions
            .keys()
            .cloned()
            .collect();
        if sessions.is_empty() {
            return Ok(());
        }
        let session = dice.of(&sessions).clone();
        let known = self.state.workspaces[&workspace].sessions[&session].clone();
        let generation = known.generation - u64::from(dice.rarely(8));
        let by = dice.rarely(3).then(|| known.user.clone());
        let event = match dice.below(5) {
            1 => Event::Installed {
                session,
                generation,
                packages: packages_of(dice.below(3) as u64, self.now),
                by: known.user.clone(),
            },
            0 => Event::Resumed {
                session,
                generation,
                by,
            },
            _ => Event::Hibernated {
                session,
                generation,
                instances: dice.below(3) as u64,
                bytes: 1_000,
                by,
            },
        };
        let is_full = dice.rarely(24);
        self.happen(&workspace, &event, is_full)
    }

    /// An outcome comes a second time, or one of a life that is long over.
    fn repeat(&mut self, dice: &mut Dice) -> Checked {
        if self.outcomes.is_empty() {
            return Ok(());
        }
        let (workspace, event) = dice.of(&self.outcomes).clone();
        let Some((session, generation)) = session_of(&event) else {
            return Ok(());
        };
        let known = &self.state.workspaces[&workspace].sessions[session];
        let (session, generation) = (session.clone(), generation);
        let is_over = known.generation > generation;
        let event = match dice.below(4) {
            1 if is_over => Event::Opened {
                session,
                generation,
                image: None,
                packages: None,
            },
            2 if is_over => Event::Closed {
                session,
                generation,
            },
            3 if is_over => Event::OpenFailed {
                session,
                generation,
                why: "late".to_owned(),
            },
            _ => event,
        };
        let before = self.state.clone();
        self.happen(&workspace, &event, false)?;
        if self.state != before {
            return Err("an outcome that came twice, or late, has changed the state".to_owned());
        }
        Ok(())
    }

    /// The host dies, and another one takes up what it left.
    fn crash(&mut self) -> Checked {
        self.note(|_| "the host dies".to_owned());
        self.due.clear();
        self.uses.clear();
        // The new host deletes copies of lives that are over, and opens others again on their first use.
        self.lives.clear();
        self.ledger = Ledger::open(self.disk.clone()).unwrap();
        if *self.ledger.state() != self.state {
            return Err("what was acknowledged is not there after a crash".to_owned());
        }
        let mut due = machine::recover(&self.state);
        let mut expected = Vec::new();
        for (name, workspace) in &self.state.workspaces {
            for session in workspace.sessions.values() {
                let (session, generation, state) =
                    (session.id.clone(), session.generation, session.state);
                match state {
                    SessionState::Starting => expected.push((
                        name.clone(),
                        Effect::Open {
                            session,
                            generation,
                        },
                    )),
                    SessionState::Stopping => expected.push((
                        name.clone(),
                        Effect::Close {
                            session,
                            generation,
                        },
                    )),
                    _ => {}
                }
            }
        }
        let key = |(workspace, effect): &(Name, Effect)| format!("{workspace} {effect:?}");
        due.sort_by_key(key);
        expected.sort_by_key(key);
        if due != expected {
            return Err(format!("recovered {due:?} and not {expected:?}"));
        }
        let due = due.into_iter();
        self.due = due
            .map(|(workspace, effect)| (workspace, Due::Effect(effect)))
            .collect();
        Ok(())
    }

    /// Nobody wants anything any more; everything that is due is done.
    fn settle(&mut self) -> Checked {
        while let Some((workspace, due)) = self.due.pop() {
            match due {
                Due::Effect(effect) => self.carry_out(&workspace, effect, false),
                Due::Outcome(event) => self.happen(&workspace, &event, false)?,
            }
        }
        for (name, workspace) in &self.state.workspaces {
            for session in workspace.sessions.values() {
                if matches!(
                    session.state,
                    SessionState::Starting | SessionState::Stopping
                ) {
                    let state = session.state.as_str();
                    return Err(format!("session {} is {state} for ever", session.id));
                }
            }
            for compute in workspace.computes.values() {
                if matches!(
                    compute.state,
                    ComputeState::Stopping | ComputeState::Deleting
                ) {
                    let state = compute.state.as_str();
                    return Err(format!("compute {} is {state} for ever", compute.name));
                }
            }
            let leaked = self.lives.iter().find(|(of, session, generation)| {
                of == name
                    && workspace.sessions.get(session).is_none_or(|session| {
                        !takes_calls(session.state) || session.generation != *generation
                    })
            });
            if let Some(leaked) = leaked {
                return Err(format!("{leaked:?} is over, and holds its files for ever"));
            }
        }
        Ok(())
    }

    /// Nobody uses anything any more either; in the end the host holds nothing.
    fn fall_asleep(&mut self) -> Checked {
        self.advance(i64::try_from(RULES.max_idle_seconds).unwrap());
        let names: Vec<(Name, Vec<Name>)> = self
            .state
            .workspaces
            .iter()
            .map(|(name, workspace)| (name.clone(), workspace.sessions.keys().cloned().collect()))
            .collect();
        for (workspace, sessions) in &names {
            for session in sessions {
                self.ring_session(workspace, session)?;
            }
        }
        self.settle()?;
        self.advance(i64::try_from(RULES.max_idle_seconds).unwrap());
        for workspace in names.iter().map(|(name, _)| name) {
            let computes = self.state.workspaces[workspace].computes.keys();
            let computes: Vec<Name> = computes.cloned().collect();
            for compute in &computes {
                self.ring_compute(workspace, compute)?;
            }
        }
        self.settle()?;
        if self.state.reserved != Resources::default() || !self.lives.is_empty() {
            return Err("something is held although nobody uses it".to_owned());
        }
        Ok(())
    }
}

fn takes_calls(state: SessionState) -> bool {
    matches!(state, SessionState::Running | SessionState::Hibernated)
}

fn image(dice: &mut Dice) -> Image {
    let number = dice.below(3);
    // The last is a registry's.
    Image {
        reference: format!("base:{number}"),
        digest: (number < 2).then(|| format!("sha256:{number}")),
        artifact: None,
        named_by: NamedBy::User,
        note: None,
    }
}

/// An image that was pulled.
fn pulled(image: Image, generation: u64) -> Image {
    Image {
        digest: Some(format!("sha256:pulled-{generation}")),
        artifact: Some(format!("sha256:artifact-{generation}")),
        ..image
    }
}

fn instance_type(dice: &mut Dice) -> Option<String> {
    let types = [
        None,
        Some("small"),
        Some("medium"),
        None,
        Some("standard_ds3_V2"),
        Some("none-such"),
    ];
    dice.of(&types).map(ToOwned::to_owned)
}

/// A rule, which is refused if the method is none.
fn rule(method: &str) -> Rule {
    Rule {
        allowed_methods: Some(vec![method.to_owned()]),
        ..Rule::default()
    }
}

fn wish(dice: &mut Dice, computes: &[Name], is_new: bool) -> Wish {
    let kinds = [
        None,
        None,
        Some(ComputeKind::Serverless),
        Some(ComputeKind::Instance),
    ];
    let compute = match dice.below(3) {
        0 => None,
        _ if computes.is_empty() => Some(NAMES.computes[0].clone()),
        _ => Some(dice.of(computes).clone()),
    };
    let compute_kind = *dice.of(&kinds);
    let instance_type = instance_type(dice).filter(|_| compute.is_none() || dice.rarely(3));
    let managed = Identity::Managed { client_id: None };
    Wish {
        compute_kind,
        instance_type,
        compute,
        idle_seconds: *dice.of(&[None, Some(60), Some(900), None, Some(100_000)]),
        identity: dice.of(&[None, None, Some(managed)]).clone(),
        network: dice
            .of(&[None, None, Some(rule("GET")), Some(rule("get"))])
            .clone(),
        names_image: is_new && dice.rarely(4),
    }
}
