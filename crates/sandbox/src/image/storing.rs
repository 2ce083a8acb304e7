//! Stores what has changed of a guest's memory.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::delta::{Delta, DeltaWriter};
use super::error::StoreError;
use super::file::{self, ImageInfo, ImageKey, Owner};
use super::memory::{AtRest, MappedFile, PAGE};
use super::{Base, Image, ImageError};

/// Where an instance's memory goes, and as what.
#[derive(Debug, Clone)]
pub struct Destination {
    /// The file.
    pub path: PathBuf,
    /// The host's key.
    pub key: Arc<ImageKey>,
    /// Who may start from it.
    pub owner: Owner,
    /// What it is made from.
    pub made_from: String,
    /// The stored instance that it takes the place of.
    pub replaces: Option<String>,
    /// Most bytes of pages that may differ from the image below, before they are compressed.
    pub limit: u64,
    /// Whether many instances will start from it: then the guest takes what is in its memory for permanent, and the file
    /// is on the disk when it appears. Otherwise [`Image::sync`] sees to that.
    pub lasting: bool,
}

/// A memory that has been stored.
#[derive(Debug, Clone)]
pub struct Stored {
    /// To start from it again.
    pub image: Image,
    /// Bytes of pages that differ from the image below.
    pub changed: u64,
    /// Size of the file, in bytes.
    pub size: u64,
}

/// Stores a memory over the image that it started from.
pub(crate) fn store(
    memory: &AtRest<'_>,
    below: &Image,
    user: &Owner,
    monotonic_ns: u64,
    destination: &Destination,
) -> Result<Stored, StoreError> {
    let bytes = memory.bytes();
    let beneath = Beneath::new(below, user)?;
    let mut writer = DeltaWriter::default();
    let mut scratch = [0; PAGE];
    let mut beneath = beneath.reader();
    for number in memory.touched() {
        let start = number as usize * PAGE;
        let Some(now) = bytes.get(start..).and_then(|rest| rest.first_chunk()) else {
            continue;
        };
        beneath(number, &mut scratch);
        writer.add(number, now, &scratch);
        if writer.size() > destination.limit {
            return Err(StoreError::TooLarge {
                size: writer.size(),
                limit: destination.limit,
            });
        }
    }
    let changed = writer.size();
    let io = |source| StoreError::Io {
        path: destination.path.clone(),
        source,
    };
    let pages = writer.finish().map_err(io)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let info = ImageInfo {
        shell: below.shell().to_owned(),
        base: below.base().to_owned(),
        below: below.identity().map(str::to_owned),
        owner: destination.owner.clone(),
        is_copy: false,
        made_from: destination.made_from.clone(),
        replaces: destination.replaces.clone(),
        memory: bytes.len() as u64,
        pages: changed / PAGE as u64,
        stored_ms: now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX)),
        monotonic_ns,
    };
    let Destination {
        path, key, lasting, ..
    } = destination;
    let layer = file::write(path, key, info, &pages, *lasting).map_err(io)?;
    let size = layer.size;
    let image = below.over(layer)?;
    Ok(Stored {
        image,
        changed,
        size,
    })
}

/// The pages of the image below.
struct Beneath {
    /// What has all pages but those of the deltas.
    bytes: Pages,
    /// From below to above.
    deltas: Vec<Delta>,
}

enum Pages {
    Whole(Arc<MappedFile>),
    Base(Arc<Base>),
}

impl Beneath {
    fn new(image: &Image, user: &Owner) -> Result<Self, ImageError> {
        let mut deltas = Vec::new();
        let mut image = image;
        let bytes = loop {
            if let Some(whole) = image.whole() {
                break Pages::Whole(whole);
            }
            match &image.inner.top {
                Some((below, layer)) => {
                    deltas.insert(0, layer.delta(user)?);
                    image = below;
                }
                None => break Pages::Base(Arc::clone(&image.inner.base)),
            }
        };
        Ok(Self { bytes, deltas })
    }

    /// Gives page after page, in ascending order.
    fn reader(&self) -> impl FnMut(u32, &mut [u8; PAGE]) {
        let bytes = match &self.bytes {
            Pages::Whole(whole) => whole.bytes(),
            Pages::Base(base) => base.file.bytes(),
        };
        let mut deltas: Vec<_> = self
            .deltas
            .iter()
            .map(|delta| delta.pages().peekable())
            .collect();
        move |number, page| {
            let start = number as usize * PAGE;
            match bytes.get(start..start + PAGE) {
                Some(below) => page.copy_from_slice(below),
                None => page.fill(0),
            }
            for delta in &mut deltas {
                while delta.next_if(|(other, _)| *other < number).is_some() {}
                if let Some((_, change)) = delta.next_if(|(other, _)| *other == number) {
                    change.apply(page);
                }
            }
        }
    }
}
