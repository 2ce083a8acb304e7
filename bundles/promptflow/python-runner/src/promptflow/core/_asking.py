"""How a prompty asks a model: by which connection, with which parameters, how often, and what it makes of the answer."""

import copy
import json
import os
import re
import sys
from dataclasses import asdict

from promptflow.core import _tools
from promptflow.core._errors import (
    ExceedMaxRetryTimes,
    InvalidOutputKeyError,
    LLMError,
    UnknownConnectionType,
    WrappedOpenAIError,
)
from promptflow.core._model_configuration import ModelConfiguration
from promptflow.exceptions import SystemErrorException, UserErrorException

_VARIABLE = re.compile(r"^\$\{env:(.*)\}$")
# How often a model is asked again, and how many answers 422 in a row end it.
_TRIES, _UNPROCESSABLE = 10, 3
_LONGEST_WAIT = 60


# Connections.


def connection_of(configuration):
    """The connection that a model's configuration names, holds or describes."""
    if isinstance(configuration, ModelConfiguration):
        named, kind, fields = configuration.connection, configuration._type, asdict(configuration)
    else:
        fields = dict(configuration)
        named, kind = fields.get("connection"), fields.pop("type", None)
    if named:
        return _checked(_found(named) if isinstance(named, str) else named)
    return _made(kind, {name: _of_environment(value) for name, value in fields.items()})


def _found(name):
    from flowcell_runner import connections

    return connections.get(name)


def _made(kind, fields):
    from promptflow.connections import AzureOpenAIConnection, OpenAIConnection

    # Which model is asked says nothing about where.
    is_empty = not any(value for name, value in fields.items() if name not in ("azure_deployment", "model"))
    if kind in (AzureOpenAIConnection.TYPE, "azure_openai"):
        fields.setdefault("api_base", fields.get("azure_endpoint"))
        return AzureOpenAIConnection.from_env() if is_empty else AzureOpenAIConnection(**fields)
    if kind in (OpenAIConnection.TYPE, "openai"):
        return OpenAIConnection.from_env() if is_empty else OpenAIConnection(**fields)
    raise _unknown(kind)


def _checked(connection):
    from promptflow.connections import AzureOpenAIConnection, OpenAIConnection

    if not isinstance(connection, (AzureOpenAIConnection, OpenAIConnection)):
        raise _unknown(getattr(connection, "TYPE", type(connection).__name__))
    return connection


def _unknown(kind):
    return UnknownConnectionType(
        message=f"Not Support connection type {kind} for embedding api. Connection type should be in [AzureOpenAI, OpenAI]."
    )


def _of_environment(value):
    variable = _VARIABLE.match(value) if isinstance(value, str) else None
    return os.environ.get(variable[1], value) if variable else value


def client_of(connection, is_async):
    """A client of the package `openai`. How often to ask again is decided here, not there."""
    import openai
    from promptflow.connections import AzureOpenAIConnection

    if not isinstance(connection, AzureOpenAIConnection):
        kind = openai.AsyncOpenAI if is_async else openai.OpenAI
        return kind(max_retries=0, api_key=connection.api_key, organization=connection.organization, base_url=connection.base_url)
    kind = openai.AsyncAzureOpenAI if is_async else openai.AzureOpenAI
    key = {"api_key": connection.api_key} if connection.api_key else {"azure_ad_token_provider": connection.get_token}
    return kind(max_retries=0, api_version=connection.api_version, azure_endpoint=connection.api_base, **key)


# Parameters.


