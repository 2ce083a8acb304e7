//! Any bytes as an image's file, and as the pages in one: they are read or refused without a panic, and nothing is changed
//! outside of the memory. What is written is read back.
#![no_main]

/// The sandbox's own files, without the engine, whose build takes longer than the fuzzing.
#[allow(dead_code, unused_imports)]
#[path = ".."]
mod image {
    #[path = "../crates/sandbox/src/image/delta.rs"]
    pub mod delta;
    #[path = "../crates/sandbox/src/image/error.rs"]
    pub mod error;
    #[path = "../crates/sandbox/src/image/file.rs"]
    pub mod file;

    pub mod memory {
        pub const PAGE: usize = 4096;
    }

    /// A file's parts, whatever is before its signature.
    pub fn signed(bytes: &[u8]) -> Option<(file::ImageInfo, Vec<u8>)> {
        const SECRET: [u8; 32] = [7; 32];
        static KEY: std::sync::LazyLock<file::ImageKey> = std::sync::LazyLock::new(|| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("key");
            std::fs::write(&path, SECRET).unwrap();
            file::ImageKey::open(&path).unwrap()
        });
        let key = &*KEY;
        let mut file = bytes.to_vec();
        file.extend(blake3::keyed_hash(&SECRET, bytes).as_bytes());
        // Without its signature it is nothing.
        assert!(file::parse(bytes, key).is_err());
        file::parse(&file, key).ok().map(|(info, pages, _)| (info, pages.to_vec()))
    }
}

use image::delta::{Delta, DeltaWriter};
use image::memory::PAGE;
use libfuzzer_sys::fuzz_target;

/// What errors of the sandbox's may hold.
#[derive(Debug)]
pub struct Fault;

impl std::fmt::Display for Fault {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("fault")
    }
}

impl std::error::Error for Fault {}

const PAGES: usize = 8;

fn lay(encoded: &[u8]) {
    let Ok(delta) = Delta::decode(encoded, PAGES * PAGE) else { return };
    let mut memory = vec![0xa5; PAGES * PAGE];
    delta.apply(&mut memory);
    let listed: Vec<u32> = delta.pages().map(|(page, _)| page).collect();
    assert_eq!(listed.len(), delta.count());
    for (page, content) in memory.chunks(PAGE).enumerate() {
        let is_listed = listed.contains(&(page as u32));
        assert!(is_listed || content.iter().all(|byte| *byte == 0xa5));
    }
    // A memory that is smaller than was said is no reason to write beyond it.
    delta.apply(&mut vec![0; PAGE + 1]);
}

fn round_trip(bytes: &[u8]) {
    let below = vec![0x5a_u8; PAGES * PAGE];
    let mut now = below.clone();
    for change in bytes.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % now.len();
        now[at] = change[2];
    }
    let mut writer = DeltaWriter::default();
    let pages = now.as_chunks::<PAGE>().0.iter().zip(below.as_chunks::<PAGE>().0);
    for (number, (now, below)) in (0..).zip(pages) {
        writer.add(number, now, below);
    }
    let delta = Delta::decode(&writer.finish().unwrap(), now.len()).unwrap();
    let mut memory = below;
    delta.apply(&mut memory);
    assert!(memory == now);
}

fuzz_target!(|bytes: &[u8]| {
    let Some((what, bytes)) = bytes.split_first() else { return };
    match what % 5 {
        0 => lay(bytes),
        1 => lay(&zstd::bulk::compress(bytes, 1).unwrap()),
        2 => drop(image::signed(bytes)),
        3 => {
            // So far that its description is read.
            let mut file = b"flowcell image 1".to_vec();
            file.extend(bytes);
            if let Some((_, pages)) = image::signed(&file) {
                lay(&pages);
            }
        }
        _ => round_trip(bytes),
    }
});
