//! Apps: a flow with its whole environment in one component, to carry away.
//!
//! The component is the bundle's Python runner with a memory in its data (`Shell::fill`). All else that a run needs is in
//! custom sections behind it (docs/app-format.md): the index, and blobs by digest. So an app brings a bundle to any store,
//! complete and under its own digest, without a registry.
//!
//! An app is a stranger's file. Its sections say nothing by themselves: the index names blobs by digest, the bundle's
//! manifest names others, each has the digest that it is named by, and what is put together of the component's code is
//! compared with the shell that the manifest names. Everything is checked before anything of it is written.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use flowcell_registry::Digest;
use flowcell_sandbox::{Base, MAX_COMPONENT, Shell};
use serde::{Deserialize, Serialize};
use wasm_encoder::{ComponentSection as _, CustomSection};
use wasmparser::{Chunk, Encoding, Parser, Payload};

use crate::check::{MAX_MANIFEST, MAX_MEMORY};
use crate::error::{BundleError, IoContext as _};
use crate::lease::{Lease, Thing};
use crate::manifest::{Component, Manifest, Start};
use crate::oci;
use crate::programs::decode_base;
use crate::store::Store;
use crate::tree;

/// Largest app that is read, in bytes.
pub const MAX_APP: u64 = 512 << 20;
/// Bytes of an app's index.
const MAX_INDEX: usize = 1 << 20;
/// Sections of ours.
const MAX_SECTIONS: usize = 4_096;
const MAX_WHEELS: usize = 2_000;
/// Most component packages.
const MAX_COMPONENTS: usize = 200;
/// Characters of a text in the index.
const MAX_TEXT: usize = 4_096;
/// The version of the format.
const SCHEMA: u32 = 1;
/// The section with the index, and the names of those with blobs up to the digest.
const INDEX: &str = "flowcell:app";
const RAW: &str = "flowcell:raw:";
const ZSTD: &str = "flowcell:zstd:";
/// Compressed by zstd with the component's own shell and memory, one after the other, as the prefix.
const DELTA: &str = "flowcell:delta:";
/// What a prefix may have, as a power of two: [`MAX_COMPONENT`] and [`MAX_MEMORY`] together.
const WINDOW_LOG: u32 = 29;
const LEVEL: i32 = 9;
/// The memory is compressed again on each machine that runs the app.
const MEMORY_LEVEL: i32 = 3;

/// What an app says of itself: the section `flowcell:app`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AppIndex {
    /// Version of the format; 1.
    schema: u32,
    /// Who has made it.
    pub created_by: String,
    /// The flow's name.
    pub name: String,
    /// The base image, as the flow or whoever built the app named it.
    pub image: String,
    /// The digest of that bundle's manifest.
    pub bundle: Digest,
    /// Pages of 64 KiB that the memory of the bundle's shell begins with.
    shell_pages: u64,
    /// Why the flow's modules are not in the component's memory; nothing when they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_imported: Option<String>,
    /// The flow's files: a tar archive.
    flow: Digest,
    /// The wheels of its lock.
    pub wheels: Vec<Digest>,
    /// The component packages of its lock.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<Digest>,
}

/// What an app is made of.
#[derive(Debug)]
pub struct AppParts<'a> {
    /// The flow's name.
    pub name: &'a str,
    /// The base image, as it was named.
    pub image: &'a str,
    /// The digest of its manifest.
    pub bundle: Digest,
    /// The memory that its runner is to begin with; the bundle's own base image without it, and why.
    pub memory: Result<Vec<u8>, String>,
    /// A folder with the flow's files.
    pub flow: &'a Path,
    /// Wheels, by digest.
    pub wheels: &'a [(Digest, PathBuf)],
    /// Component packages, by digest.
    pub components: &'a [(Digest, PathBuf)],
}

