//! Workers that do what no worker does: they run tenants' code, so the host takes nothing from them on trust.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops where it fails"
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use flowcell_bundle::CompileLimits;
use flowcell_connection::ConnectionSet;
use flowcell_worker::{
    ComputeId, ComputeSpec, Job, RequestListener, Run, SessionId, SessionSpec, Setup, Values, Work,
    WorkerCommand, WorkerError, Workers, WorkersSettings,
};

/// Ends only what would never end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A host whose workers are this shell script; their standard input is the socket.
fn host(script: &str) -> Workers {
    listening_host(script, Arc::new(|_: &SessionId, _| {}))
}

/// The same, with somebody who hears of requests.
fn listening_host(script: &str, requests: RequestListener) -> Workers {
    let command = |script: &str| WorkerCommand {
        program: "/bin/sh".into(),
        arguments: vec!["-c".into(), script.into()],
    };
    Workers::new(WorkersSettings {
        count: 1,
        dedicated: Vec::new(),
        memory: 1 << 30,
        instances: 16,
        instance_memory: 1 << 30,
        threads: 1,
        store: "/nonexistent".into(),
        compile: CompileLimits::default(),
        worker: command(script),
        compiler: command("exit 1"),
        progress: Arc::new(|_: &str| {}),
        requests,
    })
    .unwrap()
}

fn session() -> SessionSpec {
    SessionSpec {
        id: SessionId {
            workspace: "w".to_owned(),
            session: "s".to_owned(),
            generation: 1,
        },
        compute: ComputeSpec {
            id: ComputeId {
                workspace: "w".to_owned(),
                compute: "c".to_owned(),
            },
            memory: 1 << 30,
            cpu_millis: 1_000,
            instances: 4,
        },
        folder: "/nonexistent".into(),
        memory: "m".to_owned(),
        flow: "f".to_owned(),
        site: None,
        image: "i:1".to_owned(),
        stored_memory: 1 << 20,
        instance_memory: 1 << 30,
        call_time: PATIENCE,
        instance_wait: PATIENCE,
        network: Box::default(),
    }
}

fn job(inputs: &str) -> Job {
    let inputs = serde_json::from_value(serde_json::json!({ "x": inputs })).unwrap();
    Job {
        session: session(),
        revision: 1,
        setup: Setup::default(),
        connections: ConnectionSet::default(),
        order: 0,
        record_content: false,
        work: Work::Run(Run::Call {
            inputs: Values::from(&inputs),
            node: None,
        }),
    }
}

async fn call(host: &Workers) -> WorkerError {
    // Long enough that a worker can wait for it.
    let call = host.perform(job(&"x".repeat(1_000)), Arc::new(|_| ()), None);
    let answer = tokio::time::timeout(PATIENCE, call).await.unwrap();
    answer.unwrap_err()
}

#[tokio::test]
async fn a_worker_that_talks_nonsense_is_killed() {
    for (what, said) in [
        ("no message at all", r"\003\000\000\000\377\377\377"),
        ("a frame that is too long", r"\377\377\377\377"),
        ("an empty frame", r"\000\000\000\000"),
        (
            "a reply to what nobody has asked",
            r"\003\000\000\000\002\143\002",
        ),
        ("a reply of another kind", r"\003\000\000\000\002\000\002"),
        (
            "a message with more behind it",
            r"\004\000\000\000\002\000\002\000",
        ),
        (
            "text that is not UTF-8",
            r"\007\000\000\000\002\000\000\001\002\377\376",
        ),
        (
            "news of what nobody has asked",
            r"\003\000\000\000\000\143\000",
        ),
        (
            "a part of what nobody has asked",
            r"\003\000\000\000\003\143\000",
        ),
    ] {
        // The reply comes once the request is there, and then the worker stays.
        let script =
            format!("head -c 200 <&0 >/dev/null; printf '{said}' >&0; exec cat >/dev/null");
        let host = host(&script);
        let error = call(&host).await;
        assert!(matches!(error, WorkerError::Lost { .. }), "{what}: {error}");
        assert_eq!(host.counts().alive, 0, "{what}");
    }
}

#[tokio::test]
async fn a_worker_that_sends_more_than_is_taken_is_killed() {
    // Each a part of 40,000 bytes of the first job.
    let part = r"printf '\105\234\000\000\003\000\300\270\002' >&3; head -c 40000 /dev/zero | tr '\000' x >&3";
    let script =
        format!("exec 3<&0; head -c 200 <&3 >/dev/null; {part}; {part}; exec cat >/dev/null");
    let host = host(&script);
    let (taker, mut parts) = tokio::sync::mpsc::unbounded_channel();
    let call = host.perform(job(&"x".repeat(1_000)), Arc::new(|_| ()), Some(taker));
    let error = tokio::time::timeout(PATIENCE, call)
        .await
        .unwrap()
        .unwrap_err();
    assert!(matches!(error, WorkerError::Lost { .. }), "{error}");
    assert_eq!(host.counts().alive, 0);
    let first = parts.recv().await.unwrap();
    assert_eq!(first.text.len(), 40_000);
    assert!(parts.recv().await.is_none());
}

