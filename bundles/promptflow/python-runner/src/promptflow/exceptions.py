"""promptflow's exceptions: those that reach a flow's caller as they are."""

import string
from enum import Enum


class ErrorTarget(str, Enum):
    EXECUTOR = "Executor"
    BATCH = "Batch"
    CORE = "Core"
    FLOW_EXECUTOR = "FlowExecutor"
    NODE_EXECUTOR = "NodeExecutor"
    TOOL = "Tool"
    AZURE_RUN_STORAGE = "AzureRunStorage"
    RUNTIME = "Runtime"
    UNKNOWN = "Unknown"
    RUN_TRACKER = "RunTracker"
    RUN_STORAGE = "RunStorage"
    CONTROL_PLANE_SDK = "ControlPlaneSDK"
    SERVING_APP = "ServingApp"
    FLOW_INVOKER = "FlowInvoker"
    FUNCTION_PATH = "FunctionPath"


class PromptflowException(Exception):
    """The base of them all. The message is given, or made of `message_format` and the keyword arguments."""

    def __init__(
        self, message="", message_format="", target=ErrorTarget.UNKNOWN, module=None, privacy_info=None, **kwargs
    ):
        self.target, self.module, self.message_format = target, module, message_format
        self._inner_exception = kwargs.get("error")
        self._privacy_info = privacy_info
        self._kwargs = kwargs
        if message:
            self._message = str(message)
        elif message_format:
            self._message = message_format.format(**self.message_parameters)
        else:
            self._message = type(self).__name__
        super().__init__(self._message)

    @property
    def message(self):
        return self._message

    @property
    def message_parameters(self):
        if not self._kwargs:
            return {}
        names = {name for _, name, _, _ in string.Formatter().parse(self.message_format or "") if name is not None}
        return {name: self._kwargs.get(name, f"<{name}>") for name in names}

    @property
    def inner_exception(self):
        return self._inner_exception or self.__cause__

    @property
    def additional_info(self):
        return None

    @property
    def error_codes(self):
        """The codes of the class and its bases, from the most general on."""
        lineage = type(self).__mro__
        own = lineage[: lineage.index(PromptflowException)]
        return [_CODES.get(ancestor, ancestor.__name__) for ancestor in reversed(own)]

    def __str__(self):
        return self.message


class UserErrorException(PromptflowException):
    """The flow's author or caller has to act."""


class SystemErrorException(PromptflowException):
    """Whoever runs the host has to act."""


class ValidationException(UserErrorException):
    """Something given is not valid."""


_CODES = {
    UserErrorException: "UserError",
    SystemErrorException: "SystemError",
    ValidationException: "ValidationError",
}
