//! What a batch sees, coalesces and commits.

use forebay_engine::partition::{
    rows::{EntryRow, VQueueMeta},
    store::{JournalRows, JournalTables},
};
use forebay_messages::{AttemptToken, Epoch};

use super::*;

#[test]
fn only_the_batch_sees_its_writes_before_the_commit() {
    let store = in_memory();
    let mut txn = store.begin().unwrap();
    let id = entry_id(1);
    assert_eq!(txn.entry(id).unwrap(), None);
    let row = EntryRow { attempts: 3, ..EntryRow::default() };
    txn.put_entry(id, row.clone());
    assert_eq!(txn.entry(id).unwrap(), Some(row.clone()));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| (store.entry(id).unwrap(), store.applied_lsn().unwrap()));
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(!reader.is_finished(), "readers wait for the batch");
        txn.commit(Lsn(4)).unwrap();
        assert_eq!(reader.join().unwrap(), (Some(row.clone()), Lsn(4)));
    });
    assert_eq!(store.entry(id).unwrap(), Some(row));
    assert_eq!(store.applied_lsn().unwrap(), Lsn(4));

    let mut dropped = store.begin().unwrap();
    dropped.delete_entry(id);
    assert_eq!(dropped.entry(id).unwrap(), None);
    drop(dropped);
    assert!(store.entry(id).unwrap().is_some());
}

#[test]
fn a_row_put_and_deleted_within_a_batch_is_never_written() {
    let store = in_memory();
    let mut txn = store.begin().unwrap();
    let vqueue = vqueue_id(1);
    for n in 0..100 {
        txn.put_inbox(vqueue, place(n));
        txn.put_vqueue_meta(vqueue, VQueueMeta { inbox: n, ..VQueueMeta::default() });
        txn.delete_inbox(vqueue, place(n));
        txn.put_running(vqueue, entry_id(n), RunningRow::default());
        txn.delete_running(vqueue, entry_id(n));
        assert_eq!(txn.entry(entry_id(n)).unwrap(), None);
        txn.put_entry(entry_id(n), EntryRow::default());
        txn.delete_entry(entry_id(n));
    }
    // One meta row and the applied LSN.
    assert_eq!(txn.commit(Lsn(1)).unwrap().rows, 2);
    assert_eq!(store.vqueue(vqueue).unwrap().unwrap().inbox, 99);
    assert!(dump(&store).entries.is_empty());
}

/// Regression: RocksDB received the deletion after the row that replaced the deleted one.
#[test]
fn a_stored_row_deleted_and_put_again_with_its_entry_exists() {
    let store = in_memory();
    let (id, vqueue) = (entry_id(1), vqueue_id(1));
    let running = |seq| RunningRow { token: AttemptToken { epoch: Epoch(1), seq }, executor: None };
    let mut txn = store.begin().unwrap();
    txn.put_new_entry(id, EntryRow { vqueue, ..EntryRow::default() });
    txn.put_payload(id, "first".into());
    txn.put_running(vqueue, id, running(1));
    txn.commit(Lsn(1)).unwrap();
    store.spill_all().unwrap();
    let mut txn = store.begin().unwrap();
    txn.change_entry(id, |row| row.attempts += 1).unwrap();
    txn.delete_running(vqueue, id);
    txn.delete_payload(id);
    txn.put_running(vqueue, id, running(2));
    txn.put_payload(id, "second".into());
    txn.commit(Lsn(2)).unwrap();
    store.spill_all().unwrap();
    let found = dump(&store);
    assert_eq!(found.running[&(vqueue, id)], running(2));
    assert_eq!(found.payloads[&id], "second");
    let mut txn = store.begin().unwrap();
    txn.end_entry(id, vqueue, true, true);
    txn.commit(Lsn(3)).unwrap();
    assert_eq!(store.payload(id).unwrap().unwrap(), "second", "it is kept without its entry");
    let found = dump(&store);
    assert!(found.entries.is_empty() && found.running.is_empty());
}

