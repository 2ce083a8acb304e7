"""One completion of a prompt."""

from typing import Dict, List, Optional

from .._models import BaseModel


class Logprobs(BaseModel):
    text_offset: Optional[List[int]] = None
    token_logprobs: Optional[List[float]] = None
    tokens: Optional[List[str]] = None
    top_logprobs: Optional[List[Dict[str, float]]] = None


class CompletionChoice(BaseModel):
    finish_reason: str
    index: int
    logprobs: Optional[Logprobs] = None
    text: str
