"""Completions of texts."""

from .._types import NOT_GIVEN
from ..types import Completion
from ._resource import Resource


class Completions(Resource):
    def create(self, *, model, prompt, stream=NOT_GIVEN, extra_headers=None, extra_query=None, extra_body=None,
               timeout=NOT_GIVEN, **parameters):  # fmt: skip
        """Completes a prompt. All other parameters go to the service as they are given."""
        return self._post(
            "/completions", {"model": model, "prompt": prompt, "stream": stream, **parameters}, Completion, stream=stream,
            extra_headers=extra_headers, extra_query=extra_query, extra_body=extra_body, timeout=timeout,
        )  # fmt: skip


class AsyncCompletions(Completions):
    """As `Completions`; what its calls give is to be awaited."""