#[test]
fn a_delete_of_a_row_that_may_be_stored_is_written() {
    let store = in_memory();
    let id = vqueue_id(1);
    for (lsn, spill) in [(1, false), (3, true)] {
        let mut txn = store.begin().unwrap();
        txn.put_vqueue_meta(id, VQueueMeta::default());
        txn.commit(Lsn(lsn)).unwrap();
        if spill {
            store.spill_all().unwrap();
        }
        let mut txn = store.begin().unwrap();
        txn.put_vqueue_meta(id, VQueueMeta { inbox: 1, ..VQueueMeta::default() });
        txn.delete_vqueue_meta(id);
        txn.commit(Lsn(lsn + 1)).unwrap();
        assert_eq!(store.vqueue(id).unwrap(), None);
        assert!(dump(&store).vqueues.is_empty());
    }
}

/// The rows of most entries never reach RocksDB.
#[test]
fn rows_put_and_deleted_before_a_spill_are_never_written() {
    let store = in_memory();
    let (vqueue, id) = (vqueue_id(1), entry_id(1));
    let mut lsn = Lsn(0);
    let mut commit = |change: &dyn Fn(&mut Txn<'_>)| {
        let mut txn = store.begin().unwrap();
        change(&mut txn);
        lsn = lsn.next();
        assert_eq!(txn.commit(lsn).unwrap().bytes, 0);
    };
    commit(&|txn| {
        assert_eq!(txn.entry(id).unwrap(), None);
        txn.put_entry(id, EntryRow::default());
        txn.put_payload(id, Bytes::from_static(b"x"));
        txn.put_inbox(vqueue, place(1));
    });
    commit(&|txn| {
        txn.delete_inbox(vqueue, place(1));
        txn.put_running(vqueue, id, RunningRow::default());
    });
    commit(&|txn| {
        txn.delete_running(vqueue, id);
        txn.delete_payload(id);
        txn.delete_entry(id);
    });
    let batch = store.resident().emit(&store.family().unwrap());
    assert_eq!(batch.len(), 1, "the applied LSN and nothing else");
    assert_eq!(store.applied_lsn().unwrap(), Lsn(3));
}

#[test]
fn resident_rows_are_bounded() {
    let store = in_memory();
    let (mut spilled, mut rows) = (0, 0);
    for n in 0..2_000_u64 {
        let mut txn = store.begin().unwrap();
        (0..50).for_each(|m| txn.put_inbox(vqueue_id(1), place(n * 50 + m)));
        spilled += usize::from(txn.commit(Lsn(n + 1)).unwrap().bytes > 0);
        rows = rows.max(store.resident().rows());
    }
    assert!(spilled >= 3 && rows < 33_000, "{spilled} spills, {rows} rows");
    for n in 2_000..2_100_u64 {
        let mut txn = store.begin().unwrap();
        txn.put_payload(entry_id(n), Bytes::from(vec![0; 1 << 20]));
        txn.commit(Lsn(n + 1)).unwrap();
        rows = store.resident().rows();
    }
    assert!(rows < 33_000);
    assert_eq!(dump(&store).inbox.len(), 100_000);
}

/// A refill sees resident rows, stored rows, and deletions of stored rows.
#[test]
fn an_inbox_is_read_from_memory_and_rocksdb() {
    let store = in_memory();
    let vqueue = vqueue_id(1);
    let read = || {
        let request = forebay_messages::actor::RefillRequest {
            id: forebay_messages::actor::RefillId(1),
            vqueue,
            after: None,
            limit: 24,
            cancel: Default::default(),
        };
        let found = store.refill(&request).unwrap().unwrap();
        assert!(found.reached_end);
        found.rows.iter().map(|key| key.seq.0).collect::<Vec<_>>()
    };
    let mut lsn = Lsn(0);
    let mut commit = |inbox: u64, change: &dyn Fn(&mut Txn<'_>)| {
        let mut txn = store.begin().unwrap();
        change(&mut txn);
        txn.put_vqueue_meta(vqueue, VQueueMeta { inbox, ..VQueueMeta::default() });
        lsn = lsn.next();
        txn.commit(lsn).unwrap();
    };
    commit(2, &|txn| [1, 2].into_iter().for_each(|n| txn.put_inbox(vqueue, place(n))));
    assert_eq!(read(), [1, 2]);
    assert!(!store.resident().is_empty(), "a whole inbox is read without a spill");
    store.spill_all().unwrap();
    assert_eq!(read(), [1, 2]);
    commit(2, &|txn| {
        txn.delete_inbox(vqueue, place(1));
        txn.put_inbox(vqueue, place(3));
    });
    assert_eq!(read(), [2, 3]);
    commit(0, &|txn| [2, 3].into_iter().for_each(|n| txn.delete_inbox(vqueue, place(n))));
    assert_eq!(read(), [0; 0]);
}

