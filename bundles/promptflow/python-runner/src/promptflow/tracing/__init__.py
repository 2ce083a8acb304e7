"""Tracing marks that change nothing here: the host traces what crosses its boundary."""

from concurrent.futures import ThreadPoolExecutor

__version__ = "1.18.5"
__all__ = ["ThreadPoolExecutorWithContext", "start_trace", "trace"]


def trace(func=None):
    """Marks a function to be traced."""
    return (lambda function: function) if func is None else func


def start_trace(**kwargs):
    """Starts a trace."""


class ThreadPoolExecutorWithContext(ThreadPoolExecutor):
    """promptflow's pool that passes context variables on; with one thread there is one context."""