/// Makes an app of what is in the store.
///
/// # Errors
/// When the bundle is not in the store or its runner has no memory image, or a file cannot be read.
pub fn write_app(store: &Store, parts: AppParts<'_>) -> Result<Vec<u8>, BundleError> {
    let manifest = store.read_manifest(&parts.bundle)?;
    let unfit = |why: String| BundleError::Guest {
        name: parts.image.to_owned(),
        what: format!("no app can be made over it: {why}"),
    };
    let (runner, image) = RunnerImage::of(&manifest).map_err(unfit)?;
    let shell = store.get(&image.shell)?;
    let (memory, not_imported) = match parts.memory {
        Ok(memory) => (memory, None),
        Err(why) => (image.unpack(&store.get(&image.base)?, store)?, Some(why)),
    };
    let mut wasm = Shell::fill(&shell, &memory).map_err(|error| unfit(error.to_string()))?;
    let flow = tree::tar(parts.flow)?;
    let index = AppIndex {
        schema: SCHEMA,
        created_by: concat!("flowcell ", env!("CARGO_PKG_VERSION")).to_owned(),
        name: parts.name.to_owned(),
        image: parts.image.to_owned(),
        bundle: parts.bundle,
        shell_pages: Shell::pages(&shell).map_err(|error| unfit(error.to_string()))?,
        not_imported: not_imported.map(|why| why.chars().take(MAX_TEXT).collect()),
        flow: Digest::of(&flow),
        wheels: parts.wheels.iter().map(|(digest, _)| *digest).collect(),
        components: parts.components.iter().map(|(digest, _)| *digest).collect(),
    };
    let text = serde_json::to_vec(&index).map_err(|error| unfit(error.to_string()))?;
    let mut add = |name: &str, data: &[u8]| {
        CustomSection {
            name: name.into(),
            data: data.into(),
        }
        .append_to_component(&mut wasm);
    };
    add(INDEX, &text);
    let here = Path::new("the app");
    let compressed = |bytes: &[u8]| zstd::bulk::compress(bytes, LEVEL).io("compress", here);
    let bundle = compressed(&store.get(&parts.bundle)?)?;
    add(&format!("{ZSTD}{}", parts.bundle.hex()), &bundle);
    let prefix = [shell.as_slice(), &memory].concat();
    for part in oci::parts(&manifest) {
        let (digest, hex) = (part.digest, part.digest.hex());
        if digest == image.shell {
            continue;
        }
        let blob = store.get(&digest)?;
        if digest == runner.digest {
            let delta = compress_after(&prefix, &blob).io("compress", here)?;
            add(&format!("{DELTA}{hex}"), &delta);
        } else if part.media_type == oci::COMPONENT {
            add(&format!("{ZSTD}{hex}"), &compressed(&blob)?);
        } else {
            // Memory and trees are compressed already.
            add(&format!("{RAW}{hex}"), &blob);
        }
    }
    add(&format!("{ZSTD}{}", index.flow.hex()), &compressed(&flow)?);
    for (digest, path) in parts.wheels {
        let wheel = fs::read(path).io("read", path)?;
        add(&format!("{RAW}{}", digest.hex()), &wheel);
    }
    for (digest, path) in parts.components {
        let component = fs::read(path).io("read", path)?;
        add(&format!("{ZSTD}{}", digest.hex()), &compressed(&component)?);
    }
    let app = App::read("the app", &wasm)?;
    // What nobody would take is not handed out.
    app.check(&app.open()?)?;
    Ok(wasm)
}

/// The image of a bundle's runner.
struct RunnerImage<'a> {
    shell: Digest,
    base: Digest,
    memory: u64,
    pages: &'a str,
}

