import collections
import datetime
import enum
import math
import unittest

from stand_in import flow  # noqa: F401  (first: it makes the runner importable)

from flowcell_runner import paths, values
from promptflow.contracts.multimedia import Image
from promptflow.contracts.multimedia import Text as AnnotatedText


class Text(str):
    pass


class Color(str, enum.Enum):
    RED = "red"


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


class ToJsonTest(unittest.TestCase):
    def test_plain_values_come_back_the_same(self):
        for value in [None, True, 0, -0.0, 1.5, 10**30, "é\u2028", [], {}, [[], {"a": [1, "x", None]}], nested(98)]:
            text = values.to_json(value)
            self.assertIsNotNone(text, value)
            self.assertEqual(repr(values.from_json(text)), repr(value))

    def test_what_json_would_change_stays_an_object(self):
        circle = []
        circle.append(circle)
        for value in [
            (1,), {1: 2}, {None: 1}, {1, 2}, math.nan, [math.inf], Text("x"), Color.RED, collections.Counter("ab"), b"x",
            datetime.date(2020, 1, 2), range(3), "\ud800", {"\ud800": 1}, [{"a": (1,)}], nested(200), circle,
        ]:
            self.assertIsNone(values.to_json(value), repr(value)[:80])

    def test_lists_that_repeat_without_end_are_not_written_out(self):
        value = [1]
        for _ in range(60):
            value = [value, value]
        self.assertIsNone(values.to_json(value))

    def test_a_list_may_hold_another_twice(self):
        shared = ["x"]
        self.assertEqual(values.to_json([shared, shared]), '[["x"],["x"]]')


class DumpTest(unittest.TestCase):
    def test_streams_are_joined(self):
        self.assertEqual(values.dump(iter(["a", 1, {"b": None}])), '"a1{\'b\': None}"')

        async def stream():
            yield "a"
            yield 2

        self.assertEqual(values.dump(stream()), '"a2"')

    def test_a_failing_stream_is_told_apart_from_what_is_not_json(self):
        def stream():
            yield 1
            raise RuntimeError("in the middle")

        with self.assertRaises(values.StreamFailed):
            values.dump(stream())
        with self.assertRaisesRegex(TypeError, "^Object of type set is not JSON serializable$"):
            values.dump({"a": {1}})

    def test_as_pythons_json(self):
        self.assertEqual(values.dump({1: (1, 2), "n": math.nan}), '{"1": [1, 2], "n": NaN}')
        self.assertEqual(values.dump("\ud800"), '"?"')

    def test_images_and_texts_are_marked_for_the_host(self):
        image = '{"$image": {"media_type": "image/gif", "url": null, "base64": "R0lG"}}'
        self.assertEqual(values.dump([Image(b"GIF")]), f"[{image}]")
        text = '{"$text": {"text": "t", "annotations": null}}'
        self.assertEqual(values.dump({"a": [AnnotatedText("t"), "t"]}), f'{{"a": [{text}, "t"]}}')


class PathTest(unittest.TestCase):
    def test_follows_names_keys_and_indexes(self):
        value = {"a": {"b": [{"d e": 1}]}, "t": Text("x")}
        self.assertEqual(paths.follow(value, "a.b[0].['d e']"), 1)
        self.assertEqual(paths.follow(value, "t.__class__.__name__"), "Text")
        self.assertIs(paths.follow(value, ""), value)

    def test_a_path_that_leads_nowhere(self):
        for path in ["b", "a.b[1]", "t.nope", "a.['x']"]:
            with self.assertRaises(paths.InvalidReferenceProperty):
                paths.follow({"a": {"b": [0]}, "t": "x"}, path)


if __name__ == "__main__":
    unittest.main()
