//! Order and dependencies, on flows of any shape.

use std::fmt::Write as _;

use flowcell_flow::Flow;
use proptest::prelude::*;

/// A flow whose node `i` refers to the nodes `edges[i]`.
fn text(edges: &[Vec<usize>]) -> String {
    let mut text = String::from("nodes:\n");
    for (index, references) in edges.iter().enumerate() {
        let _ = write!(
            text,
            "- {{name: n{index}, type: python, source: {{path: f.py}}, inputs: {{"
        );
        for reference in references {
            let _ = write!(text, "i{reference}: '${{n{reference}.output}}', ");
        }
        text.push_str("}}\n");
    }
    text
}

/// Edges without a cycle among `size` nodes, the nodes shuffled.
fn acyclic() -> impl Strategy<Value = Vec<Vec<usize>>> {
    (1..20_usize)
        .prop_flat_map(|size| {
            let shuffled = Just((0..size).collect::<Vec<_>>()).prop_shuffle();
            let edges = prop::collection::vec((0..size, 0..size), 0..size * 2);
            (shuffled, edges)
        })
        .prop_map(|(rank, edges)| {
            let mut all = vec![Vec::new(); rank.len()];
            for (left, right) in edges {
                let (from, to) = if rank[left] > rank[right] {
                    (left, right)
                } else {
                    (right, left)
                };
                if from != to && !all[from].contains(&to) {
                    all[from].push(to);
                }
            }
            all
        })
}

/// promptflow's own way to the order: again and again the first node all whose dependencies are picked.
fn picked_one_by_one(edges: &[Vec<usize>]) -> Vec<usize> {
    let mut order: Vec<usize> = Vec::new();
    while order.len() < edges.len() {
        let next = (0..edges.len()).find(|node| {
            !order.contains(node)
                && edges[*node]
                    .iter()
                    .all(|reference| order.contains(reference))
        });
        order.push(next.unwrap());
    }
    order
}

proptest! {
    #[test]
    fn every_node_comes_behind_those_it_refers_to(edges in acyclic()) {
        let graph = super::flow(&text(&edges)).validate().unwrap();
        let place = |node: usize| graph.order.iter().position(|other| *other == node).unwrap();
        prop_assert_eq!(graph.order.len(), edges.len());
        for (node, references) in edges.iter().enumerate() {
            let mut sorted = references.clone();
            sorted.sort_unstable();
            prop_assert_eq!(&graph.dependencies[node], &sorted);
            for reference in references {
                prop_assert!(place(*reference) < place(node));
            }
        }
        prop_assert_eq!(&graph.line, &graph.order);
    }

    #[test]
    fn the_order_is_promptflows(edges in acyclic()) {
        let graph = super::flow(&text(&edges)).validate().unwrap();
        prop_assert_eq!(graph.order, picked_one_by_one(&edges));
    }

    #[test]
    fn a_cycle_is_refused(edges in acyclic(), start in any::<prop::sample::Index>(), length in 1..4_usize) {
        let mut edges = edges;
        let start = start.index(edges.len());
        // A ring through `length` nodes from `start` on, which are new references or old ones.
        let ring: Vec<usize> = (0..length.min(edges.len())).map(|step| (start + step) % edges.len()).collect();
        for (position, node) in ring.iter().enumerate() {
            edges[*node].push(ring[(position + 1) % ring.len()]);
            edges[*node].sort_unstable();
            edges[*node].dedup();
        }
        let flow = super::flow(&text(&edges));
        let error = flow.validate().unwrap_err();
        prop_assert_eq!(error.class(), "NodeCircularDependency");
        for node in ring {
            let name = format!("'n{node}'");
            prop_assert!(error.to_string().contains(&name));
        }
        prop_assert!(flow.lint().iter().any(|finding| finding.class == "NodeCircularDependency"));
    }
}

#[test]
fn a_graph_tells_lines_from_aggregation() {
    let flow = super::flow(
        "
inputs:
  a: {type: string}
outputs:
  kept: {type: string, reference: '${line.output}'}
  dropped: {type: string, reference: '${second.output}'}
nodes:
- {name: second, type: python, source: {path: f.py}, aggregation: true, inputs: {x: '${first.output}'}}
- {name: first, type: python, source: {path: f.py}, reduce: true, inputs: {x: '${line.output}'}}
- {name: line, type: python, source: {path: f.py}, inputs: {x: '${inputs.a}'}}
",
    );
    let graph = flow.validate().unwrap();
    assert_eq!(graph.order, [2, 1, 0]);
    assert_eq!(graph.line, [2]);
    assert_eq!(graph.aggregation, [1, 0]);
    assert_eq!(graph.outputs, ["kept"]);
    assert_eq!(
        graph.warnings,
        ["Output 'dropped' references a reduce node 'second', will not take effect."]
    );
}

#[test]
fn a_large_flow_is_ordered_quickly() {
    // A chain in reverse order: the worst case of picking nodes one by one.
    let size = 4000;
    let edges: Vec<Vec<usize>> = (0..size)
        .map(|node| {
            if node + 1 < size {
                vec![node + 1]
            } else {
                vec![]
            }
        })
        .collect();
    let flow = Flow::parse(&text(&edges), "test").unwrap();
    assert_eq!(
        flow.validate().unwrap().order,
        (0..size).rev().collect::<Vec<_>>()
    );
}