impl<'a> RunnerImage<'a> {
    fn of(manifest: &'a Manifest) -> Result<(&'a Component, Self), String> {
        let runner = manifest.python_runner();
        let runner = runner.ok_or_else(|| "it has no Python runner".to_owned())?;
        match &runner.start {
            Start::Image {
                shell,
                base,
                memory,
                pages,
            } => {
                let image = Self {
                    shell: *shell,
                    base: *base,
                    memory: *memory,
                    pages,
                };
                Ok((runner, image))
            }
            Start::Ordinary => Err("its Python runner has no memory image".to_owned()),
            Start::Unsuitable(why) => Err(format!("its Python runner has no memory image: {why}")),
        }
    }

    fn unpack(&self, packed: &[u8], store: &Store) -> Result<Vec<u8>, BundleError> {
        decode_base(packed, self.memory, self.pages).ok_or_else(|| BundleError::Damaged {
            path: store.blob_path(&self.base),
            found: "no image of the size and content that its bundle says".to_owned(),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Raw,
    Zstd,
    Delta,
}

/// An app that was read. Nothing of it is in a store yet.
#[derive(Debug)]
pub struct App<'a> {
    /// What it says of itself.
    pub index: AppIndex,
    /// What it is called in messages.
    name: String,
    wasm: &'a [u8],
    blobs: HashMap<Digest, (Packing, &'a [u8])>,
}

/// The parts of an app's bundle.
struct Opened<'a> {
    manifest: Manifest,
    /// Its text, whose digest it is known by.
    text: Vec<u8>,
    blobs: Vec<(Digest, Cow<'a, [u8]>)>,
    /// What the component begins with.
    memory: Vec<u8>,
}

/// An app's bundle, in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportedApp {
    /// The bundle's digest.
    pub bundle: Digest,
    /// The digest of the same bundle with a runner that begins with the app's memory: the flow's modules are imported.
    pub started: Digest,
}

impl<'a> App<'a> {
    /// Reads an app's index; `name` is what messages call the app.
    ///
    /// # Errors
    /// When these bytes are no app.
    pub fn read(name: &str, wasm: &'a [u8]) -> Result<Self, BundleError> {
        let none = |what: &str| BundleError::NotAnApp {
            name: name.to_owned(),
            what: what.to_owned(),
        };
        let refused = |problem: String| BundleError::AppRefused {
            name: name.to_owned(),
            problem,
        };
        if wasm.len() as u64 > MAX_APP {
            return Err(refused(format!(
                "it has {} bytes, and {MAX_APP} are allowed",
                wasm.len()
            )));
        }
        if !wasm.starts_with(b"\0asm") {
            return Err(none("no WebAssembly"));
        }
        let mut index = None;
        let mut blobs = HashMap::new();
        let damaged = |error: &dyn std::fmt::Display| {
            refused(format!("it is damaged or was cut short: {error}"))
        };
        let mut parser = Parser::new(0);
        let mut at = 0;
        loop {
            let rest = wasm.get(at..).unwrap_or_default();
            let parsed = parser.parse(rest, true).map_err(|error| damaged(&error))?;
            let Chunk::Parsed { consumed, payload } = parsed else {
                return Err(damaged(&"it ends early"));
            };
            at += consumed;
            match payload {
                Payload::Version { encoding, .. } if encoding != Encoding::Component => {
                    return Err(none("a core module of WebAssembly and no component"));
                }
                Payload::ModuleSection {
                    unchecked_range, ..
                }
                | Payload::ComponentSection {
                    unchecked_range, ..
                } => {
                    at = unchecked_range.end;
                    if at > wasm.len() {
                        return Err(damaged(&"it ends early"));
                    }
                }
                Payload::CustomSection(section) if section.name() == INDEX => {
                    let known = index.replace(section.data());
                    if known.is_some() {
                        return Err(refused(format!("it has two sections {INDEX}")));
                    }
                }
                Payload::CustomSection(section) => {
                    let Some((digest, packing)) = blob_name(section.name()) else {
                        continue;
                    };
                    let known = blobs.insert(digest, (packing, section.data()));
                    if known.is_some() || blobs.len() > MAX_SECTIONS {
                        return Err(refused(format!(
                            "{digest} is in it twice, or it has more than {MAX_SECTIONS} parts"
                        )));
                    }
                }
                Payload::End(_) => break,
                _ => {}
            }
        }
        let text = index.ok_or_else(|| none("a component without a flow in it"))?;
        if text.len() > MAX_INDEX {
            return Err(refused(format!("its section {INDEX} is too long")));
        }
        let index: AppIndex = serde_json::from_slice(text)
            .map_err(|error| refused(format!("its section {INDEX} cannot be read: {error}")))?;
        let is_text = |text: &str| text.len() <= MAX_TEXT && !text.contains(char::is_control);
        let texts = [&index.created_by, &index.name, &index.image];
        if index.schema != SCHEMA {
            return Err(refused(format!(
                "it has the format {}, and {SCHEMA} is known here",
                index.schema
            )));
        }
        if !texts.into_iter().all(|text| is_text(text))
            || index.wheels.len() > MAX_WHEELS
            || index.components.len() > MAX_COMPONENTS
        {
            return Err(refused(format!(
                "its section {INDEX} is too long, or no text"
            )));
        }
        Ok(Self {
            index,
            name: name.to_owned(),
            wasm,
            blobs,
        })
    }

    fn refused(&self, problem: impl Into<String>) -> BundleError {
        BundleError::AppRefused {
            name: self.name.clone(),
            problem: problem.into(),
        }
    }

    /// A blob, unpacked up to a size, and compared with its digest.
    fn blob(
        &self,
        digest: &Digest,
        what: &str,
        most: u64,
        prefix: &[u8],
    ) -> Result<Cow<'a, [u8]>, BundleError> {
        let blob = self.blobs.get(digest);
        let (packing, data) =
            *blob.ok_or_else(|| self.refused(format!("its part {digest} is missing, {what}")))?;
        let bytes: Cow<'a, [u8]> = match packing {
            Packing::Raw => data.into(),
            Packing::Zstd => decompress(data, &[], most)
                .map_err(|error| self.refused(format!("{what} cannot be unpacked: {error}")))?
                .into(),
            Packing::Delta => decompress(data, prefix, most)
                .map_err(|error| self.refused(format!("{what} cannot be unpacked: {error}")))?
                .into(),
        };
        if bytes.len() as u64 > most {
            return Err(self.refused(format!("{what} has more than {most} bytes")));
        }
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(self.refused(format!("{what} should be {digest} and is {found}")));
        }
        Ok(bytes)
    }

    /// Takes out what belongs to the bundle, each part with the digest that its manifest says.
    fn open(&self) -> Result<Opened<'a>, BundleError> {
        let text = self.blob(
            &self.index.bundle,
            "its bundle's manifest",
            MAX_MANIFEST,
            &[],
        )?;
        let wrong =
            |problem: String| self.refused(format!("its bundle's manifest is wrong: {problem}"));
        let manifest: Manifest =
            serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        manifest.check().map_err(wrong)?;
        let (runner, image) = RunnerImage::of(&manifest).map_err(wrong)?;
        let parts = Shell::split(self.wasm, self.index.shell_pages).map_err(|error| {
            self.refused(format!("its component cannot be taken apart: {error}"))
        })?;
        let found = Digest::of(&parts.component);
        if found != image.shell {
            return Err(self.refused(format!(
                "its component has the code {found}, and the bundle has {}",
                image.shell
            )));
        }
        if parts.memory.len() as u64 > MAX_MEMORY || parts.memory.is_empty() {
            return Err(self.refused("its component has no memory, or too much"));
        }
        let prefix = [parts.component.as_slice(), &parts.memory].concat();
        let mut blobs = vec![(image.shell, Cow::Owned(parts.component))];
        for part in oci::parts(&manifest) {
            if part.digest == image.shell {
                continue;
            }
            let most = part.size.unwrap_or(MAX_APP);
            let prefix = if part.digest == runner.digest {
                prefix.as_slice()
            } else {
                &[]
            };
            let blob = self.blob(&part.digest, &part.title, most, prefix)?;
            if part.size.is_some_and(|size| size != blob.len() as u64) {
                return Err(self.refused(format!(
                    "{} has {} bytes, and {most} by its bundle's manifest",
                    part.title,
                    blob.len()
                )));
            }
            blobs.push((part.digest, blob));
        }
        Ok(Opened {
            text: text.into_owned(),
            blobs,
            memory: parts.memory,
            manifest,
        })
    }

    /// Whether all that is no part of the bundle is there too.
    fn check(&self, opened: &Opened<'_>) -> Result<(), BundleError> {
        let (_, image) = RunnerImage::of(&opened.manifest).map_err(|why| self.refused(why))?;
        let base = opened
            .blobs
            .iter()
            .find(|(digest, _)| *digest == image.base);
        let base = base.map(|(_, packed)| decode_base(packed, image.memory, image.pages));
        if base.flatten().is_none() {
            return Err(self.refused(
                "its bundle's memory image has another size or content than its manifest says",
            ));
        }
        self.flow(tree::FLOW_LIMITS.tar_bytes())?;
        self.wheels(MAX_APP)
            .chain(self.components())
            .try_for_each(|carried| carried.map(|_| ()))
    }

    /// The flow's files, as a tar archive with so many bytes at most.
    ///
    /// # Errors
    /// When it is missing, damaged or larger.
    pub fn flow(&self, most: u64) -> Result<Vec<u8>, BundleError> {
        let flow = self.blob(&self.index.flow, "the archive of its flow", most, &[])?;
        Ok(flow.into_owned())
    }

    /// Puts the flow's files into a folder, which is empty.
    ///
    /// # Errors
    /// When the archive is damaged, has other things than files, or too many.
    pub fn unpack_flow(&self, folder: &Path) -> Result<(), BundleError> {
        let limits = tree::FLOW_LIMITS;
        let archive = self.flow(limits.tar_bytes())?;
        tree::unpack_tar(archive.as_slice(), folder, limits)
            .map_err(|problem| self.refused(format!("the archive of its flow: {problem}")))?;
        Ok(())
    }

    /// Its wheels, each with its digest; none has more than so many bytes.
    pub fn wheels(
        &self,
        most: u64,
    ) -> impl Iterator<Item = Result<(Digest, Cow<'a, [u8]>), BundleError>> {
        self.index.wheels.iter().map(move |digest| {
            let wheel = self.blob(digest, "a wheel", most, &[])?;
            Ok((*digest, wheel))
        })
    }

    /// Its component packages, each with its digest.
    pub fn components(&self) -> impl Iterator<Item = Result<(Digest, Cow<'a, [u8]>), BundleError>> {
        self.index.components.iter().map(move |digest| {
            let most = MAX_COMPONENT as u64;
            let component = self.blob(digest, "a component package", most, &[])?;
            Ok((*digest, component))
        })
    }

    /// Brings its bundle to a store, or finds it there; it stays while the leases are held. Nothing is written before all of it was checked, and no name leads to
    /// the bundle before all of it is there.
    ///
    /// # Errors
    /// When a part is missing, damaged, or has what no bundle may have; or the disk does not take it.
    pub fn import(&self, store: &Store) -> Result<(ImportedApp, [Lease; 2]), BundleError> {
        // Its blobs belong to nothing before their bundle is there.
        let _lease = store.lease(Thing::AllBlobs)?;
        let imported = self.bring(store)?;
        let lease = |bundle| store.lease(Thing::Bundle(bundle));
        Ok((
            imported,
            [lease(imported.bundle)?, lease(imported.started)?],
        ))
    }

    fn bring(&self, store: &Store) -> Result<ImportedApp, BundleError> {
        let record = store.cache().join("apps");
        fs::create_dir_all(&record).io("make the folder", &record)?;
        let record = record.join(format!("{}.json", Digest::of(self.wasm).hex()));
        let known = fs::read(&record).ok();
        let known = known.and_then(|bytes| serde_json::from_slice::<ImportedApp>(&bytes).ok());
        if let Some(known) = known.filter(|known| is_there(store, known)) {
            return Ok(known);
        }
        let mut opened = self.open()?;
        self.check(&opened)?;
        let (mut trees, mut left) = (Vec::new(), tree::APP_LIMITS);
        for tree in &opened.manifest.trees {
            let archive = opened
                .blobs
                .iter()
                .find(|(digest, _)| *digest == tree.digest);
            let Some((_, archive)) = archive else {
                continue;
            };
            let staged = store.stage_tree(&tree.digest, archive, left);
            let staged = staged.map_err(|error| match error {
                BundleError::Tree { .. } => self.refused(error.to_string()),
                error => error,
            })?;
            if let Some(staged) = staged {
                left = staged.left;
                trees.push(staged);
            }
        }
        for (_, blob) in &opened.blobs {
            store.put(blob)?;
        }
        for tree in trees {
            tree.commit()?;
        }
        let bundle = store.put(&opened.text)?;
        store.mark_manifest(&bundle)?;
        let here = store.blob_path(&bundle);
        let packed = zstd::bulk::compress(&opened.memory, MEMORY_LEVEL).io("compress", &here)?;
        let base = store.put(&packed)?;
        for component in &mut opened.manifest.components {
            if let Start::Image {
                base: own,
                memory,
                pages,
                ..
            } = &mut component.start
            {
                *own = base;
                *memory = opened.memory.len() as u64;
                *pages = Base::hash(&opened.memory);
            }
        }
        let started = store.keep_manifest(&opened.manifest)?;
        let imported = ImportedApp { bundle, started };
        let text =
            serde_json::to_vec(&imported).map_err(|error| self.refused(error.to_string()))?;
        store.write_whole(&record, &text)?;
        Ok(imported)
    }
}

