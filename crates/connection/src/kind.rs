//! promptflow's types of connections and their fields (`promptflow._sdk.schemas._connection`, `promptflow.core._connection`).

use std::fmt;

use serde::{Deserialize, Serialize};

/// A type of connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionType {
    /// Azure OpenAI.
    AzureOpenAi,
    /// OpenAI, and whatever speaks like it.
    OpenAi,
    /// A model that Azure hosts, spoken to as OpenAI is.
    Serverless,
    /// SerpAPI.
    Serp,
    /// Qdrant.
    Qdrant,
    /// Weaviate.
    Weaviate,
    /// Azure AI Search.
    CognitiveSearch,
    /// Azure AI services.
    AzureAiServices,
    /// Azure AI Content Safety.
    AzureContentSafety,
    /// Azure AI Document Intelligence.
    FormRecognizer,
    /// Settings and secrets of the user's choosing.
    Custom,
}

/// A setting of a type; its secret is always `api_key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    pub(crate) need: Need,
}

/// Whether a setting must be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Required,
    Optional,
    Default(&'static str),
}

/// The one secret of all types but custom.
pub(crate) const API_KEY: &str = "api_key";
/// How a connection signs in.
pub(crate) const AUTH_MODE: &str = "auth_mode";

const fn required(name: &'static str) -> Setting {
    Setting {
        name,
        need: Need::Required,
    }
}

const fn optional(name: &'static str) -> Setting {
    Setting {
        name,
        need: Need::Optional,
    }
}

const fn default(name: &'static str, value: &'static str) -> Setting {
    Setting {
        name,
        need: Need::Default(value),
    }
}

impl ConnectionType {
    /// All types, in promptflow's order.
    pub const ALL: [Self; 11] = [
        Self::AzureOpenAi,
        Self::OpenAi,
        Self::Serverless,
        Self::Serp,
        Self::Qdrant,
        Self::Weaviate,
        Self::CognitiveSearch,
        Self::AzureAiServices,
        Self::AzureContentSafety,
        Self::FormRecognizer,
        Self::Custom,
    ];

    /// Its name in files and in the API: `azure_open_ai`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AzureOpenAi => "azure_open_ai",
            Self::OpenAi => "open_ai",
            Self::Serverless => "serverless",
            Self::Serp => "serp",
            Self::Qdrant => "qdrant",
            Self::Weaviate => "weaviate",
            Self::CognitiveSearch => "cognitive_search",
            Self::AzureAiServices => "azure_ai_services",
            Self::AzureContentSafety => "azure_content_safety",
            Self::FormRecognizer => "form_recognizer",
            Self::Custom => "custom",
        }
    }

    /// promptflow's name for it in messages: `AzureOpenAI`.
    pub fn type_name(self) -> &'static str {
        self.class_name()
            .strip_suffix("Connection")
            .unwrap_or_default()
    }

    /// The Python class of such connections: `AzureOpenAIConnection`.
    pub fn class_name(self) -> &'static str {
        match self {
            Self::AzureOpenAi => "AzureOpenAIConnection",
            Self::OpenAi => "OpenAIConnection",
            Self::Serverless => "ServerlessConnection",
            Self::Serp => "SerpConnection",
            Self::Qdrant => "QdrantConnection",
            Self::Weaviate => "WeaviateConnection",
            Self::CognitiveSearch => "CognitiveSearchConnection",
            Self::AzureAiServices => "AzureAIServicesConnection",
            Self::AzureContentSafety => "AzureContentSafetyConnection",
            Self::FormRecognizer => "FormRecognizerConnection",
            Self::Custom => "CustomConnection",
        }
    }

    /// The Python module that promptflow says the class is in.
    pub fn module(self) -> &'static str {
        match self {
            Self::Qdrant | Self::Weaviate => "promptflow_vectordb.connections",
            _ => "promptflow.connections",
        }
    }

    /// Reads a type as promptflow writes it anywhere: `azure_open_ai` in files, `AzureOpenAI` in messages,
    /// `AzureOpenAIConnection` in tools.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| [kind.as_str(), kind.type_name(), kind.class_name()].contains(&text))
    }

    /// The settings, in promptflow's order.
    pub(crate) fn settings(self) -> &'static [Setting] {
        const AZURE_OPEN_AI: &[Setting] = &[
            required("api_base"),
            default("api_type", "azure"),
            default("api_version", "2024-02-01"),
            default(AUTH_MODE, "key"),
            optional("resource_id"),
        ];
        const SEARCH: &[Setting] = &[
            required("api_base"),
            default("api_version", "2023-11-01"),
            default(AUTH_MODE, "key"),
        ];
        const CONTENT_SAFETY: &[Setting] = &[
            required("endpoint"),
            default("api_version", "2023-10-01"),
            default("api_type", "Content Safety"),
        ];
        const FORM_RECOGNIZER: &[Setting] = &[
            required("endpoint"),
            default("api_version", "2023-07-31"),
            default("api_type", "Form Recognizer"),
        ];
        match self {
            Self::AzureOpenAi => AZURE_OPEN_AI,
            Self::OpenAi => const { &[optional("organization"), optional("base_url")] },
            Self::Serverless | Self::Qdrant | Self::Weaviate => const { &[required("api_base")] },
            Self::Serp | Self::Custom => &[],
            Self::CognitiveSearch => SEARCH,
            Self::AzureAiServices => const { &[required("endpoint"), default(AUTH_MODE, "key")] },
            Self::AzureContentSafety => CONTENT_SAFETY,
            Self::FormRecognizer => FORM_RECOGNIZER,
        }
    }

    /// Whether an identity may take the key's place.
    pub(crate) fn has_auth_mode(self) -> bool {
        let mut settings = self.settings().iter();
        settings.any(|setting| setting.name == AUTH_MODE)
    }

    /// The names of all fields, for messages.
    pub(crate) fn field_names(self) -> Vec<&'static str> {
        if self == Self::Custom {
            return vec![
                "configs",
                "secrets",
                "custom_type",
                "module",
                "package",
                "package_version",
            ];
        }
        let settings = self.settings().iter().map(|setting| setting.name);
        std::iter::once(API_KEY).chain(settings).collect()
    }

    pub(crate) fn listed() -> String {
        let names: Vec<String> = Self::ALL
            .iter()
            .map(|kind| format!("'{}'", kind.type_name()))
            .collect();
        names.join(", ")
    }
}

impl fmt::Display for ConnectionType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
