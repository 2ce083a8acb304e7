"""Flows as objects inside a tool: those that are prompties. Others are the host's to run, and said so where one is loaded."""

from pathlib import Path

from promptflow.core._prompty import SUFFIX, AsyncPrompty, Prompty
from promptflow.exceptions import UserErrorException


class Flow:
    _prompty = Prompty

    def __init__(self, *args, **kwargs):
        self.load(kwargs.get("source"))

    @classmethod
    def load(cls, source=None, **kwargs):
        if source is not None and Path(source).suffix == SUFFIX:
            return cls._prompty.load(source, **kwargs)
        raise UserErrorException(
            f"{cls.__name__}.load takes {SUFFIX} files inside a flow here (source: {source!r}): a flow does not run another one."
        )


class AsyncFlow(Flow):
    _prompty = AsyncPrompty


__all__ = ["AsyncFlow", "AsyncPrompty", "Flow", "Prompty"]
