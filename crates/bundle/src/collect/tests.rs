#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use flowcell_registry::Digest;
use proptest::prelude::*;

use super::*;
use crate::lease::{Lease, Thing};
use crate::manifest::{Manifest, Reference, Tree};

/// What a process of the tests is to do (`child`).
const CHILD: &str = "FLOWCELL_TEST_CHILD";
/// At which step a collection of such a process ends, by a signal.
const CRASH: &str = "FLOWCELL_TEST_CRASH";

pub(super) fn crash_point() {
    static STEPS: AtomicUsize = AtomicUsize::new(0);
    let Ok(at) = std::env::var(CRASH) else { return };
    if STEPS.fetch_add(1, Ordering::Relaxed).to_string() == at {
        let own = rustix::process::getpid();
        rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
    }
}

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("store")).unwrap();
    (folder, store)
}

fn everything() -> Collection {
    Collection::default()
}

fn gc(store: &Store, size: u64) -> Collected {
    let collection = Collection {
        size,
        ..everything()
    };
    collect(store, &collection, &mut |_| {}).unwrap()
}

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

fn age(path: &Path, minutes: u64) {
    let at = SystemTime::now() - Duration::from_secs(minutes * 60);
    File::open(path).unwrap().set_modified(at).unwrap();
}

/// A bundle of blobs with these contents.
fn bundle(store: &Store, name: &str, contents: &[&str]) -> Digest {
    let _lease = store.lease(Thing::AllBlobs).unwrap();
    let tree = |(index, content): (usize, &&str)| Tree {
        mount: format!("/{index}"),
        digest: store.put(content.as_bytes()).unwrap(),
        size: content.len() as u64,
    };
    let manifest = Manifest {
        trees: contents.iter().enumerate().map(tree).collect(),
        ..Manifest::new(name, "1")
    };
    store.put_manifest(&manifest).unwrap()
}

fn remove(store: &Store, name: &str) {
    let reference: Reference = format!("{name}:1").parse().unwrap();
    store.remove(&reference.into()).unwrap();
}

fn site_folder(store: &Store, name: &str) -> PathBuf {
    store.cache().join("sites").join(digest(name).hex())
}

/// Makes what an environment is to a collection: a folder that appears whole.
fn make_site(store: &Store, name: &str, files: usize, bytes: usize) -> PathBuf {
    let sites = store.cache().join("sites");
    fs::create_dir_all(&sites).unwrap();
    let partial = store.partial_folder(&sites).unwrap();
    for file in 0..files {
        fs::write(partial.path().join(file.to_string()), vec![b'x'; bytes]).unwrap();
    }
    let folder = site_folder(store, name);
    // Another process may be faster.
    let _ = partial.persist(&folder);
    folder
}

/// What `du` says of the store's folders.
fn du(store: &Store) -> u64 {
    let folders = crate::survey::PARTS
        .iter()
        .map(|part| store.root().join(part));
    let mut command = Command::new("du");
    command.args(["-s", "-c", "--block-size=1"]).args(folders);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let total = text.lines().last().unwrap().split_whitespace().next();
    total.unwrap().parse().unwrap()
}

fn blobs(store: &Store) -> usize {
    fs::read_dir(store.root().join("blobs/sha256"))
        .unwrap()
        .count()
}

