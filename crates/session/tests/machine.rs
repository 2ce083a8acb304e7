//! The rules of computes and sessions, one after the other.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops where it fails"
)]

use flowcell_session::machine::{self, Context, Effect, Event, Refusal, Rules, Step, Wish};
use flowcell_session::{
    Catalog, Change, Compute, ComputeKind, ComputeState, Flow, ForkedFrom, Identity, IdentityKind,
    Image, Name, NamedBy, Packages, Quotas, Resources, Role, Session, SessionState, State, Stored,
    UserName, WorkspaceIdentity, WorkspaceRecord, delete_identity, grant,
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
            trace_content: false,
            network: Default::default(),
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
                    image: None,
                    packages: None,
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
            image: Box::new(image("base:1", Some("sha256:1"))),
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

fn managed(client_id: Option<&str>) -> Wish {
    let client_id = client_id.map(ToOwned::to_owned);
    Wish {
        identity: Some(Identity::Managed { client_id }),
        ..Wish::default()
    }
}

/// An identity `i` with the client identifier `c`, and whoever may assign it.
fn with_identity(users: &[&str]) -> World {
    let mut world = World::new();
    world.state.apply(&Change::PutIdentity(WorkspaceIdentity {
        workspace: name("w"),
        name: name("i"),
        kind: IdentityKind::UserAssigned,
        client_id: "c".to_owned(),
        created_by: user("ana"),
        created: world.now,
    }));
    for who in users {
        let grant = granted_to(&world.state, who);
        world.state.apply(&grant);
    }
    world
}

fn granted_to(state: &State, who: &str) -> Change {
    let mut state = state.clone();
    state.apply(&Change::PutRole {
        workspace: name("w"),
        user: user(who),
        role: Role::DataScientist,
    });
    grant(&state, &name("w"), &name("i"), &user(who)).unwrap()
}

#[test]
fn an_identity_is_for_those_who_may_assign_it() {
    let mut world = with_identity(&["ana"]);
    let refused = world.start("ben", "f", managed(Some("c"))).unwrap_err();
    assert!(matches!(refused, Refusal::Forbidden(_)), "{refused}");
    assert!(refused.to_string().contains("ben"), "{refused}");
    for (client_id, word) in [(Some("d"), "'d'"), (Some("i"), "'i'"), (None, "--system")] {
        let refused = world.start("ana", "f", managed(client_id)).unwrap_err();
        assert!(matches!(refused, Refusal::Missing(_)), "{refused}");
        assert!(refused.to_string().contains(word), "{refused}");
    }
    world.start("ana", "f", managed(Some("c"))).unwrap();
    // Owners may assign every identity.
    world.state.apply(&Change::PutRole {
        workspace: name("w"),
        user: user("ben"),
        role: Role::Owner,
    });
    world.start("ben", "g", managed(Some("c"))).unwrap();
}

#[test]
fn a_session_outlives_its_identity_and_does_not_begin_anew_without() {
    let mut world = with_identity(&["ana"]);
    world.start("ana", "f", managed(Some("c"))).unwrap();
    let running = world.session("f").clone();
    let gone = delete_identity(&world.state, &name("w"), &name("i")).unwrap();
    world.state.apply(&gone);
    assert_eq!(*world.session("f"), running);
    let reset = Event::Reset {
        user: user("ana"),
        session: name("session-of-f"),
        seen: None,
        compute: world.fresh(),
        image: None,
    };
    let refused = world.settle(&reset).unwrap_err();
    assert!(matches!(refused, Refusal::Missing(_)), "{refused}");
    let refused = world.update(of_type("large")).unwrap_err();
    assert!(matches!(refused, Refusal::Missing(_)), "{refused}");
    assert_eq!(*world.session("f"), running);
    // What does not begin anew can change.
    let wish = Wish {
        idle_seconds: Some(61),
        ..Wish::default()
    };
    world.update(wish).unwrap();
    let wish = Wish {
        identity: Some(Identity::UserIdentity),
        ..Wish::default()
    };
    world.update(wish).unwrap();
    world.settle(&reset).unwrap();
}

#[test]
fn a_grant_goes_with_the_role_and_with_the_user() {
    for gone in [
        Change::DeleteRole {
            workspace: name("w"),
            user: user("ana"),
        },
        Change::DeleteUser(user("ana")),
        Change::DeleteGrant {
            workspace: name("w"),
            identity: name("i"),
            user: user("ana"),
        },
    ] {
        let mut world = with_identity(&["ana"]);
        world.state.apply(&gone);
        let refused = world.start("ana", "f", managed(Some("c"))).unwrap_err();
        assert!(matches!(refused, Refusal::Forbidden(_)), "{refused}");
    }
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
    let mut world = with_identity(&["ana"]);
    let before = world.start("ana", "f", Wish::default()).unwrap();
    let wish = Wish {
        idle_seconds: Some(120),
        ..managed(Some("c"))
    };
    let step = world.update(wish).unwrap();
    assert_eq!(step.effects, []);
    let after = world.session("f");
    assert_eq!(after.generation, before.generation);
    assert_eq!(
        (after.idle_seconds, after.revision),
        (120, before.revision + 1)
    );
    assert_eq!(Some(&after.identity), managed(Some("c")).identity.as_ref());
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
            image: None,
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
        image: None,
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
fn a_session_that_is_about_to_leave_counts_as_use_of_its_compute() {
    let mut world = World::new();
    world.create("ana", "box");
    let session = world.start("ana", "f", on("box")).unwrap();
    world.pass(400);
    let reset = Event::Reset {
        user: user("ana"),
        session: session.id.clone(),
        seen: None,
        compute: name("fresh"),
        image: None,
    };
    world.happen(&reset).unwrap();
    world.pass(400);
    let stop = Event::Stop {
        user: user("ana"),
        session: session.id.clone(),
    };
    world.happen(&stop).unwrap();
    let idle = Event::ComputeIdle {
        compute: name("box"),
        last_use: Timestamp::MIN,
    };
    assert_eq!(world.happen(&idle).unwrap(), Step::default());
    world.pass(200);
    assert_ne!(world.happen(&idle).unwrap(), Step::default());
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
        image: None,
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
            image: None,
            packages: None,
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

fn packages(asked: &str) -> Option<Box<Packages>> {
    Some(Box::new(Packages {
        asked: asked.to_owned(),
        site: Some(format!("site of {asked}")),
        lock: format!("lock of {asked}"),
        installed: Vec::new(),
        notes: Vec::new(),
        since: Timestamp::UNIX_EPOCH,
    }))
}

fn image(reference: &str, digest: Option<&str>) -> Image {
    Image {
        reference: reference.to_owned(),
        digest: digest.map(str::to_owned),
        artifact: None,
        named_by: NamedBy::User,
        note: None,
    }
}

#[test]
fn an_image_belongs_to_a_life() {
    let mut world = World::new();
    let in_registry = image("registry.example.com/base:1", None);
    let pulled = image("registry.example.com/base:1", Some("sha256:2"));
    let mut event = world.start_event("ana", "f", Wish::default());
    let Event::Start { image: asked, .. } = &mut event else {
        panic!("another event");
    };
    **asked = in_registry.clone();
    world.happen(&event).unwrap();
    assert_eq!(*world.session("f").image, in_registry);
    let opened = |generation, image: Option<&Image>| Event::Opened {
        session: name("session-of-f"),
        generation,
        image: image.cloned().map(Box::new),
        packages: None,
    };
    world.happen(&opened(1, Some(&pulled))).unwrap();
    assert_eq!(*world.session("f").image, pulled);
    // Whatever its name means by now, a reset keeps it, unless the reset says another one.
    let reset = |compute, image: Option<&Image>| Event::Reset {
        user: user("ana"),
        session: name("session-of-f"),
        seen: None,
        compute,
        image: image.cloned().map(Box::new),
    };
    let event = reset(world.fresh(), None);
    world.settle(&event).unwrap();
    assert_eq!(*world.session("f").image, pulled);
    let other = image("base:2", Some("sha256:3"));
    let event = reset(world.fresh(), Some(&other));
    world.settle(&event).unwrap();
    assert_eq!(*world.session("f").image, other);
    // What an earlier life was to begin with comes too late.
    world.happen(&opened(1, Some(&pulled))).unwrap();
    assert_eq!(*world.session("f").image, other);
}

fn installed(generation: u64, asked: &str) -> Event {
    Event::Installed {
        session: name("session-of-f"),
        generation,
        packages: packages(asked),
        by: user("ana"),
    }
}

#[test]
fn packages_belong_to_a_life() {
    let mut world = World::new();
    world.start("ana", "f", Wish::default()).unwrap();
    assert_eq!(world.session("f").packages, None);
    let revision = world.session("f").revision;
    world.happen(&installed(1, "a")).unwrap();
    assert_eq!(world.session("f").packages, packages("a"));
    assert_eq!(world.session("f").revision, revision + 1);
    // What comes from an earlier life, or too late, changes nothing.
    let reset = Event::Reset {
        user: user("ana"),
        session: name("session-of-f"),
        seen: None,
        compute: world.fresh(),
        image: None,
    };
    world.happen(&reset).unwrap();
    assert_eq!(world.session("f").packages, None);
    world.happen(&installed(2, "b")).unwrap();
    assert_eq!(world.session("f").packages, None);
    let opened = Event::Opened {
        session: name("session-of-f"),
        generation: 2,
        image: None,
        packages: packages("c"),
    };
    world.happen(&opened).unwrap();
    assert_eq!(world.session("f").packages, packages("c"));
    world.happen(&installed(1, "d")).unwrap();
    assert_eq!(world.session("f").packages, packages("c"));
}

fn hibernated(generation: u64, instances: u64, by: Option<&str>) -> Event {
    Event::Hibernated {
        session: name("session-of-f"),
        generation,
        instances,
        bytes: 1_000 * instances,
        by: by.map(user),
    }
}

fn resumed(generation: u64) -> Event {
    Event::Resumed {
        session: name("session-of-f"),
        generation,
        by: None,
    }
}

/// A world with a hibernated session of `f`.
fn asleep() -> World {
    let mut world = World::new();
    world.start("ana", "f", Wish::default()).unwrap();
    world.happen(&hibernated(1, 2, None)).unwrap();
    world
}

#[test]
fn a_session_hibernates_only_with_something_stored_in_its_present_life() {
    let mut world = World::new();
    world.start("ana", "f", Wish::default()).unwrap();
    for pointless in [hibernated(1, 0, None), hibernated(2, 1, None), resumed(1)] {
        assert_eq!(world.happen(&pointless).unwrap(), Step::default());
    }
    world.pass(10);
    world.happen(&hibernated(1, 2, None)).unwrap();
    let session = world.session("f");
    assert_eq!(session.state, SessionState::Hibernated);
    let stored = Stored {
        instances: 2,
        bytes: 2_000,
        since: world.now,
    };
    assert_eq!((session.stored, session.since), (Some(stored), world.now));
    assert_eq!(world.happen(&resumed(2)).unwrap(), Step::default());
}

#[test]
fn a_hibernated_session_keeps_its_place_and_is_not_opened_at_the_start_of_a_host() {
    let world = asleep();
    assert!(world.compute("made-1").is_some());
    assert_eq!(world.state.workspaces["w"].used.sessions, 1);
    assert_eq!(machine::recover(&world.state), []);
}

#[test]
fn a_session_that_resumes_has_nothing_stored_and_was_used_just_now() {
    let mut world = asleep();
    world.pass(100);
    world.happen(&resumed(1)).unwrap();
    let session = world.session("f");
    assert_eq!(session.state, SessionState::Running);
    assert_eq!((session.stored, session.last_use), (None, world.now));
}

#[test]
fn only_what_a_user_asked_for_is_told_and_counts_as_a_change() {
    let mut world = World::new();
    let revision = world.start("ana", "f", Wish::default()).unwrap().revision;
    for _ in 0..3 {
        let step = world.happen(&hibernated(1, 1, None)).unwrap();
        assert_eq!(told(&step), [""; 0]);
        let step = world.happen(&resumed(1)).unwrap();
        assert_eq!(told(&step), [""; 0]);
    }
    assert_eq!(world.session("f").revision, revision);
    let step = world.happen(&hibernated(1, 1, Some("ana"))).unwrap();
    assert_eq!(told(&step), ["hibernated by ana"]);
    assert_eq!(world.session("f").revision, revision + 1);
}

#[test]
fn a_hibernated_session_goes_after_its_idle_time() {
    let mut world = asleep();
    let idle = Event::SessionIdle {
        session: name("session-of-f"),
        last_use: world.now,
    };
    world.pass(3_599);
    assert_eq!(world.happen(&idle).unwrap(), Step::default());
    world.pass(1);
    let step = world.happen(&idle).unwrap();
    let close = Effect::Close {
        session: name("session-of-f"),
        generation: 1,
    };
    assert_eq!(step.effects, [close]);
    let session = world.session("f");
    assert_eq!(
        (session.state, session.stored),
        (SessionState::Stopping, None)
    );
}

#[test]
fn a_hibernated_session_can_be_changed_and_stays_asleep() {
    let mut world = asleep();
    world
        .update(Wish {
            idle_seconds: Some(100),
            ..Wish::default()
        })
        .unwrap();
    let session = world.session("f");
    assert_eq!(session.state, SessionState::Hibernated);
    assert!(session.stored.is_some());
    assert_eq!(session.idle_seconds, 100);
}

#[test]
fn what_is_stored_ends_with_its_life() {
    let mut world = asleep();
    world.update(of_type("medium")).unwrap();
    let session = world.session("f");
    assert_eq!((session.generation, session.stored), (2, None));
    world.happen(&hibernated(2, 1, None)).unwrap();
    let reset = Event::Reset {
        user: user("ana"),
        session: name("session-of-f"),
        seen: None,
        compute: world.fresh(),
        image: None,
    };
    let step = world.happen(&reset).unwrap();
    assert_eq!(step.effects.len(), 2, "{:?}", step.effects);
    let session = world.session("f");
    assert_eq!((session.generation, session.stored), (3, None));
}

fn fork(who: &str, generation: u64, flow: &str, wish: Wish) -> Event {
    Event::Fork {
        user: user(who),
        from: name("session-of-f"),
        generation,
        flow: name(flow),
        id: name(&format!("session-of-{flow}")),
        compute: name(&format!("compute-of-{flow}")),
        wish,
    }
}

#[test]
fn a_fork_is_a_new_flow_with_a_session_like_the_other() {
    let mut world = with_identity(&["ana"]);
    let wish = Wish {
        idle_seconds: Some(500),
        identity: managed(Some("c")).identity,
        ..of_type("medium")
    };
    let source = world.start("ana", "f", wish).unwrap();
    let step = world
        .happen(&fork("ana", 1, "copy", Wish::default()))
        .unwrap();
    let copy = Change::CopyFiles {
        workspace: name("w"),
        from: name("f"),
        to: name("copy"),
    };
    assert_eq!(step.changes[0], copy);
    assert!(world.state.workspaces["w"].flows.contains_key("copy"));
    let session = world.session("copy");
    assert_eq!(session.state, SessionState::Starting);
    assert_eq!(session.instance_type, source.instance_type);
    assert_ne!(session.compute, source.compute);
    assert_eq!(session.idle_seconds, 500);
    assert_eq!(session.identity, source.identity);
    assert_eq!(session.image, source.image);
    let from = ForkedFrom {
        session: source.id.clone(),
        flow: name("f"),
        generation: 1,
        memory: source.memory(),
    };
    assert_eq!(session.memory(), source.memory());
    assert_eq!(session.forked_from.as_deref(), Some(&from));
    assert_eq!(*world.session("f"), source);
}

#[test]
fn a_fork_goes_where_it_is_wanted() {
    let mut world = World::new();
    world.create("ana", "box");
    world.start("ana", "f", on("box")).unwrap();
    world
        .happen(&fork("ana", 1, "one", Wish::default()))
        .unwrap();
    assert_eq!(world.session("one").compute, name("box"));
    let wish = Wish {
        idle_seconds: Some(100),
        ..of_type("large")
    };
    world.happen(&fork("ana", 1, "two", wish)).unwrap();
    assert_eq!(world.session("two").instance_type, name("large"));
    assert_eq!(world.session("two").idle_seconds, 100);
}

#[test]
fn a_fork_is_refused_without_a_source_that_is_its_users() {
    let mut world = asleep();
    let refused = |world: &mut World, event: &Event| {
        let before = world.state.clone();
        let refused = world.happen(event).unwrap_err().to_string();
        assert_eq!(world.state, before);
        refused
    };
    let text = refused(&mut world, &fork("ben", 1, "copy", Wish::default()));
    insta::assert_snapshot!(text, @"session 'session-of-f' belongs to ana; only its owner can use it");
    let text = refused(&mut world, &fork("ana", 1, "g", Wish::default()));
    insta::assert_snapshot!(text, @"there is a flow 'g' already; a fork is a new flow");
    let text = refused(&mut world, &fork("ana", 2, "copy", Wish::default()));
    insta::assert_snapshot!(text, @"session session-of-f has begun anew meanwhile; look at it again");
    world.rules.quotas.user.sessions = 1;
    let text = refused(&mut world, &fork("ana", 1, "copy", Wish::default()));
    assert!(text.starts_with("the quota of user ana"), "{text}");
    let stop = Event::Stop {
        user: user("ana"),
        session: name("session-of-f"),
    };
    world.settle(&stop).unwrap();
    let text = refused(&mut world, &fork("ana", 1, "copy", Wish::default()));
    insta::assert_snapshot!(text, @"session session-of-f is stopped; only one that runs or is hibernated can be forked");
}

#[test]
fn sessions_of_older_registries_are_read() {
    let mut world = World::new();
    let session = world.start("ana", "f", Wish::default()).unwrap();
    let mut json = serde_json::to_value(&session).unwrap();
    let fields = json.as_object_mut().unwrap();
    // What is not there is not written either.
    assert!(!fields.contains_key("stored") && !fields.contains_key("forked_from"));
    let read: Session = serde_json::from_value(json).unwrap();
    assert_eq!(read, session);
}
