//! Calls that do not end, end their process, or go too deep.

use flowcell_tests::FlowFolder;

use super::{attack, attack_with};

#[test]
fn exits_and_aborts() {
    for (body, class, words) in [
        ("sys.exit(3)", "SystemExit", "3"),
        ("sys.exit()", "SystemExit", ""),
        ("raise SystemExit('bye')", "SystemExit", "bye"),
        ("exit(4)", "SystemExit", "4"),
        ("os._exit(5)", "ProcessExit", ""),
        ("os._exit(0)", "ProcessExit", ""),
        ("os.abort()", "ProcessCrashError", "crashed"),
        // One thread: nobody could ever set it.
        (
            "import threading\nthreading.Event().wait()",
            "ProcessCrashError",
            "crashed",
        ),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
        ("raise GeneratorExit", "GeneratorExit", ""),
        ("raise BaseException('base')", "BaseException", "base"),
    ] {
        let answer = attack(&format!("print('before', flush=True)\n{body}"));
        assert_eq!(answer.status(), "Failed", "{answer:#?}");
        let known = [class, "ToolExecutionError", "ProcessCrashError"];
        assert!(known.contains(&answer.class()), "{body}: {answer:#?}");
        assert!(answer.message().contains(words), "{body}: {answer:#?}");
        assert_eq!(answer.json["error"]["node"], "tool", "{body}: {answer:#?}");
        assert!(
            answer.printed("tool").starts_with("before"),
            "{body}: {answer:#?}"
        );
    }
}

#[test]
fn exits_while_a_file_is_imported() {
    for (code, class) in [
        ("import sys; sys.exit(3)", "PythonLoadError"),
        ("import os; os._exit(3)", "ProcessExit"),
        ("import os; os.abort()", "ProcessCrashError"),
        ("while True: pass", "ExecutionTimeout"),
        ("import time; time.sleep(1e9)", "ExecutionTimeout"),
        (
            "x = []\nwhile True: x.append(bytearray(1 << 20))",
            "MemoryLimitExceeded",
        ),
    ] {
        // Only what never ends may meet the clock.
        let time = if class == "ExecutionTimeout" {
            "2"
        } else {
            "120"
        };
        let answer = FlowFolder::python(code, &[]).test(&["--timeout", time, "--memory", "128"]);
        assert_eq!(answer.class(), class, "{code}: {answer:#?}");
        assert_eq!(answer.json["error"]["node"], "tool", "{code}: {answer:#?}");
    }
}

#[test]
fn loops_and_sleeps_end_at_the_timeout() {
    for body in [
        "while True: pass",
        "import time\ntime.sleep(1e9)",
        "import time\nwhile True:\n    try:\n        time.sleep(1e9)\n    except BaseException:\n        pass",
        "while True:\n    try:\n        while True: pass\n    finally:\n        continue",
        "import re\nre.match('(a*)*b', 'a' * 40)",
        "sum(10 ** 8 for _ in iter(int, 1))",
        "return 10 ** (10 ** 9)",
        "import asyncio\nasyncio.run(asyncio.sleep(1e9))",
        "sys.stdin.read()\nwhile True: print('x')",
    ] {
        let answer = attack_with(body, &["--timeout", "2"]);
        let classes = [
            "LineExecutionTimeoutError",
            "ExecutionTimeout",
            "CpuTimeLimitExceeded",
        ];
        assert!(classes.contains(&answer.class()), "{body}: {answer:#?}");
        assert!(answer.message().contains('2'), "{body}: {answer:#?}");
    }
}

#[test]
fn a_generator_and_a_destructor_that_never_end() {
    let endless = "def endless():\n    while True: yield 'x'\nreturn endless()";
    let answer = attack_with(endless, &["--timeout", "2"]);
    let classes = [
        "LineExecutionTimeoutError",
        "ExecutionTimeout",
        "MemoryLimitExceeded",
        "CpuTimeLimitExceeded",
    ];
    assert!(classes.contains(&answer.class()), "{answer:#?}");
    // It runs when the line is over: the answer is there already, and is not held up for another 600 seconds.
    let destructor =
        "class Clinging:\n    def __del__(self):\n        while True: pass\nreturn [Clinging()]";
    let answer = attack(destructor);
    answer.assert_failure("FlowOutputUnserializable", &["Clinging"]);
}

#[test]
fn recursion_without_end() {
    for body in [
        "def f(): return f()\nf()",
        "import json\njson.loads('[' * 1000000)",
        "import json\nx = []\nfor _ in range(1000000): x = [x]\njson.dumps(x)",
        "x = []\nx.append(x)\nfor _ in range(100000): x = [x]\nrepr(x)",
        "class A:\n    def __getattr__(self, name): return getattr(self, name + 'x')\nA().b",
        "class A:\n    def __repr__(self): return repr(self)\nrepr(A())",
        "class A:\n    def __eq__(self, other): return self == other\nA() == A()",
        "eval('-' * 1000000 + '1')",
        "eval('(' * 1000000)",
        "sys.setrecursionlimit(10 ** 9)\ndef f(): return f()\nf()",
        "sys.setrecursionlimit(10 ** 9)\nimport functools\nf = lambda: 1\nfor _ in range(100000): f = functools.partial(f)\nf()",
        "import pickle\nx = None\nfor _ in range(100000): x = (x,)\npickle.dumps(x)",
    ] {
        let answer = attack_with(&format!("{body}\nreturn 'survived'"), &["--timeout", "60"]);
        if answer.status() == "Completed" {
            continue;
        }
        let clear = answer.class() == "ToolExecutionError"
            && ["(RecursionError)", "(MemoryError)", "(SyntaxError)"]
                .iter()
                .any(|error| answer.message().contains(error));
        let limit = ["StackLimitExceeded", "MemoryLimitExceeded"].contains(&answer.class());
        assert!(clear || limit, "{body}: {answer:#?}");
    }
}

#[test]
fn a_value_that_is_deeper_than_json_should_be() {
    let answer = attack("x = 'bottom'\nfor _ in range(100000): x = [x]\nreturn x");
    assert_eq!(answer.status(), "Failed");
    assert!(
        ["FlowOutputUnserializable", "StackLimitExceeded"].contains(&answer.class()),
        "{}",
        answer.class()
    );
    let circle = attack("x = []\nx.append(x)\nreturn x");
    circle.assert_failure("FlowOutputUnserializable", &["Circular reference"]);
    let bush = attack_with(
        "x = ['leaf']\nfor _ in range(60): x = [x, x]\nreturn x",
        &["--timeout", "20"],
    );
    let classes = [
        "MemoryLimitExceeded",
        "LineExecutionTimeoutError",
        "ExecutionTimeout",
        "CpuTimeLimitExceeded",
    ];
    assert!(classes.contains(&bush.class()), "{}", bush.class());
}
