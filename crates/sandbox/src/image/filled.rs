//! A shell with its memory put back into it: one component that needs nothing beside it.
//!
//! This is the inverse of making a [`Shell`], and like wizer's work: the memory that an instance had becomes the data that
//! other instances begin with. [`Shell::split`] takes it apart again, into the very bytes that it was made from, so what was
//! compiled for the shell serves it too.

use std::ops::Range;

use wasm_encoder::reencode::{Reencode as _, RoundtripReencoder};
use wasm_encoder::{
    Component, ComponentSectionId, ConstExpr, DataSection, MemorySection, Module, RawSection,
};
use wasmparser::{Chunk, DataKind, MemoryType, Parser, Payload};

use super::shell::{
    Constant, MAX_MEMORY, Shell, ShellError, WASM_PAGE, constant, part, unsuitable,
};

/// Bytes that are zero between two parts of the memory before these are two segments; a segment's head has 10 or so.
const GAP: usize = 16;
/// How the names of sections begin that are ours, and no part of the shell.
const OWN_SECTIONS: &str = "flowcell:";

/// A memory and a data section, as a module of a component has them.
struct Found {
    memory: MemoryType,
    /// Number of segments.
    segments: u32,
}

impl Shell {
    /// The shell with this memory in its data: a component whose instances begin with it wherever they run.
    ///
    /// # Errors
    /// When these bytes are no shell, or the memory is not one of it.
    pub fn fill(shell: &[u8], memory: &[u8]) -> Result<Vec<u8>, ShellError> {
        let pages = memory.len() as u64 / WASM_PAGE;
        let component = rewritten(shell, |module, found| {
            let most = found.memory.maximum.unwrap_or(u64::MAX);
            let is_whole = (memory.len() as u64).is_multiple_of(WASM_PAGE);
            if !is_whole || pages < found.memory.initial || pages > most {
                return unsuitable("the memory is not one of this shell");
            }
            let mut data = DataSection::new();
            let ranges = ranges(memory, found.segments as usize)?;
            let filled = ranges.len();
            for range in ranges {
                let place = i32::try_from(range.start);
                let place = place.map_err(|_| ShellError::Unsuitable("it is too large".into()))?;
                data.active(
                    0,
                    &ConstExpr::i32_const(place),
                    memory[range].iter().copied(),
                );
            }
            for _ in filled..found.segments as usize {
                data.active(0, &ConstExpr::i32_const(0), []);
            }
            replaced(module, pages, &data)
        })?;
        // What could not be taken apart again would be of no use.
        let initial = Self::pages(shell)?;
        let parts = Self::split(&component, initial)?;
        if parts.component != shell || parts.memory != memory {
            return unsuitable("it is written in a way that does not survive being taken apart");
        }
        Ok(component)
    }

    /// Takes apart what [`Shell::fill`] made of a shell whose memory begins with so many pages of 64 KiB. Sections of the
    /// component whose names begin with `flowcell:` are left out. It can be anybody's: whoever needs a certain shell
    /// compares its digest.
    ///
    /// # Errors
    /// When it is damaged, or no such component.
    pub fn split(component: &[u8], pages: u64) -> Result<Self, ShellError> {
        let mut memory = Vec::new();
        let component = rewritten(component, |module, found| {
            let size = found.memory.initial.saturating_mul(WASM_PAGE);
            if size > MAX_MEMORY || pages > found.memory.initial {
                return unsuitable("its memory has an impossible size");
            }
            memory.resize(usize::try_from(size).unwrap_or(0), 0);
            let mut emptied = DataSection::new();
            segments(module, |place, data| {
                let target = place.checked_add(data.len());
                let target = target.and_then(|end| memory.get_mut(place..end));
                match target {
                    Some(target) => target.copy_from_slice(data),
                    None => return unsuitable("it has a segment beyond its memory"),
                }
                emptied.active(0, &ConstExpr::i32_const(0), []);
                Ok(())
            })?;
            replaced(module, pages, &emptied)
        })?;
        Ok(Self { component, memory })
    }

    /// Pages of 64 KiB that a shell's memory begins with.
    ///
    /// # Errors
    /// When these bytes are no shell.
    pub fn pages(shell: &[u8]) -> Result<u64, ShellError> {
        let mut pages = 0;
        rewritten(shell, |module, found| {
            pages = found.memory.initial;
            Ok(module.to_vec())
        })?;
        Ok(pages)
    }
}

