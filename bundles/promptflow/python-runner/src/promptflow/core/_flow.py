"""Flows and prompties as objects inside a tool: not offered, and said so where one is loaded."""

from promptflow.exceptions import UserErrorException


class _NotOffered:
    def __init__(self, *args, **kwargs):
        self.load()

    @classmethod
    def load(cls, source=None, **kwargs):
        raise UserErrorException(f"{cls.__name__}.load is not supported inside a flow here yet (source: {source!r}).")


class Flow(_NotOffered):
    pass


class AsyncFlow(_NotOffered):
    pass


class Prompty(_NotOffered):
    pass


class AsyncPrompty(_NotOffered):
    pass
