"""A node's file becomes a tool.

promptflow imports a file once per node, as a module that is called `__pf_main__` and that `sys.modules` does not know;
exactly one tool must be defined in it.
"""

import importlib
import importlib.util
import inspect
import os
import types

from componentize_py_types import Err
from promptflow._core.tool import ToolProvider
from wit_world.exports import runner

from . import describing, entries, errors, startup

MODULE = "__pf_main__"


class LoadFailed(Exception):
    """No tool came out of a node's file: importing raised `error`, or there were none or several (`names`)."""

    def __init__(self, source, error=None, names=()):
        self.source, self.error, self.names = source, error, names
        super().__init__(source)

    def as_load_error(self):
        if self.error is not None:
            return Err(runner.LoadError_ImportFailed(errors.describe_import(self.error)))
        if self.names:
            return Err(runner.LoadError_SeveralTools(list(self.names)))
        return Err(runner.LoadError_NoTool())


class Tool:
    """A function or a ToolProvider's method, ready to be called for one node."""

    __slots__ = ("function", "provider", "info", "is_async", "converters", "instance", "instance_init")

    def __init__(self, function, provider):
        self.function, self.provider = function, provider
        self.info, self.converters = describing.describe(function, provider)
        self.is_async = inspect.iscoroutinefunction(function)
        self.instance = self.instance_init = None


_tools = {}


def load(node, source):
    """The node's tool or entry, imported at the first call."""
    tool = _tools.get((node, source))
    if tool is None:
        try:
            tool = entries.find(source) if source.startswith(entries.PREFIX) else Tool(*_find(source))
        except LoadFailed:
            raise
        except entries.NoEntry:
            raise LoadFailed(source) from None
        except BaseException as error:
            raise LoadFailed(source, error) from error
        _tools[node, source] = tool
    return tool


def _find(source):
    """The tool's function, and its class where it is a method."""
    if ":" in source:
        module_name, _, attributes = source.partition(":")
        owner, found = None, importlib.import_module(module_name)
        for attribute in attributes.split("."):
            owner, found = found, getattr(found, attribute)
        return found, owner if isinstance(owner, type) else None
    module = _import_file(os.path.join(startup.FLOW, source))
    functions = [(value, None) for _, value in inspect.getmembers(module) if _is_tool(value, module)]
    methods = [
        (method, value)
        for _, value in inspect.getmembers(module)
        if isinstance(value, type) and issubclass(value, ToolProvider) and value.__module__ == module.__name__
        for _, method in inspect.getmembers(value)
        if _is_tool(method)
    ]
    tools = functions + methods
    if len(tools) != 1:
        raise LoadFailed(source, names=[function.__name__ for function, _ in tools])
    return tools[0]


def _is_tool(value, module=None):
    """Whether this is a tool; of a module only its own count, not those it imports."""
    return (
        isinstance(value, types.FunctionType)
        and hasattr(value, "__tool")
        and (module is None or value.__module__ == module.__name__)
    )


def _import_file(path):
    spec = importlib.util.spec_from_file_location(MODULE, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
