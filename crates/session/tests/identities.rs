//! Identities and what they hold: the rules, the seals, and both registries.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops where it fails"
)]

use std::collections::BTreeMap;
use std::fs;

use flowcell_session::machine::Refusal;
use flowcell_session::{
    Change, CredentialKey, CredentialSecret, Durability, Holder, IdentityError, Ledger,
    MAX_CREDENTIALS, MAX_GRANTS, MAX_IDENTITIES, MemoryRegistry, Name, Registry, ResealError, Role,
    SecretKey, Secrets, SqliteRegistry, State, StoredCredential, User, UserName, WantedIdentities,
    WorkspaceRecord, create_identity, credential_key, delete_credential, delete_identity, grant,
    own_identity, put_credential, reseal, set_identities, withdraw,
};
use jiff::Timestamp;

const SECRET: &str = "hunter2-of-the-feed";

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn user(text: &str) -> UserName {
    UserName::new(text).unwrap()
}

fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

fn token(text: &str) -> CredentialSecret {
    CredentialSecret::new(Some(text.to_owned()), None, None).unwrap()
}

fn of(identity: &str, host: &str) -> CredentialKey {
    credential_key(Holder::Identity(name(identity)), "index", host).unwrap()
}

fn of_user(who: &str, host: &str) -> CredentialKey {
    credential_key(Holder::User(user(who)), "registry", host).unwrap()
}

/// The workspaces `w` and `v` with their own identities, and a data scientist in both.
fn begun() -> Vec<Change> {
    let mut changes = vec![Change::PutUser(User {
        name: user("ana"),
        admin: false,
        created: now(),
    })];
    for workspace in ["w", "v"] {
        let record = WorkspaceRecord {
            name: name(workspace),
            created: now(),
            trace_content: false,
            network: Default::default(),
        };
        changes.push(Change::PutWorkspace(record.clone()));
        changes.push(own_identity(&record, &user("ana")));
        changes.push(Change::PutRole {
            workspace: name(workspace),
            user: user("ana"),
            role: Role::DataScientist,
        });
    }
    changes
}

struct World {
    ledger: Ledger,
    secrets: Secrets,
}

impl World {
    fn over(registry: impl Registry) -> Self {
        let world = Self {
            ledger: Ledger::open(registry).unwrap(),
            secrets: Secrets::new(SecretKey::generate().unwrap(), Vec::new()),
        };
        world.make(begun());
        world
    }

    fn new() -> Self {
        Self::over(MemoryRegistry::default())
    }

    fn make(&self, changes: Vec<Change>) {
        let made = self.ledger.change(Durability::Synced, |_| {
            Ok::<_, std::convert::Infallible>((changes, ()))
        });
        made.unwrap();
    }

    fn state(&self) -> State {
        self.ledger.state().clone()
    }

    fn identity(&self, workspace: &str, identity: &str) -> Result<(), Refusal> {
        let (state, wanted) = (self.state(), Some(name(identity)));
        let made = create_identity(&state, &name(workspace), wanted, &user("ana"), now())?;
        self.make(vec![Change::PutIdentity(made)]);
        Ok(())
    }

    fn put(&self, workspace: &str, key: CredentialKey, secret: &str) -> Result<(), IdentityError> {
        let (state, by) = (self.state(), (&user("ana"), now()));
        let secret = token(secret);
        let stored = put_credential(&state, &self.secrets, &name(workspace), key, &secret, by)?;
        self.make(vec![Change::PutCredential(stored)]);
        Ok(())
    }

    fn grant(&self, workspace: &str, identity: &str, who: &str) -> Result<(), Refusal> {
        let change = grant(&self.state(), &name(workspace), &name(identity), &user(who))?;
        self.make(vec![change]);
        Ok(())
    }

    fn credentials(&self, workspace: &str) -> Vec<StoredCredential> {
        let state = self.state();
        let workspace = &state.workspaces[&name(workspace)];
        workspace.credentials.values().cloned().collect()
    }
}

