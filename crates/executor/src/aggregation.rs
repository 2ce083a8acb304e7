//! Aggregation nodes: they run once, after all lines, over the lists of the lines' values.

use std::collections::HashSet;
use std::sync::Arc;

use crate::line::Line;
use crate::result::FlowResult;

impl Line {
    /// Runs the aggregation nodes over this one line, as a flow test does: every value from the line is in a list of one.
    ///
    /// A failure ends the node and those that read it; the flow is Completed all the same, which is promptflow's rule.
    pub(crate) async fn aggregate(self: &Arc<Self>, result: &mut FlowResult) {
        let graph = &self.session.graph;
        let mut failed = HashSet::new();
        for index in &graph.aggregation {
            if graph.dependencies[*index]
                .iter()
                .any(|on| failed.contains(on))
            {
                failed.insert(*index);
                continue;
            }
            let end = Arc::clone(self).node(*index, true).await;
            result.metrics.extend(end.metrics.iter().cloned());
            let (mut node, outcome) = self.record(end);
            if let Err(error) = outcome {
                failed.insert(*index);
                result
                    .warnings
                    .push(format!("Aggregation node '{}' failed: {error}", node.name));
                node.error = Some(error);
            }
            result.nodes.push(node);
        }
    }
}
