//! Flows whose tools attack: whatever they do ends with its own clear error, and gets nothing that is the host's.
//!
//! Each runs through the binary, so what is checked is what a user would see. Attacks below Python, and what becomes of
//! the neighbours of an attacked instance, are in `crates/sandbox/tests` and `crates/executor/tests`.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use flowcell_tests::{Answer, FlowFolder};
use serde_json::{Value, json};

/// Runs a tool with this body; `tried(f)` in it gives `got …` or the exception's class.
fn attack(body: &str) -> Answer {
    attack_with(body, &[])
}

fn attack_with(body: &str, arguments: &[&str]) -> Answer {
    let body = body.trim_matches('\n').replace('\n', "\n    ");
    let code = format!(
        "import os, sys, socket\nfrom promptflow import tool\n\n\
         def tried(attempt, *arguments):\n    try:\n        return 'got ' + repr(attempt(*arguments))[:300]\n    \
         except BaseException as error:\n        return type(error).__name__\n\n\
         def read(path):\n    with open(path, 'rb') as file:\n        return file.read(300)\n\n\
         @tool\ndef attack():\n    {body}\n"
    );
    FlowFolder::python(&code, &[]).test(arguments)
}

/// Checks that every attempt in a list was refused with one of these exceptions.
#[track_caller]
fn assert_all(answer: &Answer, allowed: &[&str]) {
    let attempts = answer.outputs()["out"].as_array().unwrap();
    assert!(!attempts.is_empty());
    for attempt in attempts {
        assert!(
            allowed.iter().any(|class| attempt == class),
            "{attempt} is not among {allowed:?}: {answer:#?}"
        );
    }
}

/// What the file system says of things that are not the guest's.
const REFUSALS: [&str; 4] = [
    "FileNotFoundError",
    "PermissionError",
    "OSError",
    "NotADirectoryError",
];

// What is the host's

#[test]
fn the_hosts_files_are_not_there() {
    let answer = attack(
        r"
paths = ['/etc/passwd', '/proc/self/environ', '/proc/1/environ', '/sys', '/dev/zero', '/root', '/home',
    '../../etc/passwd', '/tmp/../etc/passwd', '/flow/../../etc/passwd', '/flow/../tmp/../../etc/passwd',
    '/python/../etc/passwd', '//etc/passwd', '/tmp/./../../../../etc/passwd', 'file:///etc/passwd', '/etc/passwd\0.txt']
return [tried(read, path) for path in paths] + [tried(os.listdir, path) for path in ('/etc', '/proc', '..', '/flow/..', '/tmp/..', '/..')]
",
    );
    assert_all(
        &answer,
        &[
            "FileNotFoundError",
            "PermissionError",
            "OSError",
            "ValueError",
            "NotADirectoryError",
        ],
    );
}

#[test]
fn the_hosts_environment_is_not_there() {
    let answer = attack_with(
        "return dict(os.environ)",
        &["--environment-variables", "MINE=yes"],
    );
    assert_eq!(
        answer.outputs()["out"],
        json!({"HOME": "/tmp", "MINE": "yes"})
    );
    let whole = answer.json.to_string();
    assert!(!whole.contains("hunter2-of-the-host"), "{whole}");
}

#[test]
fn links_made_by_a_tool_lead_nowhere() {
    let answer = attack(
        r"
results = []
for number, target in enumerate(['/etc/passwd', '../../../../../../../etc/passwd', '/etc', '../../../../../../..', '/proc/self/root', '..']):
    for folder in ('/tmp', '/flow'):
        link = f'{folder}/link{number}'
        tried(os.symlink, target, link)
        results += [tried(read, link), tried(read, link + '/etc/passwd'), tried(read, link + '/passwd'), tried(os.listdir, link)]
return results
",
    );
    assert_all(&answer, &REFUSALS);
}

