"""Exceptions on their way to the host: class, message, whose fault it is, and the frames of the user's code."""

import itertools
import os
import traceback

from componentize_py_types import Err
from promptflow.exceptions import PromptflowException, UserErrorException
from wit_world.imports.tool_types import ErrorKind, ToolError

from . import describing, paths, values
from .wording import text_of

# Frames of the runner, of the modules baked in beside it and of the import machinery say nothing about the user's code.
_OURS = (os.path.dirname(os.path.dirname(__file__)) + os.sep, "<frozen importlib")
# Frames of the standard library do, but only what the user's code has called.
_STANDARD = os.path.dirname(traceback.__file__) + os.sep


class Refused(Exception):
    """An error that has promptflow's class and text already."""

    def __init__(self, type_name, message):
        self.type_name = type_name
        super().__init__(message)


def to_wit(error):
    """What to raise so that the host gets `error` as a tool's error."""
    return Err(_describe(error))


def _describe(error):
    if isinstance(error, values.StreamFailed):
        error = error.__cause__
        return _tool_error(error, ErrorKind.SYSTEM, type(error).__name__, own=True)
    if isinstance(error, Refused):
        return _tool_error(error.__cause__ or error, ErrorKind.USER, error.type_name, own=True, message=str(error))
    if isinstance(error, paths.InvalidReferenceProperty):
        return _tool_error(error, ErrorKind.USER, "InvalidReferenceProperty", own=True)
    if isinstance(error, PromptflowException):
        kind = ErrorKind.USER if isinstance(error, UserErrorException) else ErrorKind.SYSTEM
        return _tool_error(error, kind, error.error_codes[-1] if error.error_codes else type(error).__name__, own=True)
    # SystemExit and its like pass through promptflow, which wraps only Exception.
    passes = not isinstance(error, Exception)
    return _tool_error(error, ErrorKind.SYSTEM if passes else ErrorKind.USER, type(error).__name__, own=passes)


def describe_import(error):
    """What importing a file raised: promptflow names the class as it is, its own classes included."""
    if isinstance(error, Refused):
        return _describe(error)
    if isinstance(error, describing.BadFunctionInterface):
        return _tool_error(error, ErrorKind.USER, "BadFunctionInterface", own=True)
    return _tool_error(error, ErrorKind.USER, type(error).__name__, own=not isinstance(error, Exception))


def load_failure(failure):
    """Class and text for a tool that was called without having been loaded."""
    if isinstance(failure.error, Refused):
        return failure.error.type_name, str(failure.error)
    if failure.error is not None:
        message = f"({type(failure.error).__name__}) {text_of(failure.error)}"
        return "PythonLoadError", f"Failed to load python module from file '{failure.source}': {message}"
    one_tool = "Please make sure you have one and only one tool definition in your script."
    if not failure.names:
        return "NoToolDefined", f"No tool found in the python script. {one_tool}"
    names = ", ".join(failure.names)
    return "MultipleToolsDefined", f"Expected 1 but collected {len(failure.names)} tools: {names}. {one_tool}"


def _tool_error(error, kind, type_name, own, message=None):
    return ToolError(
        kind,
        type_name,
        values.without_surrogates(text_of(error) if message is None else message),
        values.without_surrogates(_traceback(error)),
        own,
    )


def _traceback(error):
    try:
        described = traceback.TracebackException.from_exception(error)
        if not _keep_user_frames(described, set()):
            return ""
        return "".join(described.format())
    except Exception:  # an exception class that breaks formatting has no traceback worth failing for
        return ""


def _keep_user_frames(described, seen):
    """Drops the runner's frames, in causes too; whether any frame of the user's code remains."""
    if described is None or id(described) in seen:
        return False
    seen.add(id(described))
    frames = [frame for frame in described.stack if not frame.filename.startswith(_OURS)]
    frames = list(itertools.dropwhile(lambda frame: frame.filename.startswith(_STANDARD), frames))
    # A syntax error has no frame in the file that it is about.
    own = bool(frames) or getattr(described, "filename", None) is not None
    described.stack = traceback.StackSummary.from_list(frames)
    related = [described.__cause__, described.__context__, *(getattr(described, "exceptions", None) or ())]
    return any([own, *(_keep_user_frames(other, seen) for other in related)])
