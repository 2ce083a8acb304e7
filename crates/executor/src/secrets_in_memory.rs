//! A hunt for secrets in guests' memory, over every byte of it.

use std::sync::Arc;

use flowcell_connection::{ConnectionSet, Fields};
use flowcell_egress::{Auditor, EgressOptions, Exchange, Gate, Limits, Policy, SystemLookup, Tls};
use flowcell_sandbox::SandboxConfig;
use flowcell_tests::FlowFolder;
use flowcell_tests::openai::Server;

use crate::{Host, HostOptions, RunOptions, Session, SessionOptions, Workspace, WorkspaceLimits};

const SECRET: &str = "sk-hunted-0123456789-abcdef";
const MARK: &str = "flowcell-secret-";

#[derive(Debug)]
struct Nobody;

impl Auditor for Nobody {
    fn record(&self, _: Exchange) {}
}

/// A tool that does with a key what tools do: keeps it, sends it, and is told it back.
const TOOL: &str = "import os\nimport requests\nfrom openai import OpenAI\nfrom promptflow.connections import OpenAIConnection\n\
    from promptflow.core import tool\nkept = []\n@tool\ndef f(c: OpenAIConnection):\n    \
    headers = {'authorization': 'Bearer ' + c.api_key}\n    \
    body = {'model': 'm', 'messages': [{'role': 'user', 'content': 'my key is ' + c.api_key}]}\n    \
    told = requests.post(c.base_url + '/chat/completions', json=body, headers=headers).text\n    \
    asked = OpenAI(api_key=c.api_key, base_url=c.base_url).chat.completions.create(**body)\n    \
    refused = requests.get(c.base_url + '/e401/chat', headers=headers)\n    \
    kept.append([c, told, asked, refused, os.environ['KEY']])\n    return told\n";

fn count(memory: &[u8], text: &str) -> usize {
    let bytes = text.as_bytes();
    let found = memory
        .windows(bytes.len())
        .filter(|window| *window == bytes);
    found.count()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_guest_holds_a_secret() -> Result<(), Box<dyn std::error::Error>> {
    let host = Host::new(HostOptions {
        store: flowcell_tests::home().to_owned(),
        sandbox: SandboxConfig::default(),
        compiler: flowcell_bundle::Compiler::Here,
        progress: Arc::new(|_: &str| {}),
    })?;
    let service = Server::start();
    let flow = FlowFolder::new()
        .file(
            "flow.dag.yaml",
            "environment_variables:\n  KEY: ${c.api_key}\noutputs:\n  out: {type: string, reference: '${f.output}'}\nnodes:\n\
             - name: f\n  type: python\n  source: {type: code, path: f.py}\n  inputs: {c: c}\n",
        )
        .file("f.py", TOOL);
    let text = format!(
        "name: c\ntype: open_ai\napi_key: {SECRET}\nbase_url: {}\n",
        service.v1()
    );
    let connection = Fields::from_yaml(&text)?.connection()?;
    let mut options = SessionOptions::new("promptflow:0.1.0".parse()?);
    options.connections = Arc::new(ConnectionSet::from_iter([connection]));
    options.network = Some(Gate::new(EgressOptions {
        policy: Policy {
            private: vec!["127.0.0.1:*".parse()?],
            ..Policy::default()
        },
        limits: Limits::default(),
        lookup: Arc::new(SystemLookup),
        tls: Arc::new(Tls::default()),
        auditor: Arc::new(Nobody),
    }));
    options.instances = 1;
    let workspace = Workspace::copy_of(&flow.path(), &WorkspaceLimits::default())?;
    let session = Session::open(&host, workspace, options).await?;
    let result = session
        .run(&Default::default(), &RunOptions::default())
        .await;
    let told = result.outputs?;
    // The service has heard the key, and has said it again.
    let heard = service.requests();
    assert!(
        heard.len() >= 2
            && heard
                .iter()
                .all(|one| one.header("authorization").ends_with(SECRET))
    );
    assert!(told.contains(MARK) && !told.contains(SECRET), "{told}");

    let pool = session.inner.python.as_ref().ok_or("no Python")?;
    let mut lease = pool.try_checkout().await?.ok_or("no instance")?;
    let memory = lease.whole_memory().await?;
    // What stands for it is there many times, so this looks at the right memory.
    assert!(count(&memory, MARK) > 5, "{}", count(&memory, MARK));
    assert_eq!(count(&memory, SECRET), 0);
    assert_eq!(count(&memory, "hunted"), 0);
    Ok(())
}
