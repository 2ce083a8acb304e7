"""Python files of others, for the host: compiled without being run, and imported to see whether they run here.

The compiled files are "unchecked": Python takes them without looking at the source again, which never changes where they
are. The host mounts the folders, and calls the functions by name.
"""

import importlib
import importlib.util
import marshal
import os
import sys

_UNCHECKED = (0b01).to_bytes(4, "little")


def compile_tree(folders: list) -> dict:
    """Writes a .pyc for every .py below the folders; says for which Python, how many, and which files do not compile."""
    written, failed = 0, {}
    for folder in folders:
        for path in _sources(folder):
            try:
                _compile(path)
                written += 1
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                failed[path] = str(error)
    return {"python": sys.version.split()[0], "written": written, "failed": failed}


def try_import(modules: list) -> str | None:
    """Imports the modules, one after the other; gives the first error, if there is any."""
    for name in modules:
        try:
            importlib.import_module(name)
        except BaseException as error:
            return f"{type(error).__name__}: {error}"[:500]
    return None


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
