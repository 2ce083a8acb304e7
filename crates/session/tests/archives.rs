//! Flows out of archives, good and bad.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::io::{Cursor, Write as _};

use flate2::Compression;
use flate2::write::GzEncoder;
use flowcell_session::{ArchiveError, FileLimits, Format, TooLarge, unpack};
use proptest::prelude::*;
use tar::{EntryType, Header};
use zip::write::SimpleFileOptions;

const FLOW: &[(&str, &[u8])] = &[("flow.dag.yaml", b"nodes: []"), ("src/a.py", b"x = 1\n")];

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        // Not `set_path`, which refuses what a hostile archive may hold.
        let name = &mut header.as_old_mut().name;
        name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        archive.append(&header, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zip_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (path, content) in files {
        archive
            .start_file(*path, SimpleFileOptions::default())
            .unwrap();
        archive.write_all(content).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

fn all(files: &[(&str, &[u8])]) -> [(Format, Vec<u8>); 3] {
    let tar = tar_of(files);
    [
        (Format::TarGzip, gzip(&tar)),
        (Format::Tar, tar),
        (Format::Zip, zip_of(files)),
    ]
}

fn small() -> FileLimits {
    FileLimits {
        file_bytes: 1_000,
        flow_bytes: 2_000,
        flow_files: 5,
    }
}

fn names(bytes: &[u8], format: Format) -> Result<Vec<String>, ArchiveError> {
    let files = unpack(bytes, format, &small())?;
    Ok(files.keys().map(|path| path.as_str().to_owned()).collect())
}

#[test]
fn a_flow_comes_out_as_it_went_in() {
    for (format, bytes) in all(FLOW) {
        let files = unpack(&bytes, format, &small()).unwrap();
        let got: Vec<(&str, &[u8])> = files
            .iter()
            .map(|(path, content)| (path.as_str(), &content[..]))
            .collect();
        assert_eq!(got, FLOW, "{format:?}");
    }
}

#[test]
fn a_folder_around_the_flow_and_what_is_no_part_of_it_are_left_off() {
    let files: &[(&str, &[u8])] = &[
        ("my-flow/flow.dag.yaml", b"x"),
        ("my-flow/src/a.py", b"x"),
        ("my-flow/.git/config", b"x"),
        ("my-flow/src/__pycache__/a.pyc", b"x"),
        ("my-flow/.DS_Store", b"x"),
    ];
    for (format, bytes) in all(files) {
        assert_eq!(
            names(&bytes, format).unwrap(),
            ["flow.dag.yaml", "src/a.py"]
        );
    }
    for (format, bytes) in all(&[("asking/ask.prompty", b"x"), ("asking/a/b.py", b"x")]) {
        assert_eq!(names(&bytes, format).unwrap(), ["a/b.py", "ask.prompty"]);
    }
    // Not the flow's own folder: it stays.
    for (format, bytes) in all(&[("src/a.py", b"x"), ("src/b.py", b"y")]) {
        assert_eq!(names(&bytes, format).unwrap(), ["src/a.py", "src/b.py"]);
    }
    let dotted = tar_of(&[("./flow.dag.yaml", b"x"), ("./a/b", b"y")]);
    assert_eq!(
        names(&dotted, Format::Tar).unwrap(),
        ["a/b", "flow.dag.yaml"]
    );
}

#[test]
fn paths_that_lead_out_are_refused() {
    for path in ["../a", "a/../../b", "/etc/passwd", "a\\..\\b", "a//b", ".."] {
        for (format, bytes) in all(&[(path, b"x")]) {
            let refused = names(&bytes, format);
            assert!(
                matches!(
                    refused,
                    Err(ArchiveError::Path(_) | ArchiveError::Damaged(_))
                ),
                "{path} {format:?}: {refused:?}"
            );
        }
    }
}

#[test]
fn links_and_special_files_are_refused() {
    for kind in [
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Char,
        EntryType::Block,
        EntryType::Fifo,
    ] {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_path("a").unwrap();
        header.set_link_name("/etc/passwd").unwrap();
        header.set_cksum();
        archive.append(&header, &[][..]).unwrap();
        let refused = names(&archive.into_inner().unwrap(), Format::Tar);
        assert!(
            matches!(refused, Err(ArchiveError::NotAFile { .. })),
            "{kind:?}: {refused:?}"
        );
    }
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    archive
        .add_symlink("a", "/etc/passwd", SimpleFileOptions::default())
        .unwrap();
    let bytes = archive.finish().unwrap().into_inner();
    let refused = names(&bytes, Format::Zip);
    assert!(
        matches!(refused, Err(ArchiveError::NotAFile { .. })),
        "{refused:?}"
    );
}

#[test]
fn one_path_is_one_file() {
    let twice = tar_of(&[("a", b"1"), ("a", b"2")]);
    let below = tar_of(&[("a", b"1"), ("a-b", b"2"), ("a/b", b"3")]);
    for bytes in [twice, below] {
        let refused = names(&bytes, Format::Tar);
        assert!(
            matches!(refused, Err(ArchiveError::Twice { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn what_is_too_large_is_refused() {
    let large = vec![b'x'; 1_001];
    let half = vec![b'x'; 900];
    let many: Vec<String> = (0..6).map(|number| number.to_string()).collect();
    let many: Vec<(&str, &[u8])> = many.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
    for (format, bytes) in all(&[("a", &large)]) {
        let refused = names(&bytes, format);
        assert!(
            matches!(refused, Err(ArchiveError::TooLarge(TooLarge::File { .. }))),
            "{refused:?}"
        );
    }
    for (format, bytes) in all(&[("a", &half), ("b", &half), ("c", &half)]) {
        let refused = names(&bytes, format);
        assert!(
            matches!(refused, Err(ArchiveError::TooLarge(TooLarge::Flow { .. }))),
            "{refused:?}"
        );
    }
    for (format, bytes) in all(&many) {
        let refused = names(&bytes, format);
        assert!(
            matches!(refused, Err(ArchiveError::TooLarge(TooLarge::Files { .. }))),
            "{refused:?}"
        );
    }
}

#[test]
fn bombs_are_not_unpacked() {
    // 64 MiB of zeros in some kilobytes; a file, and the space after an archive's end.
    let zeros = vec![0; 64 << 20];
    let bomb = gzip(&tar_of(&[("a", &zeros)]));
    assert!(bomb.len() < 1 << 20);
    let refused = names(&bomb, Format::TarGzip);
    assert!(
        matches!(refused, Err(ArchiveError::TooLarge(_))),
        "{refused:?}"
    );
    let refused = names(&zip_of(&[("a", &zeros)]), Format::Zip);
    assert!(
        matches!(refused, Err(ArchiveError::TooLarge(_))),
        "{refused:?}"
    );
    let folders: Vec<String> = (0..100).map(|number| format!("d{number}/")).collect();
    let mut archive = tar::Builder::new(Vec::new());
    for folder in &folders {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Directory);
        header.set_size(0);
        header.set_path(folder).unwrap();
        header.set_cksum();
        archive.append(&header, &[][..]).unwrap();
    }
    let refused = names(&archive.into_inner().unwrap(), Format::Tar);
    assert!(
        matches!(refused, Err(ArchiveError::TooLarge(_))),
        "{refused:?}"
    );
}

#[test]
fn what_is_no_archive_is_refused() {
    for (format, bytes) in all(FLOW) {
        let cut = &bytes[..bytes.len() / 2 - 7];
        assert!(names(cut, format).is_err(), "{format:?}");
        assert!(
            names(b"certainly no archive", format).is_err(),
            "{format:?}"
        );
        assert!(names(b"", format).is_err(), "{format:?}");
    }
    for (format, bytes) in all(&[]) {
        let refused = names(&bytes, format);
        assert!(matches!(refused, Err(ArchiveError::Empty)), "{refused:?}");
    }
}

proptest! {
    #[test]
    fn damage_is_never_worse_than_an_error(at in 0..2_000_usize, byte: u8, format in 0..3_usize) {
        let (format, mut bytes) = all(FLOW)[format].clone();
        let length = bytes.len();
        bytes[at % length] = byte;
        let limits = small();
        if let Ok(files) = unpack(&bytes, format, &limits) {
            prop_assert!(files.len() as u64 <= limits.flow_files);
            prop_assert!(files.values().map(|content| content.len() as u64).sum::<u64>() <= limits.flow_bytes);
        }
    }
}
