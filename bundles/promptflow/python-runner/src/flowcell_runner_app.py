"""What the component exports: each call goes to the module that has its subject, each exception comes back as data.

The module's name, like the package's, is one that no flow's file will have: whatever is imported here is found by
`import` before the flow's own files are.
"""

import gc
import sys

from componentize_py_types import Err
from flowcell_runner import tls

tls.install()

from flowcell_runner import compiling, connections, inspecting, standard_modules  # noqa: F401  (imported so that the component has them)
from flowcell_runner import calling, components, concurrency, errors, loading, logs, objects, paths, sockets, startup, storing, templates, values
from wit_world import exports
from wit_world.imports import host
from wit_world.exports.runner import Outcome_Json, Outcome_Object

components.install()
sockets.install()
concurrency.install()
logs.install()
# What is in the component's memory from its build is there for good. Were the collector to look at it, it would write to
# every page of it, and each instance would have those pages for itself.
gc.collect()
gc.freeze()


def _outcome(value):
    text = values.to_json(value)
    return Outcome_Object(objects.keep(value)) if text is None else Outcome_Json(text)


def _flush():
    # A tool may have put anything in their place, and what it printed is not worth its answer.
    try:
        sys.stdout.flush()
    except BaseException:
        pass
    try:
        sys.stderr.flush()
    except BaseException:
        pass


class Runner(exports.Runner):
    def load(self, node, source):
        startup.ensure()
        try:
            return loading.load(node, source).info
        except loading.LoadFailed as failure:
            raise failure.as_load_error() from None
        finally:
            _flush()

    def call(self, request):
        startup.ensure()
        try:
            return _outcome(calling.call(request))
        except BaseException as error:
            raise errors.to_wit(error) from None
        finally:
            _flush()

    def render(self, template, inputs):
        startup.ensure()
        try:
            return _outcome(templates.render(template, calling.arguments(inputs)))
        except BaseException as error:
            raise errors.to_wit(error) from None
        finally:
            _flush()

    def property(self, object, path):
        try:
            return _outcome(paths.follow(objects.get(object), path))
        except BaseException as error:
            raise errors.to_wit(error) from None

    def equals(self, object, value):
        try:
            return bool(objects.get(object) == values.from_json(value))
        except BaseException as error:
            raise errors.to_wit(error) from None

    def members(self, object):
        try:
            members = values.members(objects.get(object))
            return None if members is None else [(name, _outcome(value)) for name, value in members]
        except BaseException as error:
            raise errors.to_wit(error) from None

    def dump(self, object):
        try:
            return values.dump(objects.get(object))
        except BaseException as error:
            raise errors.to_wit(error) from None
        finally:
            _flush()

    def stream(self, object):
        try:
            values.hand_out(objects.get(object), host.emit)
        except BaseException as error:
            raise errors.to_wit(error) from None
        finally:
            _flush()

    def repr(self, object):
        try:
            return objects.show(object)
        except BaseException as error:
            raise errors.to_wit(error) from None
        finally:
            _flush()

    def pack(self, object):
        startup.ensure()
        try:
            return objects.pack(object)
        except BaseException as error:
            raise errors.to_wit(error) from None

    def unpack(self, bytes):
        startup.ensure()
        try:
            return objects.unpack(bytes)
        except BaseException as error:
            raise errors.to_wit(error) from None

    def forget(self):
        objects.forget()

    def suspend(self, lasting):
        startup.ensure()
        try:
            storing.ready(lasting)
        except storing.Refused as refused:
            raise Err(refused.reasons) from None
        except BaseException as error:  # what a tool has put in the place of something that is needed for it
            raise Err([f"getting ready failed with {type(error).__name__}"]) from None
        finally:
            _flush()

    def resume(self, copy):
        startup.resume(copy)
        storing.take_room()
