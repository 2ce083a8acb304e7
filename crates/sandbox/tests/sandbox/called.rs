//! A runner that calls tools of components.

use std::sync::Arc;
use std::time::Duration;

use flowcell_sandbox::{
    Call, Callee, Environment, Fault, FoundTool, Instance, Limits, Pool, Slice, SliceLimits,
    ToolError, ToolInfo, Tools,
};

use crate::runner::{Do, PROGRAM, environment, write};
use crate::{SANDBOX, limits, pool_of, program, tool};

const FINE: &str = "(call $answer (i32.const 16) (i32.const 6))";
const FOREVER: &str = "(loop $l (br $l)) (unreachable)";
/// Where the runner has the tool's inputs.
const INPUTS: u64 = 33;

/// One tool, `t`.
#[derive(Debug)]
struct One(Arc<Pool>);

impl Tools for One {
    fn in_module(&self, _module: &str) -> Vec<ToolInfo> {
        Vec::new()
    }

    fn find(&self, id: &str, inputs: &str) -> Result<FoundTool, ToolError> {
        if id == "host" {
            return Ok(FoundTool::Answer(inputs.to_owned()));
        }
        assert_eq!(id, "t");
        Ok(FoundTool::Callee(Callee {
            pool: Arc::clone(&self.0),
            tool: "tool".to_owned(),
            wait: Duration::from_secs(60),
        }))
    }
}

/// A slice for so many instances.
fn slice(instances: usize) -> Arc<Slice> {
    let limits = SliceLimits {
        instances,
        ..SliceLimits::UNLIMITED
    };
    Slice::new(limits, None)
}

/// A runner, and a component for it to call.
async fn runner(body: &str, limits: Limits, slice: &Arc<Slice>) -> Instance {
    let tools = Environment::new(Vec::new(), Vec::new(), limits.clone());
    let tools = tools.with_slice(Arc::clone(slice));
    let pool = pool_of(&Arc::new(program(&tool(body)).unwrap()), tools, 2);
    let environment = environment("one", limits, Arc::clone(slice)).with_tools(Arc::new(One(pool)));
    let instance = Instance::start(&SANDBOX, &PROGRAM, &environment, None).await;
    instance.unwrap()
}

async fn call(instance: &mut Instance, times: u32) -> Call<Result<bool, ToolError>> {
    let what = Do::CallTool(times).code();
    instance.equals(what, String::new()).await
}

/// Whether the last of some calls had an answer.
async fn answers(instance: &mut Instance, times: u32) -> bool {
    call(instance, times).await.result.unwrap().unwrap()
}

#[tokio::test]
async fn what_a_called_tool_prints_and_records_is_its_callers() {
    let body = format!(
        "(call $log (i32.const 1) (i32.const 16) (i32.const 6))
         (call $metric (i32.const 17) (i32.const 4) (i32.const 16) (i32.const 6)) {FINE}"
    );
    let mut runner = runner(&body, limits(), &Slice::unlimited()).await;
    let call = call(&mut runner, 2).await;
    assert!(call.result.unwrap().unwrap());
    assert_eq!(call.logs.log, "info: \"fine\"\n".repeat(2));
    let metric = ("fine".to_owned(), "\"fine\"".to_owned());
    assert_eq!(call.metrics, [metric.clone(), metric]);
}

#[tokio::test]
async fn a_tool_that_crashes_is_an_error_for_its_caller() {
    let mut runner = runner("(unreachable)", limits(), &Slice::unlimited()).await;
    assert!(!answers(&mut runner, 3).await);
    assert!(!runner.is_broken());
}

#[tokio::test]
async fn a_runner_without_tools_is_refused() {
    let environment = environment("one", limits(), Slice::unlimited());
    let runner = Instance::start(&SANDBOX, &PROGRAM, &environment, None).await;
    assert!(!answers(&mut runner.unwrap(), 1).await);
}

#[tokio::test]
async fn who_works_for_an_instance_with_a_place_needs_none() {
    let all_taken = slice(1);
    let mut first = runner(FINE, limits(), &all_taken).await;
    assert!(answers(&mut first, 3).await);
    assert_eq!(all_taken.usage().instances, 1);
    assert_eq!(all_taken.usage().starts, 3, "none is kept");

    let one_left = slice(2);
    let mut second = runner(FINE, limits(), &one_left).await;
    assert!(answers(&mut second, 3).await);
    assert_eq!(one_left.usage().instances, 2);
    assert_eq!(one_left.usage().starts, 1, "it is used again");
}

#[tokio::test]
async fn a_called_tool_uses_its_callers_time() {
    let limit = Duration::from_millis(100);
    let cpu = Limits {
        cpu_time: limit,
        ..limits()
    };
    let slice = slice(4);
    let mut runner_of_loop = runner(FOREVER, cpu.clone(), &slice).await;
    let ended = call(&mut runner_of_loop, 1).await;
    assert!(matches!(ended.result, Err(Fault::CpuTime { limit: told }) if told == limit));
    assert!(ended.usage.cpu >= limit);

    // Many short calls together.
    let spins = "(local $n i64) (local.set $n (i64.const 5000000))
        (loop $l (br_if $l (i64.ne (local.tee $n (i64.sub (local.get $n) (i64.const 1))) (i64.const 0))))";
    let mut spinning = runner(&format!("{spins} {FINE}"), cpu, &slice).await;
    let ended = call(&mut spinning, u32::MAX >> 8).await;
    assert!(matches!(ended.result, Err(Fault::CpuTime { .. })));
}

#[tokio::test]
async fn a_called_tool_ends_with_its_caller() {
    let slice = slice(4);
    let mut waiting = runner(FOREVER, crate::short(), &slice).await;
    let ended = call(&mut waiting, 1).await;
    assert!(matches!(ended.result, Err(Fault::Timeout { .. })));
    drop(waiting);
    let gone = async {
        while slice.usage().instances > 0 {
            tokio::task::yield_now().await;
        }
    };
    let gone = tokio::time::timeout(Duration::from_secs(60), gone).await;
    assert!(gone.is_ok());
}

#[tokio::test]
async fn inputs_that_are_no_json_end_the_runner() {
    let mut runner = runner(FINE, limits(), &Slice::unlimited()).await;
    write(&mut runner, INPUTS, b"{]").await;
    let ended = call(&mut runner, 1).await.result;
    assert!(matches!(ended, Err(Fault::Trap { reason }) if reason.contains("JSON")));
}
