import re
from dataclasses import dataclass, field
from typing import Dict

from promptflow.core import tool


@dataclass
class Found:
    text: str
    scores: Dict[str, float] = field(default_factory=dict)


@tool
def found(x: dict) -> Found:
    return Found(re.sub(r"\W+", " ", x["question"]), {"a": 1.5})
