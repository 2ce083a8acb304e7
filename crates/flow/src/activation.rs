//! Whether a node runs or is bypassed.
//!
//! Rules: promptflow's `DAGManager._is_node_bypassable`, asked when everything a node refers to has run or has been bypassed.

use crate::reference::Assignment;
use crate::schema::{Activate, Node};

/// What happens to a node whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The node runs.
    Run,
    /// The node is bypassed: its output is null.
    Bypass(BypassReason),
}

/// Why a node is bypassed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BypassReason {
    /// The node its activate condition refers to was bypassed.
    ConditionBypassed,
    /// Its activate condition is not met.
    ConditionNotMet,
    /// All the nodes its inputs refer to were bypassed, and it has no activate condition.
    DependenciesBypassed,
}

/// Decides about a node whose dependencies are all settled.
///
/// `is_bypassed` says whether a node was bypassed. `is_met` compares `when` with `is` by Python's `==` (for JSON values
/// [`python_eq`](crate::python_eq)); it is asked only when the answer counts. A node whose condition is met runs even if all its
/// inputs come from bypassed nodes.
///
/// # Errors
/// Those of `is_met`.
pub fn decide<E>(
    node: &Node,
    is_bypassed: impl Fn(&str) -> bool,
    is_met: impl FnOnce(&Activate) -> Result<bool, E>,
) -> Result<Decision, E> {
    if let Some(activate) = &node.activate {
        if activate.when.node().is_some_and(is_bypassed) {
            return Ok(Decision::Bypass(BypassReason::ConditionBypassed));
        }
        let met = is_met(activate)?;
        return Ok(if met {
            Decision::Run
        } else {
            Decision::Bypass(BypassReason::ConditionNotMet)
        });
    }
    let mut dependencies = node.inputs.values().filter_map(Assignment::node).peekable();
    if dependencies.peek().is_some() && dependencies.all(is_bypassed) {
        return Ok(Decision::Bypass(BypassReason::DependenciesBypassed));
    }
    Ok(Decision::Run)
}
