"""What has to happen once a component runs, because its memory comes from the build or from another instance.

The build's memory holds the build's environment, arguments, random state and file-system lookups; another instance's
memory holds that instance's.
"""

import functools
import importlib.metadata
import os
import random
import sys
import uuid

from wit_world.imports import environment

FLOW = "/flow"
PACKAGES = "/packages"
# What requirements have brought. Not every session has it.
SITE = "/site"

# What is found here is the bundle's, or is not there at all (the build's own folders): it never changes.
_LASTING = frozenset((*sys.path, PACKAGES, SITE))
_LASTING_BELOW = ("/python/", PACKAGES + "/", SITE + "/")

_started = False
# Whether the folder of requirements is on the path.
_has_site = False
# What the host gave when it was last asked.
_variables, _arguments = {}, []
# Whether the flow has asked for a certain sequence of random numbers: then every process has that one.
_seeded = False


def _watch_seeding():
    """Lets `random` say whether it was seeded with something. Whoever imports its functions gets these."""
    seed, setstate = random.seed, random.setstate

    @functools.wraps(seed)
    def watched_seed(a=None, version=2):
        global _seeded
        seed(a, version)
        _seeded = a is not None

    @functools.wraps(setstate)
    def watched_setstate(state):
        global _seeded
        setstate(state)
        _seeded = True

    for function in (watched_seed, watched_setstate):
        # So that pickle finds them again.
        function.__qualname__ = function.__name__
        setattr(random, function.__name__, function)


_watch_seeding()


def ensure():
    global _started
    if not _started:
        start()
        _started = True


def start():
    os.environ.clear()
    _take_environment()
    random.seed()
    # A flow's files come first, as in promptflow; the bundle's packages last, where Python has its site-packages.
    sys.path[:] = [FLOW, *(entry for entry in sys.path if entry not in (FLOW, PACKAGES)), PACKAGES]
    # Folders that were not mounted during the build are remembered as missing.
    sys.path_importer_cache.clear()
    _take_site()
    # Flow folders belong to their users, and instances share them: no __pycache__ there.
    sys.dont_write_bytecode = True
    if os.path.isdir(FLOW):
        os.chdir(FLOW)
    for stream in (sys.stdout, sys.stderr):
        # By line, so that a call that gets stopped has said what it printed; lone surrogates must not fail a print.
        stream.reconfigure(encoding="utf-8", errors="replace", line_buffering=True)


def resume(copy):
    """Makes the memory of another instance this one's. What the flow set (the current folder, say) stays as it was."""
    if not _started:
        ensure()
        return
    _take_environment()
    _take_site()
    if copy:
        _renew()


def _take_site():
    """Puts what requirements have brought before the bundle's packages, also where those are imported already."""
    global _has_site
    if _has_site or not os.path.isdir(SITE):
        return
    _has_site = True
    sys.path.insert(sys.path.index(PACKAGES), SITE)
    sys.path_importer_cache.pop(SITE, None)
    brought = {name.partition(".")[0] for name in os.listdir(SITE)}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in brought and (getattr(module, "__file__", None) or "").startswith(PACKAGES + "/"):
            del sys.modules[name]


def _take_environment():
    """Passes on what changed at the host; what the flow changed itself stays."""
    global _variables, _arguments
    variables = dict(environment.get_environment())
    if variables != _variables:
        for name in _variables.keys() - variables.keys():
            os.environ.pop(name, None)
        os.environ.update(item for item in variables.items() if _variables.get(item[0]) != item[1])
        _variables = variables
    arguments = environment.get_arguments() or [""]
    if arguments != _arguments:
        sys.argv[:] = _arguments = arguments


def _renew():
    """Replaces what should differ from process to process, where it is in use: each page written to is a copy.

    `secrets`, `SystemRandom`, `uuid4` and nonces ask the host each time. Boundaries and ids of `email` come from `random`.
    Names of tasks and threads are unique within an instance only, as ever. Out of reach are the seed of string hashes,
    SQLite's own generator, and generators that the flow has made itself. A sequence that the flow has asked for stays.
    """
    if not _seeded:
        random.seed()
    tempfile = sys.modules.get("tempfile")
    if tempfile is not None and tempfile._name_sequence is not None:
        tempfile._name_sequence = None  # it has a generator, and takes another only in another process
    # Versions 1, 6 and 7: the random node, and the last times, which only this instance's ids must follow.
    for name in ("_node", "_last_timestamp", "_last_timestamp_v6", "_last_timestamp_v7"):
        if getattr(uuid, name, None) is not None:
            setattr(uuid, name, None)
    processes = sys.modules.get("multiprocessing.process")
    if processes is not None:
        processes.current_process().authkey = os.urandom(32)


def forget_folders():
    """Drops what the importer has seen of folders that may look different from now on, the rest is dear to look up."""
    for folder, finder in list(sys.path_importer_cache.items()):
        if folder not in _LASTING and not folder.startswith(_LASTING_BELOW):
            del sys.path_importer_cache[folder]
            # Archives keep their lists elsewhere too.
            invalidate = getattr(finder, "invalidate_caches", None)
            if invalidate is not None:
                invalidate()
    # What `importlib.invalidate_caches` does besides.
    importlib._bootstrap_external._NamespacePath._epoch += 1
    importlib.metadata.MetadataPathFinder().invalidate_caches()