#[test]
fn what_names_use_stays() {
    let (_folder, store) = store();
    let kept = bundle(&store, "kept", &["shared", "own"]);
    let gone = bundle(&store, "gone", &["shared", "other"]);
    fs::create_dir_all(store.cache().join("trees").join(digest("own").hex())).unwrap();
    fs::create_dir_all(store.cache().join("trees").join(digest("other").hex())).unwrap();
    assert_eq!(gc(&store, 0).removed, []);
    remove(&store, "gone");

    let dry = Collection {
        dry_run: true,
        ..everything()
    };
    let planned = collect(&store, &dry, &mut |_| {}).unwrap();
    assert_eq!(blobs(&store), 5);
    let mut told = Vec::new();
    let collected = collect(&store, &everything(), &mut |one| told.push(one.clone())).unwrap();
    assert_eq!(
        (&collected.removed, collected.after),
        (&planned.removed, planned.after)
    );
    assert_eq!(told, collected.removed);
    let removed: BTreeSet<(Kind, &str)> = told
        .iter()
        .map(|one| (one.kind, one.name.as_str()))
        .collect();
    let expected = [
        (Kind::Bundle, gone.hex()),
        (Kind::Tree, digest("other").hex()),
    ];
    let expected: BTreeSet<_> = expected
        .iter()
        .map(|(kind, name)| (*kind, name.as_str()))
        .collect();
    assert_eq!(removed, expected);

    assert_eq!(store.manifest_by_digest(&kept).unwrap().trees.len(), 2);
    for content in ["shared", "own"] {
        assert_eq!(store.get(&digest(content)).unwrap(), content.as_bytes());
    }
    assert_eq!(blobs(&store), 3);
    let error = store.manifest_by_digest(&gone).unwrap_err();
    assert!(matches!(error, BundleError::NotFound { .. }), "{error}");
    // It can come again.
    bundle(&store, "gone", &["shared", "other"]);
    assert_eq!(gc(&store, 0).removed, []);
}

#[test]
fn of_what_bundles_share_the_last_one_lets_go() {
    let (_folder, store) = store();
    let old = bundle(&store, "old", &["shared", "old"]);
    let new = bundle(&store, "new", &["shared", "new"]);
    age(&store.root().join("manifests").join(old.hex()), 60);
    remove(&store, "old");
    remove(&store, "new");
    let size = gc(&store, u64::MAX).before;
    // Enough for all but one byte: the older one goes, with what is its own.
    assert_eq!(gc(&store, size - 1).removed.len(), 1);
    assert_eq!(store.manifest_by_digest(&new).unwrap().trees.len(), 2);
    assert_eq!(store.get(&digest("shared")).unwrap(), b"shared");
    store.get(&digest("old")).unwrap_err();
    gc(&store, 0);
    assert_eq!(blobs(&store), 0);
}

#[test]
fn leases_and_roots_keep_things() {
    let (_folder, store) = store();
    let used = bundle(&store, "used", &["1"]);
    remove(&store, "used");
    let blob = store.put(b"lock").unwrap();
    let [leased, rooted, other] =
        ["leased", "rooted", "other"].map(|name| make_site(&store, name, 2, 10));
    let leases: Vec<Lease> = [
        Thing::Bundle(used),
        Thing::Blob(blob),
        Thing::Site(digest("leased")),
    ]
    .into_iter()
    .map(|thing| store.lease(thing).unwrap())
    .collect();
    store.add_root(&Thing::Site(digest("rooted"))).unwrap();
    // Another process collects.
    let others = Store::open(store.root()).unwrap();
    let collected = gc(&others, 0);
    assert_eq!(collected.removed.len(), 1, "{collected:?}");
    assert!(!other.exists() && leased.exists() && rooted.exists());
    store.manifest_by_digest(&used).unwrap();
    assert_eq!(store.get(&blob).unwrap(), b"lock");

    drop(leases);
    assert_eq!(gc(&others, 0).removed.len(), 3);
    assert!(!leased.exists() && rooted.exists());
}

#[test]
fn while_a_bundle_is_made_no_blob_goes() {
    let (_folder, store) = store();
    let lease = store.lease(Thing::AllBlobs).unwrap();
    let blob = store.put(b"not named yet").unwrap();
    assert_eq!(gc(&store, 0).removed, []);
    drop(lease);
    assert_eq!(gc(&store, 0).removed.len(), 1);
    store.get(&blob).unwrap_err();
}

