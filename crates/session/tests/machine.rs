//! The rules of computes and sessions, one after the other.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops where it fails"
)]

use flowcell_session::machine::{self, Context, Effect, Event, Refusal, Rules, Step, Wish};
use flowcell_session::{
    Catalog, Change, Compute, ComputeKind, ComputeState, Flow, Identity, Image, Name, Quotas,
    Resources, Session, SessionState, State, UserName, WorkspaceRecord,
};
use jiff::{SignedDuration, Timestamp};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn user(text: &str) -> UserName {
    UserName::new(text).unwrap()
}

/// A workspace `w` with the flows `f` and `g`, at a time that the test moves.
struct World {
    state: State,
    rules: Rules,
    now: Timestamp,
    free_memory_mib: u64,
    made: u32,
}

impl World {
    fn new() -> Self {
        let now = Timestamp::UNIX_EPOCH;
        let mut state = State::default();
        state.apply(&Change::PutWorkspace(WorkspaceRecord {
            name: name("w"),
            created: now,
        }));
        for flow in ["f", "g"] {
            let flow = Flow::new(name("w"), name(flow), user("ana"), now);
            state.apply(&Change::PutFlow(flow));
        }
        Self {
            state,
            rules: Rules {
                catalog: Catalog::default(),
                quotas: Quotas::default(),
                capacity: Resources {
                    memory_mib: 1 << 20,
                    cpu_millis: 1 << 20,
                    instances: 1 << 20,
                },
                idle_seconds: 3_600,
                min_idle_seconds: 60,
                max_idle_seconds: 604_800,
            },
            now,
            free_memory_mib: 10_000,
            made: 0,
        }
    }

    fn foresee(&self, event: &Event) -> Result<Step, Refusal> {
        let context = Context {
            now: self.now,
            rules: &self.rules,
            free_memory_mib: self.free_memory_mib,
        };
        machine::step(&self.state, context, &name("w"), event)
    }

    fn happen(&mut self, event: &Event) -> Result<Step, Refusal> {
        let step = self.foresee(event)?;
        for change in &step.changes {
            self.state.apply(change);
        }
        Ok(step)
    }

    /// The same, with everything that it sets going.
    fn settle(&mut self, event: &Event) -> Result<Step, Refusal> {
        let step = self.happen(event)?;
        for effect in step.effects.clone() {
            let event = match effect {
                Effect::Open {
                    session,
                    generation,
                } => Event::Opened {
                    session,
                    generation,
                },
                Effect::Close {
                    session,
                    generation,
                } => Event::Closed {
                    session,
                    generation,
                },
            };
            self.happen(&event)?;
        }
        Ok(step)
    }

    fn fresh(&mut self) -> Name {
        self.made += 1;
        name(&format!("made-{}", self.made))
    }

    fn start(&mut self, who: &str, flow: &str, wish: Wish) -> Result<Session, Refusal> {
        let event = self.start_event(who, flow, wish);
        self.settle(&event)?;
        let Event::Start { flow, .. } = event else {
            panic!("another event");
        };
        Ok(self.session(flow.as_str()).clone())
    }

    fn start_event(&mut self, who: &str, flow: &str, wish: Wish) -> Event {
        Event::Start {
            user: user(who),
            flow: name(flow),
            id: name(&format!("session-of-{flow}")),
            compute: self.fresh(),
            image: Image {
                reference: "base:1".to_owned(),
                digest: "sha256:1".to_owned(),
            },
            wish,
        }
    }

    fn update(&mut self, wish: Wish) -> Result<Step, Refusal> {
        let event = Event::Update {
            user: user("ana"),
            session: name("session-of-f"),
            seen: None,
            compute: self.fresh(),
            wish,
        };
        self.settle(&event)
    }

    fn create(&mut self, who: &str, compute: &str) -> Step {
        let event = Event::CreateCompute {
            user: user(who),
            name: name(compute),
            instance_type: Some("medium".to_owned()),
            idle_seconds: Some(600),
        };
        self.settle(&event).unwrap()
    }

