"""Compiles a tree of Python files, as a tool of the runner: nothing else on a machine has its version of Python.

The compiled files are "unchecked": Python takes them without looking at the source again, which never changes in a
bundle. Mount this file's folder at /flow and the trees writable, and call `compile_tree` with their paths in the sandbox.
"""

import importlib.util
import marshal
import os
import platform

from promptflow.core import tool

_UNCHECKED = (0b01).to_bytes(4, "little")


@tool
def compile_tree(folders: list) -> dict:
    """Writes a .pyc for every .py below the folders; says for which Python, how many, and which files do not compile."""
    written, failed = 0, {}
    for folder in folders:
        for path in _sources(folder):
            try:
                _compile(path)
                written += 1
            except (SyntaxError, ValueError) as error:
                failed[path] = str(error)
    return {"python": platform.python_version(), "written": written, "failed": failed}


def _sources(folder):
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            if file.endswith(".py"):
                yield os.path.join(parent, file)


def _compile(path):
    with open(path, "rb") as file:
        source = file.read()
    code = compile(source, path, "exec", dont_inherit=True)
    target = importlib.util.cache_from_source(path)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    # Not importlib's own writer: it writes a file with one call, and WASI writes large ones in parts.
    with open(target, "wb") as file:
        file.write(importlib.util.MAGIC_NUMBER + _UNCHECKED + importlib.util.source_hash(source))
        file.write(marshal.dumps(code))