#[test]
fn a_chain_of_links_and_folders_that_are_swapped_leads_nowhere() {
    let answer = attack(
        r"
os.makedirs('/tmp/a/b/c')
os.symlink('a/b', '/tmp/in')
os.symlink('in/c', '/tmp/deeper')
tried(os.symlink, '../../..', '/tmp/a/b/c/up')
results = [tried(read, '/tmp/deeper/up/../../../etc/passwd'), tried(read, '/tmp/deeper/up/../../../../../etc/passwd')]
os.makedirs('/tmp/x/y/z')
handle = os.open('/tmp/x/y/z', os.O_RDONLY)
os.rename('/tmp/x/y/z', '/tmp/z')
for path in ('../../../etc/passwd', '../etc/passwd', '../../../../../../etc/passwd'):
    results.append(tried(lambda: os.read(os.open(path, os.O_RDONLY, dir_fd=handle), 100)))
return results
",
    );
    assert_all(
        &answer,
        &[
            "FileNotFoundError",
            "PermissionError",
            "OSError",
            "NotADirectoryError",
            "NotImplementedError",
        ],
    );
}

#[test]
fn a_link_made_by_an_import_does_not_lead_the_host_out() {
    let flow = |link: &str, target: &str, kind: &str| {
        FlowFolder::new()
            .file(
                "flow.dag.yaml",
                format!(
                    "outputs: {{out: {{type: string, reference: '${{second.output}}'}}}}\nnodes:\n\
                     - {{name: first, type: python, source: {{type: code, path: first.py}}, inputs: {{}}}}\n\
                     - {{name: second, type: {kind}, source: {{type: code, path: sub/second}}, inputs: {{}}}}\n"
                ),
            )
            .file(
                "first.py",
                format!(
                    "import os, shutil\nfrom promptflow import tool\nshutil.rmtree('/flow/sub') if {link:?} == 'sub' else os.remove('/flow/{link}')\n\
                     os.symlink('{target}', '/flow/{link}')\nprint('linked')\n@tool\ndef t(): return 1\n"
                ),
            )
            .file("sub/second", "harmless")
            .file("../second", "secret of the host")
            .test(&[])
    };
    let up = "../".repeat(12);
    for (link, target) in [
        ("sub/second", format!("{up}etc/passwd")),
        ("sub", format!("{up}etc")),
        ("sub", "..".to_owned()),
    ] {
        for kind in ["prompt", "python", "wasm"] {
            let answer = flow(link, &target, kind);
            assert_eq!(answer.status(), "Failed", "{answer:#?}");
            let whole = answer.json.to_string() + &answer.process.stderr;
            assert!(
                !whole.contains("root:") && !whole.contains("secret of"),
                "{whole}"
            );
        }
    }
}

#[test]
fn hard_links_and_renames_stay_within_a_mount() {
    let answer = attack(
        r"
open('/tmp/mine', 'w').write('x')
return [
    tried(os.link, '/etc/passwd', '/tmp/hard'),
    tried(os.link, '../../../../etc/passwd', '/tmp/hard'),
    tried(os.link, '/python/os.py', '/tmp/hard'),
    tried(os.rename, '/python/os.py', '/tmp/os.py'),
    tried(os.rename, '/tmp/mine', '/python/mine.py'),
    tried(os.rename, '/tmp/mine', '/etc/mine'),
    tried(os.rename, '/tmp/mine', '../../mine'),
    tried(os.rename, '/tmp', '/flow/tmp'),
]
",
    );
    assert_all(&answer, &REFUSALS);
}

