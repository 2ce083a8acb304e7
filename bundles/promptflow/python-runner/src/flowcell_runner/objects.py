"""The values that are not JSON: they stay in this instance, and the host knows them by number."""

import itertools
import pickle
import reprlib

_objects = {}
_ids = itertools.count(1)

# Looks at no more of a large object than the host will show.
_repr = reprlib.Repr()
vars(_repr).update(dict.fromkeys(("maxtuple", "maxlist", "maxarray", "maxdict", "maxset", "maxfrozenset", "maxdeque"), 20))
vars(_repr).update(dict.fromkeys(("maxstring", "maxlong", "maxother"), 200))
MAX_REPR = 200


def keep(value):
    number = next(_ids)
    _objects[number] = value
    return number


def get(number):
    try:
        return _objects[number]
    except KeyError:
        raise LookupError(f"object {number} is not in this instance, or no longer") from None


def show(number):
    text = _repr.repr(get(number))
    if len(text) > MAX_REPR:
        text = text[: MAX_REPR - 3] + "..."
    return text.encode("utf-8", "replace").decode()


def forget():
    _objects.clear()


def start_anew():
    """Drops every object, and numbers those to come as in a new instance."""
    global _ids
    forget()
    _ids = itertools.count(1)


def pack(number):
    import cloudpickle  # of the bundle's packages; only sessions with several instances need it

    return cloudpickle.dumps(get(number))


def unpack(data):
    return keep(pickle.loads(data))
