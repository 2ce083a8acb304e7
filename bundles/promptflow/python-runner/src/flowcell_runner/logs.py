"""What tools log with Python's `logging` goes to the host, line by line with its level.

In promptflow's process the root logger has a handler that writes past the node's own stderr, so a node's stderr holds
no log lines there either, and a flow's `logging.basicConfig` changes nothing.
"""

import logging

from wit_world.imports import host

from . import values


class _HostHandler(logging.Handler):
    _levels = ((logging.ERROR, host.Level.ERROR), (logging.WARNING, host.Level.WARNING), (logging.INFO, host.Level.INFO))

    def emit(self, record):
        level = next((ours for theirs, ours in self._levels if record.levelno >= theirs), host.Level.DEBUG)
        try:
            host.log(level, values.without_surrogates(self.format(record)))
        except Exception:
            self.handleError(record)


def install():
    logging.getLogger().addHandler(_HostHandler())
