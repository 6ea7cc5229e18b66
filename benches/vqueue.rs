//! What a scheduling decision costs in the machines alone: vqueue and limiter.
//!
//! The design asks for 2 million decisions per second and core over a million vqueues
//! (500 ns each). One iteration is one decision with all that belongs to it: the entry
//! is told, a permit acquired, granted, handed over with the decision, the decision
//! confirmed, the permit released.
//!
//! `baseline` does the least that can be called a decision over the same vqueues: a row of
//! plain queues, and one counter per scope in a hash table. It has no order among those
//! that wait, no limits that change, no hierarchy, nothing to recover.

mod common;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use divan::Bencher;
use forebay_messages::{EntryKey, VQueueName};

use common::decision::{LIMIT, World, key, scattered, vqueue};

fn main() {
    divan::main();
}

/// The vqueues take turns, in an order that no cache of the processor foresees.
#[divan::bench(args = [1_000, 1_000_000], sample_size = 10_000)]
fn decision(bencher: Bencher<'_, '_>, vqueues: u32) {
    let mut world = World::new(vqueues);
    let mut at = 0_u32;
    bencher.bench_local(|| {
        at = scattered(at);
        world.decide(at % vqueues);
    });
}

/// The vqueues take turns in the order in which they came, as those do that wait.
#[divan::bench(args = [1_000, 1_000_000], sample_size = 10_000)]
fn decision_in_turn(bencher: Bencher<'_, '_>, vqueues: u32) {
    let mut world = World::new(vqueues);
    let mut at = 0_u32;
    bencher.bench_local(|| {
        at = (at + 1) % vqueues;
        world.decide(at);
    });
}

/// Plain queues under plain counters.
struct Plain {
    queues: Vec<(VecDeque<EntryKey>, Arc<VQueueName>)>,
    running: HashMap<String, u32>,
    next: u64,
}

impl Plain {
    fn new(count: u32) -> Self {
        let queues = (0..count).map(|n| (VecDeque::new(), vqueue(n).1)).collect();
        Self { queues, running: HashMap::new(), next: 0 }
    }

    fn decide(&mut self, slot: u32) -> EntryKey {
        let (queue, name) = &mut self.queues[slot as usize];
        self.next += 1;
        queue.push_back(key(self.next));
        let scope = name.scope.as_deref().expect("every vqueue has a scope");
        if !self.running.contains_key(scope) {
            self.running.insert(scope.to_owned(), 0);
        }
        let running = self.running.get_mut(scope).expect("it was put there");
        assert!(*running < LIMIT, "there is room");
        *running += 1;
        let decided = queue.pop_front().expect("it was put there");
        // It ends at some later time: another look-up.
        *self.running.get_mut(scope).expect("it runs") -= 1;
        decided
    }
}

#[divan::bench(args = [1_000, 1_000_000], sample_size = 10_000)]
fn baseline(bencher: Bencher<'_, '_>, vqueues: u32) {
    let mut plain = Plain::new(vqueues);
    let mut at = 0_u32;
    bencher.bench_local(|| {
        at = scattered(at);
        plain.decide(at % vqueues)
    });
}

#[divan::bench(args = [1_000, 1_000_000], sample_size = 10_000)]
fn baseline_in_turn(bencher: Bencher<'_, '_>, vqueues: u32) {
    let mut plain = Plain::new(vqueues);
    let mut at = 0_u32;
    bencher.bench_local(|| {
        at = (at + 1) % vqueues;
        plain.decide(at)
    });
}
