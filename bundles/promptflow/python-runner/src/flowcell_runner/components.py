"""Tools of components as functions of modules: `from text_statistics import text_statistics`.

Where no other finder has a module, the host is asked for the tools whose ids begin with its name; what is called goes to the
host, which calls the component.
"""

import builtins
import importlib.abc
import importlib.machinery
import inspect
import json
import keyword
import sys
from inspect import Parameter

from componentize_py_types import Err
from promptflow import exceptions
from promptflow.connections import is_connection
from wit_world.imports import tools

from . import values

# Where a module's spec says that it comes from.
ORIGIN = "component"


class ToolError(Exception):
    """What a component's tool answered in place of a value. It is raised as a class of the name that the component gives:
    one of Python's own or of promptflow's where that is meant, and one below this otherwise."""


def install():
    """After all other finders: a flow's own modules, and packages, come first."""
    sys.meta_path.append(_Finder())


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        infos = tools.in_module(name)
        if not infos:
            return None
        return importlib.machinery.ModuleSpec(name, _Loader(infos), origin=ORIGIN, is_package=True)


class _Loader(importlib.abc.Loader):
    def __init__(self, infos):
        self.infos = infos

    def exec_module(self, module):
        functions, classes = {}, {}
        for info in self.infos:
            parent, _, name = info.name.rpartition(".")
            outer, _, owner = parent.rpartition(".")
            # Others are in modules below this one.
            if parent == module.__name__:
                functions[name] = _function(info, parent, name)
            elif outer == module.__name__ and owner[:1].isupper():
                classes.setdefault(owner, {})[name] = _function(info, parent, name)
        if module.__name__ in _CLASSES:
            classes[_CLASSES[module.__name__]] = {**functions}
        made = {name: _class(name, module.__name__, methods) for name, methods in classes.items()}
        vars(module).update(functions, **made)
        module.__all__ = [*functions, *made]


# Classes of promptflow-tools whose methods are functions of their modules, too.
_CLASSES = {"promptflow.tools.aoai": "AzureOpenAI", "promptflow.tools.openai": "OpenAI"}


def _class(name, module, functions):
    """A class as promptflow-tools has it: made with a connection, which its methods hand on."""

    def __init__(self, connection=None):
        self.connection = connection

    methods = {method: _method(function) for method, function in functions.items()}
    return type(name, (), {"__init__": __init__, "__module__": module, **methods})


def _method(function):
    parameters = list(inspect.signature(function).parameters.values())
    takes_connection = bool(parameters) and parameters[0].name == "connection"

    def method(self, /, *args, **kwargs):
        return function(*([self.connection] if takes_connection else []), *args, **kwargs)

    # An input may have any name.
    own = Parameter("_" + "_".join(parameter.name for parameter in parameters), Parameter.POSITIONAL_ONLY)
    method.__signature__ = inspect.Signature([own, *parameters[takes_connection:]])
    method.__name__, method.__doc__ = function.__name__, function.__doc__
    return method


def _function(info, module, name):
    signature, rest = _signature(info)

    def function(*args, **kwargs):
        given = signature.bind(*args, **kwargs).arguments
        given.update(given.pop(rest, {}))
        inputs = ", ".join(f"{json.dumps(key)}: {_to_json(name, key, value)}" for key, value in given.items())
        try:
            return values.from_json(tools.call(info.name, f"{{{inputs}}}"))
        except Err as error:
            failure = exception(error.value)
        raise failure

    function.__name__ = function.__qualname__ = name
    function.__module__ = module
    function.__doc__ = info.description or None
    function.__signature__ = signature
    return function


def _signature(info):
    """The function's parameters, and the name of the one that takes all others: inputs beyond the named, and those that
    Python's syntax has no place for."""
    parameters, rest = {}, "more"
    kind, is_open = Parameter.POSITIONAL_OR_KEYWORD, info.open_inputs
    for tool_input in info.inputs:
        name = tool_input.name
        if not name.isidentifier() or keyword.iskeyword(name):
            is_open = True
            continue
        default = Parameter.empty
        if not tool_input.required:
            default = None if tool_input.default is None else values.from_json(tool_input.default)
        elif any(other.default is not Parameter.empty for other in parameters.values()):
            # None that must be given can follow by its place, and so can none after it.
            kind = Parameter.KEYWORD_ONLY
        parameters[name] = Parameter(name, kind, default=default)
    while rest in parameters:
        rest += "_"
    if is_open:
        parameters[rest] = Parameter(rest, Parameter.VAR_KEYWORD)
    return inspect.Signature(list(parameters.values())), rest


def _to_json(tool, name, value):
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_connection).encode().decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"{tool}() takes values that JSON has, and {name} is none: {error}") from None


def _connection(value):
    """A connection as the host hands it to components: promptflow's execution dictionary."""
    if not is_connection(value):
        raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
    fields = {**value.configs, **value.secrets}
    kind = {"type": value.class_name, "name": value.name, "module": value.module}
    return {**kind, "value": fields, "secret_keys": list(value.secrets)}


def exception(error):
    """What to raise for a tool's error."""
    known = getattr(builtins, error.type_name, None) or getattr(exceptions, error.type_name, None)
    if not (isinstance(known, type) and issubclass(known, Exception)):
        known = type(error.type_name, (ToolError,), {"__module__": __name__})
    try:
        exception = known(error.message)
    except TypeError:  # one that is made of more than a message
        exception = ToolError(f"{error.type_name}: {error.message}")
    if error.traceback:
        exception.add_note(error.traceback)
    return exception
