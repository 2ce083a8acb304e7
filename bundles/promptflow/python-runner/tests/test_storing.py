import contextlib
import inspect
import io
import os
import pickle
import random
import sqlite3
import sys
import tempfile
import unittest
import uuid
from unittest import mock

import stand_in

from flowcell_runner import startup, storing
from wit_world.imports import environment


class DescribeTest(unittest.TestCase):
    def reasons(self, *descriptors):
        return storing.describe({fd: os.fstat(fd) for fd in descriptors})

    def test_names_what_python_knows(self):
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            path = os.path.join(folder, "log.txt")
            file = stack.enter_context(open(path, "w"))
            plain = os.open(path, os.O_RDONLY)
            stack.callback(os.close, plain)
            again = stack.enter_context(open(os.dup(plain)))
            listed = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, listed)
            numbers = [file.fileno(), plain, again.fileno(), listed]
            reasons = self.reasons(*numbers)
        kinds = [f"the file {path}", "a file", "a file", "a folder"]
        self.assertEqual(reasons, [f"{kind} is open (descriptor {fd})" for kind, fd in zip(kinds, numbers)])

    def test_names_databases(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(os.path.realpath(folder), "a.db")
            with contextlib.closing(sqlite3.connect(path)) as database:
                database.execute("create table t(x)")
                fd = os.open(path, os.O_RDONLY)
                try:
                    self.assertEqual(self.reasons(fd), [f"the database {path} is open (descriptor {fd})"])
                finally:
                    os.close(fd)

    def test_classes_that_will_not_tell(self):
        class File(io.FileIO):
            name = property(lambda self: 1 / 0, lambda self, name: None)

            def fileno(self):
                raise ValueError("no")

        with tempfile.NamedTemporaryFile() as named, File(named.name) as file:
            fd = io.FileIO.fileno(file)
            self.assertEqual(self.reasons(fd), [f"a file is open (descriptor {fd})"])


class SuspendTest(unittest.TestCase):
    def reasons(self, error):
        with mock.patch.object(storing, "ready", side_effect=error), self.assertRaises(stand_in.Err) as raised:
            stand_in.flowcell_runner_app.Runner().suspend(False)
        return raised.exception.value

    def test_what_fails_is_a_reason(self):
        self.assertEqual(self.reasons(storing.Refused(["a", "b"])), ["a", "b"])
        self.assertEqual(self.reasons(SystemExit(3)), ["getting ready failed with SystemExit"])


class ClearTest(unittest.TestCase):
    def test_ends_where_memory_grows(self):
        # Nothing refuses growth here.
        storing.clear_free_memory(lasting=True)

    def test_clears_what_it_is_given(self):
        eraser, memory = storing._Eraser(), bytearray(3 * 4096)
        memory[5000] = 1
        eraser.readinto(memoryview(memory))
        self.assertEqual((memory, eraser.clear_pages), (bytes(3 * 4096), 2))


class ResumeTest(unittest.TestCase):
    def setUp(self):
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        self.variables, self.arguments = {}, ["runner"]
        stack.enter_context(mock.patch.dict(os.environ, clear=True))
        stack.enter_context(mock.patch.object(sys, "argv", list(sys.argv)))
        stack.enter_context(mock.patch.multiple(startup, _started=True, _variables={}, _arguments=["runner"]))
        stack.enter_context(mock.patch.object(environment, "get_environment", lambda: list(self.variables.items())))
        stack.enter_context(mock.patch.object(environment, "get_arguments", lambda: list(self.arguments)))

    def test_takes_over_what_the_host_changed(self):
        self.variables = {"STAYS": "1", "CHANGES": "1", "GOES": "1", "OURS": "1", "DELETED": "1"}
        startup.resume(False)
        self.assertEqual(dict(os.environ), self.variables)
        os.environ.update(OURS="2", MINE="2")
        del os.environ["DELETED"]
        sys.argv.append("mine")
        self.variables.update(CHANGES="2", NEW="2")
        del self.variables["GOES"]
        for _ in range(2):
            startup.resume(False)
            self.assertEqual(dict(os.environ), {"STAYS": "1", "CHANGES": "2", "NEW": "2", "OURS": "2", "MINE": "2"})
        self.assertEqual(sys.argv[-1], "mine")
        self.arguments = ["other"]
        startup.resume(False)
        self.assertEqual(sys.argv, ["other"])

    def test_only_a_copy_is_another_process(self):
        names = tempfile._get_candidate_names()
        node, state = uuid.getnode(), random.getstate()
        with mock.patch.multiple(uuid, _node=node, _last_timestamp=1 << 70):
            startup.resume(False)
            self.assertEqual((random.getstate(), uuid._node, uuid._last_timestamp), (state, node, 1 << 70))
            self.assertIs(tempfile._get_candidate_names(), names)
            startup.resume(True)
            self.assertNotEqual(random.getstate(), state)
            self.assertEqual((uuid._node, uuid._last_timestamp), (None, None))
            self.assertIsNot(tempfile._get_candidate_names(), names)

    def test_a_sequence_that_was_asked_for_stays(self):
        # As a flow's module would, before and after the functions were replaced.
        names = {}
        exec("from random import seed, setstate", names)
        self.addCleanup(random.seed)
        start = random.getstate()
        for ask in (
            lambda: random.seed(42),
            lambda: names["seed"]("text", version=1),
            lambda: random.seed(a=0),
            lambda: names["setstate"](start),
        ):
            random.seed()
            ask()
            state = random.getstate()
            random.random()
            drawn = random.getstate()
            startup.resume(True)
            self.assertEqual(random.getstate(), drawn)
            ask()
            self.assertEqual(random.getstate(), state)
        # Whoever takes it back has taken it back.
        for anything in (random.seed, lambda: names["seed"](None)):
            random.seed(42)
            anything()
            state = random.getstate()
            startup.resume(True)
            self.assertNotEqual(random.getstate(), state)

    def test_what_random_refuses_is_no_wish(self):
        random.seed()
        for wrong in (lambda: random.seed([]), lambda: random.setstate((9, (), None)), lambda: random.seed(1, 2, 3)):
            self.assertRaises((TypeError, ValueError), wrong)
        state = random.getstate()
        startup.resume(True)
        self.assertNotEqual(random.getstate(), state)

    def test_randoms_functions_look_as_they_did(self):
        for function, name in ((random.seed, "seed"), (random.setstate, "setstate")):
            self.assertEqual((function.__module__, function.__qualname__), ("random", name))
            self.assertIs(pickle.loads(pickle.dumps(function)), function)
        self.assertEqual(str(inspect.signature(random.seed)), "(a=None, version=2)")
        self.assertEqual(random.Random(42).random(), random.Random(42).random())

    def test_folders_of_the_bundle_are_remembered(self):
        kept, dropped = ["/python", "/packages", "/packages/jinja2"], ["/flow", "/flow/below", "/packages2", "below"]
        with mock.patch.dict(sys.path_importer_cache, dict.fromkeys(kept + dropped)), mock.patch.object(
            startup, "_LASTING", frozenset(("/python", "/packages"))
        ):
            startup.forget_folders()
            self.assertEqual([folder for folder in kept + dropped if folder in sys.path_importer_cache], kept)


if __name__ == "__main__":
    unittest.main()