    fn session(&self, flow: &str) -> &Session {
        &self.state.workspaces["w"].sessions[&*format!("session-of-{flow}")]
    }

    fn compute(&self, compute: &str) -> Option<&Compute> {
        self.state.workspaces["w"].computes.get(compute)
    }

    fn pass(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }
}

/// What a step adds to histories.
fn told(step: &Step) -> Vec<&str> {
    step.changes
        .iter()
        .filter_map(|change| match change {
            Change::Happened { happening, .. } => Some(happening.what.as_str()),
            _ => None,
        })
        .collect()
}

fn on(compute: &str) -> Wish {
    Wish {
        compute: Some(name(compute)),
        ..Wish::default()
    }
}

fn of_type(instance_type: &str) -> Wish {
    Wish {
        instance_type: Some(instance_type.to_owned()),
        ..Wish::default()
    }
}

#[test]
fn the_host_chooses_the_cheapest_type_that_fits_and_says_why() {
    let mut world = World::new();
    let session = world.start("ana", "f", Wish::default()).unwrap();
    assert_eq!(session.instance_type, name("small"));
    insta::assert_snapshot!(session.choice, @"small was chosen: the cheapest (0.01 an hour) of the types that fit the quota; 10000 MiB of the host's memory are free");

    let mut world = World::new();
    world.rules.quotas.user.resources.memory_mib = 1_000;
    world.rules.catalog.0[0].price_per_hour = 9.0;
    let session = world.start("ana", "f", Wish::default()).unwrap();
    assert_eq!(session.instance_type, name("small"));
    assert!(
        session
            .choice
            .ends_with("medium does not fit the quota; large does not fit the quota"),
        "{}",
        session.choice
    );
}

#[test]
fn under_load_a_type_that_cannot_get_its_memory_comes_last() {
    let mut world = World::new();
    world.rules.catalog.0[0].price_per_hour = 1.0;
    world.free_memory_mib = 1_000;
    let session = world.start("ana", "f", Wish::default()).unwrap();
    assert_eq!(session.instance_type, name("small"));
}

#[test]
fn types_are_known_by_azures_names_too() {
    let mut world = World::new();
    let session = world.start("ana", "f", of_type("standard_ds3_V2")).unwrap();
    assert_eq!(session.instance_type, name("large"));
    let refused = world.start("ana", "g", of_type("huge")).unwrap_err();
    insta::assert_snapshot!(refused, @"instance_type: there is no type 'huge'; there are: small, medium, large");
}

#[test]
fn a_full_quota_says_what_is_used_and_what_is_free() {
    let mut world = World::new();
    world.rules.quotas.user.sessions = 1;
    world.start("ana", "f", Wish::default()).unwrap();
    let refused = world.start("ana", "g", Wish::default()).unwrap_err();
    insta::assert_snapshot!(refused, @"the quota of user ana in workspace w is too small for this: wanted are 1 sessions, 1 computes, 512 MiB of memory, 500 millicores, 4 instances; in use are 1 sessions, 1 computes, 512 MiB of memory, 500 millicores, 4 instances; free are 0 sessions, 99 computes, 65024 MiB of memory, 99500 millicores, 996 instances");
    // Another user has a quota of their own, and the workspace's is for all.
    world.start("ben", "g", Wish::default()).unwrap();
    let mut world = World::new();
    world.rules.quotas.workspace.sessions = 1;
    world.start("ana", "f", Wish::default()).unwrap();
    let refused = world.start("ben", "g", Wish::default()).unwrap_err();
    assert!(refused.to_string().starts_with("the quota of workspace w "));
}

#[test]
fn a_full_host_takes_no_more_computes() {
    let mut world = World::new();
    world.rules.capacity.memory_mib = 600;
    world.start("ana", "f", Wish::default()).unwrap();
    let refused = world.start("ana", "g", of_type("small")).unwrap_err();
    assert!(matches!(refused, Refusal::HostFull { .. }), "{refused}");
}