/// The component with the one module that has a memory made anew, and without sections of ours.
fn rewritten(
    wasm: &[u8],
    edit: impl FnOnce(&[u8], Found) -> Result<Vec<u8>, ShellError>,
) -> Result<Vec<u8>, ShellError> {
    let mut edit = Some(edit);
    let mut component = Component::new();
    let mut parser = Parser::new(0);
    let mut at = 0;
    loop {
        let Chunk::Parsed { consumed, payload } =
            parser.parse(part(wasm, at..wasm.len())?, true)?
        else {
            return unsuitable("it ends early");
        };
        at += consumed;
        match &payload {
            Payload::Version { encoding, .. } => {
                if *encoding != wasmparser::Encoding::Component {
                    return unsuitable("it is no component");
                }
            }
            Payload::ModuleSection {
                unchecked_range, ..
            } => {
                let module = part(wasm, unchecked_range.clone())?;
                at = unchecked_range.end;
                let mut edited = None;
                if let Some(found) = find(module)? {
                    match edit.take() {
                        Some(edit) => edited = Some(edit(module, found)?),
                        None => return unsuitable("it has several memories"),
                    }
                }
                component.section(&RawSection {
                    id: ComponentSectionId::CoreModule as u8,
                    data: edited.as_deref().unwrap_or(module),
                });
            }
            Payload::ComponentSection {
                unchecked_range, ..
            } => {
                component.section(&RawSection {
                    id: ComponentSectionId::Component as u8,
                    data: part(wasm, unchecked_range.clone())?,
                });
                at = unchecked_range.end;
            }
            Payload::CustomSection(section) if section.name().starts_with(OWN_SECTIONS) => {}
            Payload::End(_) => break,
            payload => {
                if let Some((id, range)) = payload.as_section() {
                    component.section(&RawSection {
                        id,
                        data: part(wasm, range)?,
                    });
                }
            }
        }
    }
    match edit {
        None => Ok(component.finish()),
        Some(_) => unsuitable("it has no memory"),
    }
}

/// The sections of a module, without a look into its code.
fn sections<'a>(
    wasm: &'a [u8],
    mut each: impl FnMut(&Payload<'a>, &'a [u8]) -> Result<(), ShellError>,
) -> Result<(), ShellError> {
    let mut parser = Parser::new(0);
    let mut at = 0;
    loop {
        let Chunk::Parsed { consumed, payload } =
            parser.parse(part(wasm, at..wasm.len())?, true)?
        else {
            return unsuitable("a module ends early");
        };
        at += consumed;
        let range = payload.as_section().map(|(_, range)| range);
        if let Payload::CodeSectionStart { range, .. } = &payload {
            parser.skip_section();
            at = range.end;
        }
        each(&payload, part(wasm, range.unwrap_or(0..0))?)?;
        if let Payload::End(_) = payload {
            return Ok(());
        }
    }
}

/// The memory of a module, if it has one, and the number of its segments.
fn find(module: &[u8]) -> Result<Option<Found>, ShellError> {
    let (mut memory, mut segments) = (None, 0);
    sections(module, |payload, _| {
        match payload {
            Payload::MemorySection(section) => {
                for one in section.clone() {
                    if memory.replace(one?).is_some() {
                        return unsuitable("it has several memories");
                    }
                }
            }
            Payload::DataSection(section) => segments = section.count(),
            _ => {}
        }
        Ok(())
    })?;
    Ok(memory.map(|memory| Found { memory, segments }))
}

/// Gives the segments of a module with their places.
fn segments(
    module: &[u8],
    mut each: impl FnMut(usize, &[u8]) -> Result<(), ShellError>,
) -> Result<(), ShellError> {
    sections(module, |payload, _| {
        let Payload::DataSection(section) = payload else {
            return Ok(());
        };
        for segment in section.clone() {
            let segment = segment?;
            let DataKind::Active {
                memory_index: 0,
                offset_expr,
            } = &segment.kind
            else {
                return unsuitable("it has a passive segment");
            };
            let Constant::I32(place) = constant(offset_expr)? else {
                return unsuitable("it has a segment without a place");
            };
            each(place.cast_unsigned() as usize, segment.data)?;
        }
        Ok(())
    })
}

/// The module with a memory that begins with so many pages, and with these segments.
fn replaced(wasm: &[u8], pages: u64, data: &DataSection) -> Result<Vec<u8>, ShellError> {
    let mut module = Module::new();
    sections(wasm, |payload, bytes| {
        match payload {
            Payload::MemorySection(section) => {
                let mut memories = MemorySection::new();
                for memory in section.clone() {
                    let memory = MemoryType {
                        initial: pages,
                        ..memory?
                    };
                    let memory = RoundtripReencoder.memory_type(memory);
                    memories
                        .memory(memory.map_err(|error| ShellError::Unsuitable(error.to_string()))?);
                }
                module.section(&memories);
            }
            Payload::DataSection(_) => {
                module.section(data);
            }
            payload => {
                if let Some((id, _)) = payload.as_section() {
                    module.section(&RawSection { id, data: bytes });
                }
            }
        }
        Ok(())
    })?;
    Ok(module.finish())
}

