//! Connections of a workspace: both registries, the seals, and the change of a key.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::fs;

use flowcell_connection::{Connection, Fields};
use flowcell_session::machine::Refusal;
use flowcell_session::{
    Change, Durability, Ledger, MemoryRegistry, Name, Registry, ResealError, SecretKey, Secrets,
    SqliteRegistry, State, StoredConnection, StoredConnectionError, UserName, WorkspaceRecord,
    delete_connection, put_connection, reseal,
};
use jiff::Timestamp;

const SECRET: &str = "hunter2-of-the-model";

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn connection(name: &str, base: &str, key: &str) -> Connection {
    let text = format!("{{name: {name}, type: serverless, api_key: '{key}', api_base: '{base}'}}");
    Fields::from_yaml(&text).unwrap().connection().unwrap()
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
        for workspace in ["w", "v"] {
            world.make(Change::PutWorkspace(WorkspaceRecord {
                name: name(workspace),
                created: Timestamp::UNIX_EPOCH,
                trace_content: false,
                network: Default::default(),
            }));
        }
        world
    }

    fn make(&self, change: Change) {
        let made = self.ledger.change(Durability::Synced, |_| {
            Ok::<_, std::convert::Infallible>((vec![change], ()))
        });
        made.unwrap();
    }

    fn state(&self) -> State {
        self.ledger.state().clone()
    }

    fn put(
        &self,
        workspace: &str,
        connection: Connection,
        seen: Option<u64>,
    ) -> Result<StoredConnection, StoredConnectionError> {
        let ana = UserName::new("ana").unwrap();
        let by = (&ana, Timestamp::UNIX_EPOCH);
        let (state, workspace) = (self.state(), name(workspace));
        let stored = put_connection(&state, &self.secrets, &workspace, connection, seen, by)?;
        self.make(Change::PutConnection(stored.clone()));
        Ok(stored)
    }
}

#[test]
fn both_registries_keep_connections_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("r.sqlite");
    let worlds = [
        World::over(MemoryRegistry::default()),
        World::over(SqliteRegistry::open(&file).unwrap()),
    ];
    for world in &worlds {
        world
            .put("w", connection("a b", "https://a.example", SECRET), None)
            .unwrap();
        world
            .put("v", connection("c", "https://c.example", SECRET), None)
            .unwrap();
        let second = world.put(
            "w",
            connection("a b", "https://a.example", "******"),
            Some(1),
        );
        assert_eq!(second.unwrap().revision, 2);
        let stale = world.put("w", connection("a b", "https://a.example", "k"), Some(1));
        let refused = stale.unwrap_err();
        assert!(matches!(
            refused,
            StoredConnectionError::Refused(Refusal::Stale {
                seen: 1,
                current: 2
            })
        ));
        world
            .put("w", connection("gone", "https://a.example", "k"), None)
            .unwrap();
        let gone = delete_connection(&world.state(), &name("w"), "gone", None).unwrap();
        world.make(gone);
        assert!(delete_connection(&world.state(), &name("w"), "gone", None).is_err());
        let held = world.ledger.registry().load().unwrap();
        let mut state = State::default();
        held.iter().for_each(|change| state.apply(change));
        assert_eq!(state, world.state());
        assert_eq!(state.workspaces[&name("w")].connections.len(), 1);
        assert!(!format!("{held:?}").contains(SECRET));
        world.make(Change::DeleteWorkspace(name("v")));
        let held = world.ledger.registry().load().unwrap();
        assert_eq!(held.len(), 2, "{held:?}");
    }
    drop(worlds);
    for entry in fs::read_dir(folder.path()).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains(SECRET));
    }
}

#[test]
fn a_new_key_seals_all_anew_or_nothing() {
    let world = World::over(MemoryRegistry::default());
    let old = world.secrets.current().clone();
    world
        .put("w", connection("a", "https://a.example", SECRET), None)
        .unwrap();
    world
        .put("v", connection("b", "https://b.example", SECRET), None)
        .unwrap();
    let before = world.state();
    let new = SecretKey::generate().unwrap();
    let alone = Secrets::new(new.clone(), Vec::new());
    let error = reseal(&world.ledger, &alone, &[]).unwrap_err();
    assert!(
        matches!(&error, ResealError::UnknownKey { count: 2, sealed_by, .. } if sealed_by == old.id()),
        "{error}"
    );
    assert_eq!(world.state(), before);
    let both = Secrets::new(new.clone(), vec![old.clone()]);
    assert_eq!(reseal(&world.ledger, &both, &[]).unwrap(), 2);
    assert_eq!(reseal(&world.ledger, &alone, &[]).unwrap(), 0);
    // A record that was moved, or whose address was changed, does not open.
    let stored = world.state().workspaces[&name("w")].connections["a"].clone();
    let mut elsewhere = stored.clone();
    elsewhere
        .configs
        .insert("api_base".to_owned(), "https://evil.example".to_owned());
    let renamed = StoredConnection {
        name: "z".to_owned(),
        ..stored.clone()
    };
    let moved = StoredConnection {
        workspace: name("v"),
        ..stored.clone()
    };
    for changed in [elsewhere, renamed, moved] {
        let other = World::over(MemoryRegistry::default());
        other.make(Change::PutConnection(changed.clone()));
        let third = Secrets::new(SecretKey::generate().unwrap(), vec![new.clone()]);
        let error = reseal(&other.ledger, &third, &[]).unwrap_err();
        assert!(
            matches!(error, ResealError::BrokenConnection { .. }),
            "{changed:?}"
        );
    }
    // A key that is lost takes them with it.
    let third = Secrets::new(SecretKey::generate().unwrap(), Vec::new());
    assert_eq!(
        reseal(&world.ledger, &third, &[new.id().to_owned()]).unwrap(),
        2
    );
    assert!(world.state().workspaces[&name("w")].connections.is_empty());
}
