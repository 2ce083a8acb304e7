"""Writes jinja2.json beside this file: what Jinja2 itself makes of the templates below. Needs jinja2 3.1.

    python record.py
"""

import json
import pathlib

from jinja2 import Environment, TemplateSyntaxError, meta
from jinja2.sandbox import SandboxedEnvironment

INPUTS = {
    "q": {
        "b": True, "n": None, "f": 1.0, "l": [1, "a", None, {"k": "é"}], "s": "q\"'", "d": {}, "e": "",
        "users": [{"name": "Bo", "age": 5}, {"name": "Al", "age": 7}], "m": {"x": 1, "y": [True, None]},
    },
    "s": "Some Text", "i": 5, "neg": -3, "f": 2.567, "half": 2.5, "nums": [3, 1, 2], "words": ["pear", "Fig", "apple"],
    "big": 123456789012345678901234567890, "huge": 10**45, "floats": [1e100, 1e16, 1e15, 1e-4, 1e-5, 0.1, 1.5e-7, -0.0, 123456.789],
    "texts": ["a'b", 'a"b', "a'\"b", "tab\t", "nl\n", "\\", "é", "\u200b", "\x7f", "\xa0", "😀", "\u2028", "\x00"],
    "yes": True, "no": False, "none": None, "empty": [], "nested": [[1, [2.0, "x"]], {"a": {"b": [None]}}],
    "chat_history": [
        {"inputs": {"question": "hi"}, "outputs": {"answer": "there"}}, {"inputs": {"question": "# user:\nx"}, "outputs": {"answer": 3}},
    ],
}

