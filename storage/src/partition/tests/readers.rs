//! Refills, listings, expiry, digests.

use forebay_engine::partition::store::SeedRows;
use forebay_messages::actor::{CancelRefill, RefillDone, RefillId, RefillRequest};

use proptest::prelude::*;

use super::{
    listing::{id_of, populated},
    *,
};

fn request(vqueue: VQueueId, after: Option<u64>, limit: usize) -> RefillRequest {
    let after = after.map(place);
    RefillRequest { id: RefillId(7), vqueue, after, limit, cancel: CancelRefill::default() }
}

fn put(store: &PartitionStore, lsn: u64, vqueue: VQueueId, places: std::ops::Range<u64>) {
    let mut txn = store.begin().unwrap();
    places.for_each(|n| txn.put_inbox(vqueue, place(n)));
    txn.commit(Lsn(lsn)).unwrap();
}

fn delete(store: &PartitionStore, lsn: u64, vqueue: VQueueId, places: std::ops::Range<u64>) {
    let mut txn = store.begin().unwrap();
    places.for_each(|n| txn.delete_inbox(vqueue, place(n)));
    txn.commit(Lsn(lsn)).unwrap();
}

fn done(seqs: impl IntoIterator<Item = u64>, reached_end: bool) -> RefillDone {
    RefillDone { id: RefillId(7), rows: seqs.into_iter().map(place).collect(), reached_end }
}

#[test]
fn a_refill_reads_above_the_anchor_in_its_own_vqueue_only() {
    let store = in_memory();
    // 255: the prefix's upper bound carries.
    for vqueue in [vqueue_id(254), vqueue_id(255)] {
        assert_eq!(store.refill(&request(vqueue, None, 24)).unwrap(), Some(done([], true)));
        put(&store, u64::from(vqueue.hash[0]), vqueue, 10..20);
    }
    for vqueue in [vqueue_id(254), vqueue_id(255)] {
        let read = |after, limit| {
            let request = request(vqueue, after, limit);
            let found = store.refill(&request).unwrap().unwrap();
            assert_eq!(store.try_refill(&request).unwrap(), TryRefill::Done(found.clone()));
            found
        };
        assert_eq!(read(None, 24), done(10..20, true));
        assert_eq!(read(None, 10), done(10..20, true), "the end is seen at the limit too");
        assert_eq!(read(None, 9), done(10..19, false));
        assert_eq!(read(Some(12), 3), done(13..16, false));
        assert_eq!(read(Some(5), 2), done(10..12, false), "the anchor need not be stored");
        assert_eq!(read(Some(19), 2), done([], true));
    }
}

#[test]
fn a_refill_sees_the_commits_before_it() {
    let store = in_memory();
    let vqueue = vqueue_id(1);
    for round in 0..6u64 {
        put(&store, round * 2 + 1, vqueue, round * 10..round * 10 + 10);
        delete(&store, round * 2 + 2, vqueue, round * 10..round * 10 + 9);
        if round % 2 == 0 {
            store.flush().unwrap();
        }
        let found = store.refill(&request(vqueue, None, 24)).unwrap().unwrap();
        assert_eq!(found, done((0..=round).map(|n| n * 10 + 9), true));
    }
}

proptest! {
    /// Rows in memory only, rows in RocksDB only, and stored rows that memory has deleted.
    #[test]
    fn a_refill_from_memory_finds_all_rows(
        batches in prop::collection::vec((0..4_u64, prop::collection::vec(0..40_u64, 0..12)), 1..20),
        after in prop::option::of(0..40_u64),
        limit in 1..30_usize,
    ) {
        let (store, vqueue) = (in_memory(), vqueue_id(1));
        let mut model = std::collections::BTreeSet::new();
        for (lsn, (spills, places)) in (1..).zip(batches) {
            let mut txn = store.begin().unwrap();
            for n in places {
                if model.remove(&n) {
                    txn.delete_inbox(vqueue, place(n));
                } else {
                    txn.put_inbox(vqueue, place(n));
                    model.insert(n);
                }
            }
            txn.commit(Lsn(lsn)).unwrap();
            let mut expected = model.iter().copied().filter(|n| after.is_none_or(|after| *n > after));
            let rows: Vec<_> = expected.by_ref().take(limit).collect();
            let expected = done(rows, expected.next().is_none());
            let request = request(vqueue, after, limit);
            let rows = store.resident().rows();
            prop_assert_eq!(store.try_refill(&request).unwrap(), TryRefill::Done(expected));
            prop_assert_eq!(store.resident().rows(), rows, "nothing is spilled for it");
            if spills == 0 {
                store.spill_all().unwrap();
            }
        }
    }
}

#[test]
fn a_canceled_refill_stops() {
    let store = in_memory();
    put(&store, 1, vqueue_id(1), 0..10);
    let request = request(vqueue_id(1), None, 24);
    request.cancel.cancel();
    assert_eq!(store.refill(&request).unwrap(), None);
    assert_eq!(store.try_refill(&request).unwrap(), TryRefill::WouldBlock);
}

