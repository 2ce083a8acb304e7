import logging
import os
from typing import Any, List, Optional

from promptflow.core import tool


@tool
def values(x: dict, y: Optional[List[Any]] = None) -> dict:
    logging.info("%s values in %s", len(x), os.getcwd())
    print("values:", ", ".join(f"{key!r:>10}" for key in sorted(x)), len(y or ()))
    return x