TEMPLATES = r"""
{{ q }}|{{ q.b }}|{{ q.n }}|{{ q.f }}|{{ q.l }}|{{ q.s }}|{{ q.d }}
{{ s }} {{ i }} {{ neg }} {{ f }} {{ half }} {{ nums }} {{ words }}
{{ big }} {{ huge }} {{ [big, huge] }}
{{ floats }}
{% for f in floats %}{{ f }} {% endfor %}
{{ texts }}
{% for t in texts %}[{{ t }}]{% endfor %}
{{ yes }} {{ no }} {{ none }} {{ empty }} {{ nested }}
{{ true }} {{ True }} {{ none }} {{ None }} {{ false }}
{{ 1e16 }} {{ 0.1 + 0.2 }} {{ 10 / 2 }} {{ 7 // 2 }} {{ 7 % 3 }} {{ 2 ** 10 }} {{ -7 // 2 }} {{ 1.0 * 3 }}
{{ 'a' ~ q.b ~ q.n ~ q.f ~ q.l ~ i }}
{{ 'x' * 3 }} {{ [1, 2] + [3] }} {{ (1, 2) }} {{ (1,) }} {{ {'a': 1} }} {{ 'a' + 'b' }}
{{ nums | join(',') }} {{ q.l | join('-') }} {{ q.users | join(', ', attribute='name') }} {{ [true, none] | join }}
{{ q | string }} {{ yes | string }} {{ yes | upper }} {{ 3.0 | string }}
{{ nums | length }} {{ s | length }} {{ q | length }} {{ nums | count }}
{{ nums | first }} {{ nums | last }} {{ nums | sort }} {{ words | sort }} {{ nums | reverse | list }} {{ nums | sum }} {{ nums | max }} {{ nums | min }}
{{ words | map('upper') | list }} {{ q.users | map(attribute='name') | join(',') }} {{ nums | select('odd') | list }} {{ nums | reject('odd') | list }}
{{ q.users | selectattr('age', 'gt', 5) | map(attribute='name') | list }} {{ q.users | selectattr('name', 'equalto', 'Bo') | list }}
{{ s | upper }} {{ s | lower }} {{ s | title }} {{ s | capitalize }} {{ ' x ' | trim }}| {{ s | replace('e', 'E') }} {{ s | default('z') }}
{{ missing | default('z') }} {{ none | default('z') }} {{ none | default('z', true) }} {{ '' | default('z', true) }} {{ missing | d(3) }}
{{ f | round }} {{ f | round(2) }} {{ half | round }} {{ 5 | round }} {{ 3.5 | round }} {{ f | int }} {{ '3' | int + 1 }} {{ 'x' | int }} {{ '2.5' | float }} {{ 3 | float }} {{ f | round(1, 'floor') }} {{ f | round(1, 'ceil') }} {{ neg | abs }}
{{ s[1:3] }} {{ s[-1] }} {{ nums[0] }} {{ nums[-1] }} {{ nums[1:] }} {{ s[::-1] }} {{ q['f'] }} {{ q['l'][3]['k'] }}
{{ s.upper() }} {{ s.lower() }} {{ s.split(' ') }} {{ s.split() }} {{ s.startswith('S') }} {{ ' x '.strip() }}| {{ s.replace('e', '') }} {{ s.find('T') }} {{ s.title() }} {{ ', '.join(words) }}
{{ q.get('f') }} {{ q.get('zz') }} {{ q.get('zz', 'dflt') }} {{ q.keys() | list }} {{ q.m.values() | list }} {{ q.m.items() | list }}
{% for k, v in q.m.items() %}{{ k }}={{ v }};{% endfor %}
{% for k in q.m %}{{ k }};{% endfor %}
{% for u in q.users %}{{ loop.index }}/{{ loop.length }} {{ loop.first }} {{ loop.last }} {{ u.name }} {{ loop.index0 }} {{ loop.revindex }} {{ loop.cycle('a', 'b') }}{% endfor %}
{% for i in nums if i is odd %}{{ i }}{% else %}none{% endfor %}{% for i in [] %}x{% else %}empty{% endfor %}
{% for a, b in [(1, 2), (3, 4)] %}{{ a }}{{ b }}{% endfor %}
{% for i in range(3) %}{{ i }}{% endfor %}{% for i in range(5, 0, -2) %}{{ i }}{% endfor %}
{% if q.b and not q.e %}yes{% elif q.l %}mid{% else %}no{% endif %}
{% if i > 3 and i < 10 %}a{% endif %}{% if 'Some' in s %}b{% endif %}{% if 'zz' not in s %}c{% endif %}{% if 3 in nums %}d{% endif %}{% if 'b' in q %}e{% endif %}
{{ 'a' if yes else 'b' }} {{ 'a' if no }} {{ i == 5 }} {{ i != 5 }} {{ i >= 5 }} {{ 1 < 2 < 3 }} {{ not yes }}
{{ i is defined }} {{ zz is defined }} {{ zz is undefined }} {{ none is none }} {{ i is number }} {{ s is string }} {{ nums is iterable }} {{ q is mapping }} {{ nums is sequence }} {{ i is even }} {{ i is odd }} {{ i is divisibleby 5 }} {{ yes is true }} {{ no is false }} {{ i is integer }} {{ f is float }} {{ yes is boolean }} {{ i is eq 5 }} {{ i is in nums }}
{% set x = i + 1 %}x={{ x }} {% set a, b = 1, 2 %}{{ a }}{{ b }} {% set blk %}in {{ i }}{% endset %}{{ blk }}
{% set ns = namespace(t=0) %}{% for n in nums %}{% set ns.t = ns.t + n %}{% endfor %}{{ ns.t }}
{% macro hi(a, b=2) %}[{{ a }}{{ b }}]{% endmacro %}{{ hi(1) }}{{ hi('z', b=3) }}{{ hi(b=1, a=2) }}
{% macro wrap() %}<{{ caller() }}>{% endmacro %}{% call wrap() %}in{% endcall %}
{% raw %}{{ not me }}{% endraw %}{# gone #}tail{% filter upper %}loud{% endfilter %}{% with y = 5 %}{{ y }}{% endwith %}
{{ '%s' % i }}
{{ '%s-%d' | format('a', 3) }} {{ '{}-{}'.format(1, 'x') }} {{ '%.2f' | format(f) }} {{ '{:.1f}'.format(f) }}
{{ q.m | tojson }} {{ s | tojson }} {{ nums | tojson }} {{ none | tojson }} {{ 1.0 | tojson }}
{{ nums | batch(2) | list }} {{ nums | unique | list }} {{ words | sort(reverse=true) }} {{ q.m | dictsort }} {{ q.m | items | list }}
{{ '<b>' | escape }} {{ '<b>' }} {{ '<b>' | e }} {{ '<b>' | safe }} {{ 'a b' | urlencode }} {{ 'x' | indent }} {{ 'a b c' | wordcount }} {{ 'abcdefghij klm' | truncate(5) }} {{ 'aa bb cc dd ee' | truncate(9, leeway=0) }} {{ 'aa bb cc dd ee' | truncate(9, true, '!', leeway=0) }}
{{ 'line1\nline2' }} {{ "tab\there" }} {{ 'it''s' }}
{{ zz }}|{{ q.zz }}|{{ s.foo }}|{{ nums[9] }}|{{ none_such is defined }}|{% if zz %}x{% endif %}|{% for z in zz %}{% endfor %}
{{ zz.yy }}
{{ q.foo.bar }}
{{ q['zip'].x }}
{{ nums[9].x }}
{{ s.foo.bar }}
{{ none.x.y }}
{{ i.x.y }}
{{ q.l[3].zz.yy }}
{% for u in q.users %}{{ u.x.y }}{% endfor %}
{{ zz() }}
{{ q.foo() }}
{{ s.nope() }}
{{ zz + 1 }}
{{ zz | length }}
{{ zz | upper }}|
{% for k in zz.a %}{% endfor %}
{{ 1 / 0 }}
{{ 1 // 0 }}
{{ 1 % 0 }}
{{ 'a' + 1 }}
{{ 1 + 'a' }}
{{ none + 1 }}
{{ [1] + 1 }}
{{ {} + 1 }}
{{ 'a' - 1 }}
{{ s.__class__ }}
{{ s.__class__.__mro__ }}
{{ q.__class__.x }}
{{ q.l.__class__.x }}
{{ ''.__class__.__mro__[1].__subclasses__() }}
{% include 'x' %}
{% import 'x' as x %}
{% extends 'x' %}
{{ s | nofilter }}
{{ s is notest }}
{% if q %}never closed
{% if q %}{% else %}x
{% for a in nums %}x
{% for a in nums %}{% if a %}{% endfor %}
{% if a %}{% endfor %}
{% foo %}
{% endif %}
{% if a %}{% foo %}{% endif %}
{% macro x() %}
{% set x %}a
{% raw %}a
{% block a %}b
{{ q
{{ q }
{% if %}x{% endif %}
{{ }}
{{ q. }}
{{ 1 2 }}
{% for in nums %}{% endfor %}
{{ 'open }}
{# never closed
# system:\nYou are {{ role | default("x") }}\n{% for i in range(2) %}\n- {{ i }}\n{% endfor %}\n# user:\n{{ s }}\n
a\n  {% if true %}\n  b\n  {% endif %}\nc {%- if true -%}   d   {%- endif %}\n\n{{ s }}\n\n
{% for item in chat_history %}\n# user:\n{{ item.inputs.question }}\n# assistant:\n{{ item.outputs.answer }}\n{% endfor %}\n
line\r\n{{ s }}\r\n
\n\n{{ s }}\n\n\n
{%- if yes %}\n x\n{%- endif +%}\n y
{% if yes -%}\n\n  x  \n\n{%- endif %} z
![image]({{ pic }}) and ![ image ]({{ other }}) {{ s }}
{{ q.items() | list | length }}{{ range(3) | list }}{{ words | groupby('0') | list | length }}
{{ nums | map('string') | join(' ') }}{{ words | map('length') | list }}
{{ 'a,b'.split(',')[1] }}{{ 'A'.isupper() }}{{ 'ab'.isalpha() }}{{ 'x'.endswith('x') }}{{ s.count('e') }}{{ nums.count(3) }}{{ nums.index(1) }}
{{ (1, 2)[0] }}{{ [1, 2, 3] | list }}{{ 'abc' | list }}{{ dict(a=1) }}
{{ 5 | string ~ 'x' }}{{ 3 | string | length }}{{ i // 2 }}{{ i / 2 }}{{ 1.5 + 1 }}{{ 10 ** 20 }}{{ 2 ** 0.5 }}{{ 100000000000000000000 }}
{{ {'a': 1.0, 'b': [1e20]} }}
{{ [0.1, 1e22] ~ '' }}
{{ [1, 2] == [1, 2] }}{{ {'a': 1} == {'a': 1} }}{{ 1 == 1.0 }}{{ 'a' < 'b' }}
{{ 'é' | upper }}{{ 'ß' | upper }}{{ 'ÀÉ' | lower }}{{ 'é' | length }}{{ '😀' | length }}{{ '😀ab'[1] }}
""".strip("\n").split("\n")


def unescape(line):
    return line.replace("\\r", "\r").replace("\\n", "\n") if line.startswith(("#", "a\\n", "{% for item", "line", "\\n", "{%- if", "{% if yes -", "{% raw")) else line


def variables(template):
    try:
        found = meta.find_undeclared_variables(Environment().parse(template))
        return {"variables": sorted(sorted(found), key=template.find)}
    except TemplateSyntaxError as error:
        return {"error": {"type": type(error).__name__, "line": error.lineno, "message": str(error)}}


def rendered(template):
    environment = SandboxedEnvironment(trim_blocks=True, keep_trailing_newline=True)
    try:
        return {"text": environment.from_string(template).render(**INPUTS)}
    except Exception as error:
        return {"raises": f"{type(error).__name__}: {error}"}


def main():
    cases = [{"template": t, **rendered(t), "inspect": variables(t)} for t in map(unescape, TEMPLATES)]
    out = pathlib.Path(__file__).with_name("jinja2.json")
    out.write_text(json.dumps({"inputs": INPUTS, "cases": cases}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
