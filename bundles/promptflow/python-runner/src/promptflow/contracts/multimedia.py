"""Images and texts as tools see them."""

import base64
import hashlib

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

    # Whether there is any; looking for texts in every value that leaves would be slow.
    exist = False

    def __new__(cls, value, annotations=None):
        Text.exist = True
        text = super().__new__(cls, value)
        text._annotations = annotations
        return text

    def __reduce__(self):
        return type(self), (str(self), self._annotations)

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


def _guess(value):
    for offset, signature, mime_type in _SIGNATURES:
        if value[offset : offset + len(signature)] == signature:
            return mime_type
    return "image/*"
