"""Prompties: prompts with their model, called as functions."""

import asyncio
import functools
import time
from pathlib import Path

from promptflow.core import _asking, _messages, _prompty_file
from promptflow.core._errors import MissingRequiredInputError
from promptflow.core._model_configuration import PromptyModelConfiguration
from promptflow.exceptions import UserErrorException

SUFFIX = ".prompty"
# Tokens of a message beside its texts, of an answer's beginning, and of an image of 1024 by 1024 (OpenAI's price list).
_PER_MESSAGE, _PER_ANSWER, _PER_IMAGE = 3, 3, 765
_BYTES_PER_TOKEN = 4


class Prompty:
    """A prompt with its model: `Prompty.load(source=…)(question=…)`.

    What `load` is given beside the source takes the place of what the file says; `model` is merged into the file's, and its
    `configuration` may be a dictionary, a `ModelConfiguration`, or a dictionary that names or holds a connection.
    """

    def __init__(self, path, model=None, **kwargs):
        path = Path(path)
        self._path, self._code = path.resolve(), path.parent.resolve()
        settings, self._template = _prompty_file.read(path)
        resolved = functools.partial(_prompty_file.resolved, folder=path.parent)
        settings = _prompty_file.merged(resolved(settings), resolved(kwargs))
        settings["model"] = _prompty_file.merged(settings.get("model"), resolved(model or {}))
        self._data = settings
        self._model = PromptyModelConfiguration(**settings["model"])
        self._inputs, self._outputs = settings.get("inputs") or {}, settings.get("outputs") or {}
        self._name, self._sample = settings.get("name", path.stem), settings.get("sample")

    @classmethod
    def load(cls, source, **kwargs):
        path = Path(source)
        if not path.exists():
            raise UserErrorException(f"Source {path.absolute().as_posix()} does not exist")
        if path.suffix != SUFFIX:
            raise UserErrorException("Source must be a file with .prompty extension.")
        return cls(path=path, **kwargs)

    @property
    def code(self):
        """The folder of the file."""
        return self._code

    @property
    def path(self):
        """The file."""
        return self._path

    @property
    def name(self):
        """Its name: the file's own, or what it says."""
        return self._name

    @property
    def inputs(self):
        """What is declared of each input: type and default. Of those that only a sample tells of there is nothing."""
        if self._inputs:
            return {name: declared or {} for name, declared in self._inputs.items()}
        return dict.fromkeys(_prompty_file.sample_inputs(self._sample), {}) if self._sample else {}

    def __call__(self, *args, **kwargs):
        attempts = _asking.Attempts()
        while True:
            try:
                return self._ask(args, kwargs)
            except Exception as error:
                seconds = attempts.wait_after(error)
            time.sleep(seconds)

    def _ask(self, args, inputs):
        ask, answer = self._prepared(args, inputs, is_async=False)
        response = ask()
        if answer.is_whole:
            return response
        if not answer.is_stream:
            return answer.first(response)
        texts = _texts(response)
        return answer.content("".join(texts)) if answer.is_json else texts

    def _prepared(self, args, inputs, is_async):
        """What asks the model, and what becomes of its answer."""
        if args:
            raise UserErrorException("Prompty can only be called with keyword arguments.")
        values = self._values(inputs)
        connection = _asking.connection_of(self._model.configuration)
        given = _asking.parameters(self._model, self._prompt(values), connection)
        client = _asking.client_of(connection, is_async).with_options(timeout=inputs.get("timeout"))
        api = client.completions if self._model.api == "completion" else client.chat.completions
        return functools.partial(api.create, **given), _asking.Answer(self._model, given, self._outputs)

    def render(self, *args, **kwargs):
        """The prompt as it would be sent, as text."""
        if args:
            raise UserErrorException("Prompty can only be rendered with keyword arguments.")
        return str(self._prompt(self._values(kwargs)))

    def estimate_token_count(self, *args, **kwargs):
        """About how many tokens the prompt and the longest answer take: there is no model's tokenizer here."""
        if args:
            raise UserErrorException("Prompty can only be rendered with keyword arguments.")
        longest = self._model.parameters.get("max_tokens")
        if longest is not None and not isinstance(longest, int):
            raise UserErrorException("Max_token needs to be integer.")
        if longest is not None and longest <= 1:
            raise UserErrorException(f"{longest} is less than the minimum of max_tokens.")
        return _tokens(self._prompt(self._values(kwargs))) + (longest or 0)

    def _values(self, given):
        """The values of the inputs: as given, else the sample's when nothing is given, else the defaults."""
        if not given and self._sample:
            given = _prompty_file.sample_inputs(self._sample)
        inputs = self.inputs
        missing = [name for name, declared in inputs.items() if name not in given and "default" not in declared]
        if missing:
            raise MissingRequiredInputError(f"Missing required inputs: {missing}")
        values = {name: given[name] if name in given else declared["default"] for name, declared in inputs.items()}
        return {name: self._image_of(value) if isinstance(value, str) else value for name, value in values.items()}

    def _image_of(self, text):
        from flowcell_runner import media

        return media.image_line(text, self._path.parent)

    def _prompt(self, values):
        from flowcell_runner import templates

        template = _messages.with_image_lines(self._template)
        if self._model.api != "completion":
            return _messages.messages(template, values, templates.fill)
        try:
            return templates.fill(template, values)
        except Exception as error:
            raise UserErrorException("Failed to render jinja template. Please modify your prompt to fix the issue.") from error


class AsyncPrompty(Prompty):
    """The same to be awaited; a stream is gone through by `async for`."""

    async def __call__(self, *args, **kwargs):
        attempts = _asking.Attempts()
        while True:
            try:
                return await self._ask(args, kwargs)
            except Exception as error:
                seconds = attempts.wait_after(error)
            await asyncio.sleep(seconds)

    async def _ask(self, args, inputs):
        ask, answer = self._prepared(args, inputs, is_async=True)
        response = await ask()
        if answer.is_whole:
            return response
        if not answer.is_stream:
            return answer.first(response)
        texts = _async_texts(response)
        return answer.content("".join([text async for text in texts])) if answer.is_json else texts


def _texts(stream):
    first = _asking.FirstChoice()
    with stream:
        for chunk in stream:
            text = first.text_of(chunk)
            if text is None:
                return
            if text:
                yield text


async def _async_texts(stream):
    first = _asking.FirstChoice()
    async with stream:
        async for chunk in stream:
            text = first.text_of(chunk)
            if text is None:
                return
            if text:
                yield text


def _tokens(prompt):
    if isinstance(prompt, str):
        return -(-len(prompt.encode()) // _BYTES_PER_TOKEN)
    return _PER_ANSWER + sum(_PER_MESSAGE + sum(_tokens_of(value) for value in message.values()) for message in prompt)


def _tokens_of(value):
    if isinstance(value, list):
        return sum(_PER_IMAGE if part.get("type") == "image_url" else _tokens(part.get("text") or str(part)) for part in value)
    return _tokens(str(value))
