"""Answers to conversations."""

from ..._types import NOT_GIVEN, is_given
from ...types.chat import ChatCompletion, ChatCompletionChunk
from .._resource import Resource


class Completions(Resource):
    _elsewhere = Resource._elsewhere | {"parse", "stream", "list", "retrieve", "update", "delete", "messages"}

    def create(self, *, messages, model, stream=NOT_GIVEN, extra_headers=None, extra_query=None, extra_body=None,
               timeout=NOT_GIVEN, **parameters):  # fmt: skip
        """Answers to messages. All other parameters go to the service as they are given."""
        cast_to = ChatCompletionChunk if stream and is_given(stream) else ChatCompletion
        return self._post(
            "/chat/completions", {"messages": messages, "model": model, "stream": stream, **parameters}, cast_to, stream=stream,
            extra_headers=extra_headers, extra_query=extra_query, extra_body=extra_body, timeout=timeout,
        )  # fmt: skip


class AsyncCompletions(Completions):
    """As `Completions`; what its calls give is to be awaited."""
