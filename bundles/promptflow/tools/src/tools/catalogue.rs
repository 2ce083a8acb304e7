//! All tools with their parameters, as promptflow has them.
//!
//! The types are what promptflow converts literals by: those of the functions' annotations for LLM nodes, those of the
//! packages' descriptions for package tools. The defaults are the functions'.

use serde_json::Value;

use crate::tools::Provider;

/// What a tool does.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Render,
    PromptResult,
    Inspect,
    RenderJinja,
    ParseChat,
    Chat(Provider),
    Completion(Provider),
    Vision(Provider),
    Embedding,
    Llm,
    LlmVision,
    Search,
    ContentSafety,
    OpenModel,
}

/// A tool.
#[derive(Debug)]
pub struct Tool {
    pub id: &'static str,
    pub description: &'static str,
    pub kind: Kind,
    pub parameters: &'static [Parameter],
    /// Whether it takes more inputs: its template's variables.
    pub open: bool,
}

/// A parameter.
#[derive(Debug)]
pub struct Parameter {
    pub name: &'static str,
    /// None for one that the tool's description keeps to itself, so that literals are not converted.
    pub types: &'static [&'static str],
    /// JSON text; none when it is required.
    pub default: Option<&'static str>,
    /// Whether it goes to the constructor.
    pub init: bool,
}

impl Parameter {
    /// The value that it has when it is not given.
    pub fn default(&self) -> Option<Value> {
        serde_json::from_str(self.default?).ok()
    }
}

type Types = &'static [&'static str];

const fn required(name: &'static str, types: Types) -> Parameter {
    Parameter {
        name,
        types,
        default: None,
        init: false,
    }
}

const fn optional(name: &'static str, types: Types, default: &'static str) -> Parameter {
    Parameter {
        name,
        types,
        default: Some(default),
        init: false,
    }
}

const fn init(name: &'static str, types: Types) -> Parameter {
    Parameter {
        name,
        types,
        default: None,
        init: true,
    }
}

const BOOL: Types = &["bool"];
const DOUBLE: Types = &["double"];
const HIDDEN: Types = &[];
const INT: Types = &["int"];
const LIST: Types = &["list"];
const OBJECT: Types = &["object"];
const PROMPT: Types = &["prompt_template"];
const STRING: Types = &["string"];

const AZURE: Types = &["AzureOpenAIConnection"];
const OPENAI: Types = &["OpenAIConnection"];
const ANY: Types = &[
    "AzureOpenAIConnection",
    "OpenAIConnection",
    "ServerlessConnection",
];
const AZURE_OR_OPENAI: Types = &["AzureOpenAIConnection", "OpenAIConnection"];

/// The parameters of `completion`.
macro_rules! completion {
    ($connection:expr, $model:expr) => {
        &[
            $connection,
            required("prompt", PROMPT),
            $model,
            optional("suffix", STRING, "null"),
            optional("max_tokens", INT, "16"),
            optional("temperature", DOUBLE, "1.0"),
            optional("top_p", DOUBLE, "1.0"),
            optional("n", INT, "1"),
            optional("stream", BOOL, "false"),
            optional("logprobs", INT, "null"),
            optional("echo", BOOL, "false"),
            optional("stop", LIST, "null"),
            optional("presence_penalty", DOUBLE, "null"),
            optional("frequency_penalty", DOUBLE, "null"),
            optional("best_of", INT, "1"),
            optional("logit_bias", OBJECT, "{}"),
            optional("user", STRING, "\"\""),
        ]
    };
}

/// The parameters of `chat`; Azure's has `n`, too. The functions of modules have integers where the methods have floats.
macro_rules! chat {
    ($connection:expr, $model:expr, $one:literal $(, $n:expr)?) => {
        &[
            $connection,
            required("prompt", PROMPT),
            $model,
            optional("temperature", DOUBLE, $one),
            optional("top_p", DOUBLE, $one),
            $($n,)?
            optional("stream", BOOL, "false"),
            optional("stop", LIST, "null"),
            optional("max_tokens", INT, "null"),
            optional("presence_penalty", DOUBLE, "null"),
            optional("frequency_penalty", DOUBLE, "null"),
            optional("logit_bias", OBJECT, "{}"),
            optional("user", STRING, "\"\""),
            optional("function_call", OBJECT, "null"),
            optional("functions", LIST, "null"),
            optional("tool_choice", OBJECT, "null"),
            optional("tools", LIST, "null"),
            optional("response_format", OBJECT, "null"),
            optional("seed", INT, "null"),
        ]
    };
}