/// A yield under an unchanged key, across flushes: single deletes must meet their puts.
#[test]
fn a_strict_row_returns_under_the_same_key() {
    let store = in_memory();
    let (vqueue, key) = (vqueue_id(1), place(1));
    let mut lsn = Lsn(0);
    let mut commit = |change: &dyn Fn(&mut Txn<'_>), flush: bool| {
        let mut txn = store.begin().unwrap();
        change(&mut txn);
        lsn = lsn.next();
        txn.commit(lsn).unwrap();
        if flush {
            store.flush().unwrap();
        }
        dump(&store).inbox.len()
    };
    for flush in [false, true] {
        assert_eq!(commit(&|txn| txn.put_inbox(vqueue, key), flush), 1);
        let back = |txn: &mut Txn<'_>| {
            txn.delete_inbox(vqueue, key);
            txn.put_inbox(vqueue, key);
        };
        assert_eq!(commit(&back, flush), 1);
        assert_eq!(commit(&back, flush), 1);
        assert_eq!(commit(&|txn| txn.delete_inbox(vqueue, key), flush), 0);
    }
    store.compact();
    assert_eq!(dump(&store).inbox.len(), 0, "no older put reappears");
}

#[test]
#[should_panic(expected = "inbox")]
fn a_strict_row_is_not_put_twice() {
    let store = in_memory();
    let mut txn = store.begin().unwrap();
    txn.put_inbox(vqueue_id(1), place(1));
    txn.put_inbox(vqueue_id(1), place(1));
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "inbox: is there a row")]
fn a_wrong_assumption_about_a_strict_row_is_found_at_the_commit() {
    let store = in_memory();
    let mut txn = store.begin().unwrap();
    txn.delete_inbox(vqueue_id(1), place(1));
    drop(txn.commit(Lsn(1)));
}

#[test]
#[should_panic(expected = "applied LSN 1 after 2")]
fn the_applied_lsn_never_moves_back() {
    let store = in_memory();
    store.begin().unwrap().commit(Lsn(2)).unwrap();
    drop(store.begin().unwrap().commit(Lsn(1)));
}

#[test]
fn scans_see_stored_and_staged_rows_in_order() {
    let store = in_memory();
    let ids = |found: Vec<(VQueueId, VQueueMeta)>| {
        found.into_iter().map(|(id, meta)| (id.hash[0], meta.inbox)).collect::<Vec<_>>()
    };
    let put = |txn: &mut Txn<'_>, n: u8, inbox| {
        txn.put_vqueue_meta(vqueue_id(n), VQueueMeta { inbox, ..VQueueMeta::default() });
    };
    let mut txn = store.begin().unwrap();
    [1, 3, 5, 7, 255].into_iter().for_each(|n| put(&mut txn, n, 0));
    txn.commit(Lsn(1)).unwrap();
    let mut txn = store.begin().unwrap();
    [2, 5, 9].into_iter().for_each(|n| put(&mut txn, n, 1));
    txn.delete_vqueue_meta(vqueue_id(3));
    let all = [(1, 0), (2, 1), (5, 1), (7, 0), (9, 1), (255, 0)];
    assert_eq!(ids(txn.vqueues_after(None, 99).unwrap()), all);
    assert_eq!(ids(txn.vqueues_after(None, 3).unwrap()), all[..3]);
    assert_eq!(ids(txn.vqueues_after(Some(vqueue_id(2)), 2).unwrap()), all[2..4]);
    assert_eq!(ids(txn.vqueues_after(Some(vqueue_id(4)), 99).unwrap()), all[2..]);
    assert_eq!(ids(txn.vqueues_after(Some(vqueue_id(255)), 99).unwrap()), []);
    txn.put_timer(Timestamp(9), entry_id(1));
    txn.put_timer(Timestamp(4), entry_id(2));
    assert_eq!(txn.timers_until(Timestamp(8), 9).unwrap(), [(Timestamp(4), entry_id(2))]);
}

