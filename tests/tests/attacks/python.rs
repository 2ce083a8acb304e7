//! What Python itself lets a tool do to the runner and to values.

use flowcell_tests::{Answer, FlowFolder};
use serde_json::Value;

use super::{attack, attack_with};

#[test]
fn standard_streams_can_be_replaced_and_closed() {
    for body in [
        "sys.stdout = sys.stderr = None",
        "sys.stdout = object()",
        "sys.stdout.close()",
        "sys.stderr.close()",
        "sys.__stdout__ = None",
        "os.close(1)\nos.close(2)",
        "os.close(0)",
        "class Bad:\n    def flush(self): raise SystemExit(9)\nsys.stdout = Bad()",
        "for fd in range(0, 50):\n    try:\n        os.close(fd)\n    except OSError:\n        pass",
    ] {
        let answer = attack(&format!("{body}\nreturn 'answer'"));
        let survived = answer.status() == "Completed" && answer.json["outputs"]["out"] == "answer";
        let clear = [
            "ToolExecutionError",
            "ProcessCrashError",
            "ProcessExit",
            "SystemExit",
        ]
        .contains(&answer.class());
        assert!(survived || clear, "{body}: {answer:#?}");
        assert!(
            answer.status() == "Completed" || answer.json["error"]["node"] == "tool",
            "{body}: {answer:#?}"
        );
    }
}

#[test]
fn the_runner_can_be_broken_from_inside_only() {
    for body in [
        "sys.modules.clear()",
        "for name in list(sys.modules):\n    if 'flowcell' in name or 'wit' in name: del sys.modules[name]",
        "import flowcell_runner.values as v\nv.to_json = lambda value: 'not json'",
        "import flowcell_runner.values as v\nv.to_json = lambda value: 7",
        "import flowcell_runner.values as v\nv.to_json = lambda value: '{\"a\": NaN, \"__proto__\": 1}'",
        "import flowcell_runner.objects as o\no.keep = lambda value: None\nreturn {1, 2}",
        "import flowcell_runner.errors as e\ne.to_wit = lambda error: 1/0\nraise ValueError('x')",
        "import builtins\nbuiltins.type = builtins.isinstance = None",
        "import builtins\nbuiltins.__import__ = None",
        "import gc\nfor x in gc.get_objects():\n    if isinstance(x, dict):\n        try:\n            x.clear()\n        except BaseException:\n            pass",
        "import json\njson.dumps = json.loads = None\nreturn {1}",
    ] {
        let answer = attack_with(&format!("{body}\nreturn 'answer'"), &["--timeout", "20"]);
        if answer.status() == "Failed" {
            assert!(!answer.class().is_empty(), "{body}: {answer:#?}");
            assert!(!answer.message().trim().is_empty(), "{body}: {answer:#?}");
        }
    }
}

/// A flow of two tools: the second gets what the first made, and its property `value`.
fn handed_over(make: &str) -> Answer {
    FlowFolder::new()
        .file(
            "flow.dag.yaml",
            "outputs: {out: {type: object, reference: '${second.output}'}}\nnodes:\n\
             - {name: tool, type: python, source: {type: code, path: first.py}, inputs: {}}\n\
             - {name: second, type: python, source: {type: code, path: second.py}, inputs: {x: '${tool.output}', y: '${tool.output.value}'}}\n\
             - {name: third, type: python, source: {type: code, path: third.py}, inputs: {x: '${tool.output}'}, activate: {when: '${tool.output}', is: 1}}\n",
        )
        .file("first.py", format!("import os\nfrom promptflow import tool\n{make}\n@tool\ndef first(): return make()\n"))
        .file("second.py", "from promptflow import tool\n@tool\ndef second(x, y): return [type(x).__name__, str(y)]\n")
        .file("third.py", "from promptflow import tool\n@tool\ndef third(x): return 1\n")
        .test(&["--timeout", "20"])
}