#[tokio::test]
async fn requests_are_told_of_a_worker_s_own_sessions_only() {
    // GET to `x` of session `s`, which it has, and of `t`, which it has not.
    let told = |session: &str| {
        format!(
            r"printf '\024\000\000\000\004\001w\001{session}\001\000\003GET\001x\000\000\000\000\000\000\000' >&3"
        )
    };
    let script = format!(
        "exec 3<&0; head -c 200 <&3 >/dev/null; {}; {}; {}; exec 3<&-",
        told("s"),
        told("t"),
        told("s")
    );
    let heard = Arc::new(Mutex::new(Vec::new()));
    let listener: RequestListener = {
        let heard = Arc::clone(&heard);
        Arc::new(move |session, exchange| {
            let entry = format!("{} {} {}", session.session, exchange.method, exchange.to);
            heard.lock().unwrap().push(entry);
        })
    };
    let host = listening_host(&script, listener);
    call(&host).await;
    assert_eq!(*heard.lock().unwrap(), ["s GET x"; 2]);
}

#[tokio::test]
async fn a_worker_that_tells_too_much_of_a_request_is_killed() {
    // To a host of 20,000 bytes: 20,021 in all.
    let script = r"exec 3<&0; head -c 200 <&3 >/dev/null
        printf '\065\116\000\000\004\001w\001s\001\000\003GET\240\234\001' >&3
        head -c 20000 /dev/zero | tr '\000' x >&3
        printf '\000\000\000\000\000\000\000' >&3; exec cat >/dev/null";
    let host = listening_host(script, Arc::new(|_, _| panic!("nobody is told")));
    let error = call(&host).await;
    assert!(matches!(error, WorkerError::Lost { .. }), "{error}");
    assert_eq!(host.counts().alive, 0);
}

#[tokio::test]
async fn a_worker_that_goes_away_is_noticed() {
    for script in [
        "exit 3",
        "kill -9 $$",
        "exec <&-; exec sleep 60 2>/dev/null",
    ] {
        let host = host(script);
        let error = call(&host).await;
        assert!(matches!(error, WorkerError::Lost { .. }), "{error}");
        assert!(error.to_string().contains("session s"), "{error}");
        assert_eq!(host.counts().alive, 0);
    }
}

#[tokio::test]
async fn a_worker_that_cannot_start_is_not_started_again_and_again() {
    let host = host("exit 1");
    let mut lost = 0;
    let refused = loop {
        match call(&host).await {
            WorkerError::Lost { .. } => lost += 1,
            other => break other,
        }
        assert!(lost < 10);
    };
    assert!(
        matches!(refused, WorkerError::Resting { times: 3, .. }),
        "{refused}"
    );
    assert_eq!(host.counts().restarts, 2);
}

#[tokio::test]
async fn what_is_too_long_is_not_sent() {
    let host = host("exec cat >/dev/null");
    let long = job(&"x".repeat(256 << 20));
    let refused = host
        .perform(long, Arc::new(|_| ()), None)
        .await
        .unwrap_err();
    let WorkerError::TooLong { size, limit, .. } = refused else {
        panic!("{refused}");
    };
    assert!(size > limit && limit == 256 << 20);
    // The worker has seen nothing of it.
    assert_eq!(host.counts().alive, 1);
    host.stop().await;
}

#[tokio::test]
async fn what_a_worker_says_it_uses_is_no_more_than_it_can() {
    // Used, with all numbers as large as can be; then nothing.
    let most = r"\377\377\377\377\377\377\377\377\377\001";
    let all = most.repeat(10);
    let length = format!(r"\{:03o}\000\000\000", 1 + 10 * 10 + 2);
    let script = format!("printf '{length}\\001{all}\\000\\000' >&0; exec cat >/dev/null");
    let host = host(&script);
    let waiting = tokio::spawn({
        let host = host.clone();
        async move { host.open(session()).await }
    });
    let used = tokio::time::timeout(PATIENCE, async {
        loop {
            let used = host.used();
            if used.instances > 0 {
                return used;
            }
            tokio::task::yield_now().await;
        }
    });
    let used = used.await.unwrap();
    assert_eq!((used.memory, used.instances, used.idle), (1 << 30, 16, 16));
    assert_eq!(used.busy(), 0);
    waiting.abort();
}