#[test]
fn code_of_other_engines_is_of_no_use() {
    let (_folder, store) = store();
    let component = digest("component");
    let manifest = Manifest {
        components: vec![crate::manifest::Component {
            name: "c".to_owned(),
            kind: flowcell_sandbox::ProgramKind::Tool,
            digest: store.put(b"component").unwrap(),
            size: 9,
            tools: Vec::new(),
            start: crate::manifest::Start::Ordinary,
        }],
        ..Manifest::new("name", "1")
    };
    store.put_manifest(&manifest).unwrap();
    let compiled = store.cache().join("compiled");
    let file = |engine: &str| {
        compiled
            .join(engine)
            .join(format!("{}.cwasm", component.hex()))
    };
    for engine in ["1-old", "2-new", "2-new/tenants"] {
        fs::create_dir_all(compiled.join(engine)).unwrap();
        fs::write(file(engine), "code").unwrap();
    }
    let collection = Collection {
        engines: vec!["2-new".to_owned()],
        ..everything()
    };
    collect(&store, &collection, &mut |_| {}).unwrap();
    let left = ["1-old", "2-new", "2-new/tenants"].map(|engine| file(engine).exists());
    assert_eq!(left, [false, true, false]);
}

#[test]
fn what_dead_processes_have_left_goes() {
    let (_folder, store) = store();
    let sites = store.cache().join("sites");
    let blobs = store.root().join("blobs/sha256");
    fs::create_dir_all(&sites).unwrap();
    let partial_blob = blobs.join(format!(".partial-{}", digest("pulled").hex()));
    let fresh_blob = blobs.join(format!(".partial-{}", digest("fresh").hex()));
    let dead = store.root().join("leases/1-abc");
    fs::create_dir_all(sites.join(".partial-abc/files")).unwrap();
    fs::create_dir(&dead).unwrap();
    for file in [
        sites.join(format!(".lock-{}", digest("site").hex())),
        sites.join(".partial-abc/files/x"),
        store.root().join("manifests/.partial-abc"),
        partial_blob.clone(),
        fresh_blob.clone(),
        dead.join(LOCK),
        dead.join(Thing::Site(digest("dead")).to_string()),
    ] {
        fs::write(file, "x").unwrap();
    }
    age(&partial_blob, 2 * 24 * 60);
    let of_dead = make_site(&store, "dead", 1, 1);
    // Those of the living.
    let folder = store.partial_folder(&sites).unwrap();
    let file = store.partial_file(&blobs).unwrap();
    let lock = File::create(sites.join(".lock-held")).unwrap();
    lock.lock().unwrap();

    let collected = gc(&store, u64::MAX);
    assert_eq!(collected.leftovers, 5, "{collected:?}");
    assert!(!dead.exists() && !partial_blob.exists());
    let left: BTreeSet<PathBuf> = fs::read_dir(&sites)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let expected = [
        folder.path().to_owned(),
        sites.join(".lock-held"),
        of_dead.clone(),
    ];
    assert_eq!(left, expected.into_iter().collect());
    // A pull can go on from it; whoever writes it holds its lock.
    assert!(fresh_blob.exists() && file.path().exists());
    // The dead keep nothing.
    gc(&store, 0);
    assert!(!of_dead.exists());
    let trash = fs::read_dir(store.root().join("trash")).unwrap();
    assert_eq!(trash.count(), 1);
}

#[test]
fn a_bundle_that_cannot_be_understood_stops_a_collection() {
    let (_folder, store) = store();
    let future = Manifest {
        schema: 2,
        ..Manifest::new("name", "1")
    };
    let future = store.put(&serde_json::to_vec(&future).unwrap()).unwrap();
    fs::create_dir(store.root().join("bundles/name")).unwrap();
    fs::write(store.root().join("bundles/name/1"), future.to_string()).unwrap();
    let site = make_site(&store, "site", 1, 1);
    let error = collect(&store, &everything(), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("format 2"), "{error}");
    assert!(site.exists());
}

