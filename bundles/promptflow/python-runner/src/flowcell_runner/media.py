"""Images in a flow's values: read from promptflow's notations on the way in, marked for the host on the way out.

A flow's `message_format` says which notation it uses: `basic` has `{"data:image/png;path": …}`, `openai-vision` has
OpenAI's `{"type": "image_url", "image_url": {"url": …}}` and texts as `{"type": "text", …}`. Where an image itself is
expected, both take a path, a URL or base64 text too.
"""

import base64
import os
import re
import sys
from urllib.parse import urlparse

from promptflow.contracts.multimedia import Image, PFBytes, Text
from promptflow.exceptions import UserErrorException

from .wording import text_of

IMAGE, TEXT = "$image", "$text"
# Of an image that is fetched: bytes, seconds for each step, and bytes of an error that are told.
MAX_IMAGE = 20 << 20
URL_TIME = 60
MAX_ERROR = 2_000
OPENAI_VISION = "openai-vision"

_MARK = re.compile(r"^data:image/(.*);(path|base64|url)$")
_MARK_LINE = re.compile(r"^data:image/(.*);(path|base64|url):\s*(.*)$")
_BASE64_PREFIX = re.compile(r"^data:image/(.*);base64")
_BASE64 = re.compile(r"^([A-Za-z0-9+/]{4})*(([A-Za-z0-9+/]{2})*(==|[A-Za-z0-9+/]=)?)?$")


class InvalidImageInput(UserErrorException):
    """A value that is expected to be an image is none."""


class LoadMultimediaDataError(UserErrorException):
    """An input's image cannot be loaded."""


def load_input(name, value, type, message_format):
    """A flow input's value with its images loaded; of type image it is one or a list of them. Called by the host."""
    try:
        if type != "image":
            return load(value, type, message_format)
        if isinstance(value, list):
            return [load(item, type, message_format) for item in value]
        return load(value, type, message_format)
    except Exception as error:
        message = f"Failed to load image for input '{name}': ({error.__class__.__name__}) {text_of(error)}"
        raise LoadMultimediaDataError(message) from error


def load(value, type, message_format):
    """The value as an image when that is its type, otherwise with the images that are somewhere inside it."""
    is_image, image, is_text = _NOTATIONS[message_format == OPENAI_VISION]
    return _image(value, is_image, image) if type == "image" else _within(value, is_image, image, is_text)


def _within(value, is_image, image, is_text):
    if isinstance(value, list):
        return [_within(item, is_image, image, is_text) for item in value]
    if not isinstance(value, dict):
        return value
    if is_image(value):
        return image(value)
    if is_text(value):
        return Text.deserialize(value)
    return {key: _within(item, is_image, image, is_text) for key, item in value.items()}


def _image(value, is_image, image):
    if isinstance(value, PFBytes):
        return value
    if isinstance(value, dict):
        if is_image(value):
            return image(value)
        raise InvalidImageInput(
            "Invalid image input format. The image input should be a dictionary like: "
            "{data:image/<image_type>;[path|base64|url]: <image_data>}."
        )
    if not isinstance(value, str):
        raise InvalidImageInput(
            f"Unsupported image input type: {type(value)}. The image inputs should be a string or a dictionary."
        )
    if not value:
        raise InvalidImageInput("The image input should not be empty.")
    if _is_base64(value):
        return _from_base64(value)
    return _from_url(value) if _is_url(value) else _from_path(value)


def image_line(text, folder):
    """The image that a line stands for (`data:image/png;path: cat.png`), or the text when it stands for none."""
    line = _MARK_LINE.match(text)
    if line is None:
        return text
    media_type, kind, content = line.groups()
    if kind == "path":
        content = os.path.join(folder, content)
        if not os.path.exists(content):
            print(f"Cannot find the image path {content}, it will be regarded as {type(text)}.", file=sys.stderr)
    return _LOADERS[kind](content, f"image/{media_type}")


def _is_basic_image(value):
    return len(value) == 1 and _MARK.match(next(iter(value))) is not None


def _basic_image(value):
    ((key, content),) = value.items()
    media_type, kind = _MARK.match(key).groups()
    if kind == "base64" and not _is_base64(content):
        raise InvalidImageInput(f"Invalid base64 image: {content}.")
    return _LOADERS[kind](content, f"image/{media_type}")


def _is_vision_image(value):
    kind = value.get("type")
    if len(value) != 2 or not isinstance(value.get(kind), dict):
        return False
    return (kind, True) in (("image_url", "url" in value[kind]), ("image_file", "path" in value[kind]))


def _vision_image(value):
    if value["type"] == "image_file":
        return _from_path(value["image_file"]["path"])
    url = value["image_url"]["url"]
    if _is_base64(url):
        return _from_base64(url)
    if _is_url(url):
        return _from_url(url)
    raise InvalidImageInput(f"Invalid image url: {url}. Should be a valid url or base64 string.")


def _is_vision_text(value):
    if len(value) != 2 or value.get("type") != "text":
        return False
    text = value.get("text")
    return isinstance(text, str) or isinstance(text, dict) and isinstance(text.get("value"), str)


_NOTATIONS = (
    (_is_basic_image, _basic_image, lambda value: False),
    (_is_vision_image, _vision_image, _is_vision_text),
)


def _is_base64(text):
    *prefix, content = text.split(",")
    return len(prefix) < 2 and _BASE64.match(content) is not None and all(map(_BASE64_PREFIX.match, prefix))


def _is_url(text):
    try:
        url = urlparse(text)
    except ValueError:
        return False
    return bool(url.scheme and url.netloc)


def _from_path(path, media_type=None):
    with open(path, "rb") as file:
        return Image(file.read(), media_type)


def _from_base64(text, media_type=None):
    return Image(base64.b64decode(text.split(",")[-1]), media_type)


def _from_url(url, media_type=None):
    from urllib import error, request  # seldom needed, and dear to import

    failed = f"Failed to fetch image from URL: {url}."
    if not url.lower().startswith(("http://", "https://")):
        raise InvalidImageInput(failed)
    try:
        with request.urlopen(url, timeout=URL_TIME) as answer:
            content = answer.read(MAX_IMAGE + 1)
    except error.HTTPError as failure:
        with failure:
            said = failure.read(MAX_ERROR).decode("utf-8", "replace")
        raise InvalidImageInput(f"{failed} Error code: {failure.code}. Error message: {said}.") from failure
    except OSError as failure:  # nobody is there, or the way out does not lead there
        raise InvalidImageInput(failed) from failure
    if len(content) > MAX_IMAGE:
        raise InvalidImageInput(f"{failed} It has more than {MAX_IMAGE} bytes.")
    return Image(content, media_type, url)


_LOADERS = {"path": _from_path, "base64": _from_base64, "url": _from_url}


def marked(value):
    """A value for JSON where texts with a type of their own show: `json` would write them as plain ones."""
    if not Text.exist:
        return value
    if isinstance(value, Text):
        return {TEXT: {"text": str(value), "annotations": value._annotations}}
    if isinstance(value, list):
        return [marked(item) for item in value]
    if isinstance(value, dict):
        return {key: marked(item) for key, item in value.items()}
    return value


def marked_image(image):
    """An image for JSON; the host knows where images of outputs go."""
    return {IMAGE: {"media_type": image._mime_type, "url": image.source_url, "base64": image.to_base64()}}
