//! From the tree of `flow.dag.yaml` or `flow.flex.yaml`, or the front matter of a prompty, to a [`Flow`].
//!
//! promptflow reads what it knows and lets the rest be; so does this, and it keeps a note of every key it does not know. Where
//! promptflow would fail with a bare Python error (`'str' object has no attribute 'get'`), the error here says what is wrong.

mod entry;

use indexmap::IndexMap;

use crate::error::{ErrorKind, FlowError, Location, nearest};
use crate::json::{Json, as_non_finite, python_json, python_str, python_truth};
use crate::lint::{Finding, MAX_FINDINGS, Severity};
use crate::reference::Assignment;
use crate::schema::{
    Activate, Environment, Flow, FlowKind, InputDef, Language, MessageFormat, Node, NodeKind,
    NodeMarks, NodeVariants, OutputDef, Source, SourceKind,
};
use crate::value_type::ValueType;
use crate::yaml::{self, Map, Yaml};

const FLOW_KEYS: &[&str] = &[
    "$schema",
    "id",
    "name",
    "type",
    "display_name",
    "description",
    "tags",
    "inputs",
    "outputs",
    "environment",
    "environment_variables",
    "additional_includes",
    "language",
    "message_format",
];
const GRAPH_KEYS: &[&str] = &["nodes", "node_variants", "tools"];
const INPUT_KEYS: &[&str] = &[
    "type",
    "default",
    "description",
    "enum",
    "is_chat_input",
    "is_chat_history",
];
const OUTPUT_KEYS: &[&str] = &[
    "type",
    "reference",
    "description",
    "evaluation_only",
    "is_chat_output",
];
const NODE_KEYS: &[&str] = &[
    "name",
    "type",
    "source",
    "inputs",
    "connection",
    "api",
    "provider",
    "module",
    "comment",
    "aggregation",
    "reduce",
    "enable_cache",
    "use_variants",
    "activate",
    "tool",
];
const SOURCE_KEYS: &[&str] = &["type", "path", "tool"];
const ACTIVATE_KEYS: &[&str] = &["when", "is"];
const VARIANTS_KEYS: &[&str] = &["default_variant_id", "variants"];
const VARIANT_KEYS: &[&str] = &["node", "description"];

impl Flow {
    /// Reads `flow.dag.yaml` or `flow.flex.yaml`: what has an `entry` is a flex flow. `default_name` is the flow's name if the text has none (promptflow: the folder's name).
    ///
    /// An empty text is a flow without nodes. The text is limited to [`MAX_BYTES`](crate::MAX_BYTES),
    /// [`MAX_DEPTH`](crate::MAX_DEPTH) and [`MAX_NODES`](crate::MAX_NODES).
    ///
    /// # Errors
    /// `YamlParseError`, `DuplicateKeyError`; `ValueError` for a type that does not exist; `KeyError` for a missing key;
    /// `FlowDefinitionError` for anything else of the wrong shape. All with a location.
    pub fn parse(text: &str, default_name: &str) -> Result<Flow, FlowError> {
        let mut reader = Reader { notes: Vec::new() };
        let top = top(text)?;
        let mut flow = match top.get("entry") {
            Some(entry) => reader.flex(&top, entry, default_name)?,
            None => reader.dag(&top, default_name)?,
        };
        flow.notes = reader.notes;
        Ok(flow)
    }
}

/// The mapping that a text is.
fn top(text: &str) -> Result<Map, FlowError> {
    match yaml::parse(text)? {
        None => Ok(Map::new()),
        Some(document) if document.is_null() => Ok(Map::new()),
        Some(document) => match document.as_map() {
            Some(map) => Ok(map.clone()),
            None => Err(malformed(
                "the flow",
                &document,
                "a mapping with 'inputs' and 'nodes'",
            )),
        },
    }
}

fn malformed(what: impl Into<String>, found: &Yaml, expected: &str) -> FlowError {
    let why = format!("expected {expected}, found {}", found.kind());
    FlowError::from(ErrorKind::Malformed {
        what: what.into(),
        why,
    })
    .at(found.at)
}