/// Runs a test over both registries; `reopen` gives the state that the registry holds.
fn for_both(test: impl Fn(&World, &dyn Fn() -> State)) {
    let memory = World::new();
    test(&memory, &|| load(memory.ledger.registry()));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("registry.sqlite");
    let world = World::over(SqliteRegistry::open(&path).unwrap());
    test(&world, &|| load(&SqliteRegistry::open(&path).unwrap()));
}

fn load(registry: &dyn Registry) -> State {
    let mut state = State::default();
    for change in registry.load().unwrap() {
        state.apply(&change);
    }
    state
}

#[test]
fn registries_hold_what_the_state_holds() {
    for_both(|world, held| {
        let check = |what: &str| assert!(held() == world.state(), "after {what}");
        let fill = || {
            for workspace in ["w", "v"] {
                for identity in ["i", "i2"] {
                    world.identity(workspace, identity).unwrap();
                    world.grant(workspace, identity, "ana").unwrap();
                    world
                        .put(workspace, of(identity, "a.example"), SECRET)
                        .unwrap();
                    world
                        .put(workspace, of(identity, "[::1]:80"), SECRET)
                        .unwrap();
                }
                world
                    .put(workspace, of_user("ana", "a.example:1"), SECRET)
                    .unwrap();
                world
                    .put(workspace, of_user("ana2", "a.example"), SECRET)
                    .unwrap();
            }
        };
        fill();
        check("making");
        assert_eq!(world.credentials("w").len(), 6);
        world.put("w", of("i", "a.example"), "another").unwrap();
        check("replacing");
        assert_eq!(world.credentials("w").len(), 6);
        let gone = delete_credential(&world.state(), &name("w"), of("i", "a.example")).unwrap();
        world.make(vec![gone]);
        check("deleting a credential");
        let gone = withdraw(&world.state(), &name("w"), &name("i"), &user("ana")).unwrap();
        world.make(vec![gone]);
        check("withdrawing");
        world.make(vec![
            delete_identity(&world.state(), &name("w"), &name("i")).unwrap(),
        ]);
        check("deleting an identity");
        assert_eq!(world.credentials("w").len(), 4);
        world.make(vec![Change::DeleteRole {
            workspace: name("w"),
            user: user("ana"),
        }]);
        check("withdrawing a role");
        assert_eq!(world.credentials("w").len(), 3);
        assert!(world.state().workspaces[&name("w")].grants.is_empty());
        world.make(vec![Change::DeleteUser(user("ana"))]);
        check("deleting a user");
        assert_eq!(world.credentials("v").len(), 5);
        assert!(world.state().workspaces[&name("v")].grants.is_empty());
        world.make(vec![Change::DeleteWorkspace(name("v"))]);
        check("deleting a workspace");
        // One of the same name has nothing of it.
        world.make(begun());
        check("making it again");
        assert_eq!(world.credentials("v"), []);
    });
}

#[test]
fn the_disk_has_no_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::over(SqliteRegistry::open(&folder.path().join("registry.sqlite")).unwrap());
    world.put("w", of("system", "a.example"), SECRET).unwrap();
    let password =
        CredentialSecret::new(None, Some("name-of-me".to_owned()), Some(SECRET.to_owned()));
    let by = (&user("ana"), now());
    let stored = put_credential(
        &world.state(),
        &world.secrets,
        &name("w"),
        of("system", "b.example"),
        &password.unwrap(),
        by,
    );
    world.make(vec![Change::PutCredential(stored.unwrap())]);
    let printed = format!("{:?} {:?}", world.state(), world.secrets);
    let mut files = 0;
    for entry in fs::read_dir(folder.path()).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        for secret in [SECRET, "name-of-me"] {
            let is_there = bytes
                .windows(secret.len())
                .any(|part| part == secret.as_bytes());
            assert!(!is_there && !printed.contains(secret));
        }
        files += 1;
    }
    assert!(files >= 2, "the write-ahead log is among them");
}

