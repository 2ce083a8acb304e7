//! The disk: filling it, and using it.

use serde_json::json;

use super::attack;

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
