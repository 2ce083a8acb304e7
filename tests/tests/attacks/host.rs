//! What is the host's: files, environment, network, processes.

use flowcell_tests::FlowFolder;
use serde_json::json;

use super::{REFUSALS, assert_all, attack, attack_with};

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
fn nothing_near_the_host_can_be_asked() {
    let answer = attack(
        r"
import urllib.request
def connect(family, kind, address):
    with socket.socket(family, kind) as s:
        s.settimeout(5)
        s.connect(address)
        s.send(b'GET / HTTP/1.1\r\nHost: public.example\r\n\r\n')
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
    tried(listen, ('0.0.0.0', 0)), tried(connect, socket.AF_INET, socket.SOCK_STREAM, ('localhost', 80)),
    tried(connect, socket.AF_INET, socket.SOCK_STREAM, (socket.gethostbyname('localhost'), 80)), tried(urllib.request.urlopen, 'http://127.0.0.1:22/')]
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
