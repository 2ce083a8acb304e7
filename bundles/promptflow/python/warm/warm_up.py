"""Calls of every usual kind, so that the memory that instances start from has seen them.

Python writes where it runs: what is imported, compiled, cached or specialised at a first use changes pages of memory, which
each instance then has for itself. The host calls this tool once in a new instance of the bundle, from this folder as the
flow, and stores the memory. A flow must not find anything of it, so all that it leaves behind is undone.
"""

import contextlib
import importlib
import json

from componentize_py_types import Err
from flowcell_runner import loading, objects
from flowcell_runner_app import Runner
from promptflow.core import tool
from wit_world.exports.runner import Argument_Json, Argument_Object, Argument_Objects, Outcome_Json, Request

# What flows import most, where the bundle has it.
_LIBRARIES = ("jinja2", "cloudpickle", "yaml", "requests", "bs4", "pydantic", "dotenv", "tenacity", "tabulate", "openai")

_TEMPLATE = """system:
You are {{ role | default("an assistant") }}.
{# what was said #}
{% for item in history if item.inputs %}
{{ loop.index }}. user: {{ item.inputs.question | trim }}
{% else %}
nothing yet
{% endfor %}
{% if found is defined and found %}{{ found.text | upper }}{% endif %}
{% set words = question.split() %}{{ words | join(", ") }} {{ words | length }}
"""


@tool
def warm_up() -> None:
    for library in _LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    try:
        # Python specialises code that has run a few times.
        for _ in range(10):
            _calls(Runner())
    finally:
        loading._tools.clear()
        objects.start_anew()


def _calls(runner):
    value = {"question": "how is it?", "history": [{"inputs": {"question": " é "}, "n": [1, 2.5, True, None]}]}
    for source in ("values.py", "asynchronous.py", "provider.py"):
        assert _call(runner, source, x=value) == value
    found = _call(runner, "found.py", x=value)
    stream = _call(runner, "stream.py", x=value)
    runner.repr(stream)
    runner.dump(stream)
    assert runner.property(found, "scores.['a']").value == "1.5"
    assert not runner.equals(found, json.dumps(value))
    copied = runner.unpack(runner.pack(found))
    _call(runner, "values.py", x=value, y=Argument_Objects([found, copied]))
    runner.render(_TEMPLATE, [("found", Argument_Object(found)), *_arguments(value)])
    for fails in (
        lambda: _call(runner, "raises.py", x=value),
        lambda: runner.render("{{ found.text.nothing.there }}", [("found", Argument_Object(found))]),
        lambda: runner.dump(found),
    ):
        with contextlib.suppress(Err):
            fails()
            raise AssertionError("did not fail")
    runner.forget()


def _call(runner, source, **inputs):
    source = f"tools/{source}"
    runner.load(source, source)
    outcome = runner.call(Request(source, source, [], _arguments(inputs)))
    return json.loads(outcome.value) if isinstance(outcome, Outcome_Json) else outcome.value


def _arguments(values):
    given = (Argument_Object, Argument_Objects)
    return [(name, value if isinstance(value, given) else Argument_Json(json.dumps(value))) for name, value in values.items()]
