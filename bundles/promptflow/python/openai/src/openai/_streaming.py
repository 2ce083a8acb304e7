"""Answers that come as events (server-sent events, as the HTML standard has them), each of them an object."""

import http.client
import json
import re

from ._exceptions import APIConnectionError, APIError, APIResponseValidationError, APITimeoutError, sent_error
from ._wire import AnswerTooLong

# Of one event, its lines together.
MAX_EVENT = 4 << 20
_ENDS = re.compile(rb"\r\n|\n|\r(?!\Z)")


class Events:
    """Takes an answer's bytes, and gives the data of the events that are whole."""

    def __init__(self):
        self._rest, self._data, self._size = [], [], 0

    def feed(self, piece):
        self._size += len(piece)
        self._rest.append(piece)
        found = []
        if b"\n" in piece or b"\r" in piece:
            *lines, rest = _ENDS.split(b"".join(self._rest))
            self._rest = [rest]
            for line in lines:
                if not line:
                    if self._data:
                        found.append(b"\n".join(self._data))
                    self._data = []
                name, _, value = line.partition(b":")
                if name == b"data":
                    self._data.append(value.removeprefix(b" "))
            self._size = len(rest) + sum(map(len, self._data))
        if self._size > MAX_EVENT:
            raise AnswerTooLong("an event of the answer", MAX_EVENT)
        return found


class _Reading:
    def __init__(self, response, cast):
        self.response = response
        self._cast = cast
        self._iterator = self._chunks()

    def _chunk(self, data):
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            raise APIResponseValidationError(self.response, data.decode("utf-8", "replace")) from None
        if isinstance(value, dict) and value.get("error"):
            raise sent_error(self.response.request, value)
        return self._cast(value)

    def _failure(self, error):
        request = self.response.request
        if isinstance(error, AnswerTooLong):
            return APIError(str(error), request, body=None)
        return APITimeoutError(request) if isinstance(error, TimeoutError) else APIConnectionError(request=request)


class Stream(_Reading):
    """The answer's parts, one after the other. It is closed at its end, by `close`, or by `with`."""

    def _chunks(self):
        events, pieces = Events(), self.response.iter_bytes()
        try:
            while True:
                try:
                    piece = next(pieces, b"")
                    found = events.feed(piece)
                except (OSError, http.client.HTTPException, AnswerTooLong) as error:
                    raise self._failure(error) from error
                for data in found:
                    if data.startswith(b"[DONE]"):
                        return
                    yield self._chunk(data)
                if not piece:
                    return
        finally:
            self.response.close()

    def __iter__(self):
        return self

    def __next__(self):
        return next(self._iterator)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self._iterator.close()
        self.response.close()


class AsyncStream(_Reading):
    """The same for asynchronous clients."""

    async def _chunks(self):
        events, pieces = Events(), self.response.iter_bytes()
        try:
            while True:
                try:
                    piece = await anext(pieces, b"")
                    found = events.feed(piece)
                except (OSError, http.client.HTTPException, AnswerTooLong) as error:
                    raise self._failure(error) from error
                for data in found:
                    if data.startswith(b"[DONE]"):
                        return
                    yield self._chunk(data)
                if not piece:
                    return
        finally:
            await self.response.aclose()

    def __aiter__(self):
        return self

    async def __anext__(self):
        return await anext(self._iterator)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.close()

    async def close(self):
        await self._iterator.aclose()
        await self.response.aclose()