#[test]
fn objects_with_hostile_methods() {
    for (name, make) in [
        (
            "repr raises",
            "class make:\n    value = 1\n    def __repr__(self): raise SystemExit(1)",
        ),
        (
            "eq raises",
            "class make:\n    value = 1\n    def __eq__(self, other): raise KeyboardInterrupt",
        ),
        (
            "eq loops",
            "class make:\n    value = 1\n    def __eq__(self, other):\n        while True: pass",
        ),
        (
            "getattr raises",
            "class make:\n    def __getattr__(self, name): raise BaseException(name)",
        ),
        (
            "getattr gives itself",
            "class make:\n    def __getattr__(self, name): return self",
        ),
        (
            "reduce raises",
            "class make:\n    value = 1\n    def __reduce_ex__(self, protocol): raise SystemExit(2)",
        ),
        (
            "reduce attacks",
            "class make:\n    value = 1\n    def __reduce__(self): return (os._exit, (3,))",
        ),
        (
            "class lies",
            "class make:\n    value = 1\n    __class__ = dict",
        ),
        (
            "name lies",
            "class Meta(type):\n    __name__ = 7\nclass make(metaclass=Meta):\n    value = 1",
        ),
        (
            "name is a property",
            "class Meta(type):\n    __name__ = property(lambda cls: 1 / 0)\nclass make(metaclass=Meta):\n    value = 1",
        ),
        (
            "repr is no text",
            "class make:\n    value = 1\n    def __repr__(self): return 7",
        ),
        (
            "repr is huge",
            "class make:\n    value = 1\n    def __repr__(self): return 'x' * (100 << 20)",
        ),
        (
            "repr of surrogates",
            "class make:\n    value = 1\n    def __repr__(self): return '\\ud800'",
        ),
        (
            "hash raises",
            "class make:\n    value = 1\n    def __hash__(self): raise BaseException",
        ),
        (
            "bool raises",
            "class make:\n    value = 1\n    def __eq__(self, other): return self\n    def __bool__(self): raise SystemExit",
        ),
        (
            "str subclass",
            "class S(str):\n    value = 1\n    def encode(self, *a): return 7\ndef make(): return S('text')",
        ),
        (
            "dict subclass",
            "class D(dict):\n    value = 1\n    def items(self): raise SystemExit\ndef make(): return D(a=1)",
        ),
        (
            "int subclass",
            "class I(int):\n    value = 1\n    def __repr__(self): return 'not a number'\ndef make(): return I(7)",
        ),
        (
            "exception with a hostile message",
            "class E(Exception):\n    def __str__(self): raise SystemExit\ndef make(): raise E",
        ),
        (
            "exception with a hostile class",
            "class M(type):\n    __name__ = property(lambda cls: 1 / 0)\nclass E(Exception, metaclass=M): pass\ndef make(): raise E('x')",
        ),
        (
            "promptflow error with a hostile code",
            "from promptflow.exceptions import UserErrorException\nclass E(UserErrorException):\n    error_codes = property(lambda self: 1 / 0)\ndef make(): raise E('x')",
        ),
    ] {
        let answer = handed_over(make);
        if answer.status() == "Failed" {
            assert!(!answer.class().is_empty(), "{name}: {answer:#?}");
            assert_ne!(
                answer.class(),
                "SystemErrorException",
                "{name}: {answer:#?}"
            );
        } else {
            assert!(
                answer.json["outputs"]["out"].is_array(),
                "{name}: {answer:#?}"
            );
        }
    }
}

#[test]
fn metrics_without_end_are_refused() {
    let answer = FlowFolder::new()
        .file("flow.dag.yaml", "nodes:\n- {name: line, type: python, source: {type: code, path: line.py}, inputs: {}}\n- {name: tool, type: python, aggregation: true, source: {type: code, path: t.py}, inputs: {x: '${line.output}'}}\n")
        .file("line.py", "from promptflow import tool\n@tool\ndef line(): return 1\n")
        .file("t.py", "from promptflow import tool, log_metric\n@tool\ndef t(x):\n    for n in range(100000): log_metric(f'm{n}', n)\n")
        .test(&[]);
    let metrics = answer.json["metrics"].as_object().unwrap();
    assert!(metrics.len() <= 1_000, "{}", metrics.len());
    let node = &answer.json["nodes"][1];
    assert_eq!(node["status"], "Failed", "{answer:#?}");
    assert!(
        node["error"]["message"]
            .as_str()
            .unwrap()
            .contains("1000 metrics"),
        "{node}"
    );
}

#[test]
fn templates_run_in_a_sandbox_too() {
    let render = |template: &str, time: &str| {
        FlowFolder::new()
            .file("flow.dag.yaml", "inputs: {x: {type: string, default: v}}\noutputs: {out: {type: string, reference: '${p.output}'}}\nnodes:\n- {name: p, type: prompt, source: {type: code, path: p.jinja2}, inputs: {x: '${inputs.x}'}}\n")
            .file("p.jinja2", template)
            .test(&["--timeout", time])
    };
    for template in [
        "{% for a in range(99999999) %}{% for b in range(99999999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999999) %}{{ x * 1000 }}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ 'x' * 9999999999 }}",
        "{{ x.__class__.__mro__[1].__subclasses__() }}",
        "{% include '/etc/passwd' %}",
        "{{ '%9999999999d' % 1 }}",
        "{{ x|center(9999999999) }}",
    ] {
        let answer = render(template, "3");
        let whole = answer.json.to_string();
        assert!(!whole.contains("root:"), "{template}: {whole}");
        if answer.status() == "Completed" {
            assert!(whole.len() < 1 << 20, "{template}: {}", whole.len());
        }
    }
    assert_eq!(render("{{ x }}", "120").outputs()["out"], Value::from("v"));
}
