//! Files that this host has signed, and that say what is not so: a mistake of its own must not do harm either.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::image::delta::DeltaWriter;
use crate::image::memory::PAGE;
use crate::image::{Base, Image};

const WASM_PAGE: usize = 64 << 10;

fn key() -> Arc<ImageKey> {
    Arc::new(ImageKey::of([7; 32]))
}

fn user() -> Owner {
    Owner {
        workspace: "w".to_owned(),
        session: Some("s".to_owned()),
    }
}

/// One page, the number `page`, with a change.
fn pages(page: u32) -> Vec<u8> {
    let mut writer = DeltaWriter::default();
    writer.add(page, &[1; PAGE], &[0; PAGE]);
    writer.finish().unwrap()
}

fn info(memory: usize) -> ImageInfo {
    ImageInfo {
        shell: "shell".to_owned(),
        base: "base".to_owned(),
        below: None,
        owner: user(),
        is_copy: false,
        made_from: "flow".to_owned(),
        replaces: None,
        memory: memory as u64,
        pages: 1,
        stored_ms: 0,
        monotonic_ns: 0,
    }
}

struct Folder {
    folder: tempfile::TempDir,
    base: Image,
}

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let base = Base::new(folder.path(), &vec![0; WASM_PAGE], "base").unwrap();
        Self {
            base: Image::of_base(base, "shell"),
            folder,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    /// Opens what is there, and unpacks its pages.
    fn open(&self) -> Result<Vec<u8>, ImageError> {
        let image = self.base.with(&self.path(), &key(), &user(), 1 << 20)?;
        let mut bytes = vec![0; image.memory().min(1 << 20) as usize];
        image.copy_to(&mut bytes, &user())?;
        Ok(bytes)
    }

    fn written(&self, info: ImageInfo, pages: &[u8]) -> Result<Vec<u8>, ImageError> {
        write(&self.path(), &key(), info, pages, true).unwrap();
        self.open()
    }

    /// Signs whatever is given.
    fn signed(&self, bytes: &[u8]) -> Result<Vec<u8>, ImageError> {
        let mac = blake3::keyed_hash(&key().0, bytes);
        fs::write(self.path(), [bytes, mac.as_bytes()].concat()).unwrap();
        self.open()
    }
}

fn damaged(result: Result<Vec<u8>, ImageError>) -> &'static str {
    match result {
        Err(ImageError::Damaged(why)) => why,
        _ => "",
    }
}

#[test]
fn a_description_that_lies_is_refused() {
    let folder = Folder::new();
    assert_eq!(
        folder.written(info(WASM_PAGE), &pages(3)).unwrap()[3 * PAGE],
        1
    );
    for memory in [
        0,
        WASM_PAGE - 1,
        WASM_PAGE + PAGE,
        (1 << 32) + WASM_PAGE,
        usize::MAX - 0xffff,
    ] {
        let why = damaged(folder.written(info(memory), &pages(3)));
        assert_eq!(why, "its memory has an impossible size", "{memory}");
    }
    for (page, why) in [
        (16, "outside of the memory"),
        (u32::MAX, "outside of the memory"),
    ] {
        assert!(damaged(folder.written(info(WASM_PAGE), &pages(page))).contains(why));
    }
    let mut lying = info(WASM_PAGE);
    lying.pages = 2;
    assert_eq!(
        damaged(folder.written(lying, &pages(3))),
        "it has not as many pages as it says"
    );
    // A larger memory whose pages end early has zeros there.
    let grown = folder.written(info(2 * WASM_PAGE), &pages(3)).unwrap();
    assert!(grown[WASM_PAGE..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_file_of_another_shape_is_refused() {
    let folder = Folder::new();
    let described = |length: u32, description: &[u8]| {
        [MAGIC.as_slice(), &length.to_le_bytes(), description].concat()
    };
    assert_eq!(damaged(folder.signed(b"")), "it is of another format");
    assert_eq!(
        damaged(folder.signed(b"flowcell image 2")),
        "it is of another format"
    );
    assert_eq!(damaged(folder.signed(MAGIC)), "it ends early");
    assert_eq!(
        damaged(folder.signed(&described(3, b"{}"))),
        "it ends early"
    );
    assert_eq!(
        damaged(folder.signed(&described(u32::MAX, b"{}"))),
        "its description is too long"
    );
    let long = vec![b' '; MAX_INFO + 1];
    let length = u32::try_from(long.len()).unwrap();
    assert_eq!(
        damaged(folder.signed(&described(length, &long))),
        "its description is too long"
    );
    for text in ["", "{}", "null", "{\"shell\": 1}", "\u{0}"] {
        let length = u32::try_from(text.len()).unwrap();
        let why = damaged(folder.signed(&described(length, text.as_bytes())));
        assert_eq!(why, "its description cannot be read", "{text}");
    }
    let mut more = serde_json::to_value(info(WASM_PAGE)).unwrap();
    more["and"] = "more".into();
    let more = more.to_string();
    let length = u32::try_from(more.len()).unwrap();
    let why = damaged(folder.signed(&described(length, more.as_bytes())));
    assert_eq!(why, "its description cannot be read");
}

#[test]
fn pages_that_unpack_to_too_much_are_refused() {
    let folder = Folder::new();
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    assert!(damaged(folder.written(info(WASM_PAGE), &bomb)).contains("too large"));
    // The frame of a stream does not say how much it holds.
    let unsaid = zstd::stream::encode_all(&[0; 4][..], 1).unwrap();
    assert!(damaged(folder.written(info(WASM_PAGE), &unsaid)).contains("no size"));
    // One that says less than it holds.
    let mut lying = zstd::bulk::compress(&vec![0; 40_000], 1).unwrap();
    lying[5] = 0;
    lying[6] = 1;
    let refused = folder.written(info(WASM_PAGE), &lying);
    assert!(refused.is_err());
    // Two frames, of which only the first one was looked at.
    let twice = [
        pages(1),
        zstd::bulk::compress(&vec![0; 1 << 20], 1).unwrap(),
    ]
    .concat();
    assert!(folder.written(info(WASM_PAGE), &twice).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_is_signed_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300), begins in any::<bool>()) {
        let folder = Folder::new();
        let start = if begins { MAGIC.as_slice() } else { b"" };
        let _ = folder.signed(&[start, &bytes].concat());
    }

    #[test]
    fn whatever_pages_are_signed_are_laid_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300), compress in any::<bool>(), memory in 1_usize..5) {
        let folder = Folder::new();
        let pages = if compress { zstd::bulk::compress(&bytes, 1).unwrap() } else { bytes };
        let _ = folder.written(info(memory * WASM_PAGE), &pages);
    }
}