#[test]
fn only_its_owner_can_use_a_compute() {
    let mut world = World::new();
    world.create("ana", "box");
    let refused = world.start("ben", "f", on("box")).unwrap_err();
    insta::assert_snapshot!(refused, @"compute 'box' belongs to ana; only its owner can use it");
    world.start("ana", "f", on("box")).unwrap();
    let start = Event::StartCompute {
        user: user("ben"),
        compute: name("box"),
    };
    assert!(matches!(
        world.happen(&start),
        Err(Refusal::NotYours { .. })
    ));
}

#[test]
fn a_flow_has_one_session_and_a_compute_holds_several() {
    let mut world = World::new();
    world.create("ana", "box");
    world.start("ana", "f", on("box")).unwrap();
    let refused = world.start("ana", "f", Wish::default()).unwrap_err();
    assert!(matches!(refused, Refusal::Conflict(_)), "{refused}");
    world.start("ana", "g", on("box")).unwrap();
    assert_eq!(
        world.state.workspaces["w"]
            .sessions_on(&name("box"))
            .count(),
        2
    );
}

#[test]
fn on_an_instance_compute_only_the_idle_time_can_be_set() {
    let mut world = World::new();
    world.create("ana", "box");
    let with = |change: fn(&mut Wish)| {
        let mut wish = on("box");
        change(&mut wish);
        wish
    };
    let refused = [
        with(|wish| wish.instance_type = Some("large".to_owned())),
        with(|wish| wish.identity = Some(Identity::UserIdentity)),
        with(|wish| wish.names_image = true),
        with(|wish| wish.compute_kind = Some(ComputeKind::Serverless)),
    ];
    for wish in refused {
        let refused = world.start("ana", "f", wish).unwrap_err();
        assert!(matches!(refused, Refusal::Invalid { .. }), "{refused}");
    }
    let session = world
        .start("ana", "f", with(|wish| wish.idle_seconds = Some(61)))
        .unwrap();
    assert_eq!(session.idle_seconds, 61);
    let managed = Identity::Managed { client_id: None };
    let wish = Wish {
        identity: Some(managed),
        ..Wish::default()
    };
    assert!(matches!(world.update(wish), Err(Refusal::Invalid { .. })));
    assert!(matches!(
        world.update(of_type("large")),
        Err(Refusal::Invalid { .. })
    ));
}

#[test]
fn idle_times_have_bounds() {
    let mut world = World::new();
    for idle_seconds in [0, 59, 604_801, u64::MAX] {
        let wish = Wish {
            idle_seconds: Some(idle_seconds),
            ..Wish::default()
        };
        let refused = world.start("ana", "f", wish).unwrap_err();
        assert!(
            matches!(
                refused,
                Refusal::Invalid {
                    field: "idle_seconds",
                    ..
                }
            ),
            "{refused}"
        );
    }
}

#[test]
fn a_dry_run_shows_the_settings_and_changes_nothing() {
    let mut world = World::new();
    let event = world.start_event("ana", "f", of_type("medium"));
    let before = world.state.clone();
    let step = world.foresee(&event).unwrap();
    assert_eq!(step.session().unwrap().instance_type, name("medium"));
    assert_eq!(world.state, before);
}

#[test]
fn idle_time_and_identity_hold_at_once() {
    let mut world = World::new();
    let before = world.start("ana", "f", Wish::default()).unwrap();
    let wish = Wish {
        idle_seconds: Some(120),
        identity: Some(Identity::Managed { client_id: None }),
        ..Wish::default()
    };
    let step = world.update(wish).unwrap();
    assert_eq!(step.effects, []);
    let after = world.session("f");
    assert_eq!(after.generation, before.generation);
    assert_eq!(
        (after.idle_seconds, after.revision),
        (120, before.revision + 1)
    );
    assert_eq!(after.identity, Identity::Managed { client_id: None });
}

