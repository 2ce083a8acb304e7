"""Clients of OpenAI, and of services that speak its API."""

import functools
import os

from ._base_client import AsyncClient, SyncClient, settings
from ._exceptions import OpenAIError
from ._types import is_given
from .resources import AsyncChat, AsyncCompletions, AsyncEmbeddings, AsyncModels, Chat, Completions, Embeddings, Models

_BASE_URL = "https://api.openai.com/v1"


class _OpenAI:
    """What both clients have: settings, from arguments or the environment."""

    # What `copy` hands on, beside what all clients have.
    _own_settings = ("organization", "project")

    def __init__(self, *, api_key=None, organization=None, project=None, base_url=None, webhook_secret=None,
                 websocket_base_url=None, _strict_response_validation=False, **given):  # fmt: skip
        api_key = api_key if api_key is not None else os.environ.get("OPENAI_API_KEY")
        if api_key is None:
            raise OpenAIError("there is no api_key: give it to the client, or set the environment variable OPENAI_API_KEY")
        # A function gives a key for each request.
        self._api_key_provider = api_key if callable(api_key) else None
        self.api_key = "" if callable(api_key) else api_key
        self.organization = organization if organization is not None else os.environ.get("OPENAI_ORG_ID")
        self.project = project if project is not None else os.environ.get("OPENAI_PROJECT_ID")
        base_url = base_url if base_url is not None else os.environ.get("OPENAI_BASE_URL")
        shared = settings(given)
        if given:
            raise TypeError(f"{type(self).__name__}() got an unexpected keyword argument {next(iter(given))!r}")
        super().__init__(_BASE_URL if base_url is None else base_url, **shared)

    def _credentials(self):
        if self._api_key_provider is not None:
            self.api_key = yield self._ask, self._api_key_provider
        key = {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        names = {"openai-organization": self.organization, "openai-project": self.project}
        return {**key, **{name: value for name, value in names.items() if value is not None}}

    def copy(self, *, default_headers=None, set_default_headers=None, default_query=None, set_default_query=None, **changes):
        """Another client with some settings changed."""
        for one, other in (("default_headers", default_headers and set_default_headers),
                           ("default_query", default_query and set_default_query)):  # fmt: skip
            if other:
                raise ValueError(f"{one} and set_{one} say different things: give one of them")
        given = {name: getattr(self, name) for name in (*self._own_settings, "base_url", "timeout", "max_retries")}
        given["api_key"] = self._api_key_provider or self.api_key
        given["default_headers"] = (
            set_default_headers if set_default_headers is not None else {**self._custom_headers, **(default_headers or {})}
        )
        given["default_query"] = set_default_query if set_default_query is not None else {**self._custom_query, **(default_query or {})}
        # None is a timeout, and "as it was" for all else.
        given.update({name: value for name, value in changes.items() if is_given(value) and (value is not None or name == "timeout")})
        return type(self)(**given)

    def with_options(self, **changes):
        return self.copy(**changes)


class OpenAI(_OpenAI, SyncClient):
    """Asks a service and waits for its answer.

    `api_key`, `organization`, `project` and `base_url` are those of the environment where they are not given (OPENAI_API_KEY,
    OPENAI_ORG_ID, OPENAI_PROJECT_ID, OPENAI_BASE_URL). `timeout` is in seconds, `max_retries` is how often a request is made again.
    """

    chat = functools.cached_property(Chat)
    completions = functools.cached_property(Completions)
    embeddings = functools.cached_property(Embeddings)
    models = functools.cached_property(Models)


class AsyncOpenAI(_OpenAI, AsyncClient):
    """As `OpenAI`, with calls to be awaited."""

    chat = functools.cached_property(AsyncChat)
    completions = functools.cached_property(AsyncCompletions)
    embeddings = functools.cached_property(AsyncEmbeddings)
    models = functools.cached_property(AsyncModels)
