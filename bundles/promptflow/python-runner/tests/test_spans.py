import unittest

import stand_in
from stand_in import flow, spans

TRACED = "from promptflow.tracing import trace\n"


class SpanTest(unittest.TestCase):
    def setUp(self):
        spans.clear()
        stand_in.content.is_recorded = False

    def call(self, text, **inputs):
        with flow(r=TRACED + text) as f:
            return f.call("r.py", **inputs)

    def test_marked_functions_are_spans_within_each_other(self):
        text = "@trace\ndef inner(x): return x + 1\n@trace\ndef outer(x): return inner(x) + inner(x)\n@tool\ndef f(x): return outer(x)\n"
        self.assertEqual(self.call(text, x=1), 4)
        self.assertEqual([(span["name"], span["parent"]) for span in spans], [("outer", None), ("inner", 0), ("inner", 0)])
        self.assertTrue(all(span["ended"] for span in spans))
        self.assertFalse({"inputs", "output"} & spans[0].keys())

    def test_they_say_what_was_given_and_returned_where_they_may(self):
        stand_in.content.is_recorded = True
        text = "class C:\n    @trace\n    def m(self, a, *, b=2): return [a, b]\n@tool\ndef f(x): return C().m(x, b={'k': 'ä'})\n"
        self.assertEqual(self.call(text, x=1), [1, {"k": "ä"}])
        self.assertEqual((spans[0]["function"], spans[0]["inputs"], spans[0]["output"]),
                         ("C.m", '{"a": 1, "b": {"k": "ä"}}', '[1, {"k": "ä"}]'))

    def test_long_and_strange_values_do_not_fail(self):
        stand_in.content.is_recorded = True
        text = "class Bad:\n    def __repr__(self): raise ValueError()\n@trace\ndef g(x): return Bad()\n@tool\ndef f(): return str(type(g('x' * 1_000_000)))\n"
        self.assertIn("Bad", self.call(text))
        self.assertLess(len(spans[0]["inputs"]), 11_000)
        self.assertEqual(spans[0]["output"], "<Bad>")

    def test_an_error_is_noted_and_goes_on(self):
        text = "@trace\ndef g(): raise KeyError('k')\n@tool\ndef f():\n    try: g()\n    except KeyError: return 'caught'\n"
        self.assertEqual(self.call(text), "caught")
        self.assertEqual((spans[0]["error.type"], spans[0]["error"]), ("KeyError", "'k'"))

    def test_coroutines_at_once_have_the_right_parents(self):
        text = (
            "import asyncio\n@trace\nasync def leaf(i):\n    await asyncio.sleep(0)\n    return i\n"
            "@trace()\nasync def branch(i): return await leaf(i) + await leaf(i)\n"
            "@tool\nasync def f(): return await asyncio.gather(*(branch(i) for i in range(3)))\n"
        )
        self.assertEqual(self.call(text), [0, 2, 4])
        branches = [number for number, span in enumerate(spans) if span["name"] == "branch"]
        self.assertTrue(all(spans[number]["parent"] is None for number in branches))
        self.assertEqual(sorted(span["parent"] for span in spans if span["name"] == "leaf"), sorted(branches * 2))

    def test_a_stream_is_a_span_that_holds_what_it_does_alone(self):
        stand_in.content.is_recorded = True
        text = (
            "@trace\ndef word(w): return w\n@trace\ndef words():\n    for w in 'ab': yield word(w)\n    return 3\n"
            "@tool\ndef f():\n    found = []\n    for w in words(): found.append(word(w * 2))\n    return found\n"
        )
        self.assertEqual(self.call(text), ["aa", "bb"])
        self.assertEqual([span["parent"] for span in spans], [None, 0, None, 0, None])
        self.assertEqual(spans[0]["output"], '"ab"')
        spans.clear()
        text = (
            "@trace\nasync def word(w): return w\n@trace\nasync def words():\n    for w in 'ab': yield await word(w)\n"
            "@tool\nasync def f(): return [w async for w in words()]\n"
        )
        self.assertEqual(self.call(text), ["a", "b"])
        self.assertEqual([span["parent"] for span in spans], [None, 0, 0])
        self.assertEqual((spans[0]["output"], spans[0]["ended"]), ('"ab"', True))

    def test_a_traced_tool_is_a_tool(self):
        self.assertEqual(self.call("@tool\n@trace\ndef f(x: int): return x\n", x=1), 1)
        self.assertEqual(self.call("@trace\n@tool\ndef f(x: int): return x\n", x=1), 1)
