"""Images as tools see them, and reading them from what a flow's inputs hold."""

import base64
import hashlib
import re

from promptflow.exceptions import UserErrorException

# First bytes of the image formats that promptflow recognises.
_SIGNATURES = (
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"GIF", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (0, b"BM", "image/bmp"),
    (0, b"II*\x00", "image/tiff"),
    (0, b"MM\x00*", "image/tiff"),
    (0, b"\x00\x00\x01\x00", "image/x-icon"),
    (0, b"8BPS", "image/vnd.adobe.photoshop"),
)
_MARK = re.compile(r"^data:image/(.*);(path|base64|url)$")
_BASE64_PREFIX = re.compile(r"^data:image/(.*);base64")
_BASE64 = re.compile(r"^([A-Za-z0-9+/]{4})*(([A-Za-z0-9+/]{2})*(==|[A-Za-z0-9+/]=)?)?$")


class PFBytes(bytes):
    """Bytes that know their media type and where they came from."""

    def __new__(cls, value, *args, **kwargs):
        return super().__new__(cls, value)

    def __init__(self, value, mime_type, source_url=None):
        self._hash = hashlib.sha1(value, usedforsecurity=False).hexdigest()[:8]
        self._mime_type = mime_type.lower()
        self._source_url = source_url

    @property
    def source_url(self):
        return self._source_url

    def to_base64(self, with_type=False):
        text = base64.b64encode(self).decode()
        return f"data:{self._mime_type};base64,{text}" if with_type else text

    def __reduce__(self):
        return type(self), (bytes(self), self._mime_type, self._source_url)


class Image(PFBytes):
    """An image."""

    def __init__(self, value, mime_type=None, source_url=None):
        super().__init__(value, mime_type or _guess(value), source_url)

    def __str__(self):
        return f"Image({self._hash})"

    __repr__ = __str__

    def serialize(self, encoder=None):
        return str(self) if encoder is None else encoder(self)


class Text(str):
    """A text with annotations."""

    def __new__(cls, value, annotations=None):
        text = super().__new__(cls, value)
        text._annotations = annotations
        return text

    @classmethod
    def deserialize(cls, data):
        text = data.get("text", "")
        if isinstance(text, dict):
            return cls(text.get("value", ""), text.get("annotations", []))
        return cls(text)

    def serialize(self):
        if self._annotations is None:
            return {"type": "text", "text": self}
        return {"type": "text", "text": {"value": self, "annotations": self._annotations}}


class InvalidImageInput(UserErrorException):
    """An input for an image that is none."""


def load_image(value):
    """An image from promptflow's notations: `{"data:image/png;path": …}`, OpenAI's dicts, a path, base64 text."""
    if isinstance(value, PFBytes):
        return value
    if isinstance(value, dict):
        return _from_dict(value)
    if not isinstance(value, str):
        raise InvalidImageInput(
            f"Unsupported image input type: {type(value)}. The image inputs should be a string or a dictionary."
        )
    if not value:
        raise InvalidImageInput("The image input should not be empty.")
    return _from_string(value)


def _from_dict(value):
    if len(value) == 1:
        ((key, content),) = value.items()
        mark = _MARK.match(key)
        if mark:
            return _READERS[mark[2]](content, f"image/{mark[1]}")
    if value.get("type") == "image_url":
        return _from_string(value["image_url"]["url"])
    if value.get("type") == "image_file":
        return _from_path(value["image_file"]["path"])
    raise InvalidImageInput(
        "Invalid image input format. The image input should be a dictionary like: "
        "{data:image/<image_type>;[path|base64|url]: <image_data>}."
    )


def _from_string(value):
    prefix, _, text = value.rpartition(",")
    if _BASE64.match(text) and (not prefix or _BASE64_PREFIX.match(prefix)):
        return _from_base64(value)
    if re.match(r"^[A-Za-z][A-Za-z0-9+.-]*://[^/]", value):
        return _from_url(value)
    return _from_path(value)


def _from_path(path, mime_type=None):
    with open(path, "rb") as file:
        return Image(file.read(), mime_type)


def _from_base64(text, mime_type=None):
    return Image(base64.b64decode(text.rpartition(",")[2]), mime_type)


def _from_url(url, mime_type=None):
    # The host loads images from the network before the call: it is what decides where requests may go.
    raise InvalidImageInput(f"Failed to fetch image from URL: {url}.")


_READERS = {"path": _from_path, "base64": _from_base64, "url": _from_url}


def _guess(value):
    for offset, signature, mime_type in _SIGNATURES:
        if value[offset : offset + len(signature)] == signature:
            return mime_type
    return "image/*"
