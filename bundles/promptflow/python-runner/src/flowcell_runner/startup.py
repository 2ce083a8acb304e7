"""What has to happen once a component runs, because its memory comes from the build.

The build's memory holds the build's environment, arguments, random state and file-system lookups.
"""

import os
import random
import sys

from wit_world.imports import environment

FLOW = "/flow"
PACKAGES = "/packages"

_started = False


def ensure():
    global _started
    if not _started:
        start()
        _started = True


def start():
    os.environ.clear()
    os.environ.update(environment.get_environment())
    sys.argv[:] = environment.get_arguments() or [""]
    random.seed()
    # A flow's files come first, as in promptflow; the bundle's packages last, where Python has its site-packages.
    sys.path[:] = [FLOW, *(entry for entry in sys.path if entry not in (FLOW, PACKAGES)), PACKAGES]
    # Folders that were not mounted during the build are remembered as missing.
    sys.path_importer_cache.clear()
    # Flow folders belong to their users, and instances share them: no __pycache__ there.
    sys.dont_write_bytecode = True
    if os.path.isdir(FLOW):
        os.chdir(FLOW)
    for stream in (sys.stdout, sys.stderr):
        # By line, so that a call that gets stopped has said what it printed; lone surrogates must not fail a print.
        stream.reconfigure(encoding="utf-8", errors="replace", line_buffering=True)
