"""What a flow's Python files import, and whether it is there: for whoever asks whether a flow will run, before it does.

Nothing of the flow is run. Names are looked up as an import would, the first part of each only: what is below could be found
by importing what is above.
"""

import ast
import importlib.util
import os
import sys

from . import components, startup

_FILES = 2_000
_IMPORTS = 2_000


def imports() -> list:
    """Every import of the flow's files, once for each file and name: where it stands, what it names, and where that is found
    (`flow`, `library`, `requirements`, `component`, `image`, or nothing). One that the file can do without is `optional`."""
    found = []
    for path in _files():
        name = os.path.relpath(path, startup.FLOW)
        try:
            with open(path, "rb") as file:
                tree = ast.parse(file.read(), path)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line = getattr(error, "lineno", None) or 1
            found.append({"file": name, "line": line, "name": "", "where": None, "optional": False, "problem": str(error)})
            continue
        seen = {}
        for node, optional in _walk(tree, False):
            for module in _modules(node):
                first = module.partition(".")[0]
                known = seen.get(first)
                if known is None:
                    where = _where(first, os.path.dirname(path))
                    seen[first] = {"file": name, "line": node.lineno, "name": first, "where": where, "optional": optional}
                elif not optional:
                    known["optional"] = False
        found.extend(seen.values())
        if len(found) >= _IMPORTS:
            break
    return found[:_IMPORTS]


def _files():
    count = 0
    for parent, folders, files in os.walk(startup.FLOW):
        folders[:] = sorted(folder for folder in folders if folder != "__pycache__" and not folder.startswith("."))
        for file in sorted(files):
            if file.endswith(".py"):
                count += 1
                if count > _FILES:
                    return
                yield os.path.join(parent, file)


def _walk(node, optional):
    """Import statements below a node; whether a file can do without is a guess: it stands in a `try`, a function, or behind
    a condition."""
    stack = [(node, optional)]
    while stack:
        node, optional = stack.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node, optional
        inside = optional or isinstance(node, (ast.Try, ast.If, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        stack.extend((child, inside) for child in ast.iter_child_nodes(node))


def _modules(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    # What is relative is beside the file; importing it says whether it is there.
    return [] if node.level or not node.module else [node.module]


def _where(name, folder):
    if name in sys.builtin_module_names or name in ("promptflow", "__future__"):
        return "library" if name != "promptflow" else "image"
    # A file finds what is beside it where promptflow, too, puts its folder on the path: in the flow's folder only.
    try:
        spec = importlib.util.find_spec(name)
    except Exception:  # a finder of the flow's, or a module that says nonsense of itself
        return None
    if spec is None:
        return None
    if spec.origin == components.ORIGIN:
        return components.ORIGIN
    places = [spec.origin or "", *(spec.submodule_search_locations or ())]
    for below, where in (
        (startup.FLOW, "flow"),
        (startup.SITE, "requirements"),
        (startup.PACKAGES, "image"),
    ):
        if any(place == below or place.startswith(below + "/") for place in places):
            return where
    return "library"
