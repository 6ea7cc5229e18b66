//! The cost of a dispatch whose entry comes from the cache, from memory or from files.
//!
//! One iteration takes one entry from the front of a vqueue, including all refills: the reported
//! time is the time per entry. Targets: head in the cache under 150 ns; inline refill under 1 us
//! per entry. Baselines: a cache that holds only the head, and no cache at all, with a new iterator
//! for every entry.
//!
//! `cold` empties RocksDB's block cache, not the operating system's: it shows the cost of fetching
//! and checking a block, not that of a disk. The hop to a refill worker and back (two thread
//! wake-ups) is not included.

use std::path::Path;

use divan::{Bencher, black_box};
use forebay_engine::inbox::{INBOX_CACHE_CAPACITY, Inbox};
use forebay_messages::{
    EntryId, EntryKey, InboxSeq, Lsn, PartitionId, PartitionKey, VQueueId,
    actor::{CancelRefill, RefillId, RefillRequest},
};
use forebay_storage::{
    Medium,
    partition::{PartitionStore, Store, TryRefill},
};

/// Entries of each vqueue.
const ENTRIES: u64 = 10 * INBOX_CACHE_CAPACITY as u64;
/// A number of vqueues that fits comfortably into the block cache.
const VQUEUES: u64 = 3_000;
const SAMPLE: u32 = 2_400;

fn main() {
    divan::main();
}

fn key(n: u64) -> EntryKey {
    let mut uuid = [7; 16];
    uuid[8..].copy_from_slice(&n.to_be_bytes());
    let entry = EntryId { partition_key: PartitionKey(1), uuid };
    EntryKey { seq: InboxSeq(n), entry, ..EntryKey::default() }
}

/// Vqueues that are adjacent in time are not adjacent in storage.
fn vqueue(n: u64) -> VQueueId {
    let spread = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    VQueueId { partition_key: PartitionKey(spread), hash: [3; 16] }
}

fn open(path: &Path) -> PartitionStore {
    let store = Store::open(path, &Medium::disk()).expect("a temporary directory");
    store.partition(PartitionId(1)).expect("a partition")
}

/// Files with the inboxes of many vqueues.
fn fill(path: &Path) {
    let store = open(path);
    for n in 0..VQUEUES {
        let mut batch = store.begin().expect("a batch");
        (0..ENTRIES).for_each(|entry| {
            forebay_engine::partition::store::Tables::put_inbox(&mut batch, vqueue(n), key(entry));
        });
        batch.commit(Lsn(n + 1)).expect("a commit");
    }
    store.flush().expect("a flush");
}

/// Visits one vqueue after the other, entry by entry, without deleting: one pass takes every entry
/// once.
struct Walk {
    store: PartitionStore,
    capacity: usize,
    inbox: Inbox,
    at: u64,
    /// Number of refills that read a file.
    blocked: u64,
}

impl Walk {
    fn new(store: PartitionStore, capacity: usize) -> Self {
        let inbox = Inbox::with_capacity(capacity, Vec::new());
        Self { store, capacity, inbox, at: 0, blocked: 0 }
    }

    fn pop(&mut self) -> EntryKey {
        loop {
            if let Some(key) = self.inbox.take_head() {
                self.inbox.remove(key);
                return key;
            }
            if self.inbox.is_complete() {
                self.at = (self.at + 1) % VQUEUES;
                self.inbox = Inbox::with_capacity(self.capacity, Vec::new());
            }
            self.refill();
        }
    }

    fn refill(&mut self) {
        let request = self.inbox.start_refill(vqueue(self.at));
        let done = match self.store.try_refill(&request).expect("a read") {
            TryRefill::Done(done) => done,
            TryRefill::WouldBlock => {
                self.blocked += 1;
                self.store.refill(&request).expect("a read").expect("not cancelled")
            }
        };
        self.inbox.refill_done(&done);
    }
}

fn walk(bencher: Bencher<'_, '_>, capacity: usize, is_cold: bool) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fill(dir.path());
    let mut walk = Walk::new(open(dir.path()), capacity);
    if !is_cold {
        (0..VQUEUES * ENTRIES).for_each(|_| {
            walk.pop();
        });
        walk.blocked = 0;
    }
    bencher.bench_local(|| black_box(walk.pop()));
    assert_eq!(walk.blocked > 0, is_cold, "{} refills read a file", walk.blocked);
}

/// The entry is in the cache: the machine alone.
#[divan::bench(sample_size = 10_000)]
fn a_head_in_the_cache(bencher: Bencher<'_, '_>) {
    let mut inbox = Inbox::new(Vec::new());
    let request = inbox.start_refill(vqueue(1));
    let none =
        forebay_messages::actor::RefillDone { id: request.id, rows: Vec::new(), reached_end: true };
    inbox.refill_done(&none);
    let mut next = 0;
    let mut enqueue = |inbox: &mut Inbox| {
        next += 1;
        inbox.enqueue(key(next));
    };
    (0..INBOX_CACHE_CAPACITY / 2).for_each(|_| enqueue(&mut inbox));
    bencher.bench_local(|| {
        enqueue(&mut inbox);
        let head = inbox.take_head().expect("the cache has a head");
        inbox.remove(head);
        head
    });
}

/// Refills find their blocks in memory.
#[divan::bench(sample_count = 30, sample_size = SAMPLE)]
fn b_inline_refill(bencher: Bencher<'_, '_>) {
    walk(bencher, INBOX_CACHE_CAPACITY, false);
}

/// Refills read files.
#[divan::bench(sample_count = 30, sample_size = SAMPLE)]
fn c_blocking_refill_cold(bencher: Bencher<'_, '_>) {
    walk(bencher, INBOX_CACHE_CAPACITY, true);
}

/// Baseline: a cache of one entry, so that every entry is a refill.
#[divan::bench(sample_count = 30, sample_size = SAMPLE)]
fn d_baseline_single_head_cache(bencher: Bencher<'_, '_>) {
    walk(bencher, 1, false);
}

/// Baseline: no cache; every entry is a seek with its own iterator.
#[divan::bench(sample_count = 30, sample_size = SAMPLE)]
fn e_baseline_fresh_iterator_per_entry(bencher: Bencher<'_, '_>) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fill(dir.path());
    let store = open(dir.path());
    let (mut at, mut after) = (0, None);
    let mut pop = || {
        loop {
            let request = RefillRequest {
                id: RefillId(1),
                vqueue: vqueue(at),
                after,
                limit: 1,
                cancel: CancelRefill::default(),
            };
            let done = store.refill(&request).expect("a read").expect("not cancelled");
            match done.rows.first() {
                Some(key) => {
                    after = Some(*key);
                    return *key;
                }
                None => (at, after) = ((at + 1) % VQUEUES, None),
            }
        }
    };
    (0..VQUEUES * ENTRIES).for_each(|_| {
        pop();
    });
    bencher.bench_local(|| black_box(pop()));
}
