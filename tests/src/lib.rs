//! What the end-to-end tests share: the binary under test, flows made on the spot, and JSON as promptflow compares it.
//!
//! The tests use what `./test.sh` builds: the binary beside them in the target folder (or `FLOWCELL_BIN`) and a home with
//! the base bundle (`FLOWCELL_HOME`, else `target/flowcell-home`). Nothing here may depend on the crates under test.

mod answer;
pub mod authority;
mod compare;
mod flow;
pub mod index;
pub mod openai;
mod process;
pub mod server;

pub use answer::Answer;
pub use compare::{difference, lenient_json, normalised};
pub use flow::{FlowFolder, Snapshot};
pub use process::{
    Finished, binary, flowcell, flowcell_at, flowcell_reading, flowcell_with, home, repository,
};
