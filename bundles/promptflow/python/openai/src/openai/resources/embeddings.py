"""Texts as vectors."""

import base64
import struct

from .._types import NOT_GIVEN, is_given
from ..types import CreateEmbeddingResponse
from ._resource import Resource


def _decoded(**values):
    """Vectors that were asked for as base64, because that is shorter, and are numbers again."""
    answer = CreateEmbeddingResponse(**values)
    for one in getattr(answer, "data", None) or ():
        if isinstance(getattr(one, "embedding", None), str):
            one.embedding = _numbers(one.embedding)
    return answer


def _numbers(text):
    data = base64.b64decode(text)
    if len(data) % 4:
        raise ValueError(f"a vector of {len(data)} bytes is none of 32-bit numbers")
    return list(struct.unpack(f"<{len(data) // 4}f", data))


class Embeddings(Resource):
    def create(self, *, input, model, encoding_format=NOT_GIVEN, extra_headers=None, extra_query=None, extra_body=None,
               timeout=NOT_GIVEN, **parameters):  # fmt: skip
        """Makes a vector of each input. All other parameters go to the service as they are given."""
        cast_to = CreateEmbeddingResponse
        if not is_given(encoding_format):
            encoding_format, cast_to = "base64", _decoded
        return self._post(
            "/embeddings", {"input": input, "model": model, "encoding_format": encoding_format, **parameters}, cast_to, stream=False,
            extra_headers=extra_headers, extra_query=extra_query, extra_body=extra_body, timeout=timeout,
        )  # fmt: skip


class AsyncEmbeddings(Embeddings):
    """As `Embeddings`; what its calls give is to be awaited."""
