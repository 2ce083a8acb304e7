//! The bytes in which one memory differs from another, page by page.
//!
//! What differs is stored as its exclusive or with what is below it, so laying several deltas over a memory takes no
//! knowledge of what is below. Most pages that Python changes differ in a few words, so runs of words are stored. The
//! format is, for each page that differs, in ascending order,
//!
//! ```text
//! u32 LE  its number
//! u16 LE  number of runs
//!   u16 LE each  first word of the run (of 8 bytes)
//!   u16 LE       number of words
//!   8 bytes each the words, by exclusive or
//! ```
//!
//! compressed by zstd as one frame.

use std::cell::RefCell;
use std::io;

use super::error::ImageError;
use super::memory::PAGE;

/// zstd's level: more takes longer than the disk gains.
const LEVEL: i32 = 1;

/// Bytes of a word.
const WORD: usize = 8;
/// Words of a page.
const WORDS: usize = PAGE / WORD;
/// Most bytes of a page's entry: with every third word the same, runs are as short as they get.
const MAX_ENTRY: usize = 4 + 2 + PAGE + 4 * WORDS.div_ceil(3);

/// Pages, being gathered.
#[derive(Debug, Default)]
pub(crate) struct DeltaWriter {
    raw: Vec<u8>,
    pages: u64,
}

impl DeltaWriter {
    /// Adds a page as it is now; `below` gives what it was. A page that is the same is left out. Pages come in ascending
    /// order.
    pub(crate) fn add(&mut self, number: u32, now: &[u8; PAGE], below: &[u8; PAGE]) {
        if now == below {
            return;
        }
        self.pages += 1;
        self.raw.extend(number.to_le_bytes());
        let count_at = self.raw.len();
        self.raw.extend([0; 2]);
        let mut runs = 0_u16;
        let words = (now.as_chunks::<WORD>().0, below.as_chunks::<WORD>().0);
        let differs: [bool; WORDS] = std::array::from_fn(|word| words.0[word] != words.1[word]);
        let mut word = 0;
        while let Some(skipped) = differs[word..].iter().position(|differs| *differs) {
            let start = word + skipped;
            // One word that is the same is shorter than the head of another run.
            let mut end = start + 1;
            while differs.get(end) == Some(&true) || differs.get(end + 1) == Some(&true) {
                end += 1;
            }
            runs += 1;
            self.raw.extend(half(start));
            self.raw.extend(half(end - start));
            let range = start * WORD..end * WORD;
            let pairs = now[range.clone()].iter().zip(&below[range]);
            self.raw.extend(pairs.map(|(now, below)| now ^ below));
            word = end;
        }
        self.raw[count_at..count_at + 2].copy_from_slice(&runs.to_le_bytes());
    }

    /// Bytes of the pages so far.
    pub(crate) fn size(&self) -> u64 {
        self.pages * PAGE as u64
    }

    pub(crate) fn finish(self) -> io::Result<Vec<u8>> {
        thread_local! {
            // Making one takes longer than compressing a small delta.
            static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
        }
        COMPRESSOR.with_borrow_mut(|compressor| {
            let compressor = match compressor {
                Some(compressor) => compressor,
                None => compressor.insert(zstd::bulk::Compressor::new(LEVEL)?),
            };
            compressor.compress(&self.raw)
        })
    }
}

