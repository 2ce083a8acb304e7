//! What both registries promise.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::path::Path;

use bytes::Bytes;
use flowcell_session::{
    Answered, Change, Durability, FileInfo, Flow, Happening, MemoryRegistry, Name, Registry, Role,
    SqliteRegistry, State, User, UserName, WorkspaceRecord, sha256,
};
use jiff::Timestamp;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn user(text: &str) -> UserName {
    UserName::new(text).unwrap()
}

fn put_workspace(workspace: &str) -> Change {
    Change::PutWorkspace(WorkspaceRecord {
        name: name(workspace),
        created: Timestamp::UNIX_EPOCH,
        trace_content: false,
        network: Default::default(),
    })
}

fn put_file(workspace: &str, path: &str, content: &str) -> Change {
    Change::PutFile {
        workspace: name(workspace),
        flow: name("f"),
        path: path.to_owned(),
        content: Bytes::copy_from_slice(content.as_bytes()),
    }
}

fn put_flow(workspace: &str) -> Change {
    let now = Timestamp::UNIX_EPOCH;
    Change::PutFlow(Flow::new(name(workspace), name("f"), user("ana"), now))
}

fn happened(workspace: &str, what: &str) -> Change {
    Change::Happened {
        workspace: name(workspace),
        session: name("s"),
        happening: Happening {
            at: Timestamp::UNIX_EPOCH,
            state: "running".to_owned(),
            what: what.to_owned(),
            by: None,
            generation: 1,
        },
    }
}

fn answered(at: Timestamp) -> Answered {
    Answered {
        user: user("ana"),
        key: "k".to_owned(),
        request: "r".to_owned(),
        status: 201,
        location: "/l".to_owned(),
        body: "{}".to_owned(),
        at,
    }
}

fn commit(registry: &dyn Registry, changes: &[Change]) {
    registry.commit(changes, Durability::Synced).unwrap();
}

fn state(registry: &dyn Registry) -> State {
    let mut state = State::default();
    for change in registry.load().unwrap() {
        state.apply(&change);
    }
    state
}

/// Runs a test over both.
fn for_both(test: impl Fn(&dyn Registry)) {
    test(&MemoryRegistry::default());
    let folder = tempfile::tempdir().unwrap();
    test(&open(folder.path()));
}

fn open(folder: &Path) -> SqliteRegistry {
    SqliteRegistry::open(&folder.join("registry.sqlite")).unwrap()
}

#[test]
fn files_are_kept_by_path_with_size_and_digest() {
    for_both(|registry| {
        commit(
            registry,
            &[
                put_workspace("w"),
                put_flow("w"),
                put_file("w", "b", "2"),
                put_file("w", "a/é", "1"),
            ],
        );
        commit(registry, &[put_file("w", "b", "two")]);
        let info = |path: &str, content: &str| FileInfo {
            path: path.to_owned(),
            size: content.len() as u64,
            digest: sha256(content.as_bytes()),
        };
        let files = registry.files(&name("w"), &name("f")).unwrap();
        assert_eq!(files, [info("a/é", "1"), info("b", "two")]);
        let content = registry.file(&name("w"), &name("f"), "b").unwrap();
        assert_eq!(content.as_deref(), Some(&b"two"[..]));
        assert_eq!(registry.file(&name("w"), &name("f"), "c").unwrap(), None);
        commit(
            registry,
            &[Change::DeleteFlow {
                workspace: name("w"),
                flow: name("f"),
            }],
        );
        assert_eq!(registry.files(&name("w"), &name("f")).unwrap(), []);
    });
}

#[test]
fn a_flow_gets_copies_of_anothers_files() {
    for_both(|registry| {
        let copy = Change::CopyFiles {
            workspace: name("w"),
            from: name("f"),
            to: name("g"),
        };
        let files = [
            put_file("w", "a", "1"),
            put_file("w", "b/c", "2"),
            put_file("v", "a", "3"),
        ];
        commit(registry, &[put_workspace("v"), put_workspace("w")]);
        commit(registry, &files);
        commit(registry, &[copy]);
        let files = |flow| registry.files(&name("w"), &name(flow)).unwrap();
        assert_eq!(files("g"), files("f"));
        assert_eq!(files("g").len(), 2);
        commit(registry, &[put_file("w", "a", "other")]);
        let read = registry.file(&name("w"), &name("g"), "a").unwrap();
        assert_eq!(read.unwrap(), "1");
    });
}

