"""OpenAI's API for Python tools: flowcell's own package, in pure Python, where OpenAI's needs native modules.

It has the names and the behaviour of OpenAI's package of the version that `__version__` says, for chat, completions,
embeddings and models; docs/python.md lists what is different.
"""

from . import _module_client, types
from ._base_client import ELSEWHERE, APIResponse
from ._client import AsyncOpenAI, OpenAI
from ._exceptions import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    ContentFilterFinishReasonError,
    InternalServerError,
    LengthFinishReasonError,
    NotFoundError,
    NotOffered,
    OpenAIError,
    PermissionDeniedError,
    RateLimitError,
    UnprocessableEntityError,
)
from ._models import BaseModel
from ._streaming import AsyncStream, Stream
from ._types import DEFAULT_MAX_RETRIES, DEFAULT_TIMEOUT, NOT_GIVEN, NotGiven, Omit, Timeout, not_given, omit
from .lib.azure import AsyncAzureOpenAI, AzureOpenAI
from .version import VERSION

__title__ = "openai"
__version__ = VERSION

Client, AsyncClient = OpenAI, AsyncOpenAI

# Settings of the client that this module is.
api_key = organization = project = base_url = default_headers = default_query = None
timeout, max_retries = DEFAULT_TIMEOUT, DEFAULT_MAX_RETRIES
api_type = api_version = azure_endpoint = azure_ad_token = azure_ad_token_provider = None

_OF_VERSION_0 = ("Audio", "ChatCompletion", "Completion", "Customer", "Edit", "Embedding", "Engine", "Image", "Moderation")


def __getattr__(name):
    if name in _module_client.NAMES:
        return getattr(_module_client.current(), name)
    if name in _OF_VERSION_0:
        raise AttributeError(
            f"openai.{name} is of the package's versions below 1, and this is {VERSION}: "
            "see openai.OpenAI().chat.completions, .completions and .embeddings"
        )
    if name in ELSEWHERE:
        raise NotOffered(f"openai.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "APIConnectionError", "APIError", "APIResponse", "APIResponseValidationError", "APIStatusError", "APITimeoutError",
    "AsyncAzureOpenAI", "AsyncClient", "AsyncOpenAI", "AsyncStream", "AuthenticationError", "AzureOpenAI", "BadRequestError",
    "BaseModel", "Client", "ConflictError", "ContentFilterFinishReasonError", "DEFAULT_MAX_RETRIES", "DEFAULT_TIMEOUT",
    "InternalServerError", "LengthFinishReasonError", "NOT_GIVEN", "NotFoundError", "NotGiven", "Omit", "OpenAI",
    "OpenAIError", "PermissionDeniedError", "RateLimitError", "Stream", "Timeout", "UnprocessableEntityError", "VERSION",
    "not_given", "omit", "types",
]  # fmt: skip

for _name in __all__:
    # Messages and pickles name them where users import them.
    if isinstance(globals()[_name], type):
        globals()[_name].__module__ = __name__
