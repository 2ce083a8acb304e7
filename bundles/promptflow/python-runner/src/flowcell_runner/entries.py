"""What flows without a graph call: a function, an object of a class, a prompty.

A source is `entry:` and one of `module:function`, `module:Class`, `folder/module:Class`, `module:Class.__aggregate__`,
`module:Class.__init__` and `file.prompty`. The module is imported as any other, by its name.
"""

import dataclasses
import importlib
import inspect
import json
import os
import sys

from promptflow.connections import is_connection_class
from promptflow.core import AzureOpenAIModelConfiguration, ModelConfiguration, Prompty
from wit_world.imports import host
from wit_world.imports.tool_types import Parameter, ToolInfo

from . import arguments, concurrency, connections, describing, errors, startup, values
from .wording import text_of

PREFIX = "entry:"
INIT = "__init__"
PROMPTY = ".prompty"


class NoEntry(Exception):
    """The class has no method of the name."""


class Entry:
    """What a flow without a graph calls, by the inputs of its constructor and its own."""

    def call(self, init, inputs):
        raise NotImplementedError


class _Function(Entry):
    """A function, or a class's method."""

    def __init__(self, function, owner=None):
        self.function, self.owner = function, owner
        signature = inspect.signature(function)
        self.name = getattr(function, "__original_function", function).__qualname__
        inputs, self.converters = describing.parameters(signature.parameters, types=_types, converter=_converter)
        init = owner.inputs if owner else []
        self.info = ToolInfo(self.name, inspect.getdoc(function) or "", [*init, *inputs], False)

    def call(self, init, inputs):
        function = self.function if self.owner is None else self.function.__get__(self.owner.object(init))
        try:
            return _result(function(**_converted(self.converters, inputs)))
        except Exception as error:
            raise execution_error(self.name, error) from error


class _Aggregation(_Function):
    """A class's `__aggregate__`, whose answer is the run's metrics."""

    def __init__(self, function, owner):
        super().__init__(function, owner)
        self.name = function.__name__
        if len(inspect.signature(function).parameters) != 2:  # itself and the answers
            raise errors.Refused("InvalidAggregationFunction", "The __aggregate__ method should have only one parameter.")

    def call(self, init, inputs):
        metrics = super().call(init, inputs)
        if isinstance(metrics, dict):
            for name, value in metrics.items():
                host.metric(str(name), values.without_surrogates(json.dumps(value, default=repr)))
        else:
            print("The output of aggregation function isn't a dictionary, skip the metrices update.", file=sys.stderr)
        return metrics


class _Prompty(Entry):
    """A prompty's file."""

    def __init__(self, file):
        self.prompty = Prompty.load(source=os.path.join(startup.FLOW, file))
        self.name = self.prompty.name
        inputs = [
            Parameter(name, [declared.get("type", "object")], values.to_json(declared.get("default")), "default" not in declared, False)
            for name, declared in self.prompty.inputs.items()
        ]
        self.info = ToolInfo(self.name, "", inputs, False)

    def call(self, init, inputs):
        try:
            return self.prompty(**inputs)
        except Exception as error:
            raise execution_error(self.name, error) from error


class _Making(Entry):
    """Makes the object, if there is a class, ahead of its first call."""

    def __init__(self, owner):
        self.owner = owner

    def call(self, init, inputs):
        if self.owner is not None:
            self.owner.object(init)


class _Owner:
    """A class, and the object of it whose methods are called: made once, and again only when the constructor's inputs are others."""

    def __init__(self, made):
        self.made = made
        named = inspect.signature(made.__init__).parameters
        self.inputs, self.converters = describing.parameters(named, is_init=True, types=_types, converter=_converter)
        self.instance = self.init = None

    def object(self, init):
        if self.instance is None or self.init != init:
            try:
                self.instance = self.made(**_converted(self.converters, {**init}))
            except Exception as error:
                message = f"Failed to initialize flow entry with '{init}', ex:'{text_of(error)}."
                raise errors.Refused("FlowEntryInitializationError", message) from error
            self.init = init
        return self.instance


