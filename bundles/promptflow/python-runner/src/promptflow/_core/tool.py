"""The `tool` decorator and the base class of tools with state."""

import inspect
from abc import ABC
from enum import Enum

from promptflow.exceptions import UserErrorException


class ToolType(str, Enum):
    LLM = "llm"
    PYTHON = "python"
    CSHARP = "csharp"
    PROMPT = "prompt"
    _ACTION = "action"
    CUSTOM_LLM = "custom_llm"


def tool(
    func=None,
    *,
    name=None,
    description=None,
    type=None,
    input_settings=None,
    streaming_option_parameter=None,
    **kwargs,
):
    """Marks a function as a tool. The function itself stays what it is: the host records its calls."""
    if type is not None and type not in [member.value for member in ToolType]:
        raise UserErrorException(f"Tool type {type} is not supported yet.")

    def mark(function):
        # Set with these very names, which the loader and tools for tools look up.
        for attribute, value in {
            "__tool": None,
            "__name": name,
            "__description": description,
            "__type": type,
            "__input_settings": input_settings,
            "__extra_info": kwargs,
            "__original_function": function,
        }.items():
            setattr(function, attribute, value)
        if isinstance(streaming_option_parameter, str) and streaming_option_parameter:
            function._streaming_option_parameter = streaming_option_parameter
        return function

    return mark if func is None else mark(func)


class ToolProvider(ABC):
    """A class whose methods are tools; what its constructor takes are inputs of each of them."""

    def __new__(cls, *args, **kwargs):
        provider = super().__new__(cls)
        provider._instance_init_params = {**dict(zip(cls.get_initialize_inputs(), args)), **kwargs}
        return provider

    def __init__(self):
        self._init_params = self._instance_init_params

    @classmethod
    def get_initialize_inputs(cls):
        """The constructor's parameters, by name."""
        parameters = inspect.signature(cls.__init__).parameters
        return {name: parameter for name, parameter in parameters.items() if name != "self"}

    @classmethod
    def get_required_initialize_inputs(cls):
        """Those of them without a default."""
        inputs = cls.get_initialize_inputs()
        return {name: parameter for name, parameter in inputs.items() if parameter.default is parameter.empty}


class ToolInvoker(ABC):
    """The hook around tool calls. Nothing calls it here: the host is what surrounds a call."""

    _active_tool_invoker = None

    def invoke_tool(self, f, *args, **kwargs):
        raise NotImplementedError()

    @classmethod
    def activate(cls, tool_invoker):
        cls._active_tool_invoker = tool_invoker

    @classmethod
    def deactivate(cls):
        cls._active_tool_invoker = None

    @classmethod
    def active_instance(cls):
        return cls._active_tool_invoker


class _Settings:
    """Hints for an editor's forms: kept as given."""

    def __init__(self, *args, **kwargs):
        self._args = args
        self.__dict__.update(kwargs)


class InputSetting(_Settings):
    """How an editor shows an input."""


class DynamicList(_Settings):
    """Where an editor gets an input's choices from."""


class GeneratedBy(_Settings):
    """What an editor fills an input with."""
