//! Which images have a file of all their pages.
//!
//! Copying the pages that differ takes memory and time for each instance; a file of all pages takes its size on the disk,
//! once. So an image gets one when instances have started from it a few times, and loses it when others need the room.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Image, Owner};

/// Starts after which an image gets its file.
const BUSY: u64 = 2;

/// The images with a file of all pages; that which was used last is at the end.
#[derive(Debug)]
pub(crate) struct Spreads {
    folder: PathBuf,
    /// Bytes of all files together.
    limit: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    spread: Vec<Image>,
    is_busy: bool,
    made: u64,
}

/// What files of all pages there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpreadUsage {
    /// Images that have one.
    pub images: u64,
    /// Their size together, in bytes.
    pub bytes: u64,
    /// How many were written, in total.
    pub made: u64,
}

impl Spreads {
    pub(crate) fn new(folder: PathBuf, limit: u64) -> Self {
        Self {
            folder,
            limit,
            state: Mutex::default(),
        }
    }

    /// Notes that an instance starts from an image; whether the image should get its file.
    pub(crate) fn wants(&self, image: &Image) -> bool {
        let starts = image.count_start();
        if image.info().is_none() || image.is_private() || image.memory() > self.limit {
            return false;
        }
        let mut state = self.lock();
        if let Some(place) = state.spread.iter().position(|other| other.is(image)) {
            let image = state.spread.remove(place);
            state.spread.push(image);
            return false;
        }
        // One at a time: it is the disk that takes long.
        if starts < BUSY || state.is_busy {
            return false;
        }
        state.is_busy = true;
        true
    }

    /// Writes an image's file; others lose theirs for it.
    pub(crate) fn spread(&self, image: &Image, user: &Owner) {
        let written = image.spread(&self.folder, user);
        let mut state = self.lock();
        state.is_busy = false;
        match written {
            Ok(()) => {
                state.spread.push(image.clone());
                state.made += 1;
                while state.spread.iter().map(Image::memory).sum::<u64>() > self.limit {
                    state.spread.remove(0).fold();
                }
            }
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "an image gets no file of all its pages"
            ),
        }
    }

    pub(crate) fn usage(&self) -> SpreadUsage {
        let state = self.lock();
        SpreadUsage {
            images: state.spread.len() as u64,
            bytes: state.spread.iter().map(Image::memory).sum(),
            made: state.made,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