macro_rules! vision {
    ($connection:expr $(, $model:expr)*) => {
        &[
            $connection,
            required("prompt", PROMPT),
            $($model,)*
            optional("temperature", DOUBLE, "1.0"),
            optional("top_p", DOUBLE, "1.0"),
            optional("stream", HIDDEN, "false"),
            optional("stop", LIST, "null"),
            optional("max_tokens", INT, "null"),
            optional("presence_penalty", DOUBLE, "0"),
            optional("frequency_penalty", DOUBLE, "0"),
            optional("seed", INT, "null"),
            optional("detail", STRING, "\"auto\""),
        ]
    };
}

const DEPLOYMENT: Parameter = required("deployment_name", STRING);
const DAVINCI: Parameter = optional("model", STRING, "\"text-davinci-003\"");
const N: Parameter = optional("n", INT, "1");
const NO_MODEL: Parameter = optional("model", STRING, "\"\"");
const NO_DEPLOYMENT: Parameter = optional("deployment_name", STRING, "\"\"");
const MEDIUM: &str = "\"medium_sensitivity\"";

const CONTENT_SAFETY: &[Parameter] = &[
    required("connection", &["AzureContentSafetyConnection"]),
    required("text", STRING),
    optional("hate_category", STRING, MEDIUM),
    optional("sexual_category", STRING, MEDIUM),
    optional("self_harm_category", STRING, MEDIUM),
    optional("violence_category", STRING, MEDIUM),
];

/// The parameters of a search after the connection.
macro_rules! search {
    ($connection:expr) => {
        &[
            $connection,
            required("query", STRING),
            optional("location", STRING, "null"),
            optional("safe", STRING, "\"off\""),
            optional("num", INT, "10"),
            optional("engine", STRING, "\"google\""),
        ]
    };
}

const LLM: &[Parameter] = &[
    required("connection", ANY),
    required("prompt", PROMPT),
    optional("api", STRING, "\"chat\""),
    NO_DEPLOYMENT,
    NO_MODEL,
    optional("temperature", DOUBLE, "1.0"),
    optional("top_p", DOUBLE, "1.0"),
    optional("stream", HIDDEN, "false"),
    optional("stop", LIST, "null"),
    optional("max_tokens", INT, "null"),
    optional("presence_penalty", DOUBLE, "null"),
    // The package describes it so, and literals lose their fraction.
    optional("frequency_penalty", INT, "null"),
    optional("logit_bias", OBJECT, "{}"),
    optional("tool_choice", &["object", "string"], "null"),
    optional("tools", LIST, "null"),
    optional("response_format", OBJECT, "null"),
    optional("seed", INT, "null"),
    optional("suffix", STRING, "null"),
    optional("logprobs", INT, "null"),
    optional("echo", BOOL, "false"),
    optional("best_of", INT, "1"),
];

const OPEN_MODEL: &[Parameter] = &[
    // Ours: where promptflow finds the endpoint in Azure, here a connection says it.
    optional("connection", HIDDEN, "null"),
    required("prompt", PROMPT),
    required("api", STRING),
    required("endpoint_name", STRING),
    optional("deployment_name", STRING, "null"),
    optional("temperature", DOUBLE, "1.0"),
    optional("max_new_tokens", INT, "500"),
    optional("top_p", DOUBLE, "1.0"),
    optional("model_kwargs", OBJECT, "{}"),
    optional("endpoint_url", HIDDEN, "null"),
    optional("endpoint_api_key", HIDDEN, "null"),
    optional("model_family", HIDDEN, "null"),
];

const TEMPLATE: &[Parameter] = &[required("template", PROMPT)];

const fn tool(
    id: &'static str,
    description: &'static str,
    kind: Kind,
    parameters: &'static [Parameter],
    open: bool,
) -> Tool {
    Tool {
        id,
        description,
        kind,
        parameters,
        open,
    }
}

