//! `flow.dag.yaml` as a tree of values that know where they stand.
//!
//! The text is read with the event parser of `saphyr-parser`, and the tree is built here, for three reasons: errors and findings
//! need lines and columns, which a deserializer's value type does not keep; scalars must mean what they mean to ruamel, promptflow's
//! YAML library (`017` is 17, `1_000` is 1000, `yes` is text; see [`yaml_scalar`]); and aliases must be counted
//! before they are expanded. The parser yields events one by one without recursion, so the limits hold while reading.
//!
//! A mapping's keys are text here; keys of other types become the text Python's `json` gives them.

use std::collections::HashMap;

use indexmap::IndexMap;
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput, Tag};

use crate::error::{ErrorKind, FlowError, Location};
use crate::json::{Json, python_repr, python_str};
use crate::yaml_scalar;

/// How long a document may be, in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// How deep mappings and lists may nest, aliases expanded.
pub const MAX_DEPTH: usize = 64;
/// How many values and keys a document may hold, aliases expanded.
pub const MAX_NODES: usize = 100_000;
/// How many bytes the values of a document may take, aliases expanded: their texts and keys, and 32 for each value.
pub const MAX_EXPANDED_BYTES: usize = 16 << 20;
/// What a value counts besides its text, in bytes.
const NODE_BYTES: usize = 32;

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Yaml {
    pub(crate) at: Location,
    pub(crate) data: Data,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Data {
    /// Null, a boolean, a number or text.
    Scalar(Json),
    List(Vec<Yaml>),
    Map(Map),
}

pub(crate) type Map = IndexMap<String, Entry>;

/// The value of a key and the place of the key.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key_at: Location,
    pub(crate) value: Yaml,
    /// Whether the entry came with a merge key, so that an entry of the mapping itself replaces it.
    merged: bool,
}

impl Yaml {
    pub(crate) fn to_json(&self) -> Json {
        match &self.data {
            Data::Scalar(value) => value.clone(),
            Data::List(items) => Json::Array(items.iter().map(Yaml::to_json).collect()),
            Data::Map(entries) => Json::Object(
                entries
                    .iter()
                    .map(|(key, entry)| (key.clone(), entry.value.to_json()))
                    .collect(),
            ),
        }
    }

    pub(crate) fn as_map(&self) -> Option<&Map> {
        match &self.data {
            Data::Map(entries) => Some(entries),
            Data::Scalar(_) | Data::List(_) => None,
        }
    }

    pub(crate) fn as_list(&self) -> Option<&[Yaml]> {
        match &self.data {
            Data::List(items) => Some(items),
            Data::Scalar(_) | Data::Map(_) => None,
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self.data, Data::Scalar(Json::Null))
    }

    /// What the value is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.data {
            Data::Scalar(Json::Null) => "null",
            Data::Scalar(Json::Bool(_)) => "a boolean",
            Data::Scalar(Json::Number(_)) => "a number",
            Data::Scalar(_) => "text",
            Data::List(_) => "a list",
            Data::Map(_) => "a mapping",
        }
    }

    fn size(&self) -> Size {
        let mut size = Size {
            nodes: 1,
            bytes: NODE_BYTES,
            depth: 0,
        };
        let mut add = |key: &str, child: &Yaml| {
            let child = child.size();
            size.nodes += child.nodes;
            size.bytes += key.len() + child.bytes;
            size.depth = size.depth.max(child.depth + 1);
        };
        match &self.data {
            Data::Scalar(Json::String(text)) => size.bytes += text.len(),
            Data::Scalar(_) => {}
            Data::List(items) => items.iter().for_each(|item| add("", item)),
            Data::Map(entries) => entries
                .iter()
                .for_each(|(key, entry)| add(key, &entry.value)),
        }
        size
    }
}

#[derive(Clone, Copy)]
struct Size {
    nodes: usize,
    bytes: usize,
    /// How deep it nests; 0 for a scalar.
    depth: usize,
}

