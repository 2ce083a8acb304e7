//! A call's inputs, bound to a tool's parameters as Python binds them.

use serde_json::{Map, Value};

use crate::connection::Connection;
use crate::failure::Failure;
use crate::messages::{INPUTS_TO_ESCAPE, PROMPT_RESULTS};
use crate::tools::catalogue::Tool;

/// What a call gives: its parameters, each with a value, and what else came.
#[derive(Debug, Clone)]
pub struct Arguments {
    named: Map<String, Value>,
    /// Inputs beyond the parameters: a template's variables.
    pub rest: Map<String, Value>,
}

impl Arguments {
    /// Binds inputs. What is wrong with them is Python's `TypeError`.
    pub fn bind(tool: &Tool, mut inputs: Map<String, Value>) -> Result<Self, Failure> {
        let (mut named, mut missing) = (Map::new(), Vec::new());
        for parameter in tool.parameters {
            let name = parameter.name;
            let value = inputs.shift_remove(name).or_else(|| parameter.default());
            match value {
                Some(value) => {
                    named.insert(name.to_owned(), value);
                }
                None => missing.push(format!("'{name}'")),
            }
        }
        let function = tool.function();
        if !tool.open {
            // These say how to read a template, and this has none.
            inputs.retain(|name, _| name != INPUTS_TO_ESCAPE && name != PROMPT_RESULTS);
            if let Some(name) = inputs.keys().next() {
                let message = format!("{function}() got an unexpected keyword argument '{name}'");
                return Err(Failure::python("TypeError", message));
            }
        }
        if let Some((last, others)) = missing.split_last() {
            let count = missing.len();
            let names = match others {
                [] => last.clone(),
                [one] => format!("{one} and {last}"),
                several => format!("{}, and {last}", several.join(", ")),
            };
            let plural = if count == 1 { "" } else { "s" };
            let message = format!(
                "{function}() missing {count} required positional argument{plural}: {names}"
            );
            return Err(Failure::python("TypeError", message));
        }
        Ok(Self {
            named,
            rest: inputs,
        })
    }

    /// A parameter's value.
    pub fn get(&self, name: &str) -> &Value {
        self.named.get(name).unwrap_or(&Value::Null)
    }

    /// A parameter's text; what is no text as Python's `str` shows it.
    pub fn text(&self, name: &str) -> String {
        crate::coerce::text(self.get(name))
    }

    /// The parameter `connection`.
    pub fn connection(&self) -> Result<Connection, Failure> {
        Connection::read(self.get("connection"))
    }
}
