//! The consensus machine over the real storage, in the world of the engine's simulation, with the
//! same faults and checks. In addition, the rows of a directory must equal their model whenever it
//! is opened.
//!
//! TMPDIR selects the disk.
#![cfg_attr(test, allow(clippy::unwrap_used))]

#[path = "../../../engine/tests/consensus/random.rs"]
mod random;
mod real;
#[path = "../../../engine/tests/consensus/world/mod.rs"]
#[expect(dead_code, reason = "scenarios of the engine's tests use the rest")]
mod world;

use real::Real;
use world::{faults, seeds};

type World = world::World<Real>;

/// Seeds that `make test` always runs.
const FIXED_SEEDS: u64 = 6;

/// Number of additional random seeds.
const FRESH_SEEDS: u64 = 2;

/// The make target that runs these seeds.
const TARGET: &str = "sim-consensus-disk";

fn run(seed: u64) -> faults::Run<Real> {
    seeds::run_seed(seed, TARGET)
}

#[test]
fn seeds_hold_on_disk() {
    seeds::run_seeds::<Real>(FIXED_SEEDS, FRESH_SEEDS, TARGET);
}

#[test]
fn the_same_seed_gives_the_same_trace_on_disk() {
    assert_eq!(run(3).trace(), run(3).trace());
}

/// A world with a leader that serves.
fn serving(count: usize, voting: usize) -> (World, usize) {
    let mut world = World::new(7, count, voting);
    world.until("a leader", |world| world.leader().is_some());
    world.ticks(4 * world::ELECTION_TICKS);
    let leader = world.leader().unwrap();
    world.propose(leader, 20);
    world.until("a decision", |world| world.checks.acknowledged > 0);
    (world, leader)
}

#[test]
fn a_rolled_back_directory_is_refused_by_every_peer_that_remembers() {
    let (mut world, leader) = serving(3, 3);
    let at = (leader + 1) % 3;
    let old = world.nodes[at].disk.copy();
    for _ in 0..20 {
        world.propose(leader, 20);
        world.ticks(2);
    }
    world.ticks(4 * world::ELECTION_TICKS);
    world.crash(at, world.now);
    world.nodes[at].disk = old;
    world.lost.insert(world.nodes[at].storage());
    world.ticks(100);
    assert!(world.counts["refused peers"] > 0);
    let end = world.checks.decided.len() as u64;
    assert!(world.group(at).decided() < end, "it takes no part");
    assert_eq!(world.leader(), Some(leader));
}

#[test]
fn a_copied_directory_is_refused_at_its_first_boot_elsewhere() {
    let (mut world, leader) = serving(3, 3);
    let at = (leader + 1) % 3;
    // The copy is made while the node is down; both count the same boot, and draw.
    world.crash(at, world.now);
    let copy = world.nodes[at].disk.copy();
    world.ticks(6 * world::ELECTION_TICKS);
    world.crash(at, world.now);
    world.nodes[at].disk = copy;
    world.lost.insert(world.nodes[at].storage());
    world.ticks(60);
    assert!(world.counts["refused peers"] > 0);
}

#[test]
fn all_members_crash_in_the_middle_of_a_sync_and_lose_nothing() {
    let (mut world, leader) = serving(3, 3);
    for round in 0..6 {
        for node in &mut world.nodes {
            node.disk.sync_ticks_max = round;
        }
        let leader = world.leader().unwrap_or(leader);
        for _ in 0..10 {
            world.propose(leader, 300);
            world.tick();
        }
        let acknowledged = world.checks.acknowledged;
        for at in 0..3 {
            world.crash(at, world.now);
        }
        world.until("a leader", |world| world.leader().is_some());
        world.ticks(20);
        let leader = world.leader().unwrap();
        world.propose(leader, 20);
        world.until("a decision", |world| world.checks.acknowledged > acknowledged);
    }
}
