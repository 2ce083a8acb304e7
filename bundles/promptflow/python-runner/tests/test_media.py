import json
import os
import tempfile
import unittest

from stand_in import flow  # noqa: F401  (first: it makes the runner importable)

from flowcell_runner import media, values, wording
from promptflow.contracts.multimedia import Image, Text

PNG = "iVBORw0KGgo="


class LoadTest(unittest.TestCase):
    def test_basic_notation(self):
        for value in [{"data:image/png;base64": PNG}, PNG, f"data:image/png;base64,{PNG}"]:
            image = media.load(value, "image", "basic")
            self.assertEqual((bytes(image), image._mime_type), (b"\x89PNG\r\n\x1a\n", "image/png"))
        loaded = media.load([{"a": {"data:image/x;base64": PNG}}, {"data:image/png;nope": PNG}, PNG], "object", "basic")
        self.assertIsInstance(loaded[0]["a"], Image)
        self.assertEqual(loaded[1:], [{"data:image/png;nope": PNG}, PNG])

    def test_openai_notation(self):
        value = [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
            {"type": "text", "text": "t"},
            {"type": "text", "text": {"value": "v", "annotations": [1]}},
            {"type": "image_url", "image_url": {"path": "x"}},
            {"data:image/png;base64": PNG},
        ]
        loaded = media.load(value, "object", "openai-vision")
        self.assertEqual([type(item) for item in loaded], [Image, Text, Text, dict, dict])
        self.assertEqual((loaded[2], loaded[2]._annotations), ("v", [1]))

    def test_only_the_hosts_mark_is_one(self):
        mark = {"value": PNG, "type": "image", "message_format": "basic"}
        self.assertIsInstance(values.from_json(json.dumps({"a": {"$image": mark}}))["a"], Image)
        for data in [{"$image": "x"}, {"$image": {"value": PNG}}, {"$image": mark, "b": 1}]:
            self.assertEqual(values.from_json(json.dumps(data)), data)

    def test_a_file(self):
        with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
            file.write(b"\xff\xd8\xff")
            file.flush()
            self.assertEqual(media.load(file.name, "image", "basic")._mime_type, "image/jpeg")
            named = media.load({"data:image/jpg;path": file.name}, "image", "basic")
            self.assertEqual(named._mime_type, "image/jpg")
            self.assertIsInstance(media.load_input("i", [file.name], "image", "basic")[0], Image)

    def test_what_is_no_image(self):
        for value, message in [
            ("", "(InvalidImageInput) The image input should not be empty."),
            (5, "(InvalidImageInput) Unsupported image input type: <class 'int'>. The image inputs should be a string or a dictionary."),
            ("gone.png", "(FileNotFoundError) [Errno 2] No such file or directory: 'gone.png'"),
            ({"data:image/png;base64": "?"}, "(InvalidImageInput) Invalid base64 image: ?."),
        ]:
            with self.assertRaises(media.LoadMultimediaDataError) as caught:
                media.load_input("i", value, "image", "basic")
            self.assertEqual(str(caught.exception), f"Failed to load image for input 'i': {message}")


class WordingTest(unittest.TestCase):
    def test_failures_of_files_have_linuxs_numbers(self):
        try:
            os.listdir("/nowhere/at/all")
        except OSError as error:
            self.assertEqual(wording.text_of(error), "[Errno 2] No such file or directory: '/nowhere/at/all'")

    def test_a_message_that_raises(self):
        class Broken(Exception):
            def __str__(self):
                raise ValueError

        self.assertEqual(wording.text_of(Broken()), "<Broken whose message raised ValueError>")


if __name__ == "__main__":
    unittest.main()