/// Reads one document as JSON, with the limits and rules that flows have; null if there is none in the text.
///
/// # Errors
/// When the text is no YAML, has a key twice, or is too large.
pub fn yaml_to_json(text: &str) -> Result<Json, FlowError> {
    Ok(parse(text)?.map_or(Json::Null, |yaml| yaml.to_json()))
}

/// Reads one document; `None` if there is none in the text.
pub(crate) fn parse(text: &str) -> Result<Option<Yaml>, FlowError> {
    if text.len() > MAX_BYTES {
        return Err(syntax(format!(
            "the document has {} bytes; at most {MAX_BYTES} are read",
            text.len()
        )));
    }
    refuse_control_characters(text)?;
    Builder {
        text,
        parser: Parser::new_from_str(text),
        nodes: 0,
        bytes: 0,
        anchors: HashMap::new(),
    }
    .document()
}

fn syntax(message: String) -> FlowError {
    ErrorKind::YamlParseError { message }.into()
}

fn location(marker: Marker) -> Location {
    Location {
        line: marker.line().max(1),
        column: marker.col() + 1,
    }
}

/// YAML's printable characters are the only ones allowed, quoted or not.
fn refuse_control_characters(text: &str) -> Result<(), FlowError> {
    let allowed = |character: char| {
        matches!(character, '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}')
            || character >= '\u{1_0000}'
    };
    let Some((offset, character)) = text
        .char_indices()
        .find(|(_, character)| !allowed(*character))
    else {
        return Ok(());
    };
    let before = text.get(..offset).unwrap_or_default();
    let at = Location {
        line: before.matches('\n').count() + 1,
        column: before
            .chars()
            .rev()
            .take_while(|character| *character != '\n')
            .count()
            + 1,
    };
    let code = u32::from(character);
    Err(syntax(format!(
        "unacceptable character #x{code:04x}: special characters are not allowed, {at}"
    ))
    .at(at))
}

struct Builder<'t> {
    text: &'t str,
    parser: Parser<'t, StrInput<'t>>,
    nodes: usize,
    bytes: usize,
    anchors: HashMap<usize, (Yaml, Size)>,
}

/// A list or mapping that has begun and not ended.
struct Open {
    at: Location,
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Yaml>),
    Map { entries: Map, key: Option<Key> },
}

struct Key {
    text: String,
    at: Location,
    is_merge: bool,
}

