"""A part of the API."""

from .._exceptions import NotOffered


class Resource:
    # Methods that OpenAI's package has here, and this one has not.
    _elsewhere = frozenset(("with_streaming_response",))

    def __init__(self, client, is_raw=False):
        self._client, self._is_raw = client, is_raw

    @property
    def with_raw_response(self):
        """The same calls, whose answers come with their status and headers."""
        return type(self)(self._client, is_raw=True)

    def _post(self, path, body, cast_to, *, stream, extra_headers, extra_query, extra_body, timeout):
        return self._client.post(
            path, cast_to=cast_to, body=body, stream=stream, extra_headers=extra_headers, extra_query=extra_query,
            extra_body=extra_body, timeout=timeout, raw=self._is_raw,
        )  # fmt: skip

    def __getattr__(self, name):
        if name in self._elsewhere:
            raise NotOffered(f"{type(self).__name__.removeprefix('Async').lower()}.{name}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
