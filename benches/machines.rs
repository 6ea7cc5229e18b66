//! The cost of the inbox, and of applying the records of a partition.
//!
//! Target: the head of a vqueue from its cache under 150 ns. Baselines: a binary heap of the same
//! keys for the inbox; inserts, changes and deletes of the same entries in a plain hash map for
//! applying.

mod common;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use divan::{Bencher, black_box, counter::ItemsCount};

use common::{
    decision::key,
    inbox::Inboxes,
    life::{BATCH, LifeCycles},
};

fn main() {
    divan::main();
}

/// Enqueues, takes and confirms one entry.
#[divan::bench(sample_size = 10_000)]
fn inbox(bencher: Bencher<'_, '_>) {
    let mut inboxes = Inboxes::new();
    bencher.bench_local(|| inboxes.pass());
}

#[divan::bench(sample_size = 10_000)]
fn inbox_baseline(bencher: Bencher<'_, '_>) {
    let (mut heap, mut next) = (BinaryHeap::new(), 0);
    bencher.bench_local(|| {
        next += 1;
        heap.push(Reverse(key(next)));
        heap.pop()
    });
}

/// The life cycles of 64 entries in this many vqueues.
#[divan::bench(args = [1, 1_000, 100_000], sample_size = 20)]
fn apply(bencher: Bencher<'_, '_>, vqueues: u64) {
    let mut life_cycles = LifeCycles::new(vqueues);
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| life_cycles.run_batch());
}

#[divan::bench(sample_size = 20)]
fn apply_baseline(bencher: Bencher<'_, '_>) {
    let (mut rows, mut next) = (HashMap::new(), 0);
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| {
        for n in next..next + BATCH {
            rows.insert(n, (key(n), vec![7_u8; 256], false));
        }
        for n in next..next + BATCH {
            rows.get_mut(&n).expect("the row was inserted").2 = true;
        }
        for n in next..next + BATCH {
            black_box(rows.remove(&n));
        }
        next += BATCH;
    });
}
