import json
import unittest

import stand_in
from stand_in import Err, Kept, flow

from wit_world.imports.tool_types import ErrorKind


class LoadTest(unittest.TestCase):
    def load_error(self, text, **others):
        with flow(r=text, **others) as f, self.assertRaises(Err) as raised:
            f.load("r.py")
        return raised.exception.value

    def test_describes_the_signature(self):
        text = """
from enum import Enum
from typing import Any, Dict, List, Optional, Union
from promptflow.connections import AzureOpenAIConnection, CustomStrongTypeConnection, OpenAIConnection
from promptflow.contracts.multimedia import Image
from promptflow.contracts.types import FilePath, PromptTemplate, Secret
class Color(Enum):
    RED = "red"
class Mine(CustomStrongTypeConnection):
    key: Secret
@tool(name="named")
def f(i: int, d: float, b: bool, s: str, l: list, o: dict, a: Any, u, ls: List[str], op: Optional[int], un: Union[int, str],
      e: Color, se: Secret, pt: PromptTemplate, fp: FilePath, im: Image, c: OpenAIConnection, m: Mine,
      cs: Union[AzureOpenAIConnection, OpenAIConnection], di=5, df=1.5, db=True, dn=None, de=Color.RED, *args, **kwargs):
    "What it does."
"""
        with flow(r=text) as f:
            info = f.load("r.py")
        self.assertEqual((info.name, info.description, info.open_inputs), ("named", "What it does.", True))
        self.assertEqual(
            {p.name: p.types[0] if len(p.types) == 1 else p.types for p in info.inputs},
            {
                "i": "int", "d": "double", "b": "bool", "s": "string", "l": "list", "o": "object", "a": "object", "u": "object",
                "ls": "object", "op": "int", "un": "object", "e": "string", "se": "secret", "pt": "prompt_template",
                "fp": "file_path", "im": "image", "c": "OpenAIConnection", "m": "CustomConnection",
                "cs": ["AzureOpenAIConnection", "OpenAIConnection"],
                "di": "int", "df": "double", "db": "bool", "dn": "object", "de": "string",
            },
        )
        defaults = {p.name: p.default for p in info.inputs if not p.required}
        self.assertEqual(defaults, {"di": "5", "df": "1.5", "db": "true", "dn": "null", "de": '"red"'})

    def test_only_tools_of_the_file_itself_count(self):
        error = self.load_error("from other import f\n", other="@tool\ndef f(x): return x\n")
        self.assertIsInstance(error, stand_in.runner.LoadError_NoTool)

    def test_two_tools(self):
        error = self.load_error("@tool\ndef b(x): return x\n@tool\ndef a(x): return x\n")
        self.assertEqual(error.value, ["a", "b"])

    def test_an_import_that_fails(self):
        error = self.load_error("def go():\n    import nosuchmod\ngo()\n").value
        self.assertEqual((error.type_name, error.message, error.own), ("ModuleNotFoundError", "No module named 'nosuchmod'", False))
        self.assertEqual([line.strip() for line in error.traceback.splitlines()][2], "go()")
        self.assertNotIn("flowcell_runner", error.traceback)
        self.assertNotIn("importlib", error.traceback)


