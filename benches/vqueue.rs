//! The cost of a scheduling decision in the machines alone: vqueue and limiter.
//!
//! Target: 2 million decisions per second and core over a million vqueues (500 ns each). One
//! iteration is one complete decision: the entry is announced, a permit acquired, granted and
//! handed over with the decision, the decision confirmed, the permit released.
//!
//! `baseline` makes the simplest possible decision over the same vqueues: a row of plain queues,
//! and one counter per scope in a hash table. It has no order among waiters, no changing limits, no
//! hierarchy, and nothing to recover.
//! limits, no hierarchy, and nothing to recover.

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

/// The vqueues take turns in an order that no processor cache can predict.
#[divan::bench(args = [1_000, 1_000_000], sample_size = 10_000)]
fn decision(bencher: Bencher<'_, '_>, vqueues: u32) {
    let mut world = World::new(vqueues);
    let mut at = 0_u32;
    bencher.bench_local(|| {
        at = scattered(at);
        world.decide(at % vqueues);
    });
}

/// The vqueues take turns in creation order, as waiting ones do.
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
        let running = self.running.get_mut(scope).expect("the scope was inserted");
        assert!(*running < LIMIT, "the limit is not reached");
        *running += 1;
        let decided = queue.pop_front().expect("the queue was filled");
        // It ends later, with a second lookup.
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
