"""Connections that code asks for by name, as a prompty does: most come as inputs, and need no asking.

The host is asked as it is for tools. It answers `TOOL`, with `{"name": …}`, by the connection as it would be an input:
`{"$connection": {"type", "name", "configs", "secrets"}}`, placeholders in the place of secrets.
"""

import json

from componentize_py_types import Err
from promptflow.core._errors import ConnectionNotFoundError
from wit_world.imports import tools

from . import components, values

TOOL = "flowcell.connection"
# What a host says that has no such tool, and one that has, but not the connection.
_NOT_THERE = ("PackageToolNotFoundError", "ConnectionNotFoundError")


def get(name):
    try:
        return values.from_json(tools.call(TOOL, json.dumps({"name": name})))
    except Err as failure:
        error = failure.value
    if error.type_name in _NOT_THERE:
        raise ConnectionNotFoundError(f"Connection {name!r} is not found.")
    raise components.exception(error)