fn get<'m>(map: &'m Map, key: &str) -> Option<&'m Yaml> {
    map.get(key).map(|entry| &entry.value)
}

/// The value of a key as text, Python's `str()` of it; `None` for null, lists and mappings.
fn text(map: &Map, key: &str) -> Option<String> {
    match get(map, key)?.to_json() {
        Json::Null | Json::Array(_) | Json::Object(_) => None,
        scalar => Some(python_str(&scalar)),
    }
}

/// Whether a key is there with a value that Python takes for true.
fn flag(map: &Map, key: &str) -> bool {
    get(map, key).is_some_and(|value| python_truth(&value.to_json()))
}

/// Promptflow's `data.get(key) or {}`: null, `[]` and `""` are empty mappings too.
fn mapping<'m>(
    map: &'m Map,
    key: &str,
    what: &str,
) -> Result<impl Iterator<Item = (&'m String, &'m yaml::Entry)>, FlowError> {
    let entries = match get(map, key) {
        Some(value) if python_truth(&value.to_json()) => Some(
            value
                .as_map()
                .ok_or_else(|| malformed(what, value, "a mapping"))?,
        ),
        _ => None,
    };
    Ok(entries.into_iter().flatten())
}

/// The same for lists.
fn list<'m>(map: &'m Map, key: &str, what: &str) -> Result<&'m [Yaml], FlowError> {
    match get(map, key) {
        Some(value) if python_truth(&value.to_json()) => value
            .as_list()
            .ok_or_else(|| malformed(what, value, "a list")),
        _ => Ok(&[]),
    }
}

struct Reader {
    notes: Vec<Finding>,
}

impl Reader {
    fn is_full(&self) -> bool {
        self.notes.len() >= MAX_FINDINGS
    }

    fn note(&mut self, class: &'static str, message: String, at: Location, help: Option<String>) {
        if self.is_full() {
            return;
        }
        self.notes.push(Finding {
            severity: Severity::Warning,
            class,
            message,
            location: Some(at),
            help,
        });
    }

    fn unknown_keys(&mut self, what: &str, map: &Map, known: &[&str]) {
        for (key, entry) in map {
            if !self.is_full() && !known.contains(&key.as_str()) {
                let help = nearest(key, known.iter().copied())
                    .map(|name| format!("did you mean '{name}'?"));
                self.note(
                    "UnknownKey",
                    format!("The key '{key}' of {what} is unknown and ignored."),
                    entry.key_at,
                    help,
                );
            }
        }
    }