#[test]
fn folders_of_another_store_are_left_alone() {
    let (folder, store) = store();
    make_site(&store, "site", 1, 1);
    let home = folder.path().join("home");
    fs::create_dir_all(home.join("cache")).unwrap();
    std::os::unix::fs::symlink(store.cache().join("sites"), home.join("cache/sites")).unwrap();
    let home = Store::open(home).unwrap();
    let error = collect(&home, &everything(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, BundleError::Linked(_)), "{error}");
    assert!(error.to_string().contains("cache/sites"), "{error}");
    assert_eq!(gc(&store, 0).removed.len(), 1);
}

/// Something unused or used of a random store.
#[derive(Debug, Clone)]
struct Some_ {
    kind: Kind,
    bytes: usize,
    minutes: u64,
    is_used: bool,
    /// Whether its file is one that others have, too.
    is_shared: bool,
}

fn some() -> impl Strategy<Value = Some_> {
    let kinds = prop::sample::select(vec![
        Kind::Blob,
        Kind::Wheel,
        Kind::Layer,
        Kind::Site,
        Kind::Bundle,
    ]);
    (
        kinds,
        0..40_000usize,
        1..500u64,
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(kind, bytes, minutes, is_used, is_shared)| Some_ {
            kind,
            bytes,
            minutes,
            is_used,
            is_shared,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever a store holds: nothing that is used goes, what goes was used least recently, no more goes than must, and
    /// the sizes are those of `du`.
    #[test]
    fn the_size_holds(all in prop::collection::vec(some(), 0..24), part in 0..=100u64) {
        let (_folder, store) = store();
        let shared = store.root().join("shared");
        fs::write(&shared, [b'x'; 50_000]).unwrap();
        fs::create_dir_all(store.cache().join("wheels")).unwrap();
        fs::create_dir_all(store.cache().join("layers")).unwrap();
        let mut paths = Vec::new();
        let mut leases = Vec::new();
        for (number, one) in all.iter().enumerate() {
            let name = format!("{number}");
            let content = format!("{number}{}", "x".repeat(one.bytes));
            let (path, thing) = match one.kind {
                Kind::Blob => {
                    let digest = store.put(content.as_bytes()).unwrap();
                    (store.blob_path(&digest), Thing::Blob(digest))
                }
                Kind::Wheel => {
                    let digest = digest(&name);
                    let path = store.cache().join("wheels").join(format!("{}.whl", digest.hex()));
                    fs::write(&path, &content).unwrap();
                    (path, Thing::Wheel(digest))
                }
                Kind::Bundle => {
                    let digest = bundle(&store, &format!("n{name}"), &[&content, "shared"]);
                    remove(&store, &format!("n{name}"));
                    (store.root().join("manifests").join(digest.hex()), Thing::Bundle(digest))
                }
                Kind::Layer => {
                    let name = format!("{}-cp314", digest(&name).hex());
                    let path = store.cache().join("layers").join(&name);
                    fs::create_dir(&path).unwrap();
                    fs::write(path.join("own"), &content).unwrap();
                    (path, Thing::Layer(name))
                }
                _ => (make_site(&store, &name, 1, one.bytes), Thing::Site(digest(&name))),
            };
            if one.is_shared && path.is_dir() {
                fs::hard_link(&shared, path.join("shared")).unwrap();
            }
            if one.is_used {
                leases.push(store.lease(thing).unwrap());
            }
            age(&path, one.minutes);
            paths.push(path);
        }
        fs::remove_file(&shared).unwrap();
        let before = stats(&store, &[]).unwrap();
        prop_assert_eq!(before.bytes, du(&store));
        let kinds: u64 = before.kinds.values().map(|amount| amount.bytes).sum();
        prop_assert_eq!(kinds + before.other_bytes, before.bytes);

        let size = before.bytes / 100 * part;
        let collected = gc(&store, size);
        let is_left = |(path, _): &(&PathBuf, &Some_)| path.exists();
        let pairs: Vec<_> = paths.iter().zip(&all).collect();
        for (path, one) in &pairs {
            prop_assert!(!one.is_used || path.exists(), "{:?} is in use", one);
        }
        let unused = pairs.iter().filter(|(_, one)| !one.is_used);
        let (left, gone): (Vec<_>, Vec<_>) = unused.partition(|pair| is_left(pair));
        prop_assert!(collected.after <= size || left.is_empty(), "{:?}", collected);
        let oldest_left = left.iter().map(|(_, one)| one.minutes).max();
        let newest_gone = gone.iter().map(|(_, one)| one.minutes).min();
        if let (Some(left), Some(gone)) = (oldest_left, newest_gone) {
            prop_assert!(gone >= left);
        }
        prop_assert_eq!(collected.removed.len(), gone.len());
        // Not one more than must go.
        if let Some(last) = collected.removed.last() {
            prop_assert!(collected.after + last.bytes > size);
        }
        let after = stats(&store, &[]).unwrap();
        prop_assert_eq!(after.bytes, du(&store));
        // The folders that they were in may have become smaller.
        prop_assert!(after.bytes <= collected.after);
        for lease in &leases {
            if let Thing::Bundle(digest) = lease.thing() {
                let manifest = store.manifest_by_digest(digest).unwrap();
                for tree in &manifest.trees {
                    store.get(&tree.digest).unwrap();
                }
            }
        }
    }
}

// === processes ===

fn start(what: &str, store: &Store, crash: Option<usize>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "collect::tests::child",
            "--ignored",
            "--nocapture",
        ])
        .env(CHILD, format!("{what} {}", store.root().display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(at) = crash {
        command.env(CRASH, at.to_string());
    }
    command.spawn().unwrap()
}

#[test]
#[ignore = "what other tests start in processes of their own"]
fn child() {
    let Ok(what) = std::env::var(CHILD) else {
        return;
    };
    let mut words = what.splitn(3, ' ');
    let (what, seed) = (words.next().unwrap(), words.next().unwrap());
    let store = Store::open(words.next().unwrap()).unwrap();
    match what {
        "collect" => {
            gc(&store, 0);
        }
        "keep-collecting" => {
            while !store.root().join("stop").exists() {
                gc(&store, 0);
            }
        }
        _ => use_things(&store, seed.parse().unwrap()),
    }
}

/// Uses things as starts of sessions and installations do, and looks whether all of it is there.
fn use_things(store: &Store, seed: u64) {
    let mut dice = seed;
    let mut roll = |sides: u64| {
        // xorshift64*
        dice ^= dice >> 12;
        dice ^= dice << 25;
        dice ^= dice >> 27;
        dice.wrapping_mul(0x2545_F491_4F6C_DD1D) % sides
    };
    let check_site = |name: &str| {
        for file in 0..5 {
            let path = site_folder(store, name).join(file.to_string());
            assert_eq!(fs::read(&path).unwrap(), [b'x'; 100], "{}", path.display());
        }
    };
    let check_bundle = |digest: &Digest| {
        let manifest = store.read_manifest(digest).unwrap();
        for tree in &manifest.trees {
            store.get(&tree.digest).unwrap();
        }
    };
    let mut sites: Vec<(String, Lease)> = Vec::new();
    let mut bundles: Vec<crate::lease::Used> = Vec::new();
    for _ in 0..120 {
        let name = roll(4).to_string();
        match roll(6) {
            // All processes want the same few things.
            0 | 1 => {
                let lease = store.lease(Thing::Site(digest(&name))).unwrap();
                if !site_folder(store, &name).exists() {
                    make_site(store, &name, 5, 100);
                }
                check_site(&name);
                sites.push((name, lease));
            }
            2 => {
                bundle(store, &format!("n{name}"), &[&name, "shared"]);
            }
            3 => {
                let reference = format!("n{name}:1").parse().unwrap();
                if let Ok(used) = store.use_bundle(&reference) {
                    check_bundle(&used.digest);
                    bundles.push(used);
                }
            }
            4 => {
                let reference: Reference = format!("n{name}:1").parse().unwrap();
                // Others remove it too.
                let _ = store.remove(&reference.into());
            }
            _ => {
                let lock = digest(&name);
                let lease = store.lease(Thing::Blob(lock)).unwrap();
                store.put(name.as_bytes()).unwrap();
                assert_eq!(store.get(&lock).unwrap(), name.as_bytes());
                drop(lease);
            }
        }
        sites.iter().for_each(|(name, _)| check_site(name));
        bundles.iter().for_each(|used| check_bundle(&used.digest));
        if roll(3) == 0 {
            sites.clear();
            bundles.clear();
        }
    }
}

fn end(child: Child) {
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn nothing_in_use_goes_while_many_start_and_collect() {
    let (_folder, store) = store();
    let collecting: Vec<Child> = (0..2)
        .map(|_| start("keep-collecting -", &store, None))
        .collect();
    let using = [3, 14, 159].map(|seed| start(&format!("use {seed}"), &store, None));
    using.into_iter().for_each(end);
    fs::write(store.root().join("stop"), "").unwrap();
    collecting.into_iter().for_each(end);
    // What has names is whole, and nothing is left of the rest.
    for named in store.list_names().unwrap() {
        for tree in store.read_manifest(&named.digest).unwrap().trees {
            store.get(&tree.digest).unwrap();
        }
    }
    gc(&store, 0);
    let stats = stats(&store, &[]).unwrap();
    let bytes: u64 = stats.kinds.values().map(|amount| amount.bytes).sum();
    let used: u64 = stats.kinds.values().map(|amount| amount.used_bytes).sum();
    assert_eq!(bytes, used, "{stats:?}");
    assert_eq!(stats.processes, 0);
}

#[test]
fn a_collection_that_is_killed_leaves_a_store_that_works() {
    let mut crashes = 0;
    loop {
        let (_folder, store) = store();
        let kept = bundle(&store, "kept", &["shared", "own"]);
        let gone = bundle(&store, "gone", &["shared", "other"]);
        remove(&store, "gone");
        store.put(b"blob").unwrap();
        make_site(&store, "site", 3, 10);
        fs::create_dir(store.cache().join("sites/.partial-x")).unwrap();
        let output = start("collect -", &store, Some(crashes))
            .wait_with_output()
            .unwrap();
        if output.status.success() {
            break;
        }
        assert_eq!(output.status.signal(), Some(9), "step {crashes}");
        // What is used is whole, and what is not is there as a whole or not at all.
        let check = |digest: &Digest| {
            for tree in store.manifest_by_digest(digest).unwrap().trees {
                store.get(&tree.digest).unwrap();
            }
        };
        check(&kept);
        match store.manifest_by_digest(&gone) {
            Ok(_) => check(&gone),
            Err(error) => assert!(matches!(error, BundleError::NotFound { .. }), "{error}"),
        }
        let site = site_folder(&store, "site");
        assert!(!site.exists() || fs::read_dir(&site).unwrap().count() == 3);
        // Everything can be made again, and the next collection does the rest.
        if crashes % 2 == 0 {
            bundle(&store, "gone", &["shared", "other"]);
            check(&gone);
            remove(&store, "gone");
        }
        gc(&store, 0);
        assert_eq!(blobs(&store), 3, "step {crashes}");
        assert!(!site.exists() && store.manifest_by_digest(&gone).is_err());
        assert_eq!(fs::read_dir(store.root().join("trash")).unwrap().count(), 1);
        check(&kept);
        crashes += 1;
    }
    assert!(crashes >= 8, "{crashes} steps");
}
