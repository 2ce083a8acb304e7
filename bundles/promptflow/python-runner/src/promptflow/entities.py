"""The names that tools import from promptflow.entities."""

from promptflow._core.tool import DynamicList, InputSetting
from promptflow.connections import *  # noqa: F401,F403
from promptflow.connections import __all__ as _connections

__all__ = [*_connections, "DynamicList", "InputSetting"]