/// All of them.
pub const TOOLS: &[Tool] = &[
    tool(
        "promptflow.tools.template_rendering.render_template_jinja2",
        "Render text template using Jinja2",
        Kind::Render,
        TEMPLATE,
        true,
    ),
    tool(
        "promptflow.tools.template_rendering.prompt_result",
        "Render text template, and once more with the roles in flow inputs escaped",
        Kind::PromptResult,
        TEMPLATE,
        true,
    ),
    tool(
        "promptflow.tools.template_rendering.inspect_template",
        "The variables of a template, or why it is none",
        Kind::Inspect,
        TEMPLATE,
        false,
    ),
    tool(
        "promptflow.tools.common.render_jinja_template",
        "Render a Jinja2 template",
        Kind::RenderJinja,
        &[
            required("template_content", PROMPT),
            optional("trim_blocks", BOOL, "true"),
            optional("keep_trailing_newline", BOOL, "true"),
            optional("escape_dict", OBJECT, "{}"),
        ],
        true,
    ),
    tool(
        "promptflow.tools.common.parse_chat",
        "The messages in a chat's text",
        Kind::ParseChat,
        &[
            required("chat_str", STRING),
            optional("images", LIST, "null"),
            optional("valid_roles", LIST, "null"),
            optional("image_detail", STRING, "\"auto\""),
            optional("escape_dict", OBJECT, "{}"),
        ],
        false,
    ),
    tool(
        "promptflow.tools.aoai.AzureOpenAI.chat",
        "Chat with a model of Azure OpenAI",
        Kind::Chat(Provider::Azure),
        chat!(init("connection", AZURE), DEPLOYMENT, "1.0", N),
        true,
    ),
    tool(
        "promptflow.tools.aoai.AzureOpenAI.completion",
        "Complete a text with a model of Azure OpenAI",
        Kind::Completion(Provider::Azure),
        completion!(init("connection", AZURE), DEPLOYMENT),
        true,
    ),
    tool(
        "promptflow.tools.aoai.chat",
        "Chat with a model of Azure OpenAI",
        Kind::Chat(Provider::Azure),
        chat!(required("connection", AZURE), DEPLOYMENT, "1", N),
        true,
    ),
    tool(
        "promptflow.tools.aoai.completion",
        "Complete a text with a model of Azure OpenAI",
        Kind::Completion(Provider::Azure),
        completion!(required("connection", AZURE), DEPLOYMENT),
        true,
    ),
    tool(
        "promptflow.tools.openai.OpenAI.chat",
        "Chat with a model of OpenAI",
        Kind::Chat(Provider::OpenAi),
        chat!(init("connection", OPENAI), NO_MODEL, "1.0"),
        true,
    ),
    tool(
        "promptflow.tools.openai.OpenAI.completion",
        "Complete a text with a model of OpenAI",
        Kind::Completion(Provider::OpenAi),
        completion!(init("connection", OPENAI), DAVINCI),
        true,
    ),
    tool(
        "promptflow.tools.openai.chat",
        "Chat with a model of OpenAI",
        Kind::Chat(Provider::OpenAi),
        chat!(required("connection", OPENAI), NO_MODEL, "1"),
        true,
    ),
    tool(
        "promptflow.tools.openai.completion",
        "Complete a text with a model of OpenAI",
        Kind::Completion(Provider::OpenAi),
        completion!(required("connection", OPENAI), DAVINCI),
        true,
    ),
    tool(
        "promptflow.tools.llm.llm",
        "Use OpenAI-like Large Language Model for text completion or chat.",
        Kind::Llm,
        LLM,
        true,
    ),
    tool(
        "promptflow.tools.embedding.embedding",
        "Use Open AI's embedding model to create an embedding vector representing the input text.",
        Kind::Embedding,
        &[
            required("connection", ANY),
            required("input", STRING),
            NO_DEPLOYMENT,
            optional("model", STRING, "\"text-embedding-ada-002\""),
        ],
        false,
    ),
    tool(
        "promptflow.tools.llm_vision.llm_vision",
        "Use OpenAI-like Large Language Model to leverage vision ability.",
        Kind::LlmVision,
        vision!(
            required("connection", AZURE_OR_OPENAI),
            NO_DEPLOYMENT,
            NO_MODEL
        ),
        true,
    ),
    tool(
        "promptflow.tools.aoai_gpt4v.AzureOpenAI.chat",
        "Use Azure OpenAI GPT-4 Turbo with Vision to leverage AOAI vision ability.",
        Kind::Vision(Provider::Azure),
        vision!(init("connection", AZURE), DEPLOYMENT),
        true,
    ),
    tool(
        "promptflow.tools.openai_gpt4v.OpenAI.chat",
        "Use OpenAI GPT-4V to leverage vision ability.",
        Kind::Vision(Provider::OpenAi),
        vision!(
            init("connection", OPENAI),
            optional("model", STRING, "\"gpt-4-vision-preview\"")
        ),
        true,
    ),
    tool(
        "promptflow.tools.serpapi.SerpAPI.search",
        "Use Serp API to obtain search results from a specific search engine.",
        Kind::Search,
        search!(init("connection", &["SerpConnection"])),
        false,
    ),
    tool(
        "promptflow.tools.serpapi.search",
        "Use Serp API to obtain search results from a specific search engine.",
        Kind::Search,
        search!(required("connection", &["SerpConnection"])),
        false,
    ),
    tool(
        "promptflow.tools.azure_content_safety.analyze_text",
        "Use Azure Content Safety to detect harmful content.",
        Kind::ContentSafety,
        CONTENT_SAFETY,
        false,
    ),
    tool(
        "content_safety_text.tools.content_safety_text_tool.analyze_text",
        "Use Azure Content Safety to detect harmful content.",
        Kind::ContentSafety,
        CONTENT_SAFETY,
        false,
    ),
    tool(
        "promptflow.tools.open_model_llm.OpenModelLLM.call",
        "Use an open model from the Azure Model catalog, deployed to an AzureML Online Endpoint for LLM Chat or Completion API calls.",
        Kind::OpenModel,
        OPEN_MODEL,
        true,
    ),
];
