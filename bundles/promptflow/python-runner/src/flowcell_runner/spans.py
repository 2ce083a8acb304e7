"""Spans of a call's trace: functions that the flow's author has marked, and whatever else says so."""

import contextlib
import functools
import inspect
import json
from contextvars import ContextVar

from wit_world.imports import host

# Longest text of a value in a span.
MAX_TEXT = 10_000

_current = ContextVar("span", default=None)


class Span:
    """A part of a call's work, from `with` on to its end."""

    def __init__(self, name, attributes):
        self.name, self.attributes, self.results = name, attributes, {}

    def __enter__(self):
        self.id = host.start_span(_current.get(), self.name, json.dumps(self.attributes))
        self.outer = _current.set(self.id)
        return self

    def __exit__(self, kind, error, frames):
        _current.reset(self.outer)
        self.end(error)

    def end(self, error=None):
        why = None
        if isinstance(error, Exception):
            self.results["error.type"] = type(error).__name__
            why = _text(error, str)
        host.end_span(self.id, json.dumps(self.results), why)


def records_content():
    """Whether spans may say what was given and returned."""
    return host.records_content()


def traced(function):
    """The function, with a span around each call."""
    if inspect.isasyncgenfunction(function):

        async def wrapper(*args, **kwargs):
            span = _begin(function, args, kwargs)
            items = function(*args, **kwargs)
            with _Joined(span) as joined:
                while True:
                    try:
                        with joined.inside():
                            item = await anext(items)
                    except StopAsyncIteration:
                        return
                    yield joined.add(item)

    elif inspect.isgeneratorfunction(function):

        def wrapper(*args, **kwargs):
            span = _begin(function, args, kwargs)
            items = function(*args, **kwargs)
            with _Joined(span) as joined:
                while True:
                    try:
                        with joined.inside():
                            item = next(items)
                    except StopIteration as end:
                        return end.value
                    yield joined.add(item)

    elif inspect.iscoroutinefunction(function):

        async def wrapper(*args, **kwargs):
            with _begin(function, args, kwargs) as span:
                return _returned(span, await function(*args, **kwargs))

    else:

        def wrapper(*args, **kwargs):
            with _begin(function, args, kwargs) as span:
                return _returned(span, function(*args, **kwargs))

    wrapper = functools.wraps(function)(wrapper)
    wrapper.__original_function = function
    return wrapper


def _begin(function, args, kwargs):
    attributes = {"framework": "promptflow", "span_type": "Function", "function": function.__qualname__}
    if host.records_content():
        attributes["inputs"] = _inputs(function, args, kwargs)
    return Span(function.__name__, attributes)


def _returned(span, value):
    if host.records_content():
        span.results["output"] = _text(value)
    return value


class _Joined:
    """A span around a stream, which works only while somebody waits for its next item."""

    def __init__(self, span):
        self.span, self.length, self.items = span, 0, []

    def __enter__(self):
        self.span.__enter__()
        _current.reset(self.span.outer)
        return self

    @contextlib.contextmanager
    def inside(self):
        outer = _current.set(self.span.id)
        try:
            yield
        finally:
            _current.reset(outer)

    def add(self, item):
        if self.length < MAX_TEXT and host.records_content():
            text = _text(item, str)
            self.length += len(text)
            self.items.append(text)
        return item

    def __exit__(self, kind, error, frames):
        if self.items:
            self.span.results["output"] = _text("".join(self.items))
        self.span.end(error)


def _inputs(function, args, kwargs):
    try:
        given = inspect.signature(function).bind(*args, **kwargs).arguments
    except (TypeError, ValueError):  # a call that fails, or a function without a signature
        given = {"args": args, "kwargs": kwargs}
    given = {name: value for name, value in given.items() if name != "self"}
    return _text(given)


def _text(value, write=functools.partial(json.dumps, ensure_ascii=False, default=repr)):
    try:
        text = write(value)
    except Exception:  # a value that does not say what it is
        text = f"<{type(value).__name__}>"
    if len(text) > MAX_TEXT:
        text = text[:MAX_TEXT] + "…"
    return text.encode("utf-8", "replace").decode()
