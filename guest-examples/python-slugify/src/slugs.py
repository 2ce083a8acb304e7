"""What the tools do, without anything of WebAssembly."""

import re
import unicodedata


def slugify(text: str, separator: str = "-", limit: int = 40) -> str:
    """A text as a name for addresses and files: ASCII letters and digits, words set apart, not cut inside a word."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    slug = ""
    for word in re.findall(r"[a-z0-9]+", ascii_text.lower().replace("'", "")):
        longer = slug + separator + word if slug else word
        if len(longer) > limit:
            return slug or word[:limit]
        slug = longer
    return slug


def initials(text: str) -> str:
    """The first letter of each word, in upper case."""
    return "".join(word[0].upper() for word in re.findall(r"\w+", text))
