"""One vector."""

from typing import List

from .._models import BaseModel


class Embedding(BaseModel):
    embedding: List[float]
    index: int
    object: str