impl<'t> Builder<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), FlowError> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                let at = location(*error.marker());
                Err(syntax(format!("{}, {at}", error.info())).at(at))
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn document(mut self) -> Result<Option<Yaml>, FlowError> {
        let mut document = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(document),
                Event::DocumentStart(_) if document.is_some() => {
                    let at = location(span.start);
                    return Err(
                        syntax(format!("expected a single document in the stream, {at}")).at(at),
                    );
                }
                Event::DocumentStart(_) => document = Some(self.value()?),
                _ => {}
            }
        }
    }

    /// Reads the events of one value.
    fn value(&mut self) -> Result<Yaml, FlowError> {
        let mut open: Vec<Open> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let at = location(span.start);
            let (value, anchor, is_merge) = match event {
                Event::Scalar(text, style, anchor, tag) => {
                    let is_merge = style == ScalarStyle::Plain && tag.is_none() && text == "<<";
                    (
                        self.scalar(&text, style, tag.as_deref(), at)?,
                        anchor,
                        is_merge,
                    )
                }
                Event::Alias(anchor) => (self.alias(anchor, open.len(), at)?, 0, false),
                Event::SequenceStart(anchor, _) => {
                    open.push(Open {
                        at,
                        anchor,
                        content: Content::List(Vec::new()),
                    });
                    self.check_depth(open.len(), at)?;
                    continue;
                }
                Event::MappingStart(anchor, _) => {
                    let content = Content::Map {
                        entries: Map::new(),
                        key: None,
                    };
                    open.push(Open {
                        at,
                        anchor,
                        content,
                    });
                    self.check_depth(open.len(), at)?;
                    continue;
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    let Some(closed) = open.pop() else { continue };
                    self.count(1, NODE_BYTES, closed.at)?;
                    let data = match closed.content {
                        Content::List(items) => Data::List(items),
                        Content::Map { entries, .. } => Data::Map(entries),
                    };
                    (
                        Yaml {
                            at: closed.at,
                            data,
                        },
                        closed.anchor,
                        false,
                    )
                }
                Event::StreamEnd | Event::DocumentEnd => {
                    return Err(syntax(format!("the document ends within a value, {at}")).at(at));
                }
                Event::Nothing | Event::StreamStart | Event::DocumentStart(_) => continue,
            };
            if anchor > 0 {
                let size = value.size();
                self.count(0, size.bytes, at)?;
                self.anchors.insert(anchor, (value.clone(), size));
            }
            match open.last_mut() {
                Some(parent) => self.add(parent, value, is_merge)?,
                None => return Ok(value),
            }
        }
    }

    fn check_depth(&self, depth: usize, at: Location) -> Result<(), FlowError> {
        if depth > MAX_DEPTH {
            return Err(syntax(format!(
                "values nest more than {MAX_DEPTH} levels deep, {at}"
            ))
            .at(at));
        }
        Ok(())
    }

    /// Counts values before they are copied or kept.
    fn count(&mut self, nodes: usize, bytes: usize, at: Location) -> Result<(), FlowError> {
        self.nodes = self.nodes.saturating_add(nodes);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.nodes > MAX_NODES {
            return Err(syntax(format!(
                "more than {MAX_NODES} values, aliases expanded, {at}"
            ))
            .at(at));
        }
        if self.bytes > MAX_EXPANDED_BYTES {
            return Err(syntax(format!(
                "more than {MAX_EXPANDED_BYTES} bytes, aliases expanded, {at}"
            ))
            .at(at));
        }
        Ok(())
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        tag: Option<&Tag>,
        at: Location,
    ) -> Result<Yaml, FlowError> {
        self.count(1, NODE_BYTES + text.len(), at)?;
        let core_tag = tag
            .filter(|tag| tag.is_yaml_core_schema())
            .map(|tag| tag.suffix.as_str());
        let value = match (core_tag, tag) {
            (Some(core_tag), _) => yaml_scalar::tagged(core_tag, text).ok_or_else(|| {
                syntax(format!(
                    "{} is no {core_tag}, {at}",
                    python_repr(&Json::from(text))
                ))
                .at(at)
            })?,
            (None, None) if style == ScalarStyle::Plain => yaml_scalar::plain(text),
            _ => Json::String(text.to_owned()),
        };
        Ok(Yaml {
            at,
            data: Data::Scalar(value),
        })
    }

    fn alias(&mut self, anchor: usize, depth: usize, at: Location) -> Result<Yaml, FlowError> {
        let Some((_, size)) = self.anchors.get(&anchor) else {
            return Err(syntax(format!("an alias stands within the value it names, {at}")).at(at));
        };
        let size = *size;
        self.count(size.nodes, size.bytes, at)?;
        self.check_depth(depth + size.depth, at)?;
        let Some((value, _)) = self.anchors.get(&anchor) else {
            return Err(syntax(format!("unknown alias, {at}")).at(at));
        };
        // The place of the value is where it is used: that is where a finding about its use belongs.
        Ok(Yaml {
            at,
            data: value.data.clone(),
        })
    }

    /// Adds a value to a list, or as key or value to a mapping.
    fn add(&mut self, parent: &mut Open, value: Yaml, is_merge: bool) -> Result<(), FlowError> {
        match &mut parent.content {
            Content::List(items) => items.push(value),
            Content::Map {
                entries,
                key: pending,
            } => match pending.take() {
                None => {
                    if entries.is_empty() {
                        // A block mapping begins with its first key.
                        parent.at = parent.at.min(value.at);
                    }
                    *pending = Some(self.key(&value, is_merge)?);
                }
                Some(key) if key.is_merge => self.merge(entries, &value)?,
                Some(key) => match entries.get(&key.text) {
                    Some(earlier) if !earlier.merged => {
                        return Err(self.duplicate_key(parent.at, &key, earlier, &value));
                    }
                    _ => {
                        entries.insert(
                            key.text,
                            Entry {
                                key_at: key.at,
                                value,
                                merged: false,
                            },
                        );
                    }
                },
            },
        }
        Ok(())
    }

    fn key(&self, value: &Yaml, is_merge: bool) -> Result<Key, FlowError> {
        let text = match &value.data {
            Data::Scalar(Json::String(text)) => text.clone(),
            Data::Scalar(other) => other.to_string(),
            Data::List(_) | Data::Map(_) => {
                let at = value.at;
                return Err(syntax(format!(
                    "a key must be a scalar, not {}, {at}",
                    value.kind()
                ))
                .at(at));
            }
        };
        Ok(Key {
            text,
            at: value.at,
            is_merge,
        })
    }

    /// `<<: *defaults`, or a list of such: entries the mapping does not have itself.
    fn merge(&mut self, entries: &mut Map, value: &Yaml) -> Result<(), FlowError> {
        let sources = match &value.data {
            Data::Map(_) => std::slice::from_ref(value),
            Data::List(items) => items.as_slice(),
            Data::Scalar(_) => &[],
        };
        if sources.is_empty() && !matches!(value.data, Data::List(_)) {
            let at = value.at;
            return Err(syntax(format!(
                "'<<' takes a mapping or a list of mappings, not {}, {at}",
                value.kind()
            ))
            .at(at));
        }
        for source in sources {
            let Some(source_entries) = source.as_map() else {
                let at = source.at;
                return Err(
                    syntax(format!("'<<' takes mappings, not {}, {at}", source.kind())).at(at),
                );
            };
            for (key, entry) in source_entries {
                if !entries.contains_key(key) {
                    let size = entry.value.size();
                    self.count(size.nodes, size.bytes + key.len(), value.at)?;
                    entries.insert(
                        key.clone(),
                        Entry {
                            merged: true,
                            ..entry.clone()
                        },
                    );
                }
            }
        }
        Ok(())
    }

    /// ruamel's message, as promptflow shows it.
    fn duplicate_key(
        &self,
        mapping: Location,
        key: &Key,
        earlier: &Entry,
        value: &Yaml,
    ) -> FlowError {
        let message = format!(
            "while constructing a mapping\n{}\nfound duplicate key \"{}\" with value \"{}\" (original value: \"{}\")\n{}\n\n\
             To suppress this check see:\n    https://yaml.dev/doc/ruamel.yaml/api/#Duplicate_keys\n",
            self.mark(mapping),
            key.text,
            python_str(&value.to_json()),
            python_str(&earlier.value.to_json()),
            self.mark(key.at),
        );
        FlowError::from(ErrorKind::DuplicateKeyError { message })
            .at(key.at)
            .with_help(format!(
                "'{}' is first on line {}",
                key.text, earlier.key_at.line
            ))
    }

    /// A place and its line, as ruamel shows them: at most 75 characters of the line, the place marked below.
    fn mark(&self, at: Location) -> String {
        const MAX_LENGTH: usize = 75;
        let line: Vec<char> = self
            .text
            .lines()
            .nth(at.line - 1)
            .unwrap_or_default()
            .chars()
            .collect();
        let pointer = (at.column - 1).min(line.len());
        let (mut start, mut head) = (0, "");
        if pointer > MAX_LENGTH / 2 - 1 {
            (start, head) = (pointer - (MAX_LENGTH / 2 - 1) + 5, " ... ");
        }
        let (mut end, mut tail) = (line.len(), "");
        if line.len() - pointer > MAX_LENGTH / 2 - 1 {
            (end, tail) = (pointer + (MAX_LENGTH / 2 - 1) - 5, " ... ");
        }
        let snippet: String = line.get(start..end).unwrap_or_default().iter().collect();
        let caret = " ".repeat(4 + pointer - start + head.len());
        format!(
            "  in \"<unicode string>\", line {line}, column {column}:\n    {head}{snippet}{tail}\n{caret}^ (line: {line})",
            line = at.line,
            column = at.column
        )
    }
}
