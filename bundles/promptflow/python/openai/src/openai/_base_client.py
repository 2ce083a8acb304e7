"""What all clients share: how a request is made, when it is made again, and what becomes of the answer.

The way of a request is a generator, which says what to do next and gets what came of it; a client does that by waiting for
it, an asynchronous one by awaiting it.
"""

import collections.abc
import dataclasses
import email.utils
import http.client
import inspect
import itertools
import json
import random
import time
from urllib.parse import quote_plus

from . import _wire
from ._exceptions import APIConnectionError, APIError, APIResponseValidationError, APITimeoutError, NotOffered, status_error
from ._models import BaseModel
from ._streaming import AsyncStream, Stream
from ._types import DEFAULT_MAX_RETRIES, DEFAULT_TIMEOUT, NOT_GIVEN, Omit, Timeout, is_given
from ._wire import AnswerTooLong, Request
from .version import VERSION

# Seconds before a request is made again when the service does not say, and the longest wait that it may ask for.
_FIRST_WAIT, _LONGEST_WAIT, _LONGEST_ASKED = 0.5, 8.0, 60
ELSEWHERE = frozenset(
    "audio batches beta containers conversations evals files fine_tuning images moderations realtime responses uploads "
    "vector_stores videos webhooks with_raw_response with_streaming_response".split()
)


@dataclasses.dataclass
class Call:
    """One call of the API: what to ask, and what to make of the answer."""

    method: str
    path: str
    cast: object
    body: object = None
    query: dict | None = None
    headers: dict | None = None
    timeout: object = NOT_GIVEN
    max_retries: object = NOT_GIVEN
    is_stream: bool = False
    is_raw: bool = False


class APIResponse:
    """An answer as it came, from `with_raw_response`; `parse` gives what the call gives otherwise."""

    def __init__(self, response, parsed):
        self.http_response, self._parsed = response, parsed
        self.headers, self.status_code, self.http_request = response.headers, response.status_code, response.request
        self.request_id = response.headers.get("x-request-id")

    content = property(lambda self: self.http_response.content)
    text = property(lambda self: self.http_response.text)

    def json(self):
        return self.http_response.json()

    def parse(self):
        return self._parsed


