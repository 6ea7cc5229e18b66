//! Operations whose instructions are counted: `scripts/callgrind` runs this twice under callgrind,
//! with different numbers of operations, and prints the cost of one operation.
//!
//! usage: counts OPERATION TIMES; without them it lists the operations.

mod common;

use std::hint::black_box;

use common::{
    decision::{World, scattered},
    inbox::Inboxes,
    life::LifeCycles,
    permit::Permits,
    whole,
};

/// A name, and a function that performs the operation this many times.
type Operation = (&'static str, fn(u32));

const OPERATIONS: [Operation; 7] = [
    ("inbox: enqueue, take, confirm", |times| {
        let mut inboxes = Inboxes::new();
        (0..times).for_each(|_| assert!(black_box(inboxes.pass()).is_some()));
    }),
    ("limiter: life of a permit, no levels", |times| permits(0, times)),
    ("limiter: life of a permit, 3 levels, 10,000 rules", |times| permits(3, times)),
    ("decision: vqueue and limiter", |times| {
        let (mut world, mut at) = (World::new(1_000), 0);
        for _ in 0..times {
            at = scattered(at);
            world.decide(at % 1_000);
        }
    }),
    ("apply: lives of 64 entries, one vqueue", |times| life_cycles(1, times)),
    ("apply: lives of 64 entries, 1,000 vqueues", |times| life_cycles(1_000, times)),
    // The whole library, with RocksDB and its flushes: the figure varies by a percent.
    ("whole: 16 entries, in batches of 64, on disk", |times| whole::run(16 * times)),
];

fn permits(levels: u32, times: u32) {
    let mut permits = Permits::new(levels);
    (0..times).for_each(|_| permits.cycle());
}

fn life_cycles(vqueues: u64, times: u32) {
    let mut life_cycles = LifeCycles::new(vqueues);
    (0..times).for_each(|_| life_cycles.run_batch());
}

#[expect(clippy::print_stdout, reason = "a program for a terminal")]
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [wanted, times] = arguments.as_slice()
        && let Some((_, operation)) = OPERATIONS.iter().find(|(name, _)| name == wanted)
    {
        return operation(times.parse().expect("TIMES is a number"));
    }
    OPERATIONS.iter().for_each(|(name, _)| println!("{name}"));
}
