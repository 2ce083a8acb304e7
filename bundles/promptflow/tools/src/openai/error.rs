//! What the API answers instead of an answer, in the classes of the package `openai` and in promptflow's words.

use serde_json::Value;

use crate::coerce;
use crate::failure::Failure;
use crate::http::{NetworkError, Response};

const REFERENCE: &str =
    "Error reference: https://platform.openai.com/docs/guides/error-codes/api-errors";

/// Why a call has no answer.
#[derive(Debug, Clone)]
pub enum CallError {
    Api(ApiError),
    Other(Failure),
}

impl From<ApiError> for CallError {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<Failure> for CallError {
    fn from(failure: Failure) -> Self {
        Self::Other(failure)
    }
}

/// An error of the API, or on the way to it.
#[derive(Debug, Clone)]
pub struct ApiError {
    /// The class of the package `openai`.
    pub class: &'static str,
    pub message: String,
    /// None when there was no answer.
    pub status: Option<u16>,
    pub retry_after: Option<String>,
    /// The quota is used up, so waiting does not help.
    pub no_quota: bool,
    /// What happened on the way, where the message does not say it.
    pub cause: Option<String>,
}

impl From<NetworkError> for ApiError {
    fn from(error: NetworkError) -> Self {
        let (class, message, cause) = match error {
            NetworkError::TimedOut => ("APITimeoutError", "Request timed out.", None),
            NetworkError::Connection(why) => ("APIConnectionError", "Connection error.", Some(why)),
        };
        Self {
            class,
            message: message.to_owned(),
            status: None,
            retry_after: None,
            no_quota: false,
            cause,
        }
    }
}

impl ApiError {
    /// The error that an answer is.
    pub fn of(response: Response) -> Result<Self, Self> {
        let status = response.status;
        let retry_after = response.header("retry-after").map(str::to_owned);
        let text = response.text()?;
        let text = coerce::strip(&text);
        let body: Option<Value> = serde_json::from_str(text).ok();
        let said = body.as_ref().and_then(|body| match &body["error"] {
            Value::Null if body.get("error").is_none() => body["message"].as_str(),
            error => error["message"].as_str(),
        });
        let message = match said.filter(|said| !said.is_empty()) {
            Some(said) => format!("Error code: {status} - {said}"),
            None => format!("Error code: {status}"),
        };
        let kind = body.as_ref().map(|body| match &body["error"] {
            Value::Null => &body["type"],
            error => &error["type"],
        });
        Ok(Self {
            class: match status {
                400 => "BadRequestError",
                401 => "AuthenticationError",
                403 => "PermissionDeniedError",
                404 => "NotFoundError",
                409 => "ConflictError",
                422 => "UnprocessableEntityError",
                429 => "RateLimitError",
                500.. => "InternalServerError",
                _ => "APIStatusError",
            },
            message,
            status: Some(status),
            retry_after,
            no_quota: status == 429 && kind.is_some_and(|kind| kind == "insufficient_quota"),
            cause: None,
        })
    }

    /// Whether promptflow asks again.
    pub fn is_transient(&self) -> bool {
        let Some(status) = self.status else {
            let cause = self.cause.as_deref().unwrap_or_default().to_lowercase();
            let known = [
                "connection aborted",
                "server disconnected without sending a response",
            ];
            return self.class == "APITimeoutError"
                || known.iter().any(|known| cause.contains(known));
        };
        (status >= 500 || matches!(status, 429 | 422)) && !self.no_quota
    }

    /// promptflow's error for it.
    pub fn wrapped(&self) -> Failure {
        Failure::user("WrappedOpenAIError", self.refined())
    }

    /// promptflow's error for one that does not go away.
    pub fn exceeded(&self) -> Failure {
        let message = format!("Exceed max retry times. {}", self.refined());
        Failure::user("ExceedMaxRetryTimes", message)
    }