#[test]
fn a_record_is_for_its_own_place_only() {
    let world = World::new();
    world.identity("w", "i").unwrap();
    world.put("w", of("i", "a.example"), SECRET).unwrap();
    let [stored] = &world.credentials("w")[..] else {
        panic!("one credential");
    };
    let moved = [
        StoredCredential {
            workspace: name("v"),
            holder: Holder::Identity(name("system")),
            ..stored.clone()
        },
        StoredCredential {
            holder: Holder::Identity(name("system")),
            ..stored.clone()
        },
        StoredCredential {
            holder: Holder::User(user("ana")),
            ..stored.clone()
        },
        StoredCredential {
            host: of("i", "evil.example").2,
            ..stored.clone()
        },
        StoredCredential {
            kind: of_user("ana", "a.example").1,
            ..stored.clone()
        },
    ];
    // Sealing anew opens everything that another key has sealed.
    let next = Secrets::new(
        SecretKey::generate().unwrap(),
        vec![world.secrets.current().clone()],
    );
    for moved in moved {
        let other = World::new();
        // The same identity, in another ledger.
        let identity = world.state().workspaces[&name("w")].identities[&name("i")].clone();
        other.make(vec![Change::PutIdentity(identity)]);
        other.make(vec![Change::PutCredential(moved.clone())]);
        let error = reseal(&other.ledger, &next, &[]).unwrap_err();
        assert!(matches!(error, ResealError::Broken { .. }), "{moved:?}");
    }
    // An identity of the same name that was made later is another one.
    world.make(vec![
        delete_identity(&world.state(), &name("w"), &name("i")).unwrap(),
    ]);
    world.identity("w", "i").unwrap();
    world.make(vec![Change::PutCredential(stored.clone())]);
    assert!(reseal(&world.ledger, &next, &[]).is_err());
}

#[test]
fn keys_change_for_all_or_for_nothing() {
    for_both(|world, held| {
        world.put("w", of("system", "a.example"), SECRET).unwrap();
        world.put("v", of_user("ana", "b.example"), SECRET).unwrap();
        let (old, new) = (
            world.secrets.current().clone(),
            SecretKey::generate().unwrap(),
        );
        let before = world.state();
        // The right key changes nothing; a wrong one is told, and changes nothing.
        assert_eq!(reseal(&world.ledger, &world.secrets, &[]).unwrap(), 0);
        let alone = Secrets::new(new.clone(), Vec::new());
        let error = reseal(&world.ledger, &alone, &[]).unwrap_err().to_string();
        for word in ["2 credentials", old.id(), new.id(), "previous_keys"] {
            assert!(error.contains(word), "{error}");
        }
        assert!(world.state() == before && held() == before);
        let both = Secrets::new(new.clone(), vec![old.clone()]);
        assert_eq!(reseal(&world.ledger, &both, &[]).unwrap(), 2);
        assert_eq!(reseal(&world.ledger, &alone, &[]).unwrap(), 0);
        assert!(held() == world.state());
        // The old one alone is of no use any more, and a key that is lost takes what it has sealed along.
        assert!(reseal(&world.ledger, &world.secrets, &[]).is_err());
        let lost = [new.id().to_owned()];
        assert_eq!(reseal(&world.ledger, &world.secrets, &lost).unwrap(), 2);
        assert_eq!(world.credentials("w"), []);
        assert!(held() == world.state());
    });
}

#[test]
fn everything_has_a_bound() {
    let world = World::new();
    // Its own is one of them.
    for number in 1..MAX_IDENTITIES {
        world.identity("w", &format!("i{number}")).unwrap();
    }
    let refused = world.identity("w", "more").unwrap_err();
    assert!(matches!(refused, Refusal::TooMany(_)), "{refused}");
    for number in 0..MAX_CREDENTIALS {
        let host = format!("h{number}.example");
        world.put("w", of("i1", &host), SECRET).unwrap();
    }
    let refused = world
        .put("w", of("i1", "more.example"), SECRET)
        .unwrap_err();
    assert!(refused.to_string().contains("50"), "{refused}");
    // Replacing is no more, nor is what others hold.
    world.put("w", of("i1", "h0.example"), "another").unwrap();
    world.put("w", of("i2", "more.example"), SECRET).unwrap();
    world
        .put("w", of_user("ana", "more.example"), SECRET)
        .unwrap();
    for number in 0..=MAX_GRANTS {
        let who = format!("u{number}");
        world.make(vec![Change::PutRole {
            workspace: name("w"),
            user: user(&who),
            role: Role::Reader,
        }]);
        let granted = world.grant("w", "i1", &who);
        assert_eq!(granted.is_ok(), number < MAX_GRANTS, "{number}");
    }
    world.grant("w", "i1", "u0").unwrap();
}