/// A number of words, of which a page has few.
fn half(words: usize) -> [u8; 2] {
    u16::try_from(words).unwrap_or(u16::MAX).to_le_bytes()
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
        let most = pages.saturating_mul(MAX_ENTRY);
        // The frame says how large it is; what says nothing, or too much, is not ours.
        let length = match zstd::zstd_safe::get_frame_content_size(encoded) {
            Ok(Some(length)) if length <= most as u64 => length as usize,
            _ => {
                return Err(ImageError::Damaged(
                    "its pages have no size, or too large a one",
                ));
            }
        };
        let mut raw = BUFFER.take();
        if raw.try_reserve_exact(length).is_err() {
            return Err(ImageError::Damaged(
                "its pages are more than there is memory for",
            ));
        }
        let decompressed = DECOMPRESSOR.with_borrow_mut(|decompressor| {
            let decompressor = match decompressor {
                Some(decompressor) => decompressor,
                None => decompressor.insert(zstd::bulk::Decompressor::new()?),
            };
            decompressor.decompress_to_buffer(encoded, &mut raw)
        });
        decompressed.map_err(|_| ImageError::Damaged("its pages cannot be decompressed"))?;
        let mut delta = Self { raw, count: 0 };
        let mut count = 0;
        let mut next = 0;
        let mut entries = Pages { rest: &delta.raw };
        while !entries.rest.is_empty() {
            let entry = entries.read();
            let Some((number, runs)) = entry else {
                return Err(ImageError::Damaged("its pages do not hold together"));
            };
            if (number as usize) < next || number as usize >= pages {
                return Err(ImageError::Damaged(
                    "its pages are not in order, or outside of the memory",
                ));
            }
            if !runs.is_sound() {
                return Err(ImageError::Damaged("a change is outside of its page"));
            }
            next = number as usize + 1;
            count += 1;
        }
        delta.count = count;
        Ok(delta)
    }

    /// How many pages it has.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Its pages: number and changes.
    pub(crate) fn pages(&self) -> impl Iterator<Item = (u32, Runs<'_>)> {
        let mut pages = Pages { rest: &self.raw };
        std::iter::from_fn(move || pages.read())
    }

    /// Changes a memory from what is below the delta to what it was made from.
    pub(crate) fn apply(&self, memory: &mut [u8]) {
        for (number, runs) in self.pages() {
            let start = number as usize * PAGE;
            // In range by `decode`.
            if let Some(page) = memory.get_mut(start..start + PAGE) {
                runs.apply(page);
            }
        }
    }
}

/// Reads pages one after the other.
struct Pages<'a> {
    rest: &'a [u8],
}

impl<'a> Pages<'a> {
    /// The next page; `None` at the end, and where there is no whole one.
    fn read(&mut self) -> Option<(u32, Runs<'a>)> {
        let (number, rest) = self.rest.split_first_chunk::<4>()?;
        let (count, rest) = rest.split_first_chunk::<2>()?;
        let count = u16::from_le_bytes(*count);
        let runs = Runs { count, rest };
        let mut after = runs;
        for _ in 0..count {
            after.read()?;
        }
        self.rest = after.rest;
        Some((u32::from_le_bytes(*number), runs))
    }
}

/// The changes of one page.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Runs<'a> {
    count: u16,
    rest: &'a [u8],
}

impl<'a> Runs<'a> {
    /// The first byte of the next run, and its bytes.
    fn read(&mut self) -> Option<(usize, &'a [u8])> {
        let ([start_low, start_high, count_low, count_high], rest) =
            self.rest.split_first_chunk::<4>()?;
        let start = u16::from_le_bytes([*start_low, *start_high]);
        let count = u16::from_le_bytes([*count_low, *count_high]);
        let (words, rest) = rest.split_at_checked(usize::from(count) * WORD)?;
        self.rest = rest;
        Some((usize::from(start) * WORD, words))
    }

    fn iter(mut self) -> impl Iterator<Item = (usize, &'a [u8])> {
        (0..self.count).map_while(move |_| self.read())
    }

    /// Whether all of it lies in a page.
    fn is_sound(self) -> bool {
        self.iter()
            .all(|(start, bytes)| start + bytes.len() <= PAGE)
    }

    /// Changes a page.
    pub(crate) fn apply(self, page: &mut [u8]) {
        for (start, change) in self.iter() {
            // In range by `decode`.
            if let Some(bytes) = page.get_mut(start..start + change.len()) {
                for (byte, change) in bytes.iter_mut().zip(change) {
                    *byte ^= change;
                }
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn delta(below: &[u8], now: &[u8]) -> Vec<u8> {
        let mut writer = DeltaWriter::default();
        let pages = now.as_chunks().0.iter().zip(below.as_chunks().0);
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
        assert!(
            error.to_string().contains("outside of the memory"),
            "{error}"
        );
    }

    #[test]
    fn a_frame_that_unpacks_to_more_than_a_memory_is_refused_before_it_is_unpacked() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
        let error = Delta::decode(&bomb, 16 * PAGE).unwrap_err();
        assert!(error.to_string().contains("size"), "{error}");
    }
}
