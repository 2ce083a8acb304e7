//! The tools: which there are, what they take, and where a call of one goes.

pub mod arguments;
pub mod catalogue;
pub mod chat;
pub mod completion;
pub mod content_safety;
pub mod embedding;
pub mod functions;
pub mod llm;
pub mod open_model;
pub mod serpapi;
pub mod templates;
pub mod vision;

use serde_json::{Map, Value};

use crate::failure::Failure;
use crate::http::Host;
use crate::openai::retry::with_retries;
use crate::tools::arguments::Arguments;
use crate::tools::catalogue::{Kind, Tool};

/// Which API a tool calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// Azure's, which names a deployment.
    Azure,
    /// OpenAI's, or one like it, which names a model.
    OpenAi,
}

/// Calls a tool by its id.
pub fn call(host: &dyn Host, id: &str, inputs: &Map<String, Value>) -> Result<Value, Failure> {
    let Some(tool) = catalogue::TOOLS.iter().find(|tool| tool.id == id) else {
        let names: Vec<&str> = catalogue::TOOLS.iter().map(|tool| tool.id).collect();
        let message = format!(
            "This component has no tool {id:?}; it has {}",
            names.join(", ")
        );
        return Err(Failure::python("LookupError", message));
    };
    let bound = || Arguments::bind(tool, inputs.clone());
    // promptflow's tools for the API ask again, and have words of their own for whatever goes wrong.
    let asking = |ask: fn(&dyn Host, Provider, Arguments) -> _, provider| {
        with_retries(host, || ask(host, provider, bound()?))
    };
    match tool.kind {
        Kind::Render => templates::render(bound()?),
        Kind::PromptResult => templates::prompt_result(bound()?),
        Kind::Inspect => templates::inspect(bound()?),
        Kind::RenderJinja => templates::render_jinja(bound()?),
        Kind::ParseChat => templates::parse_chat(bound()?),
        Kind::Chat(provider) => asking(chat::chat, provider),
        Kind::Completion(provider) => asking(completion::completion, provider),
        Kind::Vision(provider) => asking(vision::chat, provider),
        Kind::Embedding => with_retries(host, || embedding::embedding(host, bound()?)),
        Kind::Llm => llm::llm(host, tool, inputs),
        Kind::LlmVision => llm::vision(host, tool, inputs),
        Kind::Search => serpapi::search(host, bound()?),
        Kind::ContentSafety => content_safety::analyze_text(host, bound()?),
        Kind::OpenModel => open_model::call(host, bound()?),
    }
}

impl Tool {
    /// Python's name for its function: `OpenAI.chat`, or `chat`.
    pub fn function(&self) -> &str {
        let mut parts = self.id.rsplitn(3, '.');
        let (name, class) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
        if class.starts_with(char::is_uppercase) {
            let length = name.len() + 1 + class.len();
            return self.id.get(self.id.len() - length..).unwrap_or(name);
        }
        name
    }
}
