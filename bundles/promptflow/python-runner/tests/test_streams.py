import unittest

from stand_in import Err, emitted, flow


class StreamTest(unittest.TestCase):
    def setUp(self):
        emitted.clear()

    def stream(self, text):
        with flow(r=text) as f:
            f.runner.stream(f.call("r.py"))

    def test_items_are_handed_out_one_by_one(self):
        self.stream('@tool\ndef f():\n    yield "one"\n    yield {"two": [float("nan"), None]}\n    yield "dr\\ud800ei"\n')
        self.assertEqual(emitted[0], "one")
        self.assertNotEqual(emitted[1]["two"][0], emitted[1]["two"][0])
        self.assertEqual(emitted[2], "dr?ei")

    def test_items_that_come_asynchronously(self):
        self.stream('import asyncio\n@tool\nasync def f():\n    for i in range(3):\n        await asyncio.sleep(0)\n        yield str(i)\n')
        self.assertEqual(emitted, ["0", "1", "2"])

    def test_what_came_before_an_error_has_been_handed_out(self):
        for kind in ("def", "async def"):
            emitted.clear()
            with self.subTest(kind), self.assertRaises(Err) as raised:
                self.stream(f'@tool\n{kind} f():\n    yield "one"\n    raise KeyError("no more")\n')
            error = raised.exception.value
            self.assertEqual((error.type_name, error.message, error.own), ("KeyError", "'no more'", True))
            self.assertEqual(emitted, ["one"])

    def test_an_item_that_is_no_json_is_an_error(self):
        with self.assertRaises(Err) as raised:
            self.stream("@tool\ndef f():\n    yield object()\n")
        self.assertEqual(raised.exception.value.type_name, "TypeError")