class CallTest(unittest.TestCase):
    def test_the_file_is_no_known_module(self):
        text = "import sys\n@tool\ndef f(): return [__name__, __name__ in sys.modules, f.__module__]\n"
        with flow(r=text) as f:
            self.assertEqual(f.call("r.py"), ["__pf_main__", False, "__pf_main__"])

    def test_async_tools_and_streams(self):
        with flow(
            a="import asyncio\n@tool\nasync def f(x):\n    await asyncio.sleep(0)\n    return x\n",
            g="@tool\ndef f(x):\n    yield from x\n",
            c="@tool\ndef f(x): return [type(x).__name__, list(x)]\n",
        ) as f:
            self.assertEqual(f.call("a.py", x=1), 1)
            stream = f.call("g.py", x="ab")
            self.assertTrue(f.runner.repr(stream).startswith("<generator object f"))
            self.assertEqual(f.call("c.py", x=Kept(stream)), ["generator", ["a", "b"]])
            self.assertEqual(f.runner.dump(stream), '""')

    def test_a_provider_keeps_its_state_per_node(self):
        text = """
from promptflow.core import ToolProvider
class My(ToolProvider):
    def __init__(self, greet: str, times: int = 1):
        super().__init__()
        self.text, self.calls = greet * times, 0
    @tool
    def go(self, x: str):
        self.calls += 1
        return f"{self.text} {x} {self.calls}"
"""
        with flow(r=text) as f:
            self.assertEqual([(p.name, p.init) for p in f.load("r.py").inputs], [("greet", True), ("times", True), ("x", False)])
            self.assertEqual(f.call("r.py", {"greet": "a", "times": 2}, x="b"), "aa b 1")
            self.assertEqual(f.call("r.py", {"greet": "a", "times": 2}, x="b"), "aa b 2")

    def test_threads_run_when_started(self):
        text = """
import threading
from concurrent.futures import ThreadPoolExecutor
@tool
def f():
    got = []
    threads = [threading.Thread(target=got.append, args=(i,)) for i in range(3)]
    [t.start() for t in threads], [t.join() for t in threads]
    with ThreadPoolExecutor(2, initializer=got.append, initargs=("started",)) as pool:
        return [got, [t.is_alive() for t in threads], list(pool.map(abs, [-1, -2]))]
"""
        with flow(r=text) as f:
            self.assertEqual(f.call("r.py"), [[0, 1, 2, "started"], [False] * 3, [1, 2]])

    def test_connections_and_images_come_as_objects(self):
        text = """
from promptflow.connections import AzureOpenAIConnection, CustomConnection
@tool
def f(c: CustomConnection, a: AzureOpenAIConnection, l: list):
    return [c.key, c.configs, dict(**c), a.api_key, a.api_base, a.api_type, str(l[0])]
"""
        with flow(r=text) as f:
            custom = {"type": "CustomConnection", "name": "c", "configs": {"u": "v"}, "secrets": {"key": "k"}}
            azure = {"type": "AzureOpenAIConnection", "name": "a", "api_key": "s", "api_base": "b"}
            image = {"$image": {"value": {"data:image/png;base64": "AA=="}, "type": "object", "message_format": "basic"}}
            self.assertEqual(
                f.call("r.py", c={"$connection": custom}, a={"$connection": azure}, l=[image]),
                ["k", {"u": "v"}, {"u": "v", "key": "k"}, "s", "b", "azure", "Image(5ba93c9d)"],
            )

    def test_metrics_and_logs_go_to_the_host(self):
        text = "import logging\nfrom promptflow import log_metric\n@tool\ndef f():\n    log_metric('a', 0.5)\n    logging.warning('w')\n"
        with flow(r=text) as f:
            f.call("r.py")
        self.assertEqual((stand_in.metrics[-1], stand_in.logs[-1]), (("a", "0.5"), ("WARNING", "w")))


class ErrorTest(unittest.TestCase):
    def error(self, text, **inputs):
        with flow(r=text) as f:
            return f.error("r.py", **inputs)

    def test_a_tools_exception(self):
        error = self.error("def deep(x): raise ValueError(f'boom {x}')\n@tool\ndef f(x): deep(x)\n", x=1)
        self.assertEqual((error.kind, error.type_name, error.message, error.own), (ErrorKind.USER, "ValueError", "boom 1", False))
        self.assertEqual(error.traceback.count("File "), 2)
        self.assertNotIn("flowcell_runner", error.traceback)

    def test_promptflows_exceptions_keep_their_codes(self):
        text = "from promptflow.exceptions import *\n@tool\ndef f(c): raise globals()[c]('text')\n"
        for raised, kind, code in [
            ("UserErrorException", ErrorKind.USER, "UserError"),
            ("SystemErrorException", ErrorKind.SYSTEM, "SystemError"),
            ("ValidationException", ErrorKind.USER, "ValidationError"),
        ]:
            error = self.error(text, c=raised)
            self.assertEqual((error.kind, error.type_name, error.message, error.own), (kind, code, "text", True))

    def test_exits_pass_through(self):
        error = self.error("import sys\n@tool\ndef f(): sys.exit('bye')\n")
        self.assertEqual((error.kind, error.type_name, error.message, error.own), (ErrorKind.SYSTEM, "SystemExit", "bye", True))

    def test_arguments_that_do_not_fit(self):
        error = self.error("@tool\ndef f(x, y): pass\n", x=1)
        self.assertEqual((error.type_name, error.message), ("TypeError", "f() missing 1 required positional argument: 'y'"))
        self.assertEqual(error.traceback, "")

    def test_messages_survive_lone_surrogates(self):
        self.assertEqual(self.error("@tool\ndef f(): raise ValueError('a\\ud800')\n").message, "a?")

    def test_an_object_that_is_gone(self):
        with flow(r="@tool\ndef f(x): return {1, 2}\n") as f:
            number = f.call("r.py", x=1)
            self.assertTrue(json.loads(f.runner.property(number, "__class__.__name__").value), "set")
            f.runner.forget()
            self.assertEqual(f.error("r.py", x=Kept(number)).type_name, "LookupError")


if __name__ == "__main__":
    unittest.main()