/// The parts of a memory that are not zero, in so many segments at most.
fn ranges(memory: &[u8], most: usize) -> Result<Vec<Range<usize>>, ShellError> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let (words, _) = memory.as_chunks::<8>();
    for (number, word) in words.iter().enumerate() {
        if *word == [0; 8] {
            continue;
        }
        let (start, end) = (number * 8, number * 8 + 8);
        match ranges.last_mut() {
            Some(last) if start - last.end < GAP => last.end = end,
            _ => ranges.push(start..end),
        }
    }
    if ranges.len() > most {
        if most == 0 {
            return unsuitable("it has no segment that could hold its memory");
        }
        // The widest gaps stay; whatever is between the others goes into the file.
        let mut gaps: Vec<usize> = ranges
            .windows(2)
            .map(|two| two[1].start - two[0].end)
            .collect();
        gaps.sort_unstable_by(|a, b| b.cmp(a));
        let kept = most - 1;
        let narrowest = gaps.get(kept).copied().unwrap_or(0);
        // Of those that are as wide as the narrowest, only some can stay.
        let mut ties = kept - gaps.partition_point(|gap| *gap > narrowest);
        let mut joined: Vec<Range<usize>> = Vec::with_capacity(most);
        for range in ranges {
            let gap = joined
                .last()
                .map_or(usize::MAX, |last| range.start - last.end);
            let is_tie = gap == narrowest && ties > 0;
            ties -= usize::from(is_tie);
            match joined.last_mut() {
                Some(last) if gap <= narrowest && !is_tie => last.end = range.end,
                _ => joined.push(range),
            }
        }
        ranges = joined;
    }
    Ok(ranges)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    const PAGE: usize = 64 << 10;

    fn shell() -> Vec<u8> {
        let text = r#"(component
            (core module $m
                (memory (export "memory") 1)
                (func (export "__wasilibc_reset_preopens"))
                (func (export "reset_adapter_state"))
                (func (export "look") (param i32) (result i32) (i32.load8_u (local.get 0)))
                (data (i32.const 16) "ab")
                (data (i32.const 70) "cd")
                (data (i32.const 90) "ef"))
            (core module $other (func))
            (core instance $i (instantiate $m))
            (func (export "look") (param "at" s32) (result s32) (canon lift (core func $i "look")))
            (@custom "flowcell:other" "shells have none of these")
            (@custom "kept" "x"))"#;
        let wasm = wat::parse_str(text).unwrap();
        // Whatever `Shell::of` keeps, splitting leaves out.
        let first = Shell::of(&wasm).unwrap().component;
        Shell::split(&first, 1).unwrap().component
    }

    #[test]
    fn what_was_filled_comes_apart_into_the_same_bytes() {
        let shell = shell();
        assert_eq!(Shell::pages(&shell).unwrap(), 1);
        for seed in 0_u8..8 {
            let mut memory = vec![0; PAGE * (1 + usize::from(seed % 3))];
            for number in 0..usize::from(seed) * 3 {
                let at = number * 4099 % memory.len();
                memory[at] = seed + 1;
            }
            let filled = Shell::fill(&shell, &memory).unwrap();
            wasmparser::Validator::new_with_features(wasmparser::WasmFeatures::all())
                .validate_all(&filled)
                .unwrap();
            let parts = Shell::split(&filled, 1).unwrap();
            assert_eq!((parts.component, parts.memory), (shell.clone(), memory));
        }
    }

    #[test]
    fn a_full_memory_needs_no_more_segments_than_there_are() {
        let mut memory = vec![0; PAGE];
        for at in (0..PAGE).step_by(64) {
            memory[at] = 1;
        }
        let ranges = ranges(&memory, 3).unwrap();
        assert_eq!(ranges.len(), 3);
        let filled: usize = ranges.iter().map(Range::len).sum();
        assert!(filled < PAGE);
        Shell::fill(&shell(), &memory).unwrap();
    }

    #[test]
    fn what_is_none_of_it_is_refused() {
        let shell = shell();
        for memory in [vec![], vec![0; PAGE - 1], vec![0; 100]] {
            let error = Shell::fill(&shell, &memory).unwrap_err().to_string();
            assert!(error.contains("not one of this shell"), "{error}");
        }
        let filled = Shell::fill(&shell, &vec![1; 2 * PAGE]).unwrap();
        let error = Shell::split(&filled, 3).unwrap_err().to_string();
        assert!(error.contains("impossible size"), "{error}");
        for cut in [0, 4, 8, 100, filled.len() / 2, filled.len() - 1] {
            Shell::split(&filled[..cut], 1).unwrap_err();
        }
        let module = wat::parse_str("(module (memory 1))").unwrap();
        let error = Shell::split(&module, 1).unwrap_err().to_string();
        assert!(error.contains("no component"), "{error}");
        let large = wat::parse_str("(component (core module (memory 65536)))").unwrap();
        let error = Shell::split(&large, 1).unwrap_err().to_string();
        assert!(error.contains("impossible size"), "{error}");
        let beyond = "(component (core module (memory 1) (data (i32.const 65535) \"xy\")))";
        let error = Shell::split(&wat::parse_str(beyond).unwrap(), 1);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("beyond its memory"), "{error}");
    }
}
