//! The runner's side of stored memory: what it says before its memory is stored, and what it makes current afterwards.
//!
//! Runs the real Python runner, from the bundle that `./test.sh` builds. Nothing is stored here: a live instance must
//! bear both calls as well.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops where it fails"
)]

mod common;

use std::fs;
use std::path::Path;

use common::{HOST, json, options};
use flowcell_sandbox::{Access, Argument, Environment, Instance, Limits, Mount, Outcome, Request};
use flowcell_tests::FlowFolder;
use serde_json::{Value, json};

/// A tool that runs what it is given, and keeps `kept` from call to call.
const EVAL: &str = "
import gc, io, os, random, sqlite3, sys, tempfile, uuid
from promptflow.core import tool
kept = {}
@tool
def run(code: str):
    names = {}
    exec(code, globals(), names)
    return names.get('result')
";

async fn start(flow: &FlowFolder) -> Instance {
    let manifest = HOST.store().manifest(&options().bundle).unwrap();
    let component = manifest.python_runner().unwrap();
    let program = HOST
        .programs()
        .component(component, HOST.progress())
        .unwrap();
    let mut mounts = vec![Mount {
        host: flow.path(),
        guest: "/flow".to_owned(),
        access: Access::ReadWrite,
    }];
    for tree in &manifest.trees {
        mounts.push(Mount {
            host: HOST.store().tree(&tree.digest).unwrap(),
            guest: tree.mount.clone(),
            access: Access::ReadOnly,
        });
    }
    let variables = vec![("GIVEN".to_owned(), "now".to_owned())];
    let environment = Environment::new(mounts, variables, Limits::default());
    Instance::start(HOST.sandbox(), &program, &environment, None)
        .await
        .unwrap()
}

async fn fresh() -> (FlowFolder, Instance) {
    let flow = FlowFolder::new().file("eval.py", EVAL);
    let instance = start(&flow).await;
    (flow, instance)
}

async fn call(instance: &mut Instance, source: &str, inputs: &[(&str, &str)]) -> Value {
    let inputs = inputs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Argument::Json(json!(value).to_string())));
    let request = Request {
        node: "node".to_owned(),
        source: source.to_owned(),
        init: Vec::new(),
        inputs: inputs.collect(),
    };
    match instance.call(&request).await.result.unwrap() {
        Ok(Outcome::Json(text)) => json(&text),
        Ok(Outcome::Object(object)) => panic!("unexpected object {object}"),
        Err(error) => panic!("{error:?}"),
    }
}

async fn run(instance: &mut Instance, code: &str) -> Value {
    call(instance, "eval.py", &[("code", code)]).await
}

async fn suspend(instance: &mut Instance) -> Result<(), Vec<String>> {
    instance.suspend(false).await.result.unwrap()
}

