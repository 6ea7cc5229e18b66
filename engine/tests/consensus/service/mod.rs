//! The metadata service in the simulation: state machines on every node, clients that retry,
//! watches, snapshots, changes of members, disks that lose data, stopped nodes, clocks that jump.
//!
//! Must always hold: what clients saw is linearizable, by a checker from outside; all nodes have
//! the same state at the same index; a watch sees versions in order.

mod checker;
mod client;
mod node;

use std::collections::BTreeMap;
use std::fmt;

use forebay_engine::consensus::Input;

use crate::linearizable::History;
use crate::random::Random;
use crate::world::disk::Model;
use crate::world::faults::{self, FAULT_TICKS};
use crate::world::{self, ELECTION_TICKS, host};

use client::Client;
use node::Nodes;

type World = world::World<Model>;

/// Seeds that `make test` always runs, and further random ones.
const FIXED_SEEDS: u64 = 60;
const FRESH_SEEDS: u64 = 30;
/// Seeds in which a planted fault must be found.
const PLANTED_SEEDS: u64 = 100;
const CLIENTS: usize = 4;
/// Keys that are changed together; a history of its own.
const GROUP_KEYS: u64 = 2;
/// Groups of keys in use at a time.
const GROUPS: usize = 2;
/// A group with this many unknown outcomes is used no more: each doubles the work of the checker.
const GROUP_UNKNOWN_MAX: u32 = 5;

/// A fault that is planted, to show that the check can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planted {
    Nothing,
    /// Every node answers reads from its own state.
    StaleRead,
    /// Preconditions are ignored.
    LostUpdate,
    /// A change is sent again under another number.
    MadeTwice,
}

/// Keys and the calls of them.
struct Group {
    number: usize,
    history: History,
    unknown: u32,
}

/// What the clients share.
struct Calls {
    random: Random,
    groups: Vec<Group>,
    /// Values so far: each is written once.
    values: u64,
    finished: u64,
    unknown: u64,
}

impl Calls {
    fn group(&mut self) -> usize {
        let active: Vec<usize> = self
            .groups
            .iter()
            .filter(|of| of.unknown < GROUP_UNKNOWN_MAX)
            .map(|of| of.number)
            .collect();
        if active.len() < GROUPS {
            let number = self.groups.len();
            self.groups.push(Group { number, history: History::default(), unknown: 0 });
            return number;
        }
        active[self.random.below(active.len() as u64) as usize]
    }

    fn key(&mut self, group: usize) -> String {
        format!("group-{group}/{}", self.random.below(GROUP_KEYS))
    }
}

struct Run {
    run: faults::Run<Model>,
    nodes: Nodes,
    clients: Vec<Client>,
    calls: Calls,
    stops: bool,
}

impl Run {
    fn of_seed(seed: u64, planted: Planted) -> Self {
        let mut random = Random::new(seed ^ 0x6d65_7461);
        let stops = random.permille(500);
        let mut run = faults::Run::begin(seed);
        run.world.happened = Some(Vec::new());
        let calls = Calls { random, groups: Vec::new(), values: 0, finished: 0, unknown: 0 };
        let clients = (0..CLIENTS).map(Client::new).collect();
        let mut all = Self { run, nodes: Nodes::new(planted), clients, calls, stops };
        for _ in 0..FAULT_TICKS {
            all.run.disturb();
            all.stop_one();
            all.run.manage();
            pass(&mut all.run.world, &mut all.nodes, &mut all.clients, &mut all.calls, true);
        }
        all.wake();
        let Self { run, nodes, clients, calls, .. } = &mut all;
        run.heal(&mut |world, tick| {
            pass(world, nodes, clients, calls, tick.is_some());
        });
        all.nodes.check_equal(&all.run.world);
        all
    }

    /// Stops a process for a while, as SIGSTOP does: nothing arrives, no time passes for it. Then
    /// its timers fire late, or many at once.
    fn stop_one(&mut self) {
        let world = &mut self.run.world;
        let awake: Vec<_> = world
            .stopped
            .iter()
            .filter(|(_, until)| world.now >= **until)
            .map(|(at, _)| *at)
            .collect();
        for at in awake {
            world.stopped.remove(&at);
            hold(world, at, false);
            if self.calls.random.permille(500) {
                for _ in 0..3 * ELECTION_TICKS {
                    world.step(at, Input::Tick);
                }
            }
        }
        if self.stops && self.calls.random.permille(12) {
            let at = self.calls.random.below(world.nodes.len() as u64) as usize;
            let ticks = 2 + self.calls.random.below(12 * ELECTION_TICKS);
            if world.nodes[at].group.is_some() && !world.stopped.contains_key(&at) {
                world.count("stopped");
                world.stopped.insert(at, world.now + ticks);
                hold(world, at, true);
            }
        }
    }

