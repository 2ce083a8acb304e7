//! The pages in which one memory differs from another, as bytes.
//!
//! A page is stored as its exclusive or with the page below it: most pages that Python changes differ in a few bytes, so
//! this compresses well, and laying several deltas over a memory takes no knowledge of what is below. The format is
//!
//! ```text
//! u32 LE       number of pages
//! u32 LE each  their numbers, ascending
//! 4096 each    their content, by exclusive or
//! ```
//!
//! compressed by zstd as one frame.

use std::cell::RefCell;
use std::io;

use super::error::ImageError;
use super::memory::PAGE;

/// zstd's level: more takes longer than the disk gains.
const LEVEL: i32 = 1;

/// Pages, being gathered.
#[derive(Debug, Default)]
pub(crate) struct DeltaWriter {
    pages: Vec<u32>,
    content: Vec<u8>,
}

impl DeltaWriter {
    /// Adds a page as it is now; `below` gives what it was. A page that is the same is left out. Pages come in ascending
    /// order.
    pub(crate) fn add(&mut self, number: u32, now: &[u8], below: &[u8]) {
        if now == below {
            return;
        }
        self.pages.push(number);
        self.content
            .extend(now.iter().zip(below).map(|(now, below)| now ^ below));
    }

    /// Bytes of the pages so far, before compression.
    pub(crate) fn size(&self) -> usize {
        self.content.len()
    }

    pub(crate) fn finish(self) -> io::Result<Vec<u8>> {
        thread_local! {
            // Making one takes longer than compressing a small delta.
            static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
        }
        let count = u32::try_from(self.pages.len()).map_err(io::Error::other)?;
        let mut raw = Vec::with_capacity(4 + self.pages.len() * 4 + self.content.len());
        raw.extend(count.to_le_bytes());
        raw.extend(self.pages.iter().flat_map(|page| page.to_le_bytes()));
        raw.extend(self.content);
        COMPRESSOR.with_borrow_mut(|compressor| {
            let compressor = match compressor {
                Some(compressor) => compressor,
                None => compressor.insert(zstd::bulk::Compressor::new(LEVEL)?),
            };
            compressor.compress(&raw)
        })
    }
}

/// Pages, decoded.
#[derive(Debug)]
pub(crate) struct Delta {
    raw: Vec<u8>,
    count: usize,
}