#[test]
fn another_type_resets_the_session_on_a_compute_of_that_size() {
    let mut world = World::new();
    let before = world.start("ana", "f", of_type("small")).unwrap();
    let step = world.update(of_type("large")).unwrap();
    let after = world.session("f");
    assert_eq!(after.generation, before.generation + 1);
    assert_eq!(
        (after.state, &after.instance_type),
        (SessionState::Running, &name("large"))
    );
    assert!(world.compute(before.compute.as_str()).is_none());
    assert_eq!(
        step.effects,
        [
            Effect::Close {
                session: before.id.clone(),
                generation: 1
            },
            Effect::Open {
                session: before.id.clone(),
                generation: 2
            }
        ]
    );
}

#[test]
fn another_compute_moves_the_session() {
    let mut world = World::new();
    world.create("ana", "box");
    let before = world.start("ana", "f", Wish::default()).unwrap();
    world.update(on("box")).unwrap();
    assert_eq!(world.session("f").compute, name("box"));
    assert!(world.compute(before.compute.as_str()).is_none());
    world.create("ben", "bens");
    assert!(matches!(
        world.update(on("bens")),
        Err(Refusal::NotYours { .. })
    ));
}

#[test]
fn a_stale_if_match_changes_nothing() {
    let mut world = World::new();
    let session = world.start("ana", "f", Wish::default()).unwrap();
    for seen in [session.revision - 1, session.revision + 1] {
        let reset = Event::Reset {
            user: user("ben"),
            session: session.id.clone(),
            seen: Some(seen),
            compute: name("new"),
        };
        let refused = world.happen(&reset).unwrap_err();
        assert!(matches!(refused, Refusal::Stale { .. }), "{refused}");
    }
    assert_eq!(world.session("f"), &session);
}

#[test]
fn a_reset_begins_a_new_life_in_the_same_environment() {
    let mut world = World::new();
    let before = world.start("ana", "f", of_type("medium")).unwrap();
    let reset = Event::Reset {
        user: user("ana"),
        session: before.id.clone(),
        seen: Some(before.revision),
        compute: name("new"),
    };
    world.settle(&reset).unwrap();
    let after = world.session("f");
    assert_eq!(after.generation, before.generation + 1);
    assert_eq!(
        (&after.compute, &after.image),
        (&before.compute, &before.image)
    );
    assert_eq!(after.state, SessionState::Running);
}

#[test]
fn a_stop_takes_the_serverless_compute_along_and_leaves_the_other_idle() {
    let mut world = World::new();
    world.create("ana", "box");
    let serverless = world.start("ana", "f", Wish::default()).unwrap();
    world.start("ana", "g", on("box")).unwrap();
    for flow in ["f", "g"] {
        let stop = Event::Stop {
            user: user("ana"),
            session: world.session(flow).id.clone(),
        };
        world.happen(&stop).unwrap();
        assert_eq!(world.session(flow).state, SessionState::Stopping);
        // It holds its compute until it is really gone.
        assert!(
            world
                .compute(world.session(flow).compute.as_str())
                .is_some()
        );
        let closed = Event::Closed {
            session: world.session(flow).id.clone(),
            generation: 1,
        };
        world.happen(&closed).unwrap();
        assert_eq!(world.session(flow).state, SessionState::Stopped);
    }
    assert!(world.compute(serverless.compute.as_str()).is_none());
    assert_eq!(world.compute("box").unwrap().state, ComputeState::Running);
    // And it starts again, on another compute, under the same name.
    let again = world.start("ana", "f", on("box")).unwrap();
    assert_eq!((&again.id, again.generation), (&serverless.id, 2));
}