    fn wake(&mut self) {
        let world = &mut self.run.world;
        for at in std::mem::take(&mut world.stopped).into_keys() {
            hold(world, at, false);
        }
    }

    fn is_linearizable(&self) -> bool {
        self.calls.groups.iter().all(|group| group.history.is_linearizable())
    }
}

/// Nothing arrives at a stopped process.
fn hold(world: &mut World, at: usize, is_held: bool) {
    let to = world.nodes[at].storage();
    let others: Vec<_> = world.nodes.iter().map(|node| node.storage()).collect();
    for from in others.into_iter().filter(|from| *from != to) {
        world.net.set_cut(from, to, is_held);
    }
}

/// One tick of everything.
fn pass(
    world: &mut World,
    nodes: &mut Nodes,
    clients: &mut [Client],
    calls: &mut Calls,
    begins: bool,
) {
    // Faults since the last tick.
    nodes.follow(world);
    for client in clients.iter_mut() {
        client.tick(world, nodes, calls, begins);
    }
    nodes.propose(world);
    world.tick();
    nodes.follow(world);
    for (client, attempt, answer) in nodes.answers() {
        clients[client].answered(attempt, answer, calls, nodes.planted);
    }
}

fn run_seed(seed: u64, planted: Planted) -> Run {
    let run = std::panic::AssertUnwindSafe(|| Run::of_seed(seed, planted));
    std::panic::catch_unwind(run)
        .unwrap_or_else(|_| panic!("seed {seed} (above); replay: make sim-metadata SEED={seed}"))
}

#[derive(Default)]
struct Sum {
    seeds: u64,
    calls: u64,
    finished: u64,
    unknown: u64,
    histories: usize,
    counts: BTreeMap<&'static str, u64>,
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seeds, calls, finished, unknown, histories, counts } = self;
        write!(
            f,
            "{seeds} seeds, {calls} calls in {histories} histories, {finished} answered, {unknown} \
             unknown, {counts:?}"
        )
    }
}

#[test]
fn histories_of_seeds_are_linearizable() {
    let new = host::fresh_seed();
    let first = host::variable("FOREBAY_SIM_SEED");
    let (fixed, fresh) = match (first, host::variable("FOREBAY_SIM_SEEDS")) {
        (None, None) => (0..FIXED_SEEDS, new..new + FRESH_SEEDS),
        (Some(first), count) => (0..0, first..first + count.unwrap_or(1)),
        (None, Some(count)) => (0..0, new..new + count),
    };
    host::timed(|| {
        let mut sum = Sum::default();
        for seed in fixed.chain(fresh) {
            let run = run_seed(seed, Planted::Nothing);
            for group in &run.calls.groups {
                if !group.history.is_linearizable() {
                    host::print(format_args!("seed {seed}; replay: make sim-metadata SEED={seed}"));
                    group.history.check();
                }
                sum.calls += group.history.len() as u64;
                sum.histories += 1;
            }
            sum.seeds += 1;
            sum.finished += run.calls.finished;
            sum.unknown += run.calls.unknown;
            for (what, count) in &run.run.world.counts {
                *sum.counts.entry(what).or_default() += count;
            }
        }
        assert!(sum.finished > 20 * sum.seeds, "clients are answered: {sum}");
        sum
    });
}

#[test]
fn the_same_seed_gives_the_same_calls() {
    let trace = |seed| {
        let run = run_seed(seed, Planted::Nothing);
        (run.run.trace(), run.calls.finished, run.calls.unknown)
    };
    for seed in 0..3 {
        assert_eq!(trace(seed), trace(seed), "seed {seed}");
    }
}

fn is_found(planted: Planted) {
    let found = (0..PLANTED_SEEDS).find(|seed| !run_seed(*seed, planted).is_linearizable());
    assert!(found.is_some(), "{planted:?} is not found in {PLANTED_SEEDS} seeds");
    host::print(format_args!("{planted:?} is found by seed {found:?}"));
}

#[test]
fn a_planted_stale_read_is_found() {
    is_found(Planted::StaleRead);
}

#[test]
fn a_planted_lost_update_is_found() {
    is_found(Planted::LostUpdate);
}

#[test]
fn a_change_that_is_planted_twice_is_found() {
    is_found(Planted::MadeTwice);
}
