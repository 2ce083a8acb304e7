"""Stands in for what componentize-py generates, so that the runner's modules work in an ordinary Python.

`flow(files)` is a flow folder, loaded by an app whose calls look as the host's do.
"""

import contextlib
import dataclasses
import enum
import json
import os
import pathlib
import sys
import tempfile
import time
import types

SOURCE = pathlib.Path(__file__).parents[1] / "src"


class Err(Exception):
    def __init__(self, value):
        self.value = value


def _module(name, **members):
    module = sys.modules[name] = types.ModuleType(name)
    vars(module).update(members)
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
    return module


def _record(name, *fields):
    return dataclasses.make_dataclass(name, fields)


metrics, logs, emitted, spans = [], [], [], []
# Whether spans say what was given and returned.
content = types.SimpleNamespace(is_recorded=False)


def _start_span(parent, name, attributes):
    spans.append({"parent": parent, "name": name, **json.loads(attributes)})
    return len(spans) - 1


def _end_span(number, attributes, error):
    spans[number].update(json.loads(attributes), ended=True)
    if error is not None:
        spans[number]["error"] = error


_module("componentize_py_types", Err=Err)
_module("wit_world")
_module("wit_world.imports")
_module("wit_world.imports.environment", get_environment=lambda: list(os.environ.items()), get_arguments=lambda: ["runner"])
_module("wit_world.imports.preopens", get_directories=list)
_module(
    "wit_world.imports.host",
    Level=enum.Enum("Level", ["DEBUG", "INFO", "WARNING", "ERROR"]),
    log=lambda level, message: logs.append((level.name, message)),
    metric=lambda name, value: metrics.append((name, value)),
    emit=lambda part: emitted.append(json.loads(part)),
    start_span=_start_span,
    end_span=_end_span,
    records_content=lambda: content.is_recorded,
)
_module(
    "wit_world.imports.tool_types",
    ErrorKind=enum.Enum("ErrorKind", ["USER", "SYSTEM"]),
    ToolError=_record("ToolError", "kind", "type_name", "message", "traceback", "own"),
    Parameter=_record("Parameter", "name", "types", "default", "required", "init"),
    ToolInfo=_record("ToolInfo", "name", "description", "inputs", "open_inputs"),
)
# What `components` finds: a test puts its own functions here.
component_tools = types.SimpleNamespace(in_module=lambda module: [], call=None)
_module(
    "wit_world.imports.tools",
    in_module=lambda module: component_tools.in_module(module),
    call=lambda tool, inputs: component_tools.call(tool, inputs),
)


class _Names(types.ModuleType):
    """A module that has whatever class is asked for."""

    def __getattr__(self, name):
        found = type(name, (), {})
        setattr(self, name, found)
        return found


for name in ("http_types", "outgoing_handler", "streams"):
    sys.modules[f"wit_world.imports.{name}"] = module = _Names(name)
    setattr(sys.modules["wit_world.imports"], name, module)
_module("wit_world.imports.monotonic_clock", subscribe_duration=lambda time: contextlib.nullcontext(time))
# Nobody else than time is waited for.
_module("wit_world.imports.poll", poll=lambda things: time.sleep(things[-1] / 1e9) or [len(things) - 1])
_module("wit_world.exports", Runner=object)
runner = _module(
    "wit_world.exports.runner",
    Outcome_Json=_record("Outcome_Json", "value"),
    Outcome_Object=_record("Outcome_Object", "value"),
    Argument_Json=_record("Argument_Json", "value"),
    Argument_Object=_record("Argument_Object", "value"),
    Argument_Objects=_record("Argument_Objects", "value"),
    Request=_record("Request", "node", "source", "init", "inputs"),
    LoadError_ImportFailed=_record("LoadError_ImportFailed", "value"),
    LoadError_NoTool=_record("LoadError_NoTool"),
    LoadError_SeveralTools=_record("LoadError_SeveralTools", "value"),
)

sys.path.insert(0, str(SOURCE))
# The bundle's own package `openai`.
sys.path.append(str(SOURCE.parents[1] / "python" / "openai" / "src"))

import flowcell_runner_app  # noqa: E402
from flowcell_runner import startup  # noqa: E402

# What the start changes belongs to a sandbox of its own, not to the process that runs the tests.
startup.ensure = lambda: None


@dataclasses.dataclass
class Kept:
    """An object's number, as an argument."""

    id: int


class Flow:
    def __init__(self, folder):
        self.folder, self.runner = folder, flowcell_runner_app.Runner()

    @property
    def path(self):
        return pathlib.Path(self.folder)

    def load(self, source):
        return self.runner.load(self.folder, source)

    def call(self, source, init=None, **inputs):
        """The tool's result: a JSON value, or what is told of an object."""
        request = runner.Request(self.folder, source, self._arguments(init or {}), self._arguments(inputs))
        outcome = self.runner.call(request)
        return json.loads(outcome.value) if isinstance(outcome, runner.Outcome_Json) else outcome.value

    def error(self, source, **inputs):
        try:
            self.call(source, **inputs)
        except Err as error:
            return error.value
        raise AssertionError(f"{source} did not fail")

    @staticmethod
    def _arguments(values):
        return [
            (name, runner.Argument_Object(value.id) if isinstance(value, Kept) else runner.Argument_Json(json.dumps(value)))
            for name, value in values.items()
        ]


@contextlib.contextmanager
def flow(**files):
    """A flow folder with these files, `name="text"` becoming name.py."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            pathlib.Path(folder, f"{name}.py").write_text("from promptflow.core import tool\n" + text, encoding="utf-8")
        startup.FLOW = folder
        sys.path.insert(0, folder)
        try:
            yield Flow(folder)
        finally:
            sys.path.remove(folder)