#[test]
fn histories_are_read_from_the_latest_on_and_have_a_limit() {
    for_both(|registry| {
        commit(registry, &[put_workspace("w")]);
        let lines: Vec<Change> = (0..1_005)
            .map(|line| happened("w", &line.to_string()))
            .collect();
        commit(registry, &lines);
        let read = |before, most| {
            registry
                .history(&name("w"), &name("s"), before, most)
                .unwrap()
        };
        let latest = read(None, 2);
        assert_eq!([&*latest[0].1.what, &*latest[1].1.what], ["1004", "1003"]);
        assert_eq!(read(Some(latest[1].0), 1)[0].1.what, "1002");
        let all = read(None, 5_000);
        assert_eq!((all.len(), &*all[999].1.what), (1_000, "5"));
    });
}

#[test]
fn answers_are_found_and_forgotten() {
    for_both(|registry| {
        let now = Timestamp::from_second(1_000).unwrap();
        commit(registry, &[Change::Answered(answered(now))]);
        let find = |who| registry.answered(&user(who), "k").unwrap();
        assert_eq!(find("ana"), Some(answered(now)));
        assert_eq!(find("ben"), None);
        registry.forget_answers(now).unwrap();
        assert!(find("ana").is_some());
        registry
            .forget_answers(Timestamp::from_second(1_001).unwrap())
            .unwrap();
        assert_eq!(find("ana"), None);
    });
}

#[test]
fn a_workspace_goes_with_all_that_is_in_it_and_nothing_else() {
    for_both(|registry| {
        for workspace in ["a", "ab", "a-b", "a.b", "b"] {
            let role = Change::PutRole {
                workspace: name(workspace),
                user: user("ana"),
                role: Role::Owner,
            };
            commit(
                registry,
                &[
                    put_workspace(workspace),
                    role,
                    put_flow(workspace),
                    put_file(workspace, "x", "1"),
                    happened(workspace, "it"),
                ],
            );
        }
        commit(registry, &[Change::DeleteWorkspace(name("a"))]);
        let left = state(registry);
        let names: Vec<&str> = left.workspaces.keys().map(Name::as_str).collect();
        assert_eq!(names, ["a-b", "a.b", "ab", "b"]);
        for workspace in left.workspaces.values() {
            assert_eq!((workspace.roles.len(), workspace.flows.len()), (1, 1));
            let of = &workspace.record.name;
            assert_eq!(registry.files(of, &name("f")).unwrap().len(), 1);
            assert_eq!(registry.history(of, &name("s"), None, 9).unwrap().len(), 1);
        }
        assert_eq!(registry.files(&name("a"), &name("f")).unwrap(), []);
        assert_eq!(
            registry.history(&name("a"), &name("s"), None, 9).unwrap(),
            []
        );
        // What is made under its name later is new.
        commit(registry, &[put_workspace("a")]);
        assert!(state(registry).workspaces["a"].flows.is_empty());
    });
}

#[test]
fn a_user_goes_with_keys_and_roles() {
    for_both(|registry| {
        let person = |who: &str| {
            Change::PutUser(User {
                name: user(who),
                admin: false,
                created: Timestamp::UNIX_EPOCH,
            })
        };
        let key = |who: &str| {
            Change::PutKey(flowcell_session::Key {
                id: format!("key-of-{who}"),
                user: user(who),
                hash: "h".to_owned(),
                description: String::new(),
                created: Timestamp::UNIX_EPOCH,
                expires: None,
            })
        };
        let role = |who: &str| Change::PutRole {
            workspace: name("w"),
            user: user(who),
            role: Role::Reader,
        };
        commit(registry, &[put_workspace("w")]);
        for who in ["ana", "ben"] {
            commit(registry, &[person(who), key(who), role(who)]);
        }
        commit(registry, &[Change::DeleteUser(user("ana"))]);
        let left = state(registry);
        assert_eq!(left.users.len(), 1);
        assert_eq!(left.keys.keys().collect::<Vec<_>>(), ["key-of-ben"]);
        assert_eq!(
            left.workspaces["w"].roles.keys().collect::<Vec<_>>(),
            [&user("ben")]
        );
    });
}

#[test]
fn what_sqlite_keeps_is_there_when_it_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let before = {
        let registry = open(folder.path());
        commit(
            &registry,
            &[put_workspace("w"), put_flow("w"), put_file("w", "a", "1")],
        );
        registry
            .commit(&[happened("w", "it")], Durability::Written)
            .unwrap();
        state(&registry)
    };
    let registry = open(folder.path());
    assert_eq!(state(&registry), before);
    assert_eq!(registry.files(&name("w"), &name("f")).unwrap().len(), 1);
    assert_eq!(
        registry
            .history(&name("w"), &name("s"), None, 9)
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn a_later_format_is_refused_with_both_numbers() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    let database = rusqlite::Connection::open(folder.path().join("registry.sqlite")).unwrap();
    database.pragma_update(None, "user_version", 99).unwrap();
    let refused = SqliteRegistry::open(&folder.path().join("registry.sqlite"));
    let message = refused.err().unwrap().to_string();
    assert!(message.contains("99") && message.contains('1'), "{message}");
}
