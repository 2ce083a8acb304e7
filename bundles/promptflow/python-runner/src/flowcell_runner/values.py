"""Python values and JSON text.

A value leaves the runner as JSON only if reading that JSON gives the very same value back. Anything else stays here as
an object, and becomes JSON, with Python's losses, only as a flow output.
"""

import dataclasses
import json
from collections.abc import AsyncIterator, Iterator

from promptflow.connections import is_connection
from promptflow.contracts.multimedia import PFBytes
from promptflow.contracts.types import AssistantDefinition

from . import arguments, concurrency, media

MAX_DEPTH = 100
# A list that holds one list many times, again and again, is small in memory and endless as text.
MAX_REPEATED = 10_000

_SCALARS = {str, int, float, bool, type(None)}
_CONTAINERS = {list, dict}
_PLAIN = _SCALARS | _CONTAINERS
_KEYS = {str}

# What `json.JSONEncoder` makes anew for every call, made once: ensure_ascii=False, allow_nan=False, no spaces, no check
# for circles (there are none by then).
_encode_parts = json.encoder.c_make_encoder(
    None, None, json.encoder.encode_basestring, None, ":", ",", False, False, False
)
_decoder = json.JSONDecoder()
# What `decode` calls, without its two looks for white space around the text: the host's texts have none.
_scan = _decoder.scan_once
_decode_special = json.JSONDecoder(object_hook=arguments.special).decode


def from_json(text):
    # The marks are rare and a hook per object is slow, so look for them first.
    if '"$' in text:
        return _decode_special(text)
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        end = -1
    return value if end == len(text) else _decoder.decode(text)


def to_json(value):
    """The value as JSON text, None when JSON cannot carry it without loss."""
    kind = type(value)
    if kind not in _SCALARS and not (kind in _CONTAINERS and _is_plain(value)):
        return None
    try:
        text = "".join(_encode_parts(value, 0))
    except ValueError:  # NaN, infinities, integers with too many digits
        return None
    return text if text.isascii() or _is_unicode(text) else None


def _is_plain(value):
    """Whether lists and dicts (of exactly these classes) hold only each other and scalars. Goes level by level."""
    level, visited, distinct = [value], 0, set()
    for _ in range(MAX_DEPTH):
        below = []
        for container in level:
            items = container
            if type(container) is dict:
                if not _KEYS.issuperset(map(type, container)):
                    return False
                items = container.values()
            # Sets ask for the types without a loop of Python's.
            if not _SCALARS.issuperset(map(type, items)):
                if not _PLAIN.issuperset(map(type, items)):
                    return False
                below += [item for item in items if type(item) in _CONTAINERS]
        if not below:
            return True
        level = below
        visited += len(level)
        if visited > MAX_REPEATED:
            distinct.update(map(id, level))
            if visited > 2 * len(distinct) + MAX_REPEATED:
                return False
    return False


def _is_unicode(text):
    """False for lone surrogates, which no UTF-8 text can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def without_surrogates(text):
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def members(value):
    """The pairs of name and value that an entry's answer consists of; none for one that is no mapping."""
    if isinstance(value, dict):
        return [(_key(key), item) for key, item in value.items()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return None


def _key(key):
    """A key as JSON has it."""
    (name,) = json.loads(json.dumps({key: None}))
    return without_surrogates(name)


def dump(value):
    """The value as a flow output: streams joined, images marked, everything else as `json.dumps` has it."""
    if isinstance(value, Iterator):
        value = _joined(value)
    elif isinstance(value, AsyncIterator):
        value = _joined(concurrency.wait_for(_items(value)))
    elif is_connection(value):
        value = type(value).__name__
    return without_surrogates(json.dumps(media.marked(value), ensure_ascii=False, default=_encode_object))


def hand_out(items, emit):
    """Gives a stream's items, each as a flow output has it, while they come."""
    if isinstance(items, AsyncIterator):
        concurrency.wait_for(_hand_out(items, emit))
        return
    for item in _watched(items):
        emit(dump(item))


async def _hand_out(items, emit):
    while True:
        try:
            item = await anext(items)
        except StopAsyncIteration:
            return
        except Exception as error:
            raise StreamFailed from error
        emit(dump(item))


def _watched(items):
    try:
        yield from items
    except Exception as error:
        raise StreamFailed from error


class StreamFailed(BaseException):
    """Wraps what a stream raised, which promptflow reports as it is, unlike a value that is not JSON."""


def _joined(items):
    try:
        return "".join(map(str, items))
    except Exception as error:
        raise StreamFailed from error


async def _items(stream):
    try:
        return [item async for item in stream]
    except Exception as error:
        raise StreamFailed from error


def _encode_object(value):
    if isinstance(value, PFBytes):
        return media.marked_image(value)
    if isinstance(value, AssistantDefinition):
        return value.serialize()
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