class BaseClient:
    _stream_class = Stream

    def __init__(self, base_url, timeout, max_retries, default_headers, default_query, http_client):
        if http_client is not None:
            raise NotOffered("http_client")
        if max_retries is None or max_retries < 0:
            raise TypeError(f"max_retries is a number from 0 on, and not {max_retries!r}")
        self.base_url = str(base_url).rstrip("/") + "/"
        self.timeout = timeout if is_given(timeout) else DEFAULT_TIMEOUT
        self.max_retries = max_retries
        self._custom_headers, self._custom_query = dict(default_headers or {}), dict(default_query or {})

    def __getattr__(self, name):
        if name in ELSEWHERE:
            raise NotOffered(f"client.{name}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # What the kinds of services differ in.

    def _credentials(self):
        """Headers that say who asks: a generator, as all steps are."""
        raise NotImplementedError

    def _url(self, call):
        return call.path if "://" in call.path else self.base_url + call.path.lstrip("/")

    # Calls.

    def get(self, path, *, cast_to, options=None, **others):
        return self.request("GET", path, cast_to=cast_to, **(options or {}), **others)

    def post(self, path, *, cast_to, body=None, options=None, **others):
        return self.request("POST", path, cast_to=cast_to, body=body, **(options or {}), **others)

    def request(
        self, method, path, *, cast_to, body=None, stream=False, stream_cls=None, headers=None, params=None,
        extra_headers=None, extra_query=None, extra_body=None, timeout=NOT_GIVEN, max_retries=NOT_GIVEN, raw=False,
    ):  # fmt: skip
        """Asks for a path of the service. `cast_to` is called with the members of the JSON object that it answers, as the
        classes of `openai.types` are; `object` stands for the JSON itself."""
        if isinstance(body, dict):
            body = {name: value for name, value in body.items() if is_given(value)}
        body = {**(body or {}), **extra_body} if extra_body else body
        call = Call(
            method, path, cast_to, body, {**(params or {}), **(extra_query or {})}, {**(headers or {}), **(extra_headers or {})},
            timeout, max_retries, bool(stream) and is_given(stream), raw,
        )  # fmt: skip
        return self._run(self._steps(call))

    def _steps(self, call):
        retries = call.max_retries if is_given(call.max_retries) else self.max_retries
        for taken in itertools.count():
            request = yield from self._request(call)
            try:
                response = yield self._send, request
                if call.is_stream and response.is_success:
                    return self._answer(call, response)
                yield self._read, response
            except AnswerTooLong as error:
                raise APIError(str(error), request, body=None) from None
            except Exception as error:
                # What the session may not ask, it may not ask a moment later.
                if taken >= retries or isinstance(error, PermissionError):
                    raise _not_answered(error, request) from error
                wait = _wait(taken, {})
            else:
                if response.is_success:
                    return self._answer(call, response)
                if taken >= retries or not _is_passing(response):
                    raise status_error(response)
                wait = _wait(taken, response.headers)
            yield self._sleep, wait

    def _request(self, call):
        agent = f"{type(self).__name__}/Python {VERSION} (flowcell)"
        headers = {"accept": "application/json", "user-agent": agent}
        if call.method != "GET":
            headers["content-type"] = "application/json"
        given = {**_lower(self._custom_headers), **_lower(call.headers or {})}
        for name, value in {**headers, **(yield from self._credentials()), **given}.items():
            headers.pop(name, None)
            if value is not None and not isinstance(value, Omit):
                headers[name] = str(value)
        content = b"" if call.method != "GET" else None
        if call.body is not None:
            content = json.dumps(call.body, default=_plain, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        query = _query({**self._custom_query, **(call.query or {})})
        url = self._url(call) + (f"?{query}" if query else "")
        timeout = call.timeout if is_given(call.timeout) else self.timeout
        return Request(call.method, url, headers, content, Timeout.of(timeout))

    def _answer(self, call, response):
        def cast(value):
            if call.cast is object:
                return value
            if not isinstance(value, dict):
                raise APIResponseValidationError(response, value)
            made = call.cast(**value)
            if isinstance(made, BaseModel):
                made._request_id = response.headers.get("x-request-id")
            return made

        if call.is_stream:
            parsed = self._stream_class(response, cast)
        else:
            try:
                parsed = cast(response.json())
            except (ValueError, RecursionError):
                raise APIResponseValidationError(response, response.text) from None
        return APIResponse(response, parsed) if call.is_raw else parsed


class SyncClient(BaseClient):
    """Does what a request's steps say, one after the other."""

    def _run(self, steps):
        outcome = failure = None
        while True:
            try:
                do, argument = steps.send(outcome) if failure is None else steps.throw(failure)
            except StopIteration as end:
                return end.value
            outcome = failure = None
            try:
                outcome = do(argument)
            except Exception as error:
                failure = error

    def _send(self, request):
        return _wire.send(request)

    def _read(self, response):
        response.read()

    def _sleep(self, seconds):
        time.sleep(seconds)

    def _ask(self, provider):
        return provider()

    def close(self):
        """There is nothing to close: each answer closes its connection."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class AsyncClient(BaseClient):
    """Awaits what a request's steps say."""

    _stream_class = AsyncStream

    async def _run(self, steps):
        outcome = failure = None
        while True:
            try:
                do, argument = steps.send(outcome) if failure is None else steps.throw(failure)
            except StopIteration as end:
                return end.value
            outcome = failure = None
            try:
                outcome = await do(argument)
            except Exception as error:
                failure = error

    async def _send(self, request):
        from ._async_wire import send  # asyncio is not small

        return await send(request)

    async def _read(self, response):
        await response.aread()

    async def _sleep(self, seconds):
        import asyncio

        await asyncio.sleep(seconds)

    async def _ask(self, provider):
        found = provider()
        return await found if inspect.isawaitable(found) else found

    async def close(self):
        """There is nothing to close: each answer closes its connection."""

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.close()


def settings(given):
    """The arguments of a client that are the same for all services, with their defaults."""
    return {
        "timeout": given.pop("timeout", NOT_GIVEN),
        "max_retries": given.pop("max_retries", DEFAULT_MAX_RETRIES),
        "default_headers": given.pop("default_headers", None),
        "default_query": given.pop("default_query", None),
        "http_client": given.pop("http_client", None),
    }


def _lower(headers):
    return {name.lower(): value for name, value in headers.items()}


def _plain(value):
    """What JSON has in the place of an object in a request."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, collections.abc.Mapping):
        return dict(value)
    if isinstance(value, collections.abc.Iterable) and not isinstance(value, (bytes, bytearray, memoryview)):
        return list(value)
    raise TypeError(f"a request is JSON, which has nothing for {type(value).__name__}: {value!r:.100}")


def _query(values):
    return "&".join(f"{quote_plus(name)}={quote_plus(text)}" for name, text in _pairs(values))


def _pairs(values, form="{}"):
    for name, value in values.items():
        name = form.format(name)
        if isinstance(value, dict):
            yield from _pairs(value, name + "[{}]")
        elif isinstance(value, (list, tuple)):
            yield from ((name + "[]", _text(item)) for item in value)
        elif value is not None and is_given(value):
            yield name, _text(value)


def _text(value):
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_passing(response):
    """Whether the same request may be answered in a moment."""
    said = response.headers.get("x-should-retry")
    if said in ("true", "false"):
        return said == "true"
    return response.status_code in (408, 409, 429) or response.status_code >= 500


def _wait(taken, headers):
    asked = _asked_wait(headers)
    if asked is not None and 0 < asked <= _LONGEST_ASKED:
        return asked
    # Not all at once, when many were refused at once.
    return min(_FIRST_WAIT * 2.0 ** min(taken, 1000), _LONGEST_WAIT) * (1 - 0.25 * random.random())


def _asked_wait(headers):
    for name, share in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            return float(headers.get(name)) / share
        except (TypeError, ValueError):
            pass
    date = email.utils.parsedate_tz(headers.get("retry-after"))
    return None if date is None else email.utils.mktime_tz(date) - time.time()


def _not_answered(error, request):
    return APITimeoutError(request) if isinstance(error, TimeoutError) else APIConnectionError(request=request)
