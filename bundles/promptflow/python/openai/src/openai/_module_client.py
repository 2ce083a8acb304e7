"""The client that the module itself is: `openai.api_key = …; openai.chat.completions.create(…)`.

Its settings are variables of the module, read at each use, so that what is set later counts.
"""

import os
import sys

from ._client import OpenAI
from ._exceptions import OpenAIError
from .lib.azure import AzureOpenAI

NAMES = ("chat", "completions", "embeddings", "models")
_SETTINGS = ("api_key", "organization", "base_url", "timeout", "max_retries", "default_headers", "default_query")
_OF_AZURE = ("api_version", "azure_endpoint", "azure_ad_token", "azure_ad_token_provider")


def current():
    module = sys.modules[__package__]

    def given(*names):
        return {name: getattr(module, name) for name in names if getattr(module, name) is not None or name == "timeout"}

    kind = module.api_type or os.environ.get("OPENAI_API_TYPE") or _likely_type(given(*_OF_AZURE[1:]))
    if kind == "azure":
        return AzureOpenAI(**given(*_SETTINGS, *_OF_AZURE))
    return OpenAI(**given(*_SETTINGS, "project"))


def _likely_type(of_azure):
    names = ("AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_AD_TOKEN")
    is_azure = bool(of_azure) or any(name in os.environ for name in names)
    if is_azure and "OPENAI_API_KEY" in os.environ:
        raise OpenAIError(
            "the environment has credentials of OpenAI and of Azure: set openai.api_type (or OPENAI_API_TYPE) to 'openai' or 'azure'"
        )
    return "azure" if is_azure else "openai"