#[test]
fn names_and_users_are_checked() {
    let world = World::new();
    for taken in ["system", "System", "SYSTEM"] {
        let refused = world.identity("w", taken).unwrap_err();
        assert!(matches!(refused, Refusal::Invalid { .. }), "{refused}");
    }
    world.identity("w", "i").unwrap();
    let refused = world.identity("w", "i").unwrap_err();
    assert!(matches!(refused, Refusal::Conflict(_)), "{refused}");
    let own = create_identity(&world.state(), &name("w"), None, &user("ana"), now());
    assert!(matches!(own, Err(Refusal::Conflict(_))));
    for refused in [
        world.grant("w", "i", "nobody"),
        world.grant("w", "none", "ana"),
        world.grant("v", "i", "ana"),
    ] {
        assert!(matches!(refused, Err(Refusal::NotFound { .. })));
    }
    assert!(world.put("v", of("i", "a.example"), SECRET).is_err());
}

#[test]
fn a_workspace_gets_exactly_the_identities_that_are_wanted() {
    let world = World::new();
    let ids = || {
        let state = world.state();
        let identities = &state.workspaces[&name("w")].identities;
        let ids = identities.values();
        ids.map(|one| (one.name.to_string(), one.client_id.clone()))
            .collect::<BTreeMap<_, _>>()
    };
    let set = |system: bool, wanted: &[(&str, Option<&str>)]| {
        let user_assigned = wanted.iter().map(|(one, client_id)| {
            let client_id = client_id.map(ToOwned::to_owned);
            (name(one), client_id)
        });
        let wanted = WantedIdentities {
            system,
            user_assigned: user_assigned.collect(),
        };
        let changes = set_identities(&world.state(), &name("w"), &wanted, &user("ana"), now());
        changes.map(|changes| world.make(changes))
    };
    let own = ids()["system"].clone();
    set(true, &[("a", Some("client-a")), ("b", None)]).unwrap();
    let first = ids();
    assert_eq!((&first["system"], first["a"].as_str()), (&own, "client-a"));
    assert!(!first["b"].is_empty());
    // Again, with and without what they have.
    set(true, &[("a", None), ("b", Some(&first["b"]))]).unwrap();
    assert_eq!(ids(), first);
    for wrong in [
        vec![("a", Some("other"))],
        vec![("a", None), ("c", Some("client-a"))],
        vec![("c", Some("same")), ("d", Some("same"))],
    ] {
        let refused = set(true, &wrong).unwrap_err();
        assert!(matches!(refused, Refusal::Conflict(_)), "{refused}");
    }
    for wrong in ["", "a b", &"x".repeat(65)] {
        let refused = set(true, &[("c", Some(wrong))]).unwrap_err();
        assert!(matches!(refused, Refusal::Invalid { .. }), "{refused}");
    }
    assert_eq!(ids(), first);
    // What holds something is not deleted by leaving it out.
    world.put("w", of("b", "a.example"), SECRET).unwrap();
    let refused = set(false, &[("a", None)]).unwrap_err();
    assert!(refused.to_string().contains("'b'"), "{refused}");
    set(false, &[("b", None)]).unwrap();
    assert_eq!(ids().into_keys().collect::<Vec<_>>(), ["b"]);
    let names: Vec<String> = (0..=MAX_IDENTITIES).map(|one| format!("n{one}")).collect();
    let all: Vec<(&str, Option<&str>)> = names.iter().map(|one| (one.as_str(), None)).collect();
    let refused = set(false, &all).unwrap_err();
    assert!(matches!(refused, Refusal::TooMany(_)), "{refused}");
}