_owners = {}


def find(source):
    """The entry of a source.

    `NoEntry` is raised for a method that the class does not have, anything else is why the entry cannot be had.
    """
    target = source.removeprefix(PREFIX)
    if target.endswith(PROMPTY):
        return _Prompty(target)
    path, _, attributes = target.rpartition(":")
    folder, _, module_name = path.rpartition("/")
    if folder:
        _enter(os.path.join(startup.FLOW, folder))
    name, _, method = attributes.partition(".")
    found = getattr(importlib.import_module(module_name), name, None)
    if inspect.isclass(found):
        return _of_class(found, method)
    if method == INIT:
        return _Making(None)
    if method:
        raise NoEntry(source)
    if not inspect.isfunction(found):
        message = f"Failed to load python function '{name}' from file '{module_name}', got {found}."
        raise errors.Refused("PythonLoadError", message)
    return _Function(found)


def _enter(folder):
    if folder not in sys.path:
        sys.path.insert(0, folder)
    os.chdir(folder)


def _of_class(made, method):
    owner = _owners.get(made) or _owners.setdefault(made, _Owner(made))
    if method == INIT:
        return _Making(owner)
    function = getattr(made, method or "__call__", None)
    if not inspect.isfunction(function):
        if method:
            raise NoEntry(method)
        message = f"Python class entry '{made.__name__}' does not have __call__ method."
        raise errors.Refused("PythonLoadError", message)
    return _Aggregation(function, owner) if method else _Function(function, owner)


def outputs(of) -> dict:
    """The outputs that the annotations of an entry tell of, and their types."""
    entry = find(of)
    if isinstance(entry, _Prompty):
        return {"output": "string"}
    returned = inspect.signature(entry.function).return_annotation
    if dataclasses.is_dataclass(returned):
        members = {field.name: field.type for field in dataclasses.fields(returned)}
    elif isinstance(returned, type) and issubclass(returned, dict) and hasattr(returned, "__annotations__"):
        members = returned.__annotations__
    else:
        members = {"output": returned}
    return {name: describing.types_of(annotation)[0] for name, annotation in members.items()}


def execution_error(name, error):
    """promptflow's error for what an entry raised."""
    return errors.Refused("ScriptExecutionError", f"Execution failure in '{name}': ({type(error).__name__}) {text_of(error)}")


def _result(value):
    return concurrency.wait_for(value) if inspect.isawaitable(value) else value


def _converted(converters, inputs):
    for name, convert in converters.items():
        if name in inputs:
            inputs[name] = convert(inputs[name])
    return inputs


def _is_model(annotation):
    return isinstance(annotation, type) and issubclass(annotation, ModelConfiguration)


def _types(annotation):
    return [annotation.__name__] if _is_model(annotation) else describing.types_of(annotation)


def _converter(annotation):
    """An entry may get connections by their names, and models as objects of JSON."""
    if _is_model(annotation):
        return lambda value: _model(annotation, value)
    convert = arguments.converter(annotation)
    if any(map(is_connection_class, annotation if isinstance(annotation, list) else [annotation])):
        return lambda value: _connection(value, convert)
    return convert


def _connection(value, convert):
    connection = connections.get(value) if isinstance(value, str) else value
    return convert(connection) if convert else connection


def _model(model_class, value):
    if isinstance(value, dict):
        value = model_class(**value)
    if not isinstance(value, model_class):
        message = f"Model config value is not an instance of {model_class}, got {type(value)}"
        raise errors.Refused("InvalidModelConfigValueType", message)
    if not value.connection:
        return value
    named = connections.get(value.connection)
    if model_class is AzureOpenAIModelConfiguration:
        return model_class.from_connection(named, azure_deployment=value.azure_deployment)
    return model_class.from_connection(named, model=value.model)