#[test]
fn an_idle_session_is_evicted_and_its_history_says_why() {
    let mut world = World::new();
    let session = world.start("ana", "f", Wish::default()).unwrap();
    let idle = |last_use| Event::SessionIdle {
        session: name("session-of-f"),
        last_use,
    };
    world.pass(3_599);
    assert_eq!(
        world.happen(&idle(session.last_use)).unwrap(),
        Step::default()
    );
    world.pass(1);
    // Used meanwhile: it stays.
    assert_eq!(world.happen(&idle(world.now)).unwrap(), Step::default());
    let step = world.settle(&idle(session.last_use)).unwrap();
    assert_eq!(told(&step), ["idle: not used for 1 h"]);
    assert_eq!(world.session("f").state, SessionState::Stopped);
    assert_eq!(world.session("f").reason, "idle: not used for 1 h");
}

#[test]
fn an_idle_compute_shuts_down_and_starts_again_on_use() {
    let mut world = World::new();
    world.create("ana", "box");
    let session = world.start("ana", "f", on("box")).unwrap();
    world.pass(600);
    let idle = Event::ComputeIdle {
        compute: name("box"),
        last_use: session.last_use,
    };
    let step = world.settle(&idle).unwrap();
    assert_eq!(
        told(&step),
        ["compute 'box' shut down: not used for 10 min"]
    );
    assert_eq!(world.session("f").state, SessionState::Stopped);
    assert_eq!(world.compute("box").unwrap().state, ComputeState::Stopped);
    assert_eq!(world.state.reserved, Resources::default());
    world.start("ana", "f", on("box")).unwrap();
    assert_eq!(world.compute("box").unwrap().state, ComputeState::Running);
}

#[test]
fn deleting_a_compute_says_what_it_stops_and_does_it() {
    let mut world = World::new();
    world.create("ana", "box");
    world.start("ana", "f", on("box")).unwrap();
    world.start("ana", "g", on("box")).unwrap();
    let delete = Event::DeleteCompute {
        user: user("ana"),
        compute: name("box"),
    };
    let foreseen = world.foresee(&delete).unwrap();
    let stops: Vec<&str> = foreseen
        .stops()
        .map(|session| session.id.as_str())
        .collect();
    assert_eq!(stops, ["session-of-f", "session-of-g"]);
    world.settle(&delete).unwrap();
    assert!(world.compute("box").is_none());
    assert_eq!(
        world.session("g").reason,
        "compute 'box' was deleted by ana"
    );
    assert_eq!(world.session("g").state, SessionState::Stopped);
}

#[test]
fn a_session_that_cannot_start_leaves_nothing_behind_and_can_be_reset() {
    let mut world = World::new();
    let event = world.start_event("ana", "f", of_type("medium"));
    world.happen(&event).unwrap();
    let failed = Event::OpenFailed {
        session: name("session-of-f"),
        generation: 1,
        why: "the host's disk is full".to_owned(),
    };
    world.happen(&failed).unwrap();
    assert_eq!(world.session("f").state, SessionState::Failed);
    assert_eq!(world.session("f").reason, "the host's disk is full");
    assert_eq!(world.state.reserved, Resources::default());
    let reset = Event::Reset {
        user: user("ana"),
        session: name("session-of-f"),
        seen: None,
        compute: world.fresh(),
    };
    world.settle(&reset).unwrap();
    assert_eq!(world.session("f").state, SessionState::Running);
    assert_eq!(world.session("f").instance_type, name("medium"));
}

#[test]
fn what_a_dead_host_left_undone_is_done_by_the_next() {
    let mut world = World::new();
    let event = world.start_event("ana", "f", Wish::default());
    world.happen(&event).unwrap();
    let open = Effect::Open {
        session: name("session-of-f"),
        generation: 1,
    };
    assert_eq!(machine::recover(&world.state), [(name("w"), open)]);
    world
        .happen(&Event::Opened {
            session: name("session-of-f"),
            generation: 1,
        })
        .unwrap();
    // It comes back on its first use.
    assert_eq!(machine::recover(&world.state), []);
    let stop = Event::Stop {
        user: user("ana"),
        session: name("session-of-f"),
    };
    world.happen(&stop).unwrap();
    let close = Effect::Close {
        session: name("session-of-f"),
        generation: 1,
    };
    assert_eq!(machine::recover(&world.state), [(name("w"), close)]);
}
