"""Readies the instance for its memory to be stored.

The host maps stored memory into other instances. Files, sockets and the host's resources are not in it: the number of one
that was open would mean another one, or none, so they stand in the way.
"""

import gc
import io
import linecache
import os
import stat
import sys
import weakref

from wit_world.imports import preopens

from . import startup, values


class Refused(Exception):
    """What stands in the way, in sentences for people."""

    def __init__(self, reasons):
        self.reasons = reasons
        super().__init__(reasons)


# Given up while getting ready: the memory does not grow then, and the answer needs some.
_ROOM = 128 << 10
_room = None


def take_room():
    global _room
    if _room is None:
        try:
            # A buffer that nothing is written to: its pages stay as they are.
            _room = io.BufferedReader(io.BytesIO(), _ROOM)
        except MemoryError:
            pass


def ready(lasting):
    global _room
    _room = None
    try:
        # Closes files that only garbage refers to.
        gc.collect()
        reasons = [*_descriptors(), *_resources()]
    except MemoryError:  # the memory does not grow meanwhile
        reasons = ["the memory is full"]
    if reasons:
        raise Refused([values.without_surrogates(reason) for reason in reasons])
    startup.forget_folders()
    _forget_lines()
    clear_free_memory(lasting)
    if lasting:
        # As after the build: the collector would write to every page.
        gc.freeze()


def _forget_lines():
    """Drops source lines that were read for tracebacks; those without a time of change cannot be read again."""
    for name, entry in list(linecache.cache.items()):
        if len(entry) > 1 and entry[1] is not None:
            del linecache.cache[name]


# WASI numbers what it opens from 3 on: first the mounted folders, then whatever is opened, reusing the numbers of what was
# closed. A try costs 3 µs and an open descriptor a call of the host, so look on only where there was something. The host
# finds whatever is beyond, without its name.
_SPAN = 16


def _descriptors():
    # These are copies, dropped at once; what matters is how many there are.
    fd = 3 + len(preopens.get_directories())
    found = {}
    end = fd + _SPAN
    while fd < end:
        try:
            found[fd] = os.fstat(fd)
            end = fd + 1 + _SPAN
        except OSError:
            pass
        fd += 1
    return describe(found) if found else []


def describe(found):
    """Sentences about open descriptors, with the names that Python knows. `found` has what `os.fstat` said of each."""
    names = {}
    databases = []
    for thing in gc.get_objects():
        kind = type(thing)
        try:
            if issubclass(kind, io.FileIO):
                names[io.FileIO.fileno(thing)] = _file_name(thing.name)
            elif kind.__module__ == "sqlite3" and kind.__name__ == "Connection":
                databases += [row[2] for row in thing.execute("PRAGMA database_list") if row[2]]
        except Exception:  # closed, or a class of the flow's that will not tell
            pass
    for path in databases:
        try:
            status = os.stat(path)
        except OSError:
            continue
        for fd, other in found.items():
            if os.path.samestat(status, other):
                names.setdefault(fd, f"the database {path}")
    return [f"{names.get(fd) or _kind(status)} is open (descriptor {fd})" for fd, status in found.items()]


def _file_name(name):
    return None if isinstance(name, int) else f"the file {os.path.abspath(os.fsdecode(name))}"


def _kind(status):
    return "a folder" if stat.S_ISDIR(status.st_mode) else "a file" if stat.S_ISREG(status.st_mode) else "something"


def _resources():
    """Sentences about the host's resources that Python objects hold: each has a finalizer, which gives it back."""
    for finalizer in list(weakref.finalize._registry):
        alive = finalizer.peek()
        if alive and getattr(alive[1], "__name__", "") == "drop_resource":
            kind = type(alive[0])
            yield f"a resource of the host is in use: {kind.__module__}.{kind.__name__}"


# This Python has neither pymalloc nor mimalloc: every object comes from the C library's allocator, and goes back to it at
# once. Neighbours that are free become one block, so what is left of a large value is found by asking for large blocks.
# What lies between living objects in smaller pieces than these stays as it is, and so do the first bytes of each block,
# where the allocator keeps its books.
_LARGE = 64 << 10
_SMALLER = (16 << 10, 4 << 10)
_TINY = (1 << 10, 512, 256, 128, 64, 32)
_BYTES = 17  # what a `bytes` takes besides its content
_PAGE = 4 << 10
# Compared by words: memory views compare item by item.
_ZEROS = memoryview(bytes(_LARGE)).cast("Q")
_ZERO_PAGE = memoryview(bytes(_PAGE))
_ZERO_WORDS = _ZERO_PAGE.cast("Q")
# Pages that are clear already are how growth of the memory looks where the host does not refuse it: so many are enough.
_CLEAR_PAGES = 1 << 14
_BLOCKS = 1 << 17  # of each size that is filled: milliseconds' worth


class _Eraser(io.RawIOBase):
    """Clears the buffer of an `io.BufferedReader`, which comes as the allocator gave it: nothing else of Python's shows
    memory before clearing it, and pages that are clear are better not written to."""

    clear_pages = 0

    def readable(self):
        return True

    def tell(self):
        return 0

    def readinto(self, buffer):
        words = buffer.cast("Q")
        if words == _ZEROS[: len(words)]:
            self.clear_pages += len(buffer) // _PAGE
            return 0
        for start in range(0, len(words), len(_ZERO_WORDS)):
            if words[start : start + len(_ZERO_WORDS)] == _ZERO_WORDS:
                self.clear_pages += 1
            else:
                buffer[start * 8 : start * 8 + _PAGE] = _ZERO_PAGE
        return 0


_fillers = None


def clear_free_memory(lasting):
    """Overwrites memory that is free: it would be stored with what was in it, and the memory never gets smaller.

    If it is `lasting`, the holes between objects stay filled: what an instance makes later would go into the one that fits
    best, and so write to as many pages as there are holes. This way its objects lie side by side, in a fourth fewer pages.
    """
    global _fillers
    eraser, held, holes = _Eraser(), None, None
    try:
        room = bytes(_LARGE) if lasting else None
    except MemoryError:  # what follows needs the holes
        lasting, room = False, None
    try:
        while eraser.clear_pages < _CLEAR_PAGES:
            reader = io.BufferedReader(eraser, _LARGE)
            held = reader, held
            reader.peek()
    except MemoryError:
        # The memory does not grow, so there is an end to smaller blocks too.
        for size in (*_SMALLER, *_TINY) if lasting else _SMALLER:
            holes = _fill(size, holes)
    if lasting:
        reader = held = room = None  # for what follows
        _fillers = holes, _fillers


def _fill(size, held):
    """Adds blocks to a chain until there is no room for one more."""
    try:
        for _ in range(_BLOCKS):
            held = bytes(size - _BYTES), held
    except MemoryError:
        pass
    return held
