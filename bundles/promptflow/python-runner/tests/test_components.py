import inspect
import json
import sys
import unittest

import stand_in
from stand_in import Err

from wit_world.imports.tool_types import ErrorKind, Parameter, ToolError, ToolInfo


def parameter(name, default=None, required=True):
    return Parameter(name, ["string"], default, required, False)


class ComponentsTest(unittest.TestCase):
    def setUp(self):
        self.calls, self.answer = [], '{"n": 1}'
        infos = [
            ToolInfo("words.count", "Counts.", [parameter("text"), parameter("top", "3", False), parameter("late")], False),
            ToolInfo("words.odd.any", "", [parameter("from"), parameter("more", required=False)], True),
            ToolInfo("words.Book.find", "Finds.", [parameter("connection"), parameter("word"), parameter("page", "1", False)], False),
            ToolInfo("words.Book.close", "", [parameter("self", "false", False)], False),
        ]
        stand_in.component_tools.in_module = lambda module: [info for info in infos if info.name.startswith(module + ".")]
        stand_in.component_tools.call = self.call
        self.addCleanup(self.forget)

    def call(self, tool, inputs):
        self.calls.append((tool, json.loads(inputs)))
        if isinstance(self.answer, ToolError):
            raise Err(self.answer)
        return self.answer

    @staticmethod
    def forget():
        stand_in.component_tools.in_module = lambda module: []
        for name in [name for name in sys.modules if name.partition(".")[0] == "words"]:
            del sys.modules[name]

    def test_a_tool_is_a_function(self):
        from words import count

        self.assertEqual(str(inspect.signature(count)), "(text, top=3, *, late)")
        self.assertEqual((count.__module__, count.__doc__), ("words", "Counts."))
        self.assertEqual(count("a", late=("b", None)), {"n": 1})
        # What is not given is the tool's to choose.
        self.assertEqual(self.calls, [("words.count", {"text": "a", "late": ["b", None]})])
        with self.assertRaisesRegex(TypeError, "missing a required argument: 'late'"):
            count("a")
        with self.assertRaisesRegex(TypeError, "unexpected keyword argument 'other'"):
            count("a", late=1, other=2)

    def test_a_class_hands_on_its_connection(self):
        from words import Book

        book = Book("a connection")
        self.assertEqual(str(inspect.signature(book.find)), "(word, page=1)")
        self.assertEqual((Book.__module__, Book.find.__doc__), ("words", "Finds."))
        book.find("x", page=2)
        book.close(self=True)
        Book(connection=None).find(word="y")
        self.assertEqual(
            self.calls,
            [
                ("words.Book.find", {"connection": "a connection", "word": "x", "page": 2}),
                ("words.Book.close", {"self": True}),
                ("words.Book.find", {"connection": None, "word": "y"}),
            ],
        )
        with self.assertRaisesRegex(TypeError, "missing a required argument: 'word'"):
            book.find()

    def test_modules_lie_below_others(self):
        import words.odd

        self.assertEqual((words.__all__, words.odd.__all__), (["count", "Book"], ["any"]))
        words.odd.any("x", **{"from": 1, "beyond": 2})
        self.assertEqual(self.calls, [("words.odd.any", {"more": "x", "from": 1, "beyond": 2})])
        with self.assertRaises(ModuleNotFoundError):
            import words.even  # noqa: F401

    def test_values_without_json_are_refused_by_name(self):
        from words import count

        for value in (object(), float("nan"), "\ud800", {1, 2}):
            with self.assertRaisesRegex(TypeError, r"count\(\) takes values that JSON has, and late is none: "):
                count("a", late=value)
        self.assertEqual(self.calls, [])

    def test_connections_go_as_the_host_hands_them_over(self):
        from promptflow.connections import OpenAIConnection
        from words import count

        count("a", late=OpenAIConnection(api_key="placeholder", base_url="https://api.example", name="mine"))
        given = self.calls[0][1]["late"]
        self.assertEqual((given["type"], given["name"], given["secret_keys"]), ("OpenAIConnection", "mine", ["api_key"]))
        self.assertEqual((given["value"]["api_key"], given["value"]["base_url"]), ("placeholder", "https://api.example"))

    def test_errors_keep_their_class_and_message(self):
        from flowcell_runner import components
        from promptflow.exceptions import UserErrorException
        from words import count

        for name, expected in [
            ("ValueError", ValueError), ("UserErrorException", UserErrorException), ("Odd thing", components.ToolError),
            ("SystemExit", components.ToolError), ("UnicodeDecodeError", components.ToolError), ("open", components.ToolError),
        ]:
            self.answer = ToolError(ErrorKind.USER, name, "no words", "line 1", False)
            with self.assertRaisesRegex(expected, "no words") as raised:
                count("a", late=1)
            self.assertEqual(raised.exception.__notes__, ["line 1"])
            self.assertIn(name, type(raised.exception).__name__ + str(raised.exception))


if __name__ == "__main__":
    unittest.main()
