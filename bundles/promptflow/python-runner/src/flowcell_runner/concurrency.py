"""Threads and event loops where there is one thread and no socket.

A thread's target runs when the thread is started, before `start` returns; a pool's function when it is submitted. Code
that hands out work and collects results behaves the same; threads that wait for each other do not.
"""

import asyncio
import concurrent.futures
import concurrent.futures.thread
import threading
from asyncio import selector_events

from . import sockets


def install():
    _install_threads()
    _install_pools()
    _install_event_loop()


def _install_threads():
    original_is_alive = threading.Thread.is_alive

    def start(thread):
        if thread._started.is_set():
            raise RuntimeError("threads can only be started once")
        thread._started.set()
        ident = threading.get_ident()
        outer = threading._active.get(ident)
        threading._active[ident] = thread
        try:
            thread.run()
        except SystemExit:
            pass
        except BaseException as error:
            below = error.__traceback__.tb_next  # without this function
            threading.excepthook(threading.ExceptHookArgs((type(error), error.with_traceback(below), below, thread)))
        finally:
            thread._flowcell_ran = True
            if outer is None:
                del threading._active[ident]
            else:
                threading._active[ident] = outer

    def join(thread, timeout=None):
        if not thread._started.is_set():
            raise RuntimeError("cannot join thread before it is started")

    def is_alive(thread):
        return not getattr(thread, "_flowcell_ran", False) and original_is_alive(thread)

    threading.Thread.start, threading.Thread.join, threading.Thread.is_alive = start, join, is_alive


def _install_pools():
    pool = concurrent.futures.thread.ThreadPoolExecutor
    original_init = pool.__init__

    def init(self, max_workers=None, thread_name_prefix="", initializer=None, initargs=(), **others):
        original_init(self, max_workers, thread_name_prefix, initializer, initargs, **others)
        self._flowcell_initializer = initializer and (lambda: initializer(*initargs))

    def submit(self, function, /, *args, **kwargs):
        if self._shutdown:
            raise RuntimeError("cannot schedule new futures after shutdown")
        initializer, self._flowcell_initializer = self._flowcell_initializer, None
        if initializer:
            initializer()
        future = concurrent.futures.Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future

    pool.__init__, pool.submit = init, submit


def _install_event_loop():
    """asyncio's loop wakes itself through a pair of sockets; with one thread nobody else could wake it."""
    loop = selector_events.BaseSelectorEventLoop
    loop._make_self_pipe = lambda self: setattr(self, "_ssock", None) or setattr(self, "_csock", None)
    loop._close_self_pipe = lambda self: None
    loop._write_to_self = lambda self: None


_loop = None


def wait_for(awaitable):
    """Runs a tool's coroutine to its end. One loop serves all calls: making one takes longer than most tools."""
    global _loop
    if _loop is None or _loop.is_closed():
        _loop = asyncio.SelectorEventLoop(sockets.Selector())
    asyncio.set_event_loop(_loop)
    try:
        return _loop.run_until_complete(awaitable)
    finally:
        _cancel_leftovers()


def _cancel_leftovers():
    """A call's tasks end with it, as at the end of `asyncio.run`."""
    tasks = asyncio.all_tasks(_loop)
    if tasks:
        for task in tasks:
            task.cancel()
        _loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
