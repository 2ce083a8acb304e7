//! Flows without a graph: `flow.flex.yaml`, and the front matter of a prompty.

use indexmap::IndexMap;

use super::{FLOW_KEYS, INPUT_KEYS, Reader, get, malformed, mapping, text, top};
use crate::entry::{Entry, EntryKind, Parameter};
use crate::error::{ErrorKind, FlowError, Location};
use crate::json::Json;
use crate::schema::Flow;
use crate::yaml::{self, Map, Yaml};

/// What a flex flow may say in place of a graph.
const FLEX_KEYS: &[&str] = &["entry", "code", "init", "sample"];
/// What of a prompty's front matter is as in other flows.
const PROMPTY_KEYS: &[&str] = &[
    "name",
    "display_name",
    "description",
    "environment",
    "environment_variables",
    "additional_includes",
    "inputs",
    "outputs",
];

impl Flow {
    /// Reads a prompty, whose front matter is YAML. `file` is its name in the flow's folder.
    ///
    /// # Errors
    /// As [`Flow::parse`]; `UserErrorException` if there is no front matter. Lines are those of the file.
    pub fn parse_prompty(text: &str, file: &str, default_name: &str) -> Result<Flow, FlowError> {
        // Lines of the matter are to be those of the file.
        let (before, matter) =
            front_matter(text).ok_or_else(|| FlowError::from(ErrorKind::IllegalPrompty))?;
        let top = top(&format!("{}{matter}", "\n".repeat(before)))?;
        let mut reader = Reader { notes: Vec::new() };
        let mut flow = reader.prompty(&top, file, default_name)?;
        flow.notes = reader.notes;
        Ok(flow)
    }
}

impl Reader {
    /// A flow with an entry.
    pub(super) fn flex(
        &mut self,
        top: &Map,
        entry: &yaml::Entry,
        default_name: &str,
    ) -> Result<Flow, FlowError> {
        self.unknown_keys("the flex flow", top, &[FLOW_KEYS, FLEX_KEYS].concat());
        let flow = self.flow(top, default_name)?;
        let mut init = IndexMap::new();
        for (name, entry) in mapping(top, "init", "the init")? {
            let what = format!("the init '{name}'");
            let map = entry
                .value
                .as_map()
                .ok_or_else(|| malformed(&what, &entry.value, "a mapping with a 'type'"))?;
            self.unknown_keys(&what, map, INPUT_KEYS);
            let parameter = Parameter {
                type_name: text(map, "type"),
                default: get(map, "default").map(Yaml::to_json),
            };
            init.insert(name.clone(), parameter);
        }
        let target = text(top, "entry").unwrap_or_default();
        let kind = EntryKind::Code {
            folder: text(top, "code"),
        };
        let entry = Entry {
            init,
            sample: get(top, "sample").map_or(Json::Null, Yaml::to_json),
            ..Entry::new(kind, target, entry.value.at)
        };
        Ok(flow.with_entry(entry))
    }

    /// A prompty. Much of what is in it is for others than promptflow, so no key is unknown.
    fn prompty(&mut self, top: &Map, file: &str, default_name: &str) -> Result<Flow, FlowError> {
        let mut common = top.clone();
        common.retain(|key, _| PROMPTY_KEYS.contains(&key.as_str()));
        let at = Location { line: 1, column: 1 };
        let entry = Entry {
            sample: get(top, "sample").map_or(Json::Null, Yaml::to_json),
            ..Entry::new(EntryKind::Prompty, file.to_owned(), at)
        };
        let flow = self.flow(&common, default_name)?;
        Ok(flow.with_entry(entry))
    }
}

/// The lines before a prompty's front matter, and the matter, by promptflow's pattern: between the first and the last line
/// that ends with three dashes.
fn front_matter(text: &str) -> Option<(usize, String)> {
    let text = text.replace("\r\n", "\n");
    let begin = text.find("---\n")? + 4;
    let end = text.rfind("---\n").filter(|end| *end >= begin)?;
    let before = text.get(..begin)?.matches('\n').count();
    let matter = text.get(begin..end)?.trim_end_matches('-');
    Some((before, matter.to_owned()))
}