def parameters(model, prompt, connection):
    """What goes to the API: the parameters of the prompty, checked, and the prompt."""
    from promptflow.connections import AzureOpenAIConnection

    given = copy.copy(model.parameters)
    if isinstance(connection, AzureOpenAIConnection):
        given["extra_headers"] = {**given.get("extra_headers", {}), "ms-azure-ai-promptflow-called-from": "promptflow-core"}
    given["model"] = model._model
    given["prompt" if model.api == "completion" else "messages"] = prompt
    # Functions are what tools were once called: where both are given, they are not looked at.
    if "tools" in given:
        _tools.check_tools(given["tools"])
        given["tool_choice"] = _tools.tool_choice(given.get("tool_choice"))
    elif "functions" in given:
        _tools.check_functions(given["functions"])
        given["function_call"] = _tools.function_call(given.get("function_call"))
    return given


# Asking again.


class Attempts:
    """Which failures pass, and how long to wait until the next attempt."""

    def __init__(self):
        self._failed = self._unprocessable = 0

    def wait_after(self, error):
        """Seconds to wait, or what to raise in the error's place."""
        import openai

        if isinstance(error, (SystemErrorException, UserErrorException)):
            raise error
        name = type(error).__name__
        _print(f"Exception occurs: {name}: {error}")
        if not isinstance(error, openai.OpenAIError):
            raise LLMError(message=f"OpenAI API hits exception: {name}: {error}") from error
        status = getattr(error, "status_code", None)
        if getattr(error, "type", None) == "insufficient_quota" and status == 429:
            _print(f"{name} with insufficient quota. Throw user error.")
            raise WrappedOpenAIError(error) from error
        if not _is_passing(error, status, openai):
            raise WrappedOpenAIError(error) from error
        self._unprocessable = self._unprocessable + 1 if status == 422 else 0
        if self._failed == _TRIES or self._unprocessable == _UNPROCESSABLE:
            _print(f"{name} reached max retry. Exit retry with user error.")
            raise ExceedMaxRetryTimes(error) from error
        asked = error.response.headers.get("retry-after") if status is not None else None
        said = f"Retry-After={asked}" if asked else "but no Retry-After header"
        seconds = float(asked) if asked else min(2 + 2**self._failed, _LONGEST_WAIT)
        _print(f"{name} #{self._failed}, {said}, Back off {seconds} seconds for retry.")
        self._failed += 1
        return seconds


def _is_passing(error, status, openai):
    if status is not None:
        return status >= 500 or status in (422, 429)
    if isinstance(error, openai.APITimeoutError):
        return True
    # A connection that broke, not one that was never made.
    return isinstance(error, openai.APIConnectionError) and isinstance(error.__cause__, (ConnectionAbortedError, ConnectionResetError))


def _print(text):
    print(text, file=sys.stderr)


# Answers.


class Answer:
    """What the caller gets of the model's answer."""

    def __init__(self, model, given, outputs):
        self._api, self._outputs = model.api, outputs
        self.is_whole = model.response == "all"
        self.is_stream = bool(given.get("stream"))
        form = given.get("response_format")
        self.is_json = isinstance(form, dict) and form.get("type") == "json_object"

    def first(self, answer):
        """The first choice's content, or all of the message where it calls tools."""
        choice = answer.choices[0]
        if self._api == "completion":
            return self.content(choice.text)
        if choice.finish_reason in ("tool_calls", "function_calls"):
            return self.content(answer.model_dump()["choices"][0]["message"])
        return self.content(getattr(choice.message, "content", ""))

    def content(self, text):
        if not self.is_json:
            return text
        values = json.loads(text)
        for key in self._outputs or ():
            if key not in values:
                raise InvalidOutputKeyError(f"Cannot find {key} in response {list(values)}")
        return {key: values[key] for key in self._outputs} if self._outputs else values


class FirstChoice:
    """Of a stream's parts, the texts of the choice that comes first; None where another one begins."""

    def __init__(self):
        self._index = None

    def text_of(self, chunk):
        choice = chunk.choices[0] if chunk.choices else None
        text = ""
        if choice is not None:
            text = choice.delta.content if hasattr(choice, "delta") else choice.text
        if text and self._index is None:
            self._index = choice.index
        return (text if choice.index == self._index else None) if text else ""