#[test]
fn a_non_blocking_refill_does_not_read_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        // Its own medium: an empty block cache.
        let store = Store::open(dir.path(), &Medium::disk()).unwrap();
        store.partition(P).unwrap()
    };
    let store = open();
    put(&store, 1, vqueue_id(1), 0..2_000);
    let request = request(vqueue_id(1), None, 24);
    assert_eq!(store.try_refill(&request).unwrap(), TryRefill::Done(done(0..24, false)));
    store.flush().unwrap();
    drop(store);
    let store = open();
    assert_eq!(store.try_refill(&request).unwrap(), TryRefill::WouldBlock);
    assert_eq!(store.refill(&request).unwrap(), Some(done(0..24, false)));
    let cached = TryRefill::Done(done(0..24, false));
    assert_eq!(store.try_refill(&request).unwrap(), cached, "the worker filled the cache");
}

#[test]
fn a_refill_over_many_tombstones_is_left_to_a_worker() {
    let store = in_memory();
    let vqueue = vqueue_id(1);
    put(&store, 1, vqueue, 0..10_000);
    store.spill_all().unwrap();
    delete(&store, 2, vqueue, 0..9_999);
    let from_front = request(vqueue, None, 24);
    assert_eq!(store.try_refill(&from_front).unwrap(), TryRefill::WouldBlock);
    assert_eq!(store.refill(&from_front).unwrap(), Some(done([9_999], true)));
    let from_anchor = request(vqueue, Some(9_990), 24);
    let found = TryRefill::Done(done([9_999], true));
    assert_eq!(store.try_refill(&from_anchor).unwrap(), found, "the anchor skips them");
    store.flush().unwrap();
    assert_eq!(store.try_refill(&from_front).unwrap(), found, "a flush drops the pairs");
}

#[test]
fn cursors_walk_running_rows_vqueues_and_expiry() {
    let store = populated();
    let running = store.running_after(None, 9).unwrap();
    assert_eq!(running.iter().map(|((_, id), _)| *id).collect::<Vec<_>>(), [id_of(1)]);
    assert_eq!(store.running_after(Some(running[0].0), 9).unwrap(), []);
    let mut counts = Vec::new();
    let mut after = None;
    while let Some((id, meta)) = store.vqueues_after(after, 1).unwrap().pop() {
        counts.push((meta.inbox, meta.running, meta.finished));
        after = Some(id);
    }
    counts.sort();
    assert_eq!(counts, [(1, 0, 2), (2, 1, 0), (3, 0, 0)]);
    const DAY_MS: u64 = 24 * 60 * 60 * 1000;
    let (first, second) = (Timestamp(1_032 + DAY_MS), Timestamp(1_035 + DAY_MS));
    assert_eq!(store.next_expiry().unwrap(), Some(first));
    assert_eq!(store.expired(first, 9).unwrap(), [(first, id_of(2))]);
    assert_eq!(store.expired(second, 9).unwrap().len(), 2);
    assert_eq!(store.expired(second, 1).unwrap().len(), 1);
}

#[test]
fn a_digest_depends_only_on_rows() {
    let name = VQueueName::service("s");
    let log: Vec<_> = (0..50).map(|n| enqueue(n, &name)).collect();
    let (a, b) = (in_memory(), in_memory());
    catch_up(&a, &log, 1);
    catch_up(&b, &log, 50);
    b.flush().unwrap();
    b.compact();
    let digest = a.digest().unwrap();
    assert_eq!(digest, b.digest().unwrap());
    assert_eq!((digest.applied, digest.rows > 150), (Lsn(50), true));
    let mut txn = b.begin().unwrap();
    txn.delete_payload(entry_id(3));
    txn.put_payload(entry_id(3), Bytes::from_static(b"x"));
    txn.commit(Lsn(50)).unwrap();
    assert_ne!(digest, b.digest().unwrap());
}

#[test]
fn heads_are_the_first_rows_wherever_they_are_stored() {
    let store = in_memory();
    let ids = [1, 2, 3, 254, 255].map(vqueue_id);
    put(&store, 1, ids[0], 5..9);
    put(&store, 2, ids[2], 7..8);
    store.flush().unwrap();
    // Committed but not flushed; the first row of one is deleted by then.
    delete(&store, 3, ids[0], 5..6);
    put(&store, 4, ids[4], 3..4);
    let heads = store.inbox_heads(&ids).unwrap();
    let row = |n| Head::Row(place(n));
    assert_eq!(heads, [row(6), Head::Empty, row(7), Head::Empty, row(3)]);
    assert_eq!(store.inbox_heads(&[]).unwrap(), []);
}

#[test]
fn a_head_behind_many_tombstones_is_unknown() {
    let store = in_memory();
    let ids = [vqueue_id(1), vqueue_id(2)];
    put(&store, 1, ids[0], 0..6_000);
    put(&store, 2, ids[1], 0..1);
    store.flush().unwrap();
    delete(&store, 3, ids[0], 0..5_999);
    let heads = store.inbox_heads(&ids).unwrap();
    assert_eq!(heads, [Head::Unknown, Head::Row(place(0))], "the next one is still read");
}