#[test]
fn the_bundles_folders_cannot_be_written() {
    let answer = attack(
        r"
def write(path):
    with open(path, 'w') as file:
        return file.write('x')
results = []
for folder in ('/python', '/packages'):
    assert os.listdir(folder)
    known = os.path.join(folder, sorted(os.listdir(folder))[0])
    results += [tried(write, folder + '/new.py'), tried(write, known), tried(os.mkdir, folder + '/new'), tried(os.symlink, 'x', folder + '/new'),
        tried(os.rename, known, folder + '/other'), tried(os.remove, known), tried(os.rmdir, known), tried(os.utime, known, (0, 0)),
        tried(os.truncate, known, 0), tried(os.open, known, os.O_RDWR), tried(os.open, known, os.O_WRONLY | os.O_TRUNC)]
results.append(tried(os.open, '/python/os.py', os.O_RDWR | os.O_CREAT))
return results
",
    );
    assert_all(
        &answer,
        &[
            "PermissionError",
            "OSError",
            "IsADirectoryError",
            "NotADirectoryError",
        ],
    );
}

#[test]
fn there_is_no_network() {
    let answer = attack(
        r"
import urllib.request
def connect(family, kind, address):
    with socket.socket(family, kind) as s:
        s.settimeout(5)
        s.connect(address)
        s.send(b'x')
        return s.recv(1)
def listen(address):
    with socket.socket() as s:
        s.bind(address)
        s.listen()
        return s.getsockname()
def send(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        return s.sendto(b'x', address)
return [tried(connect, socket.AF_INET, socket.SOCK_STREAM, ('127.0.0.1', 22)), tried(connect, socket.AF_INET6, socket.SOCK_STREAM, ('::1', 22)),
    tried(connect, socket.AF_INET, socket.SOCK_STREAM, ('169.254.169.254', 80)), tried(send, ('127.0.0.1', 53)), tried(listen, ('127.0.0.1', 0)),
    tried(listen, ('0.0.0.0', 0)), tried(socket.getaddrinfo, 'localhost', 80), tried(socket.gethostbyname, 'example.com'),
    tried(socket.create_connection, ('localhost', 80)), tried(urllib.request.urlopen, 'http://127.0.0.1:22/')]
",
    );
    assert_all(
        &answer,
        &[
            "PermissionError",
            "OSError",
            "gaierror",
            "ConnectionRefusedError",
            "URLError",
            "AttributeError",
        ],
    );
}

#[test]
fn there_are_no_processes() {
    let answer = attack(
        r"
import subprocess
def missing(name):
    return getattr(os, name)
return [tried(subprocess.run, ['ls']), tried(subprocess.run, 'ls', True), tried(os.system, 'ls') if hasattr(os, 'system') else 'OSError',
    tried(missing, 'fork'), tried(missing, 'execv'), tried(missing, 'posix_spawn'), tried(missing, 'kill'), tried(__import__, 'ctypes'),
    tried(__import__, 'mmap'), tried(__import__, 'resource'), tried(__import__, '_posixsubprocess'), tried(lambda: __import__('multiprocessing').Process(target=print).start())]
",
    );
    assert_all(
        &answer,
        &[
            "OSError",
            "AttributeError",
            "ModuleNotFoundError",
            "ImportError",
            "NotImplementedError",
            "PermissionError",
            "RuntimeError",
            "ValueError",
        ],
    );
}

#[test]
fn threads_do_not_run_beside_the_tool() {
    let answer = attack(
        r"
import threading, _thread
done = []
thread = threading.Thread(target=done.append, args=(threading.get_ident(),))
thread.start()
thread.join()
return [done == [threading.get_ident()], tried(_thread.start_new_thread, print, ())]
",
    );
    assert_eq!(answer.outputs()["out"], json!([true, "RuntimeError"]));
}

// Ends of the process

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

// Time

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

// Depth

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

// Disk

#[test]
fn filling_the_disk_by_bytes() {
    filling(&[
        "file = open('/tmp/large', 'wb')\nwhile True: file.write(bytes(1 << 20))",
        "file = open('/flow/large', 'wb')\nwhile True: file.write(bytes(1 << 20))",
    ]);
}

#[test]
fn filling_the_disk_by_names() {
    filling(&[
        "for n in range(20000): open(f'/tmp/{n}', 'w').close()",
        "for n in range(20000): os.mkdir(f'/tmp/{n}')",
        "for n in range(20000): os.symlink('x', f'/tmp/{n}')",
        "open('/tmp/x', 'w').close()\nfor n in range(20000): os.link('/tmp/x', f'/tmp/{n}')",
    ]);
}

#[test]
fn filling_the_disk_by_holes() {
    filling(&[
        "open('/tmp/sparse', 'wb').truncate(1 << 40)",
        "for n in range(100): open(f'/tmp/{n}', 'wb').truncate(100 << 20)",
        "file = open('/tmp/sparse', 'wb')\nfor n in range(1000):\n    file.seek(n << 30)\n    file.write(bytes(1 << 20))\n    file.flush()",
    ]);
}

#[test]
fn filling_the_disk_by_files_without_a_name() {
    filling(&[
        "kept = []\nwhile True:\n    file = open('/tmp/gone', 'wb')\n    kept.append(file)\n    os.remove('/tmp/gone')\n    file.write(bytes(1 << 20))\n    file.flush()",
        "kept = []\nfor n in range(100000):\n    file = open('/tmp/gone', 'wb')\n    kept.append(file)\n    file.write(bytes(1 << 20))\n    file.flush()\n    open('/tmp/other', 'w').close()\n    os.replace('/tmp/other', '/tmp/gone')",
    ]);
}

/// Each ends as it would on a disk of this size.
#[track_caller]
fn filling(bodies: &[&str]) {
    for body in bodies {
        let answer = attack(&format!("{body}\nreturn 'filled'"));
        assert_eq!(answer.class(), "ToolExecutionError", "{body}: {answer:#?}");
        let message = answer.message();
        assert!(
            message.contains("disk is full: it holds 256 MiB"),
            "{body}: {message}"
        );
    }
}

#[test]
fn using_the_disk_again_and_again_works() {
    let answer = attack(
        r"
block = bytes(8 << 20)
for _ in range(40):
    with open('/tmp/same', 'wb') as file:
        file.write(block)
with open('/tmp/same', 'r+b') as file:
    for _ in range(40):
        file.seek(0)
        file.write(block)
for n in range(40):
    with open(f'/tmp/{n}', 'wb') as file:
        file.write(block)
    os.remove(f'/tmp/{n}')
for n in range(11000):
    open('/tmp/short-lived', 'w').close()
    os.remove('/tmp/short-lived')
return os.path.getsize('/tmp/same')
",
    );
    assert_eq!(answer.outputs()["out"], 8 << 20);
}

#[test]
fn opening_too_many_files() {
    let answer = attack(
        "kept = []\nfor n in range(10000): kept.append(open('/flow/tool.py'))\nreturn len(kept)",
    );
    assert_eq!(answer.status(), "Failed", "{answer:#?}");
    assert!(
        ["ToolExecutionError", "ProcessCrashError"].contains(&answer.class()),
        "{answer:#?}"
    );
}

#[test]
fn what_a_tool_does_to_the_flows_files_is_gone_afterwards() {
    // `FlowFolder::test` compares the folder before and after.
    let answer = attack(
        r"
import shutil
open('/flow/new.txt', 'w').write('x')
open('/flow/tool.py', 'a').write('# more')
os.remove('/flow/flow.dag.yaml')
os.makedirs('/flow/__pycache__/x')
for entry in os.listdir('/flow'):
    path = '/flow/' + entry
    shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
return os.listdir('/flow')
",
    );
    assert_eq!(answer.outputs()["out"], json!([]));
}

// Python's own means

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
        .file("flow.dag.yaml", "nodes:\n- {name: tool, type: python, aggregation: true, source: {type: code, path: t.py}, inputs: {}}\n")
        .file("t.py", "from promptflow import tool, log_metric\n@tool\ndef t():\n    for n in range(100000): log_metric(f'm{n}', n)\n")
        .test(&[]);
    let metrics = answer.json["metrics"].as_object().unwrap();
    assert!(metrics.len() <= 1_000, "{}", metrics.len());
    let node = &answer.json["nodes"][0];
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