#[test]
fn a_file_is_kept_under_another_name_even_when_its_own_is_gone() {
    let folder = Folder::new();
    let layer = write(&folder.path(), &key(), info(WASM_PAGE), &pages(3), true).unwrap();
    let at = |name: &str| folder.folder.path().join(name);
    let content = fs::read(folder.path()).unwrap();
    layer.keep_at(&at("linked")).unwrap();
    assert_eq!(fs::metadata(at("linked")).unwrap().nlink(), 2);
    layer.keep_at(&at("linked")).unwrap();
    // Another image has the name by now: that is not what is kept.
    let mut other = info(WASM_PAGE);
    other.made_from = "another flow".to_owned();
    write(&folder.path(), &key(), other, &pages(4), true).unwrap();
    layer.keep_at(&at("copied")).unwrap();
    assert_eq!(fs::read(at("copied")).unwrap(), content);
    fs::remove_file(folder.path()).unwrap();
    layer.keep_at(&at("gone")).unwrap();
    assert_eq!(fs::read(at("gone")).unwrap(), content);
    // Garbage under the name makes way.
    fs::write(at("garbage"), b"garbage").unwrap();
    layer.keep_at(&at("garbage")).unwrap();
    assert_eq!(fs::read(at("garbage")).unwrap(), content);
    assert!(layer.keep_at(&at("no/folder")).is_err());
    assert_eq!(
        fs::read_dir(folder.folder.path()).unwrap().count(),
        4,
        "nothing is left over"
    );
}

#[test]
fn a_copy_is_the_other_owners_only() {
    let folder = Folder::new();
    let layer = write(&folder.path(), &key(), info(WASM_PAGE), &pages(3), true).unwrap();
    let other = Owner {
        session: Some("t".to_owned()),
        ..user()
    };
    let to = folder.folder.path().join("copy");
    let copy = layer.copy_for(&other, &to).unwrap();
    assert!(copy.info.is_copy && !layer.info.is_copy);
    assert_ne!(copy.identity, layer.identity);
    assert!(matches!(
        Layer::open(&to, &key(), &user(), 1 << 20),
        Err(ImageError::Foreign("session"))
    ));
    assert!(matches!(
        copy.delta(&user()),
        Err(ImageError::Foreign("session"))
    ));
    assert!(matches!(
        layer.delta(&other),
        Err(ImageError::Foreign("session"))
    ));
    assert!(
        Layer::open(&to, &key(), &other, 1 << 20)
            .unwrap()
            .delta(&other)
            .is_ok()
    );
    assert!(!format!("{layer:?}").contains("[7, 7"), "a key is not told");
}
