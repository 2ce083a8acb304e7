//! The worker that is no process of its own: sessions run in the host.

use std::sync::{Arc, Mutex, PoisonError};

use flowcell_bundle::Compiler;
use flowcell_executor::{Host, HostOptions, RunError};
use flowcell_sandbox::SandboxConfig;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::flows::Flows;
use crate::network::RequestListener;
use crate::news::Hear;
use crate::parts::{Outlet, Part, Taker, room};
use crate::remote::Listening;
use crate::wire::{Begin, Operation, Reply};

/// Makes what runs sessions, with a runtime of its own for the guests.
pub(crate) fn flows(
    begin: &Begin,
    compiler: Compiler,
    progress: Arc<flowcell_bundle::Progress>,
    requests: RequestListener,
) -> Result<(Arc<Flows>, Guests), SetUpError> {
    let executor = Host::new(HostOptions {
        store: begin.store.clone().into(),
        sandbox: SandboxConfig {
            instances: begin.instances,
            max_memory: usize::try_from(begin.instance_memory).unwrap_or(usize::MAX),
            ..SandboxConfig::default()
        },
        compiler,
        progress,
    })?;
    let guests = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(begin.threads.max(1) as usize)
        .thread_name("flowcell-guests")
        .enable_io()
        .enable_time()
        .build()
        .map_err(SetUpError::Threads)?;
    let flows = Flows::new(
        Arc::new(executor),
        begin.memory,
        begin.instances as usize,
        guests.handle().clone(),
        requests,
    );
    Ok((Arc::new(flows), Guests(Mutex::new(Some(guests)))))
}

/// What is needed to run sessions is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetUpError {
    /// The engine or the bundle store.
    #[error(transparent)]
    Executor(#[from] RunError),
    /// The threads.
    #[error("cannot start threads")]
    Threads(#[source] std::io::Error),
}

/// The guests' runtime, let go without waiting for it: waiting is nothing for a thread of another runtime.
#[derive(Debug)]
pub(crate) struct Guests(Mutex<Option<Runtime>>);

impl Drop for Guests {
    fn drop(&mut self) {
        let runtime = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Does something here; dropping the future cancels a job.
pub(crate) async fn perform(
    flows: &Arc<Flows>,
    operation: Operation,
    listening: Option<Listening>,
) -> Option<Reply> {
    match operation {
        Operation::Open(session) => Some(Reply::Opened(flows.open(session).await)),
        Operation::Work(job) => {
            let cancel = CancellationToken::new();
            let _guard = cancel.clone().drop_guard();
            let (sender, answer) = oneshot::channel();
            let (hear, taker) = match listening {
                Some(Listening { hear, taker }) => (hear, taker),
                None => (Arc::new(|_| ()) as Hear, None),
            };
            let outlet = outlet(taker);
            flows.spawn(flows.begin(job, hear, outlet, cancel, |answer| {
                // Whoever waited may be gone.
                let _ = sender.send(answer);
            }));
            answer.await.ok().flatten().map(Reply::Answer)
        }
        Operation::Hibernate(session) => Some(Reply::Hibernated(flows.hibernate(&session).await)),
        Operation::Shrink(session) => {
            flows.shrink(&session).await;
            Some(Reply::Ended)
        }
        Operation::Fork { from, to } => Some(Reply::Forked(flows.fork(from, to).await)),
        Operation::Inspect(session) => Some(Reply::Holds(flows.inspect(&session).await)),
        Operation::End(session) => {
            flows.end(&session).await;
            Some(Reply::Ended)
        }
    }
}

/// The way of parts that stay in this process.
fn outlet(taker: Option<Taker>) -> Outlet {
    let window = Outlet::window();
    Outlet::new(Arc::clone(&window), move |text| {
        let (window, bytes) = (Arc::clone(&window), room(&text));
        let part = Part::new(text, move || window.add_permits(bytes as usize));
        if let Some(taker) = &taker {
            // Whoever took the parts may have gone at this moment.
            let _ = taker.send(part);
        }
    })
}
