"""promptflow's property paths, such as `a.b[0].['k']`, followed into a value."""

import re

# What is between the parts is passed over, as promptflow does.
_PARTS = re.compile(r"(?P<name>\w+)|\['(?P<key>.*?)'\]|\[(?P<index>\d+)\]")


class InvalidReferenceProperty(Exception):
    """The value has no such property."""


def follow(value, path):
    try:
        for part in _PARTS.finditer(path):
            if part["name"] is not None:
                name = part["name"]
                value = value[name] if isinstance(value, dict) else getattr(value, name)
            elif part["key"] is not None:
                value = value[part["key"]]
            else:
                value = value[int(part["index"])]
    except (KeyError, IndexError, AttributeError) as error:
        raise InvalidReferenceProperty(f"Invalid property '{path}'") from error
    return value
