//! Random histories of the state machine, of its registry, and of a host that may die between any two effects. After
//! every step the rules are checked, by means that do not use the code under test.
//!
//! `FLOWCELL_SIMULATION_CASES` sets the number of histories. A failure prints the shortest history that fails, event by
//! event.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops where it fails"
)]

#[path = "simulation/checks.rs"]
mod checks;
#[path = "simulation/dice.rs"]
mod dice;
#[path = "simulation/disk.rs"]
mod disk;
#[path = "simulation/world.rs"]
mod world;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};

use self::world::World;

/// Histories in all, when nothing else is asked for.
const CASES: u32 = 120_000;

/// Each test takes its share of the histories, so that they use several cores.
const SHARES: u32 = 4;

fn histories() {
    let cases = std::env::var("FLOWCELL_SIMULATION_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(CASES);
    let config = ProptestConfig {
        cases: cases / SHARES,
        // A failure is printed as a history, and belongs into machine.rs then.
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    };
    let histories = vec(any::<u64>(), 8..40);
    let outcome = TestRunner::new(config).run(&histories, |history| {
        let mut world = World::new();
        world.live(&history).map_err(|problem| {
            // Once more, and this time written down.
            let mut world = World::new();
            world.trace = Some(Vec::new());
            let _ = world.live(&history);
            let lines = world.trace.unwrap_or_default().join("\n");
            TestCaseError::fail(format!("{problem}\n{lines}\n"))
        })
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

#[test]
fn every_history_keeps_the_rules_1() {
    histories();
}

#[test]
fn every_history_keeps_the_rules_2() {
    histories();
}

#[test]
fn every_history_keeps_the_rules_3() {
    histories();
}

#[test]
fn every_history_keeps_the_rules_4() {
    histories();
}
