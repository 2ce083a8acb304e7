//! The keys that credentials are sealed by: made, changed, lost.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::thread;
use std::time::Duration;

use flowcell_tests::server::{Server, Setup, ended, workspace};
use serde_json::{Value, json};

const KEY: &str = "FLOWCELL__SECRETS__KEY";
const PREVIOUS: &str = "FLOWCELL__SECRETS__PREVIOUS_KEYS";

fn key(digit: char) -> String {
    digit.to_string().repeat(64)
}

fn setup(variables: &[(&str, &str)]) -> Setup {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Setup {
        environment: variables.iter().map(own).collect(),
        ..Setup::default()
    }
}

/// Starts the server with these keys, which it refuses; what it says.
fn refused(server: &mut Server, variables: &[(&str, &str)]) -> String {
    server.kill();
    server.set_up(|own| *own = setup(variables));
    let mut child = server.command().spawn().unwrap();
    let status = ended(&mut child);
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    said
}

fn restart(server: &mut Server, variables: &[(&str, &str)]) {
    server.kill();
    server.set_up(|own| *own = setup(variables));
    server.restart();
}

fn put(server: &Server, number: usize) {
    let path = workspace(&format!("/me/credentials/index/h{number}.example"));
    let token = format!("hunter2-{number}");
    server
        .admin()
        .put(&path, json!({"token": token}))
        .expect(200);
}

fn held(server: &Server) -> usize {
    let listed = server.admin().get(&workspace("/me/credentials")).is(200);
    listed.json["items"].as_array().unwrap().len()
}

/// The keys that the registry's records name, with how many do.
fn sealed_by(server: &Server) -> Vec<(String, usize)> {
    let path = server.home().join("server/registry.sqlite");
    let database = rusqlite::Connection::open(path).unwrap();
    let mut statement = database
        .prepare("SELECT json_extract(json, '$.sealed.key') AS sealed_by, count(*) FROM record WHERE kind = 'credential' GROUP BY sealed_by")
        .unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    rows.unwrap().map(Result::unwrap).collect()
}

