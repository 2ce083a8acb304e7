"""The vectors of all inputs."""

from typing import List

from .._models import BaseModel
from .embedding import Embedding


class Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class CreateEmbeddingResponse(BaseModel):
    data: List[Embedding]
    model: str
    object: str
    usage: Usage
