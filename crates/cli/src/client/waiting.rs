//! Waiting for what takes long.

use std::time::Duration;

use flowcell_server::api::sessions::{Operation, SessionView};
use flowcell_session::SessionState;
use reqwest::{StatusCode, Url};
use tokio::time::{Instant, sleep, timeout};

use super::api::{Answer, Api};
use super::arguments::Waiting;
use super::error::ClientError;
use crate::terminal;

/// The pause between two looks, where the host names none.
const PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// How often in a row the host may be out of reach.
const MAX_FAILURES: u32 = 10;

/// The session as it is when what was set going has come to an end.
pub(super) async fn settled(
    api: &Api,
    answer: Answer,
    waiting: &Waiting,
) -> Result<Answer, ClientError> {
    if answer.status != StatusCode::ACCEPTED || waiting.no_wait {
        return Ok(answer);
    }
    let operation = answer.header("operation-location");
    let operation = operation.and_then(|location| api.led_to(location));
    let session = answer.header("location");
    let session = session
        .and_then(|location| api.led_to(location))
        .ok_or_else(|| ClientError::new("the answer does not say where the session is"))?;
    terminal::progress("waiting for the session");
    // An answer that was given before, to a creation that is sent again, has no operation.
    let url = operation.as_ref().unwrap_or(&session);
    let is_over = |found: Option<&Answer>| match found {
        Some(found) if operation.is_some() => operation_is_over(found),
        Some(found) => session_is_over(found),
        None => Ok(true),
    };
    within(waiting, poll(api, url, answer.retry_after(), is_over)).await?;
    api.get(session).await
}

fn operation_is_over(answer: &Answer) -> Result<bool, ClientError> {
    Ok(answer.read::<Operation>()?.status != "InProgress")
}

fn session_is_over(answer: &Answer) -> Result<bool, ClientError> {
    let state = answer.read::<SessionView>()?.state;
    Ok(!matches!(
        state,
        SessionState::Starting | SessionState::Stopping
    ))
}

/// Looks at something until it is no longer in the middle of a change.
pub(super) async fn until(
    api: &Api,
    url: &Url,
    waiting: &Waiting,
    is_over: impl Fn(Option<&Answer>) -> Result<bool, ClientError>,
) -> Result<(), ClientError> {
    if waiting.no_wait {
        return Ok(());
    }
    within(waiting, poll(api, url, Some(0), is_over)).await
}

async fn within(
    waiting: &Waiting,
    work: impl Future<Output = Result<(), ClientError>>,
) -> Result<(), ClientError> {
    let begun = Instant::now();
    timeout(waiting.time(), work).await.unwrap_or_else(|_| {
        Err(ClientError::with_help(
            format!(
                "it is still under way after {} s",
                begun.elapsed().as_secs()
            ),
            "it goes on at the host; `show` tells how far it is, --timeout waits longer",
        ))
    })
}

async fn poll(
    api: &Api,
    url: &Url,
    first: Option<u64>,
    is_over: impl Fn(Option<&Answer>) -> Result<bool, ClientError>,
) -> Result<(), ClientError> {
    let pause = |named: Option<u64>| named.map_or(PAUSE, Duration::from_secs).min(MAX_PAUSE);
    let mut wait = pause(first);
    let mut failures = 0;
    loop {
        sleep(wait).await;
        match api.find(url.clone()).await {
            Ok(found) => {
                failures = 0;
                if is_over(found.as_ref())? {
                    return Ok(());
                }
                wait = pause(found.and_then(|answer| answer.retry_after()));
            }
            Err(ClientError::Unreachable { .. }) if failures < MAX_FAILURES => {
                failures += 1;
                wait = PAUSE;
            }
            Err(error) => return Err(error),
        }
    }
}
