"""The answer to a prompt, or a part of it when it comes as a stream."""

from typing import List, Optional

from .._models import BaseModel
from .completion_choice import CompletionChoice
from .completion_usage import CompletionUsage


class Completion(BaseModel):
    id: str
    choices: List[CompletionChoice]
    created: int
    model: str
    object: str
    system_fingerprint: Optional[str] = None
    usage: Optional[CompletionUsage] = None