/// Whether a store has still what an app brought.
fn is_there(store: &Store, known: &ImportedApp) -> bool {
    [known.bundle, known.started].iter().all(|digest| {
        store.manifest_by_digest(digest).is_ok_and(|manifest| {
            oci::parts(&manifest)
                .iter()
                .all(|part| store.blob_path(&part.digest).exists())
        })
    })
}

fn blob_name(name: &str) -> Option<(Digest, Packing)> {
    let kinds = [
        (RAW, Packing::Raw),
        (ZSTD, Packing::Zstd),
        (DELTA, Packing::Delta),
    ];
    kinds.into_iter().find_map(|(prefix, packing)| {
        let hex = name.strip_prefix(prefix)?;
        let digest = format!("sha256:{hex}").parse().ok()?;
        Some((digest, packing))
    })
}

fn compress_after(prefix: &[u8], bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = zstd::Encoder::with_ref_prefix(Vec::new(), LEVEL, prefix)?;
    encoder.long_distance_matching(true)?;
    let window = (prefix.len() + bytes.len()).next_power_of_two().ilog2();
    encoder.window_log(window.clamp(20, WINDOW_LOG))?;
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// What a frame holds; one byte more than it may have shows that there is more.
fn decompress(data: &[u8], prefix: &[u8], most: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if prefix.is_empty() {
        let decoder = zstd::Decoder::new(data)?;
        decoder
            .take(most.saturating_add(1))
            .read_to_end(&mut bytes)?;
    } else {
        let mut decoder = zstd::Decoder::with_ref_prefix(data, prefix)?;
        decoder.window_log_max(WINDOW_LOG)?;
        decoder
            .take(most.saturating_add(1))
            .read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

// The largest prefix fits a window.
const _: () = assert!(MAX_COMPONENT as u64 + MAX_MEMORY <= 1 << WINDOW_LOG);