#[test]
fn a_key_is_made_and_kept_well() {
    let mut server = Server::start();
    let path = server.home().join("server/secrets.key");
    let made = fs::read_to_string(&path).unwrap();
    assert_eq!(made.trim().len(), 64);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    put(&server, 0);
    server.restart();
    assert_eq!(held(&server), 1);
    assert_eq!(fs::read_to_string(&path).unwrap(), made);
    // One that everybody can read is no key.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
    let said = refused(&mut server, &[]);
    assert!(
        said.contains("chmod 600") && said.contains("secrets.key"),
        "{said}"
    );
    // One that is gone is not replaced as long as something is sealed by it.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(&path).unwrap();
    let [(id, 1)] = &sealed_by(&server)[..] else {
        panic!("one credential");
    };
    let said = refused(&mut server, &[]);
    assert!(said.contains(id) && said.contains("put it back"), "{said}");
    assert!(!path.exists());
    let write = |text: &str| {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("hunter2");
    let said = refused(&mut server, &[]);
    assert!(
        said.contains("openssl") && !said.contains("hunter2"),
        "{said}"
    );
    write(&made);
    restart(&mut server, &[]);
    assert_eq!(held(&server), 1);
    // Lost for good.
    fs::remove_file(&path).unwrap();
    restart(
        &mut server,
        &[("FLOWCELL__SECRETS__LOST_KEYS", &format!("[\"{id}\"]"))],
    );
    assert_eq!(held(&server), 0);
    assert_ne!(fs::read_to_string(&path).unwrap(), made);
}

#[test]
fn keys_change_at_a_start() {
    let (old, new) = (key('a'), key('b'));
    let mut server = Server::with(setup(&[(KEY, &old)]));
    assert!(!server.home().join("server/secrets.key").exists());
    (0..20).for_each(|number| put(&server, number));
    let before = sealed_by(&server);
    let [(old_id, 20)] = &before[..] else {
        panic!("all by one key: {before:?}");
    };
    // A wrong key is told, with that of what it cannot open, and changes nothing.
    let said = refused(&mut server, &[(KEY, &new)]);
    for word in [
        "20 credentials",
        old_id,
        "previous_keys",
        "Nothing was changed",
    ] {
        assert!(said.contains(word), "no {word:?} in {said}");
    }
    assert!(!said.contains(&old) && !said.contains(&new), "{said}");
    for wrong in ["short", &key('g'), "12345678", "[1]", "{a=1}"] {
        let said = refused(&mut server, &[(KEY, wrong)]);
        assert!(
            said.contains("secrets.key") || said.contains("64 hexa"),
            "{said}"
        );
        assert!(!said.contains(wrong) || wrong == "short", "{said}");
        let said = refused(&mut server, &[(KEY, &old), (PREVIOUS, wrong)]);
        assert!(said.contains("64 hexa"), "{said}");
    }
    assert_eq!(sealed_by(&server), before);
    // The host may die at any moment of the change: everything is sealed by the old key or by the new one.
    let both = [(KEY, new.as_str()), (PREVIOUS, old.as_str())];
    for number in 0..8 {
        server.set_up(|own| *own = setup(&both));
        let mut child = server.command().spawn().unwrap();
        // Where it is then is left to chance.
        thread::sleep(Duration::from_millis(number * 10));
        child.kill().unwrap();
        child.wait().unwrap();
        let now = sealed_by(&server);
        assert!(now.len() == 1 && now[0].1 == 20, "{now:?}");
    }
    restart(&mut server, &both);
    assert_eq!(held(&server), 20);
    let after = sealed_by(&server);
    assert!(after.len() == 1 && after[0].0 != *old_id, "{after:?}");
    // From now on the old key is of no use.
    restart(&mut server, &[(KEY, &new)]);
    assert_eq!(held(&server), 20);
    let said = refused(&mut server, &[(KEY, &old)]);
    assert!(said.contains(&after[0].0), "{said}");
    // Keys from files.
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let (first, second) = (write("1", &new), write("2", &key('c')));
    server.set_up(|own| {
        *own = Setup::config(format!(
            "[secrets]\nkey_file = {second:?}\nprevious_key_files = [{first:?}]\n"
        ));
    });
    server.restart();
    assert_eq!(held(&server), 20);
    assert!(!server.log().contains(&new));
    let said = {
        server.kill();
        let missing = folder.path().join("missing");
        server.set_up(|own| {
            *own = Setup::config(format!("[secrets]\nkey_file = {missing:?}\n"));
        });
        let mut child = server.command().spawn().unwrap();
        assert_eq!(ended(&mut child).code(), Some(1));
        let mut said = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        said
    };
    assert!(said.contains("missing"), "{said}");
}

#[test]
fn keys_are_not_shown_with_the_configuration() {
    let mut server = Server::with(setup(&[(KEY, &key('a')), (PREVIOUS, &key('b'))]));
    server.kill();
    let shown = server.command().arg("--check-config").output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("key = \"******\""), "{shown}");
    assert!(
        !shown.contains(&key('a')) && !shown.contains(&key('b')),
        "{shown}"
    );
    // Nor is a record that somebody has changed taken for another one's.
    server.restart();
    put(&server, 0);
    let path = server.home().join("server/registry.sqlite");
    server.kill();
    let database = rusqlite::Connection::open(path).unwrap();
    let changed = database.execute(
        "UPDATE record SET key = replace(key, 'h0', 'h1'), json = replace(json, 'h0.example', 'h1.example') WHERE kind = 'credential'",
        [],
    );
    assert_eq!(changed.unwrap(), 1);
    drop(database);
    let next = [(KEY, key('c')), (PREVIOUS, key('a'))];
    let next: Vec<(&str, &str)> = next
        .iter()
        .map(|(name, key)| (*name, key.as_str()))
        .collect();
    let said = refused(&mut server, &next);
    assert!(
        said.contains("h1.example") && said.contains("delete"),
        "{said}"
    );
    restart(&mut server, &[(KEY, &key('a'))]);
    let gone = workspace("/me/credentials/index/h1.example");
    server.admin().delete(&gone).expect(204);
    restart(&mut server, &next);
    assert_eq!(
        server.admin().get(&workspace("/me/credentials")).json["items"],
        Value::Array(vec![])
    );
}
