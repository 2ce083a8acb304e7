"""Errors of prompties and their connections, with promptflow's classes and words."""

from promptflow.exceptions import ErrorTarget, UserErrorException


class CoreError(UserErrorException):
    """The base of most of them."""

    def __init__(self, message="", message_format="", target=ErrorTarget.CORE, module=None, **kwargs):
        super().__init__(message=message, message_format=message_format, target=target, module=module, **kwargs)


class RequiredEnvironmentVariablesNotSetError(CoreError):
    """A connection was to be made of environment variables that are not all there."""

    def __init__(self, env_vars, cls_name):
        super().__init__(f"Required environment variables {env_vars} to build {cls_name} not set.")


class InvalidConnectionError(CoreError):
    """A configuration that contradicts itself."""


class ConnectionNotFoundError(UserErrorException):
    """There is no connection of that name."""


class UnknownConnectionType(UserErrorException):
    """A connection of a type that prompties cannot use."""


class JinjaTemplateError(CoreError):
    """A template that does not render."""


class ChatAPIInvalidRoleError(CoreError):
    """A prompt whose text is no message of any role."""


class ChatAPIFunctionRoleInvalidFormat(CoreError):
    """What a function said, without its name."""


class ChatAPIToolRoleInvalidFormat(CoreError):
    """What a tool said, without the call that it answers."""


class MissingRequiredInputError(CoreError):
    """An input that was not given and has no default."""


class InvalidOutputKeyError(CoreError):
    """An output that the answer has not."""


class InvalidSampleError(CoreError):
    """A sample that is neither inputs nor a file of them."""


class ToolValidationError(UserErrorException):
    """Tools for a model that are not described as they must be."""


class ChatAPIInvalidFunctions(ToolValidationError):
    """The parameter `functions`."""


class ChatAPIInvalidTools(ToolValidationError):
    """The parameter `tools`."""


class LLMError(UserErrorException):
    """What went wrong around a request, and is no error of the API."""


class WrappedOpenAIError(UserErrorException):
    """An error of the API, with advice where promptflow has some."""

    def __init__(self, ex, **kwargs):
        self._ex = ex
        super().__init__(**kwargs)

    @property
    def message(self):
        return f"OpenAI API hits {type(self._ex).__name__}: {_advice(str(self._ex))}"

    @property
    def error_codes(self):
        return ["UserError", "OpenAIError", type(self._ex).__name__]

    def __reduce__(self):
        return type(self), (self._ex,)


class ExceedMaxRetryTimes(WrappedOpenAIError):
    """An error that stayed."""

    @property
    def message(self):
        return f"Exceed max retry times. {super().message}"


def _advice(message):
    for words, advice in _ADVICE:
        if all(any(one in message for one in ([word] if isinstance(word, str) else word)) for word in words):
            return advice
    if message == "<empty message>":
        return "The api key is invalid or revoked. You can correct or regenerate the api key of your connection."
    return f"{message} [Error reference: https://platform.openai.com/docs/guides/error-codes/api-errors]"


_COMPLETION = (
    "The completion operation does not work with the current model. "
    "Completion API is a legacy api and is going to be deprecated soon. "
    "Please change to use Chat API for current model."
)
_RESPONSE_FORMAT = (
    'The response_format parameter needs to be a dictionary such as {"type": "text"}. '
    "The value associated with the type key should be either 'text' or 'json_object' "
    'If you are using openai connection, you can only set response_format to { "type": "json_object" } '
    "when calling gpt-3.5-turbo-1106 or gpt-4-1106-preview to enable JSON mode. You can refer to "
    "https://platform.openai.com/docs/guides/text-generation/json-mode. If you are using azure openai "
    "connection, then please first go to your Azure OpenAI resource, compatible with GPT-4 Turbo and "
    "all GPT-3.5 Turbo models newer than gpt-35-turbo-1106. You can refer to "
    "https://learn.microsoft.com/en-us/azure/ai-services/openai/how-to/json-mode?tabs=python."
)
# What to say where a message has all these words; a tuple of words stands for any of them.
_ADVICE = [
    (
        ["Unrecognized request argument supplied: functions"],
        "Current model does not support the `functions` parameter. If you are using openai connection, then "
        "please use gpt-3.5-turbo, gpt-4, gpt-4-32k, gpt-3.5-turbo-0613 or gpt-4-0613. You can refer to "
        "https://platform.openai.com/docs/guides/gpt/function-calling. If you are using azure openai "
        "connection, then please first go to your Azure OpenAI resource, deploy model 'gpt-35-turbo' or "
        "'gpt-4' with version 0613. You can refer to "
        "https://learn.microsoft.com/en-us/azure/ai-services/openai/how-to/function-calling.",
    ),
    (["The completion operation does not work with the specified model"], _COMPLETION),
    (["parameters are not available", ("best_of", "echo", "logprobs")], _COMPLETION),
    (
        ["Invalid content type. image_url is only supported by certain models"],
        "Current model does not support the image input. If you are using openai connection, then please use "
        "gpt-4-vision-preview. You can refer to https://platform.openai.com/docs/guides/vision."
        "If you are using azure openai connection, then please first go to your Azure OpenAI resource, "
        'create a GPT-4 Turbo with Vision deployment by selecting model name: "gpt-4" and '
        'model version "vision-preview". You can refer to '
        "https://learn.microsoft.com/en-us/azure/ai-services/openai/how-to/gpt-with-vision",
    ),
    (["'response_format' of type", "is not supported with this model."], _RESPONSE_FORMAT),
    (["Additional properties are not allowed", "unexpected) - 'response_format'"], _RESPONSE_FORMAT),
    (
        ["Principal does not have access to API/Operation"],
        "Principal does not have access to API/Operation. If you are using azure openai connection, "
        "please make sure you have proper role assignment on your azure openai resource. You can refer to "
        "https://learn.microsoft.com/en-us/azure/ai-services/openai/how-to/role-based-access-control",
    ),
]
