import os

from promptflow.core import tool


@tool
def make(number: float, items: list, label: str = "none") -> dict:
    return {
        "nan": float("nan") if number < 0 else number,
        "big": 12345678901234567890123,
        "é": ["ü", None, True, {"b": 1, "a": 2.0}],
        "items": items,
        "label": label,
        "greeting": os.environ["GREETING"],
    }
