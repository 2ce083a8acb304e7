"""Marks for functions that a run's trace shows; what crosses the host's boundary is traced by the host."""

from concurrent.futures import ThreadPoolExecutor

from flowcell_runner.spans import traced

__version__ = "1.18.5"
__all__ = ["ThreadPoolExecutorWithContext", "start_trace", "trace"]


def trace(func=None):
    """Marks a function to be traced."""
    return traced if func is None else traced(func)


def start_trace(**kwargs):
    """Starts a trace: a call here has one anyway."""


class ThreadPoolExecutorWithContext(ThreadPoolExecutor):
    """promptflow's pool that passes context variables on; with one thread there is one context."""