    /// A key whose value is one of a few words; others are noted and treated as the default, as promptflow does.
    fn choice<T: Copy + Default>(&mut self, map: &Map, key: &str, words: &[(&str, T)]) -> T {
        let Some(found) = text(map, key) else {
            return T::default();
        };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == found) {
            return *value;
        }
        let at = map
            .get(key)
            .map_or(Location { line: 1, column: 1 }, |entry| entry.value.at);
        let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let help = Some(format!("it can be {}", all.join(", ")));
        self.note(
            "UnknownValue",
            format!("The value '{found}' of '{key}' is unknown and ignored."),
            at,
            help,
        );
        T::default()
    }

    /// A flow with a graph.
    fn dag(&mut self, top: &Map, default_name: &str) -> Result<Flow, FlowError> {
        self.unknown_keys("the flow", top, &[FLOW_KEYS, GRAPH_KEYS].concat());
        // promptflow reads nodes first, then inputs, outputs and variants; the first error is the one that is shown.
        let mut nodes = Vec::new();
        for (index, node) in list(top, "nodes", "the nodes")?.iter().enumerate() {
            nodes.push(self.node(node, None, &format!("node {index}"))?);
        }
        let flow = self.flow(top, default_name)?;
        let mut node_variants = IndexMap::new();
        for (name, entry) in mapping(top, "node_variants", "the node variants")? {
            node_variants.insert(name.clone(), self.variants(name, entry)?);
        }
        Ok(Flow {
            nodes,
            node_variants,
            ..flow
        })
    }

    /// What flows of all kinds have; without nodes.
    fn flow(&mut self, top: &Map, default_name: &str) -> Result<Flow, FlowError> {
        let mut inputs = IndexMap::new();
        for (name, entry) in mapping(top, "inputs", "the inputs")? {
            inputs.insert(name.clone(), self.input(name, entry)?);
        }
        let mut outputs = IndexMap::new();
        for (name, entry) in mapping(top, "outputs", "the outputs")? {
            outputs.insert(name.clone(), self.output(name, entry)?);
        }
        let mut environment_variables = IndexMap::new();
        for (name, entry) in mapping(top, "environment_variables", "the environment variables")? {
            environment_variables.insert(name.clone(), environment_text(&entry.value.to_json()));
        }
        let mut tags = IndexMap::new();
        for (name, entry) in mapping(top, "tags", "the tags")? {
            tags.insert(name.clone(), python_str(&entry.value.to_json()));
        }
        let additional_includes = list(top, "additional_includes", "the additional includes")?
            .iter()
            .map(|include| match include.to_json() {
                Json::String(path) => Ok(path),
                _ => Err(malformed("the additional includes", include, "a path")),
            })
            .collect::<Result<_, _>>()?;
        Ok(Flow {
            name: text(top, "name").unwrap_or_else(|| default_name.to_owned()),
            kind: self.choice(
                top,
                "type",
                &[
                    ("standard", FlowKind::Standard),
                    ("chat", FlowKind::Chat),
                    ("evaluation", FlowKind::Evaluation),
                ],
            ),
            display_name: text(top, "display_name"),
            description: text(top, "description"),
            tags,
            inputs,
            outputs,
            nodes: Vec::new(),
            node_variants: IndexMap::new(),
            environment: self.environment(top),
            environment_variables,
            additional_includes,
            language: self.choice(
                top,
                "language",
                &[("python", Language::Python), ("csharp", Language::Csharp)],
            ),
            message_format: self.choice(
                top,
                "message_format",
                &[
                    ("basic", MessageFormat::Basic),
                    ("openai-vision", MessageFormat::OpenaiVision),
                ],
            ),
            entry: None,
            notes: Vec::new(),
        })
    }

    fn value_type(&self, of: String, map: &Map, at: Location) -> Result<ValueType, FlowError> {
        let Some(found) = get(map, "type") else {
            let help = format!(
                "{of} needs a 'type': one of {}",
                ValueType::names().collect::<Vec<_>>().join(", ")
            );
            return Err(FlowError::from(ErrorKind::KeyError { key: "type", of })
                .at(at)
                .with_help(help));
        };
        let value = found.to_json();
        if let Some(value_type) = value.as_str().and_then(|name| name.parse().ok()) {
            return Ok(value_type);
        }
        let help = match nearest(value.as_str().unwrap_or_default(), ValueType::names()) {
            Some(name) => format!("did you mean '{name}'?"),
            None => format!(
                "the types are {}",
                ValueType::names().collect::<Vec<_>>().join(", ")
            ),
        };
        Err(FlowError::from(ErrorKind::InvalidValueType { value })
            .at(found.at)
            .with_help(help))
    }

    fn input(&mut self, name: &str, entry: &yaml::Entry) -> Result<InputDef, FlowError> {
        let what = format!("the input '{name}'");
        let map = entry
            .value
            .as_map()
            .ok_or_else(|| malformed(&what, &entry.value, "a mapping with a 'type'"))?;
        self.unknown_keys(&what, map, INPUT_KEYS);
        Ok(InputDef {
            value_type: self.value_type(what, map, entry.key_at)?,
            default: get(map, "default")
                .filter(|value| !value.is_null())
                .map(Yaml::to_json),
            description: text(map, "description"),
            enum_values: get(map, "enum")
                .and_then(Yaml::as_list)
                .unwrap_or_default()
                .iter()
                .map(Yaml::to_json)
                .collect(),
            is_chat_input: flag(map, "is_chat_input"),
            is_chat_history: get(map, "is_chat_history")
                .filter(|value| !value.is_null())
                .map(|value| python_truth(&value.to_json())),
            at: entry.key_at,
        })
    }

    fn output(&mut self, name: &str, entry: &yaml::Entry) -> Result<OutputDef, FlowError> {
        let what = format!("the output '{name}'");
        let map = entry
            .value
            .as_map()
            .ok_or_else(|| malformed(&what, &entry.value, "a mapping with a 'type'"))?;
        self.unknown_keys(&what, map, OUTPUT_KEYS);
        let reference = get(map, "reference");
        Ok(OutputDef {
            value_type: self.value_type(what, map, entry.key_at)?,
            reference: reference.map_or(Assignment::Literal(Json::from("")), |reference| {
                Assignment::parse(&reference.to_json())
            }),
            description: text(map, "description"),
            evaluation_only: flag(map, "evaluation_only"),
            is_chat_output: flag(map, "is_chat_output"),
            at: entry.key_at,
            reference_at: reference.map_or(entry.key_at, |reference| reference.at),
        })
    }

    /// A node of the flow, or a variant of the node `variant_of`.
    fn node(
        &mut self,
        yaml: &Yaml,
        variant_of: Option<&str>,
        what: &str,
    ) -> Result<Node, FlowError> {
        let map = yaml
            .as_map()
            .ok_or_else(|| malformed(what, yaml, "a mapping with a 'name'"))?;
        let name = match text(map, "name").or_else(|| variant_of.map(str::to_owned)) {
            Some(name) => name,
            None => {
                let help = format!("{what} needs a 'name'");
                return Err(FlowError::from(ErrorKind::KeyError {
                    key: "name",
                    of: what.to_owned(),
                })
                .at(yaml.at)
                .with_help(help));
            }
        };
        let what = format!("the node '{name}'");
        self.unknown_keys(&what, map, NODE_KEYS);
        let mut inputs = IndexMap::new();
        let mut input_marks = IndexMap::new();
        for (input, entry) in mapping(map, "inputs", &format!("the inputs of {what}"))? {
            inputs.insert(input.clone(), Assignment::parse(&entry.value.to_json()));
            input_marks.insert(input.clone(), entry.value.at);
        }
        let source = match get(map, "source") {
            Some(source) if !source.is_null() => Some(self.source(source, &what)?),
            _ => None,
        };
        let kind = match get(map, "type") {
            Some(found) => Some(node_kind(found)?),
            None => None,
        };
        let activate = match get(map, "activate") {
            Some(activate) => Some(self.activate(activate, &name, &what)?),
            None => None,
        };
        Ok(Node {
            kind,
            source,
            inputs,
            connection: text(map, "connection"),
            api: text(map, "api"),
            provider: text(map, "provider"),
            module: text(map, "module"),
            aggregation: flag(map, "aggregation") || flag(map, "reduce"),
            use_variants: flag(map, "use_variants"),
            activate,
            comment: text(map, "comment"),
            enable_cache: flag(map, "enable_cache"),
            marks: NodeMarks {
                node: yaml.at,
                name: get(map, "name").map_or(yaml.at, |name| name.at),
                inputs: input_marks,
                activate: get(map, "activate").map(|activate| activate.at),
            },
            name,
        })
    }

    fn source(&mut self, yaml: &Yaml, what: &str) -> Result<Source, FlowError> {
        let what = format!("the source of {what}");
        let map = yaml
            .as_map()
            .ok_or_else(|| malformed(&what, yaml, "a mapping with 'type' and 'path' or 'tool'"))?;
        self.unknown_keys(&what, map, SOURCE_KEYS);
        let kind = match text(map, "type").as_deref() {
            None | Some("code") => SourceKind::Code,
            Some("package") => SourceKind::Package,
            Some("package_with_prompt") => SourceKind::PackageWithPrompt,
            Some(other) => SourceKind::Other(other.to_owned()),
        };
        Ok(Source {
            kind,
            path: text(map, "path"),
            tool: text(map, "tool"),
        })
    }

    fn activate(&mut self, yaml: &Yaml, node: &str, what: &str) -> Result<Activate, FlowError> {
        let what = format!("the activate config of {what}");
        let map = yaml
            .as_map()
            .ok_or_else(|| malformed(&what, yaml, "a mapping with 'when' and 'is'"))?;
        self.unknown_keys(&what, map, ACTIVATE_KEYS);
        match (get(map, "when"), get(map, "is")) {
            (Some(when), Some(is)) => {
                if when.is_null() && is.is_null() {
                    let message = format!(
                        "The activate config for node {node} has empty 'when' and 'is'. Please check your flow yaml to \
                         ensure it aligns with your expectations."
                    );
                    self.note("EmptyActivate", message, yaml.at, None);
                }
                Ok(Activate {
                    when: Assignment::parse(&when.to_json()),
                    is: is.to_json(),
                })
            }
            (when, _) => {
                let missing = if when.is_some() { "is" } else { "when" };
                Err(FlowError::from(ErrorKind::HalfActivate {
                    node: node.to_owned(),
                })
                .at(yaml.at)
                .with_help(format!("'{missing}' is missing")))
            }
        }
    }

    fn variants(&mut self, name: &str, entry: &yaml::Entry) -> Result<NodeVariants, FlowError> {
        let what = format!("the variants of node '{name}'");
        let map = entry
            .value
            .as_map()
            .ok_or_else(|| malformed(&what, &entry.value, "a mapping with 'variants'"))?;
        self.unknown_keys(&what, map, VARIANTS_KEYS);
        if get(map, "variants").is_none() {
            let help = format!("{what} need the key 'variants'");
            return Err(FlowError::from(ErrorKind::KeyError {
                key: "variants",
                of: what,
            })
            .at(entry.key_at)
            .with_help(help));
        }
        let mut variants = IndexMap::new();
        for (id, variant) in mapping(map, "variants", &what)? {
            let what = format!("the variant '{id}' of node '{name}'");
            let map = variant
                .value
                .as_map()
                .ok_or_else(|| malformed(&what, &variant.value, "a mapping with a 'node'"))?;
            self.unknown_keys(&what, map, VARIANT_KEYS);
            let Some(node) = get(map, "node") else {
                let help = format!("{what} needs a 'node'");
                return Err(FlowError::from(ErrorKind::KeyError {
                    key: "node",
                    of: what,
                })
                .at(variant.key_at)
                .with_help(help));
            };
            variants.insert(id.clone(), self.node(node, Some(name), &what)?);
        }
        Ok(NodeVariants {
            default_variant_id: text(map, "default_variant_id"),
            variants,
            at: entry.key_at,
        })
    }

    fn environment(&mut self, top: &Map) -> Option<Environment> {
        let found = get(top, "environment").filter(|found| !found.is_null())?;
        let Some(map) = found.as_map() else {
            let message = format!(
                "The environment is ignored: expected a mapping, found {}.",
                found.kind()
            );
            self.note("UnknownValue", message, found.at, None);
            return None;
        };
        let others = map
            .iter()
            .filter(|(key, _)| !matches!(key.as_str(), "image" | "python_requirements_txt"))
            .map(|(key, entry)| (key.clone(), entry.value.to_json()))
            .collect();
        Some(Environment {
            image: text(map, "image"),
            python_requirements_txt: text(map, "python_requirements_txt"),
            others,
        })
    }
}

fn node_kind(found: &Yaml) -> Result<NodeKind, FlowError> {
    let value = found.to_json();
    let name = value.as_str().unwrap_or_default();
    if let Some((kind, _)) = NodeKind::NAMES.iter().find(|(_, known)| *known == name) {
        return Ok(*kind);
    }
    let names = NodeKind::NAMES
        .iter()
        .filter(|(kind, _)| *kind != NodeKind::Action)
        .map(|(_, name)| *name);
    let help = match nearest(name, names.clone()) {
        Some(name) => format!("did you mean '{name}'?"),
        None => format!("the types are {}", names.collect::<Vec<_>>().join(", ")),
    };
    Err(FlowError::from(ErrorKind::InvalidToolType { value })
        .at(found.at)
        .with_help(help))
}

/// The text of an environment variable: JSON for lists and mappings, Python's `str()` for the rest.
fn environment_text(value: &Json) -> String {
    match value {
        Json::Array(_) | Json::Object(_) if as_non_finite(value).is_none() => python_json(value),
        other => python_str(other),
    }
}