thread_local! {
    /// A buffer that was used before: its pages need not be made anew, which takes as long as filling them.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The largest buffer that is kept, in bytes.
const MAX_BUFFER: usize = 8 << 20;

impl Drop for Delta {
    fn drop(&mut self) {
        let mut raw = std::mem::take(&mut self.raw);
        if raw.capacity() <= MAX_BUFFER {
            raw.clear();
            BUFFER.set(raw);
        }
    }
}

impl Delta {
    /// Decodes what [`DeltaWriter::finish`] gave. All pages lie within a memory of `size` bytes.
    pub(crate) fn decode(encoded: &[u8], size: usize) -> Result<Self, ImageError> {
        thread_local! {
            static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
        }
        let pages = size / PAGE;
        // Every page of the memory, with its number.
        let most = 4 + pages.saturating_mul(PAGE + 4);
        // The frame says how large it is; what says nothing, or too much, is not ours.
        let length = match zstd::zstd_safe::get_frame_content_size(encoded) {
            Ok(Some(length)) if length <= most as u64 => length as usize,
            _ => return Err(ImageError::Damaged("its pages have no size, or too large a one")),
        };
        let mut raw = BUFFER.take();
        raw.reserve_exact(length);
        let decompressed = DECOMPRESSOR.with_borrow_mut(|decompressor| {
            let decompressor = match decompressor {
                Some(decompressor) => decompressor,
                None => decompressor.insert(zstd::bulk::Decompressor::new()?),
            };
            decompressor.decompress_to_buffer(encoded, &mut raw)
        });
        decompressed.map_err(|_| ImageError::Damaged("its pages cannot be decompressed"))?;
        let count = match raw.first_chunk::<4>() {
            Some(count) => u32::from_le_bytes(*count) as usize,
            None => return Err(ImageError::Damaged("it ends early")),
        };
        if count > pages || raw.len() != 4 + count * (PAGE + 4) {
            return Err(ImageError::Damaged("it is not as long as its pages"));
        }
        let delta = Self { raw, count };
        let is_ascending = delta.numbers().is_sorted_by(|a, b| a < b);
        if !is_ascending || delta.numbers().last().is_some_and(|last| last as usize >= pages) {
            return Err(ImageError::Damaged("its pages are not in order, or outside of the memory"));
        }
        Ok(delta)
    }

    fn numbers(&self) -> impl Iterator<Item = u32> {
        self.raw[4..4 + self.count * 4]
            .as_chunks::<4>()
            .0
            .iter()
            .map(|number| u32::from_le_bytes(*number))
    }

    /// Its pages: number and exclusive or.
    pub(crate) fn pages(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.numbers().zip(self.raw[4 + self.count * 4..].chunks_exact(PAGE))
    }

    /// Changes a memory from what is below the delta to what it was made from.
    pub(crate) fn apply(&self, memory: &mut [u8]) {
        for (number, change) in self.pages() {
            let start = number as usize * PAGE;
            // In range by `decode`.
            if let Some(page) = memory.get_mut(start..start + PAGE) {
                xor(page, change);
            }
        }
    }
}

/// Turns `bytes` into their exclusive or with `other`.
pub(crate) fn xor(bytes: &mut [u8], other: &[u8]) {
    for (byte, other) in bytes.iter_mut().zip(other) {
        *byte ^= other;
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn delta(below: &[u8], now: &[u8]) -> Vec<u8> {
        let mut writer = DeltaWriter::default();
        let pages = now.chunks(PAGE).zip(below.chunks(PAGE));
        for (number, (now, below)) in (0..).zip(pages) {
            writer.add(number, now, below);
        }
        writer.finish().unwrap()
    }

    proptest! {
        #[test]
        fn a_delta_brings_back_what_it_was_made_from(
            changes in proptest::collection::vec((0_usize..8 * PAGE, any::<u8>()), 0..200),
            seed in any::<u8>(),
        ) {
            let below: Vec<u8> = (0..8 * PAGE).map(|at| (at as u8).wrapping_mul(seed)).collect();
            let mut now = below.clone();
            for (at, byte) in changes {
                now[at] = byte;
            }
            let decoded = Delta::decode(&delta(&below, &now), below.len()).unwrap();
            let mut memory = below;
            decoded.apply(&mut memory);
            prop_assert!(memory == now);
        }

        #[test]
        fn whatever_is_given_is_decoded_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..2000), compress in any::<bool>()) {
            if compress {
                bytes = zstd::bulk::compress(&bytes, 1).unwrap();
            }
            let mut memory = vec![0; 4 * PAGE];
            if let Ok(delta) = Delta::decode(&bytes, memory.len()) {
                delta.apply(&mut memory);
            }
        }
    }

    #[test]
    fn a_delta_for_a_larger_memory_is_refused() {
        let mut now = vec![0; 4 * PAGE];
        now[3 * PAGE] = 1;
        let encoded = delta(&vec![0; 4 * PAGE], &now);
        assert!(Delta::decode(&encoded, 4 * PAGE).is_ok());
        let error = Delta::decode(&encoded, 3 * PAGE).unwrap_err();
        assert!(error.to_string().contains("outside of the memory"), "{error}");
    }

    #[test]
    fn a_frame_that_unpacks_to_more_than_a_memory_is_refused_before_it_is_unpacked() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
        let error = Delta::decode(&bomb, 16 * PAGE).unwrap_err();
        assert!(error.to_string().contains("size"), "{error}");
    }
}
