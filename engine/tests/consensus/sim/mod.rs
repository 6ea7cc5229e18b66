//! The machine in a world with faults: seeds, checks after every step, and convergence.

mod bounds;
mod latency;
mod named;
mod rolls;

use crate::world::{self, disk::Model, faults, seeds};

/// A world whose disks are models.
type World = world::World<Model>;

/// Seeds that `make test` always runs.
const FIXED_SEEDS: u64 = 100;

/// Number of additional random seeds.
const FRESH_SEEDS: u64 = 50;

/// The make target that runs these seeds.
const TARGET: &str = "sim-consensus";

fn run(seed: u64) -> faults::Run<Model> {
    seeds::run_seed(seed, TARGET)
}

#[test]
fn seeds_hold() {
    seeds::run_seeds::<Model>(FIXED_SEEDS, FRESH_SEEDS, TARGET);
}

/// Regression. The check of a seal blamed a leader for a disk that was rolled back in the same
/// instant (6574), and a leader that had been replaced for a seal that it copied (94447).
#[test]
fn seeds_that_failed_once_hold() {
    for seed in [6574, 94447] {
        run(seed);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..5 {
        assert_eq!(run(seed).trace(), run(seed).trace(), "seed {seed}");
    }
}
