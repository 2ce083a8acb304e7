//! A flow of one LLM node against a mock whose answers take 200 ms: calls that wait, their memory, and streams.
//!
//! `cargo build --release -p flowcell && cargo bench -p flowcell-benches --bench models`; with `-- --promptflow` gunicorn with
//! promptflow is measured in the same run. Needs the bundles that `./demo.sh` makes, and wrk.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use flowcell_benches::load::{Load, Peer, script, wrk};
use flowcell_benches::peers::{self, Result};
use flowcell_benches::print_machine;
use flowcell_benches::server::Server;
use flowcell_tests::openai::Server as Models;
use serde_json::json;

/// What an answer takes.
const DELAY: Duration = Duration::from_millis(200);
/// Calls in flight.
const IN_FLIGHT: [u32; 3] = [1, 64, 1_000];
/// How long each is measured, in seconds.
const SECONDS: u32 = 10;
/// Limits that do not stand in the way.
const CONFIG: &str = "
[network]
private_hosts = [\"127.0.0.1:*\"]
[network.limits]
concurrent = 2000
per_minute = 1000000
";
const INPUTS: &str = r#"{"question": "What is a cell?"}"#;

fn main() -> Result<()> {
    let promptflow = std::env::args().any(|argument| argument == "--promptflow");
    print_machine();
    let models = Models::start();
    models.delay(DELAY);
    let folder = tempfile::tempdir()?;
    let flow = folder.path().join("flow");
    write_flow(&flow)?;
    ours(&models, &flow)?;
    if promptflow {
        let connection = folder.path().join("connection.yaml");
        let text = format!(
            "name: model\ntype: open_ai\napi_key: sk\nbase_url: {}\n",
            models.v1()
        );
        fs::write(&connection, text)?;
        peers::connection(folder.path(), &connection)?;
        let script = script(folder.path().join("peer.lua"), &[], INPUTS)?;
        let gunicorn = Peer::gunicorn_with(&flow, &[("HOME", folder.path())])?;
        wrk(&gunicorn.score(), &script, 2, 3)?;
        for in_flight in IN_FLIGHT {
            let load = wrk(&gunicorn.score(), &script, in_flight, SECONDS)?;
            print("gunicorn, 2 workers", in_flight, &load);
        }
    }
    Ok(())
}

fn ours(models: &Models, flow: &Path) -> Result<()> {
    let server = Server::configured(CONFIG)?;
    let connection = json!({"type": "open_ai", "api_key": "sk", "base_url": models.v1()});
    server.put_connection("model", &connection)?;
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_dir_all(".", flow)?;
    server.upload_archive("chat", archive.into_inner()?)?;
    let session = server.start_session_of("chat", "huge")?;
    let folder = tempfile::tempdir()?;
    let key = format!("Bearer {}", server.key);
    let whole = [("Authorization", key.as_str())];
    let stream = [
        ("Authorization", key.as_str()),
        ("Accept", "text/event-stream"),
    ];
    let score = format!("{}/sessions/{session}/serve/score", server.base);
    // One call, so that what all instances share is there.
    server.call_with(&session, INPUTS)?;
    let before = server.pss()?;
    for (name, headers) in [
        ("flowcell serve", &whole[..]),
        ("the same, streaming", &stream[..]),
    ] {
        let script = script(folder.path().join("ours.lua"), headers, INPUTS)?;
        // Connections are open, instances are there.
        wrk(&score, &script, 64, 3)?;
        for in_flight in IN_FLIGHT {
            let (load, most) =
                while_running(|| wrk(&score, &script, in_flight, SECONDS), || server.pss())?;
            print(name, in_flight, &load);
            if in_flight == IN_FLIGHT[2] {
                let more = most.saturating_sub(before) / u64::from(in_flight);
                println!(
                    "  memory (PSS) at most {} MiB; {} KiB for each call in flight (to reach: 200)",
                    most >> 20,
                    more >> 10
                );
            }
        }
    }
    Ok(())
}

/// Looks at the memory now and then while something runs; the most that was seen.
fn while_running<T: Send>(
    run: impl FnOnce() -> Result<T> + Send,
    look: impl Fn() -> Result<u64>,
) -> Result<(T, u64)> {
    std::thread::scope(|scope| {
        let running = scope.spawn(|| run().map_err(|error| error.to_string()));
        let mut most = 0;
        while !running.is_finished() {
            most = most.max(look()?);
            std::thread::sleep(Duration::from_millis(500));
        }
        let ran = running.join().map_err(|_| "the load panicked")??;
        Ok((ran, most))
    })
}

fn print(name: &str, in_flight: u32, load: &Load) {
    let ideal = f64::from(in_flight) / DELAY.as_secs_f64();
    println!(
        "{name:<22} {in_flight:>5} in flight {:>9.1}/s ({:>5.1} % of ideal) {:>10} {:>10} {:>4}",
        load.requests_per_second,
        load.requests_per_second / ideal * 100.0,
        load.p50,
        load.p99,
        load.bad
    );
}

fn write_flow(folder: &Path) -> Result<()> {
    fs::create_dir(folder)?;
    fs::write(
        folder.join("flow.dag.yaml"),
        "inputs:\n  question:\n    type: string\noutputs:\n  answer:\n    type: string\n    reference: ${chat.output}\nnodes:\n\
         - name: chat\n  type: llm\n  source:\n    type: code\n    path: chat.jinja2\n  inputs:\n    model: gpt-4\n    \
         max_tokens: 256\n    temperature: 0.7\n    question: ${inputs.question}\n  connection: model\n  api: chat\n",
    )?;
    fs::write(
        folder.join("chat.jinja2"),
        "# system:\nYou are a helpful assistant.\n\n# user:\n{{ question }}\n",
    )?;
    Ok(())
}