    /// promptflow's words, with advice where it has some.
    fn refined(&self) -> String {
        let Self { class, message, .. } = self;
        match advice(message) {
            Some(Advice::Instead(text)) => format!("OpenAI API hits {class}: {text}"),
            Some(Advice::Before(text)) => {
                format!("OpenAI API hits {class}: {text}. Original error: {message}")
            }
            None => format!("OpenAI API hits {class}: {message} [{REFERENCE}]"),
        }
    }
}

/// What promptflow says to an error.
enum Advice {
    Instead(&'static str),
    Before(&'static str),
}

fn advice(message: &str) -> Option<Advice> {
    let has = |part: &str| message.contains(part);
    Some(if message == "<empty message>" {
        Advice::Instead(
            "The api key is invalid or revoked. You can correct or regenerate the api key of your connection.",
        )
    } else if has("Unrecognized request argument supplied: functions") {
        Advice::Instead(
            "Current model does not support the `functions` parameter. If you are using openai connection, then please \
             use gpt-3.5-turbo, gpt-4, gpt-4-32k, gpt-3.5-turbo-0613 or gpt-4-0613. You can refer to \
             https://platform.openai.com/docs/guides/gpt/function-calling. If you are using azure openai connection, then \
             please first go to your Azure OpenAI resource, deploy model 'gpt-35-turbo' or 'gpt-4' with version 0613, then \
             go to prompt flow connection page, upgrade connection api version to '2023-07-01-preview'. You can refer to \
             https://learn.microsoft.com/en-us/azure/ai-services/openai/how-to/function-calling.",
        )
    } else if has("The completion operation does not work with the specified model")
        || (has("parameters are not available")
            && ["best_of", "echo", "logprobs"].into_iter().any(has))
    {
        Advice::Instead(
            "The completion operation does not work with the current model. Completion API is a legacy api and is going to \
             be deprecated soon. Please change to use Chat API for current model. You could refer to guideline at \
             https://aka.ms/pfdoc/chat-prompt or view the samples in our gallery that contain 'Chat' in the name.",
        )
    } else if has("Invalid content type. image_url is only supported by certain models") {
        Advice::Instead(
            "Current model does not support the image input. If you are using openai connection, then please use \
             gpt-4-vision-preview. You can refer to https://platform.openai.com/docs/guides/vision.If you are using azure \
             openai connection, then please first go to your Azure OpenAI resource, create a GPT-4 Turbo with Vision \
             deployment by selecting model name: \"gpt-4\" and model version \"vision-preview\". You can refer to \
             https://learn.microsoft.com/en-us/azure/ai-services/openai/how-to/gpt-with-vision",
        )
    } else if (has("'response_format' of type") && has("is not supported with this model."))
        || (has("Additional properties are not allowed") && has("unexpected) - 'response_format'"))
    {
        Advice::Instead(
            "The response_format parameter needs to be a dictionary such as {\"type\": \"text\"}. The value associated with \
             the type key should be either 'text' or 'json_object' If you are using openai connection, you can only set \
             response_format to { \"type\": \"json_object\" } when calling gpt-3.5-turbo-1106 or gpt-4-1106-preview to enable \
             JSON mode. You can refer to https://platform.openai.com/docs/guides/text-generation/json-mode. If you are using \
             azure openai connection, then please first go to your Azure OpenAI resource, deploy model 'gpt-35-turbo-1106' or \
             'gpt-4-1106-preview'. You can refer to \
             https://learn.microsoft.com/en-us/azure/ai-services/openai/how-to/json-mode?tabs=python.",
        )
    } else if has("Principal does not have access to API/Operation") {
        Advice::Instead(
            "Principal does not have access to API/Operation. If you are using azure openai connection, please make sure you \
             have proper role assignment on your azure openai resource. You can refer to \
             https://learn.microsoft.com/en-us/azure/ai-services/openai/how-to/role-based-access-control",
        )
    } else if has("messages with role 'tool' must be a response")
        || has("'tool_calls' must be followed by tool messages responding to each 'tool_call_id'")
    {
        Advice::Before(
            "Please make sure your chat prompt includes 'tool_calls' within the 'assistant' role. Also, the assistant message \
             must be followed by messages with role 'tool', matching ids of assistant message 'tool_calls' property. You could \
             refer to guideline at https://aka.ms/pfdoc/chat-prompt",
        )
    } else {
        return None;
    })
}
