import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "src"))

import slugs  # noqa: E402


class SlugifyTest(unittest.TestCase):
    def test_keeps_ascii_letters_and_digits(self):
        self.assertEqual(slugs.slugify("Déjà vu: it's 42!"), "deja-vu-its-42")

    def test_stops_before_the_word_that_does_not_fit(self):
        self.assertEqual(slugs.slugify("one two three", limit=8), "one-two")
        self.assertEqual(slugs.slugify("incomprehensibly", limit=4), "inco")

    def test_the_separator_is_the_callers(self):
        self.assertEqual(slugs.slugify("a b", separator="_"), "a_b")

    def test_initials(self):
        self.assertEqual(slugs.initials("world wide web"), "WWW")


if __name__ == "__main__":
    unittest.main()
