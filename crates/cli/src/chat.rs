//! `flowcell flow test --interactive`: a chat with a flow, as `pf flow test --interactive` has it.

use std::io::BufRead as _;
use std::process::ExitCode;

use flowcell_executor::{FlowResult, Part, RunError, RunOptions, Session};
use flowcell_flow::{Flow, Json, JsonMap, python_loads};
use serde_json::json;
use tokio::sync::mpsc;

use crate::flow_test::print_logs;
use crate::terminal;

/// Longest line that is said, in bytes.
const MAX_LINE: u64 = 1 << 20;

/// Talks with a flow until there is nothing more to read. A line that fails is told, and is not part of what was said before.
///
/// # Errors
/// When the flow is no chat, or standard input cannot be read.
pub(crate) async fn talk(
    command: &str,
    session: &Session,
    mut inputs: JsonMap,
) -> Result<ExitCode, RunError> {
    let flow = session.flow();
    if let Some(problem) = flow.chat_problem() {
        let help =
            "--interactive is for flows with one chat input, one chat output and a chat history";
        return Err(RunError {
            help: Some(help.to_owned()),
            ..RunError::usage(problem)
        });
    }
    let (Some(question), Some(history)) = (flow.chat_input(), flow.chat_history()) else {
        return Err(RunError::usage(
            "the flow has no chat input or no chat history",
        ));
    };
    terminal::note(&format!(
        "a chat with the flow {}; each line is sent, and the end of input (Ctrl+D) ends it",
        flow.name
    ));
    let mut said = Vec::new();
    let mut code = ExitCode::SUCCESS;
    loop {
        terminal::prompt("User: ");
        let Some(line) = read_line().await? else {
            return Ok(code);
        };
        if line.trim().is_empty() {
            continue;
        }
        inputs.insert(question.to_owned(), line.as_str().into());
        inputs.insert(history.to_owned(), Json::Array(said.clone()));
        let (result, streamed) = ask(session, &inputs).await;
        print_logs(&result);
        match result.outputs {
            Ok(outputs) => {
                let mut outputs = python_loads(&outputs).unwrap_or_default();
                match streamed {
                    Some((name, text)) => {
                        terminal::line("");
                        outputs[name] = text.into();
                    }
                    None => {
                        terminal::prompt("Bot: ");
                        terminal::line(&answer(flow, &outputs).map(words).unwrap_or_default());
                    }
                }
                if flow.entry.is_some() {
                    // Without a graph a history is as OpenAI has it.
                    said.push(json!({ "role": "user", "content": line }));
                    let content = answer(flow, &outputs);
                    said.push(json!({ "role": "assistant", "content": content }));
                } else {
                    said.push(json!({ "inputs": { question: line }, "outputs": outputs }));
                }
            }
            Err(error) => code = terminal::fail_with(command, &error),
        }
    }
}

/// What is said to the user: the chat's output, or whatever a flow without a graph has returned.
fn answer<'o>(flow: &Flow, outputs: &'o Json) -> Option<&'o Json> {
    match (flow.chat_output(), &flow.entry) {
        (Some(name), _) => outputs.get(name),
        (None, Some(_)) => match outputs.as_object() {
            Some(entries) if entries.len() == 1 => entries.get("output").or(Some(outputs)),
            _ => Some(outputs),
        },
        (None, None) => None,
    }
}

/// Runs the flow once, and prints an output that is a stream while it comes; its name and text.
async fn ask(session: &Session, inputs: &JsonMap) -> (FlowResult, Option<(String, String)>) {
    let (parts, mut taken) = mpsc::channel(1);
    let run = async move {
        let options = RunOptions {
            parts: Some(parts),
            ..RunOptions::default()
        };
        session.run(inputs, &options).await
    };
    let show = async {
        let mut streamed: Option<(String, String)> = None;
        while let Some(part) = taken.recv().await {
            if let Part::Item { output, item } = part {
                let (_, text) = streamed.get_or_insert_with(|| {
                    terminal::prompt("Bot: ");
                    (output, String::new())
                });
                let item = python_loads(&item).map_or(item, |item| words(&item));
                terminal::part(&item);
                text.push_str(&item);
            }
        }
        streamed
    };
    tokio::join!(run, show)
}

/// A value as a person reads it.
fn words(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        value => value.to_string(),
    }
}

/// The next line of standard input; none at its end.
async fn read_line() -> Result<Option<String>, RunError> {
    let read = tokio::task::spawn_blocking(|| {
        use std::io::Read as _;

        let mut line = String::new();
        std::io::stdin()
            .lock()
            .take(MAX_LINE + 1)
            .read_line(&mut line)?;
        Ok::<_, std::io::Error>(line)
    });
    let line = read.await.map_err(std::io::Error::other).flatten();
    let line =
        line.map_err(|error| RunError::usage(format!("standard input cannot be read: {error}")))?;
    if line.len() as u64 > MAX_LINE {
        return Err(RunError::usage(format!("a line may have {MAX_LINE} bytes")));
    }
    Ok((!line.is_empty()).then(|| line.trim_end_matches(['\n', '\r']).to_owned()))
}