#[test]
fn the_outbox_keeps_messages_in_order() {
    let store = in_memory();
    let mut txn = store.begin().unwrap();
    let message = |n: u64| Bytes::from(n.to_be_bytes().to_vec());
    (1..=3).for_each(|n| txn.put_outbox(forebay_messages::RecordSeq(n), message(n)));
    txn.commit(Lsn(1)).unwrap();
    let mut txn = store.begin().unwrap();
    txn.delete_outbox(forebay_messages::RecordSeq(1));
    let found = txn.outbox_after(None, 9).unwrap();
    assert_eq!(found.iter().map(|(index, _)| index.0).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(found[0].1, message(2));
}

/// After a batch is dropped, every row, and the known state of RocksDB, is the same as before,
/// whatever the batch did.
#[test]
fn a_dropped_batch_leaves_nothing_behind() {
    let store = in_memory();
    let (vqueue, spilled, gone) = (vqueue_id(1), place(1), place(9));
    let meta = |inbox| VQueueMeta { inbox, ..VQueueMeta::default() };
    let mut txn = store.begin().unwrap();
    txn.put_inbox(vqueue, spilled);
    txn.put_vqueue_meta(vqueue, meta(1));
    txn.commit(Lsn(1)).unwrap();
    store.spill_all().unwrap();
    let mut txn = store.begin().unwrap();
    txn.put_inbox(vqueue, place(2));
    txn.put_payload(entry_id(2), Bytes::from_static(b"two"));
    txn.put_lock(vqueue, entry_id(2));
    txn.put_vqueue_meta(vqueue, meta(2));
    txn.put_inbox(vqueue, gone);
    txn.delete_inbox(vqueue, gone);
    txn.commit(Lsn(2)).unwrap();
    let before = (dump_resident(&store), store.resident().rows());

    let mut txn = store.begin().unwrap();
    for _ in 0..2 {
        txn.delete_inbox(vqueue, spilled);
        txn.delete_inbox(vqueue, place(2));
        txn.put_inbox(vqueue, place(3));
        txn.put_inbox(vqueue, place(2));
        txn.delete_inbox(vqueue, place(3));
        txn.put_inbox(vqueue, spilled);
        txn.delete_payload(entry_id(2));
        txn.put_payload(entry_id(2), Bytes::from_static(b"more than two"));
        txn.delete_lock(vqueue);
        txn.put_lock(vqueue, entry_id(3));
        txn.delete_vqueue_meta(vqueue);
        txn.put_vqueue_meta(vqueue, meta(7));
    }
    txn.delete_inbox(vqueue, place(2));
    txn.put_lock(vqueue_id(2), entry_id(5));
    txn.delete_lock(vqueue_id(2));
    drop(txn);
    assert_eq!(before, (dump_resident(&store), store.resident().rows()));
    assert_eq!(store.applied_lsn().unwrap(), Lsn(2));
    let request = forebay_messages::actor::RefillRequest {
        id: forebay_messages::actor::RefillId(1),
        vqueue,
        after: None,
        limit: 24,
        cancel: Default::default(),
    };
    assert_eq!(store.refill(&request).unwrap().unwrap().rows, [spilled, place(2)]);
    assert_eq!(store.lock(vqueue).unwrap(), Some(entry_id(2)));
    assert_eq!(store.payload(entry_id(2)).unwrap().unwrap(), &b"two"[..]);
    assert_eq!(store.vqueue(vqueue).unwrap(), Some(meta(2)));
}

/// What a spill would write, as bytes, with the number of payload bytes in memory.
fn dump_resident(store: &PartitionStore) -> (Vec<u8>, usize) {
    let mut resident = store.resident();
    let batch = resident.emit(&store.family().unwrap());
    let weight = resident.overlay::<Payload>().borrow().weight();
    (batch.data().to_vec(), weight)
}

/// Rows that were only read, and those known to be absent, do not accumulate.
#[test]
fn known_rows_are_bounded() {
    let store = in_memory();
    for n in 0..100_u64 {
        let mut txn = store.begin().unwrap();
        for m in 0..200 {
            assert_eq!(txn.entry(entry_id(n * 200 + m)).unwrap(), None);
            let vqueue = VQueueId { partition_key: PartitionKey(n * 200 + m), hash: [0; 16] };
            txn.put_lock(vqueue, entry_id(1));
            txn.delete_lock(vqueue);
        }
        assert_eq!(txn.commit(Lsn(n + 1)).unwrap().bytes, 0);
        let resident = store.resident();
        assert_eq!(resident.overlay::<Entry>().borrow().clean_len(), 0);
        assert!(resident.overlay::<Lock>().borrow().clean_len() <= 8_192);
        assert!(resident.rows() < 10, "known rows are not spilled");
    }
}
