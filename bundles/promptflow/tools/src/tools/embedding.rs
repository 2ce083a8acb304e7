//! Embeddings.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::coerce::json_float;
use crate::failure::Failure;
use crate::http::Host;
use crate::openai::Client;
use crate::openai::error::CallError;
use crate::tools::arguments::Arguments;

/// The numbers that stand for a text.
pub fn embedding(host: &dyn Host, given: Arguments) -> Result<Value, CallError> {
    let connection = given.connection()?;
    let input = given.get("input");
    // The package `openai` asks for base64, which is shorter, and takes numbers as well.
    let (model, input, format) = match connection.class.as_str() {
        "AzureOpenAIConnection" => ("deployment_name", input.clone(), "base64"),
        "OpenAIConnection" => ("model", input.clone(), "base64"),
        "ServerlessConnection" => ("model", json!([input]), "float"),
        other => {
            return Err(Failure::user(
                "InvalidConnectionType",
                format!(
                    "Not Support connection type '{other}' for embedding api. Connection type should be in \
                     [AzureOpenAIConnection, OpenAIConnection]."
                ),
            )
            .into());
        }
    };
    let client = Client::new(host, &connection, "aoai-tool")?;
    let body = json!({ "input": input, "model": given.get(model), "encoding_format": format });
    let answer = client.call("/embeddings", &body)?;
    match &answer["data"][0]["embedding"] {
        Value::String(packed) => Ok(numbers(packed)?),
        Value::Null => Err(Failure::python("ValueError", "No embedding data received").into()),
        plain => Ok(plain.clone()),
    }
}

/// Single floats, little-endian, in base64.
fn numbers(packed: &str) -> Result<Value, Failure> {
    let bytes = STANDARD.decode(packed).map_err(|error| {
        Failure::python("Error", format!("the embedding is not base64: {error}"))
    })?;
    let (floats, _) = bytes.as_chunks::<4>();
    let floats = floats
        .iter()
        .map(|bytes| json_float(f64::from(f32::from_le_bytes(*bytes))));
    Ok(Value::Array(floats.collect::<Result<_, _>>()?))
}
