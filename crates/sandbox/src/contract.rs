//! Rust's side of `wit/flowcell-tool.wit`.

#![expect(
    missing_docs,
    reason = "generated from the WIT package, which documents every item"
)]

pub(crate) mod tool {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "tool-component",
        imports: { "flowcell:tool/host.emit": async | trappable, default: trappable },
        exports: { default: async },
    });
}

pub(crate) mod runner {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "python-runner",
        imports: { "flowcell:tool/tools.call": async | trappable, default: trappable },
        exports: { default: async },
        with: {
            "flowcell:tool/types": crate::contract::tool::flowcell::tool::types,
            "flowcell:tool/host": crate::contract::tool::flowcell::tool::host,
        },
    });
}

pub use runner::exports::flowcell::tool::runner::{Argument, LoadError, Outcome, Request};
pub use tool::flowcell::tool::types::{ErrorKind, Parameter, ToolError, ToolInfo};
