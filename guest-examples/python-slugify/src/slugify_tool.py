"""What makes them flowcell tools: `describe` and `invoke` of the contract."""

import inspect
import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports.tool_types import ErrorKind, Parameter, ToolError, ToolInfo

import slugs

_TOOLS = {"slugify": slugs.slugify, "initials": slugs.initials}
_TYPES = {str: "string", int: "int"}


def _parameter(parameter):
    required = parameter.default is parameter.empty
    default = None if required else json.dumps(parameter.default)
    return Parameter(parameter.name, [_TYPES[parameter.annotation]], default, required, init=False)


class Tool(exports.Tool):
    def describe(self):
        return [
            ToolInfo(name, function.__doc__, [_parameter(p) for p in inspect.signature(function).parameters.values()], False)
            for name, function in _TOOLS.items()
        ]

    def invoke(self, name, inputs):
        if name not in _TOOLS:
            raise _refusal("LookupError", f"this component has no tool {name!r}, only {', '.join(_TOOLS)}")
        try:
            return json.dumps(_TOOLS[name](**json.loads(inputs)))
        except Exception as error:
            raise _refusal(type(error).__name__, str(error)) from None


def _refusal(type_name, message):
    return Err(ToolError(ErrorKind.USER, type_name, message, traceback="", own=False))
