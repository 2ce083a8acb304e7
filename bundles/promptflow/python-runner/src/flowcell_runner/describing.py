"""A tool's signature in promptflow's terms: value types, connection classes, defaults."""

import inspect
from enum import Enum, EnumMeta
from typing import Union, get_args, get_origin

from promptflow.connections import CustomStrongTypeConnection, is_connection_class
from promptflow.contracts.multimedia import Image
from promptflow.contracts.types import AssistantDefinition, FilePath, PromptTemplate, Secret
from wit_world.imports.tool_types import Parameter, ToolInfo

from . import arguments, values

_VALUE_TYPES = {
    int: "int",
    float: "double",
    bool: "bool",
    str: "string",
    list: "list",
    Secret: "secret",
    PromptTemplate: "prompt_template",
    FilePath: "file_path",
    Image: "image",
    AssistantDefinition: "assistant_definition",
}


def describe(function, provider=None):
    """The tool's description, and what turns an input's JSON into what the function expects (name to converter)."""
    signature = inspect.signature(function)
    init = dict(provider.get_initialize_inputs()) if provider else {}
    if any(name in signature.parameters for name in init):
        raise BadFunctionInterface(
            f"Parse interface for tool '{function.__name__}' failed: "
            f"(Exception) Duplicate inputs found from {function.__name__!r} and \"__init__()\"!"
        )
    inputs, converters = parameters(init, is_init=True)
    of_call, others = parameters(signature.parameters)
    info = ToolInfo(
        name=getattr(function, "__name", None) or function.__qualname__,
        description=getattr(function, "__description", None) or inspect.getdoc(function) or "",
        inputs=[*inputs, *of_call],
        open_inputs=any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()),
    )
    return info, converters | others


def parameters(named, is_init=False, types=None, converter=arguments.converter):
    """A signature's parameters, and what turns an input's JSON into what each expects."""
    found, converters = [], {}
    for name, parameter in named.items():
        if name == "self" or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        annotation = _without_optional(parameter.annotation)
        required = parameter.default is parameter.empty
        if annotation is parameter.empty and not required:
            annotation = type(parameter.default)
        default = None if required else _default(parameter.default)
        found.append(Parameter(name, (types or types_of)(annotation), default, required, is_init))
        convert = converter(annotation)
        if convert:
            converters[name] = convert
    return found, converters


def _without_optional(annotation):
    """`Optional[T]` is T; another Union is the list of its members."""
    if get_origin(annotation) is not Union:
        return annotation
    members = [member for member in get_args(annotation) if member is not type(None)]
    return members[0] if len(members) == 1 else members


def types_of(annotation):
    """promptflow's types of a parameter with this annotation."""
    if isinstance(annotation, EnumMeta):
        return ["string"]
    if isinstance(annotation, list):
        if not all(map(is_connection_class, annotation)):
            return ["object"]
        return list(dict.fromkeys(map(_connection_type, annotation)))
    if is_connection_class(annotation):
        return [_connection_type(annotation)]
    try:
        return [_VALUE_TYPES.get(annotation, "object")]
    except TypeError:  # an annotation that cannot be hashed
        return ["object"]


def _connection_type(connection_class):
    custom = issubclass(connection_class, CustomStrongTypeConnection)
    return "CustomConnection" if custom else connection_class.__name__


def _default(value):
    return values.to_json(value.value if isinstance(value, Enum) else value)


class BadFunctionInterface(Exception):
    """promptflow's name for a tool whose constructor and method share an input."""