async fn resume(instance: &mut Instance, copy: bool) {
    instance.resume(copy).await.result.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_open_stands_in_the_way() {
    let (_flow, mut instance) = fresh().await;
    run(
        &mut instance,
        "kept['file'] = open('log.txt', 'w+'); kept['folder'] = os.scandir('/flow'); next(kept['folder'])
kept['number'] = os.open('plain', os.O_CREAT | os.O_RDWR)
kept['database'] = sqlite3.connect('a.db'); kept['database'].execute('create table t(x)')",
    )
    .await;
    let mut reasons = suspend(&mut instance).await.unwrap_err();
    for reason in &mut reasons {
        let number = reason.find(" (descriptor ").unwrap();
        reason.truncate(number);
    }
    assert_eq!(
        reasons,
        [
            "the file /flow/log.txt is open",
            "a folder is open",
            "a file is open",
            "the database /flow/a.db is open",
        ]
    );
    // All of it goes on after the refusal.
    let written = run(
        &mut instance,
        "f = kept['file']; f.write('on'); f.seek(0); result = [f.read(), kept['database'].execute('select count(*) from t').fetchone()[0]]
f.close(); kept['folder'].close(); os.close(kept['number']); kept['database'].close()",
    )
    .await;
    assert_eq!(written, json!(["on", 0]));
    assert_eq!(suspend(&mut instance).await, Ok(()));
    let read = run(&mut instance, "result = open('log.txt').read()").await;
    assert_eq!(read, "on");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reasons_are_bounded() {
    let (_flow, mut instance) = fresh().await;
    run(
        &mut instance,
        "kept['files'] = [open('x' * 200, 'w') for _ in range(100)]",
    )
    .await;
    let reasons = suspend(&mut instance).await.unwrap_err();
    assert_eq!(reasons.len(), 21);
    assert_eq!(reasons[20], "and 80 more");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_garbage_are_closed() {
    let (_flow, mut instance) = fresh().await;
    run(
        &mut instance,
        "gc.disable()
class Circle: pass
circle = Circle(); circle.itself = circle; circle.file = open('log.txt', 'w'); kept['number'] = circle.file.fileno()",
    )
    .await;
    assert_eq!(suspend(&mut instance).await, Ok(()));
    let code = "
try: os.fstat(kept['number']); result = 'open'
except OSError: result = 'closed'";
    assert_eq!(run(&mut instance, code).await, "closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_of_the_host_stand_in_the_way() {
    let (_flow, mut instance) = fresh().await;
    run(
        &mut instance,
        "from wit_world.imports import preopens; kept['resource'] = preopens.get_directories()[:1]",
    )
    .await;
    let reasons = suspend(&mut instance).await.unwrap_err();
    assert_eq!(
        reasons,
        ["a resource of the host is in use: wit_world.imports.filesystem_types.Descriptor"]
    );
    run(&mut instance, "kept.clear()").await;
    assert_eq!(suspend(&mut instance).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_copy_has_other_random_numbers() {
    const STATE: &str = "result = [list(random.getstate()[1][:9]), next(tempfile._get_candidate_names()), uuid.getnode()]";
    let (_flow, mut instance) = fresh().await;
    let first = run(&mut instance, STATE).await;
    assert_eq!(suspend(&mut instance).await, Ok(()));
    resume(&mut instance, false).await;
    let second = run(&mut instance, STATE).await;
    assert_eq!((&first[0], &first[2]), (&second[0], &second[2]));
    let names = run(
        &mut instance,
        "kept['names'] = tempfile._name_sequence; result = True",
    )
    .await;
    assert_eq!(names, true);
    resume(&mut instance, true).await;
    let third = run(&mut instance, STATE).await;
    assert_ne!(first[0], third[0]);
    assert_ne!(first[2], third[2]);
    let renewed = run(
        &mut instance,
        "result = kept['names'] is not tempfile._name_sequence",
    )
    .await;
    assert_eq!(renewed, true);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_flow_set_stays_and_what_the_host_gives_is_current() {
    let (_flow, mut instance) = fresh().await;
    // As if the memory came from an instance that was given other variables.
    run(
        &mut instance,
        "from flowcell_runner import startup
startup._variables = {'GIVEN': 'before', 'GONE': 'before'}; os.environ.update(startup._variables, MINE='mine')
os.mkdir('below'); os.chdir('below'); sys.argv.append('mine'); sys.path.append('/mine')",
    )
    .await;
    assert_eq!(instance.suspend(true).await.result.unwrap(), Ok(()));
    resume(&mut instance, true).await;
    let now = run(
        &mut instance,
        "result = [dict(os.environ), os.getcwd(), sys.argv[-1], sys.path[-1]]; print('heard')",
    )
    .await;
    assert_eq!(
        now,
        json!([{"GIVEN": "now", "MINE": "mine"}, "/flow/below", "mine", "/mine"])
    );
    let request = Request {
        node: "node".to_owned(),
        source: "eval.py".to_owned(),
        init: Vec::new(),
        inputs: vec![(
            "code".to_owned(),
            Argument::Json(r#""print('heard')""#.to_owned()),
        )],
    };
    assert_eq!(instance.call(&request).await.logs.stdout, "heard\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn modules_that_appear_meanwhile_are_found() {
    let (flow, mut instance) = fresh().await;
    const TRY: &str = "
try:
    import later
    result = later.x
except ImportError:
    result = None";
    assert_eq!(run(&mut instance, TRY).await, Value::Null);
    assert_eq!(suspend(&mut instance).await, Ok(()));
    // The folder's time of change is all that Python would look at.
    let folder = flow.path();
    let changed = fs::metadata(&folder).unwrap().modified().unwrap();
    fs::write(folder.join("later.py"), "x = 1").unwrap();
    fs::File::open(&folder)
        .unwrap()
        .set_modified(changed)
        .unwrap();
    resume(&mut instance, false).await;
    assert_eq!(run(&mut instance, TRY).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn freed_memory_is_cleared() {
    // Buffers come as the allocator gives them, so they show what was there before. What is looked for is spelt otherwise:
    // the text of this call lies in freed memory too.
    const LOOK: &str = "
class Look(io.RawIOBase):
    seen, needle = 0, bytes.fromhex('72656d61696e73')
    def readable(self): return True
    def readinto(self, buffer):
        self.seen += self.needle in bytes(buffer)
        return 0
look, held = Look(), []
for _ in range(200):
    held.append(io.BufferedReader(look, 64 << 10))
    held[-1].peek()
result = look.seen";
    const LEAVE: &str = "junk = [(b'remains%6d' % i) * 5000 for i in range(200)]; del junk";
    let (_flow, mut instance) = fresh().await;
    run(&mut instance, LEAVE).await;
    assert!(run(&mut instance, LOOK).await.as_u64().unwrap() > 50);
    run(&mut instance, LEAVE).await;
    assert_eq!(suspend(&mut instance).await, Ok(()));
    // Pieces that are smaller than what is cleared may be left between objects.
    assert!(run(&mut instance, LOOK).await.as_u64().unwrap() < 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_was_never_called_can_be_stored() {
    let (_flow, mut instance) = fresh().await;
    assert_eq!(instance.suspend(true).await.result.unwrap(), Ok(()));
    resume(&mut instance, true).await;
    let cwd = run(&mut instance, "result = [os.getcwd(), os.environ['GIVEN']]").await;
    assert_eq!(cwd, json!(["/flow", "now"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_without_a_suspend_does_no_harm() {
    let (_flow, mut instance) = fresh().await;
    resume(&mut instance, false).await;
    assert_eq!(run(&mut instance, "result = os.getcwd()").await, "/flow");
}

/// Puts the files below `from` into the flow.
fn with_files(flow: FlowFolder, from: &Path, below: &str) -> FlowFolder {
    fs::read_dir(from).unwrap().fold(flow, |flow, entry| {
        let entry = entry.unwrap();
        let name = format!("{below}{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            with_files(flow, &entry.path(), &format!("{name}/"))
        } else {
            flow.file(&name, fs::read(entry.path()).unwrap())
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_warm_up_leaves_nothing_that_a_flow_would_notice() {
    const NOTICED: &str = "
import logging
from flowcell_runner import loading, objects
names = lambda things: sorted(map(str, things))
result = [dict(os.environ), os.getcwd(), sys.path, sys.argv, names(loading._tools), names(objects._objects), next(objects._ids),
    names(logging.root.manager.loggerDict), logging.root.level, len(logging.root.handlers), sys.stdout is sys.__stdout__,
    [name for name, module in sys.modules.items() if (getattr(module, '__file__', None) or '').startswith('/flow')],
    names(o.__qualname__ for o in gc.get_objects() if getattr(o, '__module__', None) == '__pf_main__' and o is not run)]
objects.start_anew()";
    let warm = flowcell_tests::repository().join("bundles/promptflow/python/warm");
    let flow = with_files(FlowFolder::new().file("eval.py", EVAL), &warm, "");
    let mut instance = start(&flow).await;
    let before = run(&mut instance, NOTICED).await;
    let warmed = call(&mut instance, "warm_up.py", &[]).await;
    assert_eq!(warmed, Value::Null);
    assert_eq!(suspend(&mut instance).await, Ok(()));
    let after = run(&mut instance, NOTICED).await;
    assert_eq!(after, before);
    let libraries = run(&mut instance, "result = 'jinja2' in sys.modules").await;
    assert_eq!(libraries, true);
}
