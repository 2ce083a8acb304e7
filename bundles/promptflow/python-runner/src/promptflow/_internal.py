"""Names that tool packages import from here."""

from promptflow._core.metric_logger import log_metric
from promptflow._core.tool import ToolInvoker, ToolProvider, tool

__all__ = ["ToolInvoker", "ToolProvider", "log_metric", "tool"]
