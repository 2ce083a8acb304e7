"""What a flow's files import from promptflow, in the runner's own version: the names, without the framework behind."""

from pkgutil import extend_path

# Packages for promptflow, such as a flow's own requirements, add modules under its name.
__path__ = extend_path(__path__, __name__)

from promptflow._core.metric_logger import log_metric  # noqa: E402
from promptflow._core.tool import ToolProvider, tool  # noqa: E402

__version__ = "1.18.5"
__all__ = ["ToolProvider", "log_metric", "tool"]
