import json
import unittest
from unittest import mock

from flowcell_runner import connections
from promptflow.connections import connection_from
from stand_in import Err, flow, metrics, runner


def values(outcome):
    """Members as the host gets them: JSON, or None for an object."""
    return {name: json.loads(value.value) if isinstance(value, runner.Outcome_Json) else None for name, value in outcome}


COUNTER = """
from dataclasses import dataclass
import asyncio

@dataclass
class Answer:
    text: str
    count: int

class Counter:
    made = 0
    def __init__(self, start: int, question: str = "why"):
        type(self).made += 1
        self.count = start
    async def __call__(self, question: str, times: int = 1, other: list = None) -> Answer:
        await asyncio.sleep(0)
        self.count += times
        return Answer(question, self.count)
    def __aggregate__(self, results: list):
        return {"sum": sum(result.count for result in results), "made": self.made}
"""


class EntryTest(unittest.TestCase):
    def test_a_class_is_made_once_for_its_calls_and_its_aggregation(self):
        with flow(counter=COUNTER) as f:
            info = f.load("entry:counter:Counter")
            self.assertEqual(info.name, "Counter.__call__")
            named = [(one.name, one.types, one.required, one.init) for one in info.inputs]
            self.assertEqual(
                named,
                [
                    ("start", ["int"], True, True),
                    ("question", ["string"], False, True),
                    ("question", ["string"], True, False),
                    ("times", ["int"], False, False),
                    ("other", ["list"], False, False),
                ],
            )
            first = f.call("entry:counter:Counter", {"start": 5}, question="a")
            second = f.call("entry:counter:Counter", {"start": 5}, question="b", times=2)
            self.assertEqual(values(f.runner.members(second)), {"text": "b", "count": 8})
            metrics.clear()
            results = runner.Argument_Objects([first, second])
            request = runner.Request(f.folder, "entry:counter:Counter.__aggregate__", f._arguments({"start": 5}), [("results", results)])
            f.runner.call(request)
            self.assertEqual(metrics, [("sum", "14"), ("made", "1")])
            f.call("entry:counter:Counter", {"start": 0}, question="c")
            self.assertEqual(f.call("entry:counter:Counter.__aggregate__", {"start": 0}, results=[])["made"], 2)

    def test_functions_modules_below_and_folders(self):
        with flow() as f:
            for place in ("deep/er", "src"):
                path = f.path / place
                path.mkdir(parents=True)
                (path / "inner.py").write_text("def main(x=1):\n    return [x, __name__]\n")
            self.assertEqual(f.call("entry:deep.er.inner:main", x=2), [2, "deep.er.inner"])
            with mock.patch("os.chdir") as chdir, mock.patch("sys.path", [*__import__("sys").path]):
                self.assertEqual(f.call("entry:src/inner:main"), [1, "inner"])
            chdir.assert_called_with(str(f.path / "src"))

    def test_what_it_raises(self):
        text = "class Oddly:\n    def __init__(self, n): self.m = 1 / n\n    def __call__(self): raise KeyError('x')\ndef f(a): pass\nnone = 3\n"
        with flow(odd=text) as f:
            for source, init, kind, message in (
                ("entry:odd:Oddly", {"n": 1}, "ScriptExecutionError", "Execution failure in 'Oddly.__call__': (KeyError) 'x'"),
                ("entry:odd:Oddly", {"n": 0}, "FlowEntryInitializationError", "Failed to initialize flow entry with '{'n': 0}', ex:'division by zero."),
                ("entry:odd:f", {}, "ScriptExecutionError", "Execution failure in 'f': (TypeError) f() missing 1 required positional argument: 'a'"),
                ("entry:odd:none", {}, "PythonLoadError", "Failed to load python function 'none' from file 'odd', got 3."),
                ("entry:odd:gone", {}, "PythonLoadError", "Failed to load python function 'gone' from file 'odd', got None."),
            ):
                with self.subTest(source, init=init), self.assertRaises(Err) as raised:
                    f.call(source, init)
                error = raised.exception.value
                self.assertEqual((error.type_name, error.message, error.own), (kind, message, True))
            with self.assertRaises(Err) as raised:
                f.call("entry:odd:Oddly.__init__", {"n": 0})
            self.assertEqual(raised.exception.value.type_name, "FlowEntryInitializationError")
            self.assertIsNone(f.call("entry:odd:Oddly.__init__", {"n": 1}))
            self.assertIsNone(f.call("entry:odd:f.__init__"))
            with self.assertRaises(Err) as raised:
                f.load("entry:odd:f.__aggregate__")
            self.assertIsInstance(raised.exception.value, runner.LoadError_NoTool)

    def test_connections_by_name_and_models_as_objects(self):
        text = """
from promptflow.connections import AzureOpenAIConnection
from promptflow.core import AzureOpenAIModelConfiguration as Azure, OpenAIModelConfiguration as OpenAI

class Flow:
    def __init__(self, connection: AzureOpenAIConnection, azure: Azure, model: OpenAI = None):
        self.given = connection, azure, model
    def __call__(self):
        connection, azure, model = self.given
        return [connection.api_base, azure.azure_endpoint, azure.azure_deployment, azure.connection, model.base_url]
"""
        known = connection_from({"type": "AzureOpenAIConnection", "name": "c", "configs": {"api_base": "https://a"}, "secrets": {"api_key": "k"}})
        init = {"connection": "c", "azure": {"azure_deployment": "d", "connection": "c"}, "model": {"model": "m", "base_url": "https://o"}}
        with flow(models=text) as f, mock.patch.object(connections, "get", {"c": known}.__getitem__):
            info = f.load("entry:models:Flow")
            self.assertEqual([one.types[0] for one in info.inputs], ["AzureOpenAIConnection", "AzureOpenAIModelConfiguration", "OpenAIModelConfiguration"])
            self.assertEqual(f.call("entry:models:Flow", init), ["https://a", "https://a", "d", None, "https://o"])
            with self.assertRaises(Err) as raised:
                f.call("entry:models:Flow", {**init, "model": "m"})
            self.assertRegex(raised.exception.value.message, "ex:'Model config value is not an instance of <class '.*OpenAIModelConfiguration'>, got <class 'str'>.")

    def test_members_of_what_is_no_mapping(self):
        with flow(pairs="def f():\n    return {1: iter('ab'), None: 2, 'é': (3,)}\ndef g():\n    return (1, 2)\n") as f:
            members = f.runner.members(f.call("entry:pairs:f"))
            self.assertEqual(values(members), {"1": None, "null": 2, "é": None})
            self.assertIsNone(f.runner.members(f.call("entry:pairs:g")))

    def test_outputs_by_annotation(self):
        text = COUNTER + "from typing import TypedDict\nclass T(TypedDict):\n    a: str\n    b: float\ndef f() -> T: ...\ndef g() -> str: ...\ndef h(): ...\n"
        with flow(annotated=text) as f:
            for entry, outputs in (
                ("Counter", {"text": "string", "count": "int"}),
                ("f", {"a": "string", "b": "double"}),
                ("g", {"output": "string"}),
                ("h", {"output": "object"}),
            ):
                with self.subTest(entry):
                    self.assertEqual(f.call("flowcell_runner.entries:outputs", of=f"entry:annotated:{entry}"), outputs)
