//! When the API is asked again: promptflow's `handle_openai_error`.

use std::time::Duration;

use crate::coerce;
use crate::failure::Failure;
use crate::http::Host;
use crate::openai::error::{ApiError, CallError};
use crate::python;

/// How often the API is asked again.
const TRIES: u32 = 100;
/// How many answers 422 in a row end it.
const UNPROCESSABLE: u32 = 3;

/// Calls until there is an answer, or an error that stays. What happens meanwhile goes to stderr, as promptflow prints it.
pub fn with_retries<T>(
    host: &dyn Host,
    mut call: impl FnMut() -> Result<T, CallError>,
) -> Result<T, Failure> {
    let mut unprocessable = 0;
    for attempt in 0.. {
        let error = match call() {
            Ok(answer) => return Ok(answer),
            Err(CallError::Other(failure)) if failure.own => return Err(failure),
            Err(CallError::Other(failure)) => {
                eprintln!("Exception occurs: {failure}");
                let message = format!("OpenAI API hits exception: {failure}");
                return Err(Failure::user("LLMError", message));
            }
            Err(CallError::Api(error)) => error,
        };
        let ApiError { class, message, .. } = &error;
        eprintln!("Exception occurs: {class}: {message}");
        if let Some(cause) = &error.cause {
            eprintln!("The reason is: {cause}");
        }
        if error.no_quota {
            eprintln!("{class} with insufficient quota. Throw user error.");
        }
        if !error.is_transient() {
            return Err(error.wrapped());
        }
        unprocessable = if error.status == Some(422) {
            unprocessable + 1
        } else {
            0
        };
        if attempt == TRIES || unprocessable == UNPROCESSABLE {
            eprintln!("{class} reached max retry. Exit retry with user error.");
            return Err(error.exceeded());
        }
        host.sleep(pause(&error, attempt)?);
    }
    // The loop ends by its own limit only.
    Err(Failure::system(
        "SystemErrorException",
        "the API was asked without end",
    ))
}

/// How long to wait, as the API asks or longer each time.
fn pause(error: &ApiError, attempt: u32) -> Result<Duration, Failure> {
    let class = error.class;
    let seconds = match error.retry_after.as_deref().filter(|text| !text.is_empty()) {
        None => {
            let seconds = interval(attempt);
            eprintln!(
                "{class} #{attempt}, but no Retry-After header, Back off {seconds} seconds for retry."
            );
            f64::from(seconds)
        }
        Some(header) => {
            let seconds = coerce::float(header).ok_or_else(|| {
                let header = python::text_repr(header);
                Failure::python(
                    "ValueError",
                    format!("could not convert string to float: {header}"),
                )
            })?;
            let shown = crate::number::float_repr(seconds);
            eprintln!(
                "{class} #{attempt}, Retry-After={header}, Back off {shown} seconds for retry."
            );
            seconds
        }
    };
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| Failure::python("ValueError", "sleep length must be non-negative"))
}

/// Seconds: 3, 4, 6, 10, 18, 34, 60, 60, …
fn interval(attempt: u32) -> u32 {
    let doubled = 1u32.checked_shl(attempt).filter(|doubled| *doubled > 0);
    doubled.map_or(60, |doubled| doubled.saturating_add(2).min(60))
}
