//! The store compared with the state machine's tables in memory; its readers; its files.

mod crashing;
mod files;
mod listing;
mod model;
mod readers;
mod staged;

use std::{path::Path, sync::Arc};

use forebay_engine::partition::{
    apply::apply,
    mem::MemTables,
    rows::RunningRow,
    state::PartitionState,
    store::{Rows as _, Tables as _},
};
use forebay_messages::{
    EntryId, EntryKey, InboxSeq, Lsn, PartitionId, PartitionKey, Record, Timestamp, VQueueId,
    VQueueName,
    command::{Command, Enqueue, NewEntry},
};

use super::{
    tables::{
        dedup::Dedup, idempotency::Idempotency, inbox::Inbox, journal::Journal, outbox::Outbox,
        parked::Parked, promise::Promise, running::Running, sleep::Sleep, tombstone::Tombstone,
    },
    *,
};
use crate::Medium;

pub(super) const P: PartitionId = PartitionId(1);

pub(super) fn in_memory() -> PartitionStore {
    let store = Store::open(Path::new("/store"), &Medium::memory().unwrap()).unwrap();
    store.partition(P).unwrap()
}

pub(super) fn entry_id(n: u64) -> EntryId {
    let mut uuid = [0; 16];
    uuid[8..].copy_from_slice(&n.to_be_bytes());
    EntryId { partition_key: PartitionKey(n % 3), uuid }
}

pub(super) fn vqueue_id(n: u8) -> VQueueId {
    VQueueId { partition_key: PartitionKey(7), hash: [n; 16] }
}

pub(super) fn place(n: u64) -> EntryKey {
    let seq = InboxSeq(n);
    EntryKey { has_lock: false, run_at: Timestamp(5), seq, entry: entry_id(n) }
}

pub(super) fn record(n: u64, command: Command) -> Arc<Record> {
    let created_at = Timestamp(1_000 + n);
    Arc::new(Record { keys: None, producer: None, created_at, command: Some(command) })
}

pub(super) fn new_entry(id: EntryId, name: VQueueName) -> NewEntry {
    NewEntry {
        id,
        vqueue: name,
        payload: Bytes::from(id.uuid.to_vec()),
        run_at: None,
        idempotency_key: None,
        retry: None,
        retention_ms: None,
        is_fresh: false,
        payload_hash: None,
    }
}

pub(super) fn enqueue(n: u64, name: &VQueueName) -> Arc<Record> {
    record(n, Command::Enqueue(Enqueue { entry: new_entry(entry_id(n), name.clone()) }))
}

/// Applies the missing records to the store, in batches of `batch`.
pub(super) fn catch_up(store: &PartitionStore, log: &[Arc<Record>], batch: usize) {
    let mut state = PartitionState::load(&store.begin().unwrap()).unwrap();
    assert_eq!(state.applied_lsn, store.applied_lsn().unwrap());
    while (state.applied_lsn.0 as usize) < log.len() {
        let mut txn = store.begin().unwrap();
        for _ in 0..batch {
            let at = state.applied_lsn.0 as usize;
            let Some(record) = log.get(at) else { break };
            let lsn = state.applied_lsn.next();
            apply(&mut state, &mut txn, lsn, record, &mut Vec::new()).unwrap();
        }
        txn.commit(state.applied_lsn).unwrap();
    }
}

fn rows<T: Table>(store: &PartitionStore) -> Vec<(T::Key, T::Row)> {
    store.page::<T>(None, usize::MAX).unwrap()
}

/// Everything committed, as the state machine's tables in memory.
pub(super) fn dump(store: &PartitionStore) -> MemTables {
    MemTables {
        entries: rows::<Entry>(store).into_iter().collect(),
        payloads: rows::<Payload>(store).into_iter().collect(),
        inbox: rows::<Inbox>(store).into_iter().map(|(key, ())| key).collect(),
        running: rows::<Running>(store).into_iter().collect(),
        parked: rows::<Parked>(store).into_iter().map(|(key, ())| key).collect(),
        vqueues: rows::<VQueueMetas>(store).into_iter().collect(),
        locks: rows::<Lock>(store).into_iter().collect(),
        dedup: rows::<Dedup>(store).into_iter().collect(),
        idempotency: rows::<Idempotency>(store).into_iter().collect(),
        finished: rows::<Finished>(store).into_iter().collect(),
        timers: rows::<Timer>(store).into_iter().map(|(key, ())| key).collect(),
        journal: rows::<Journal>(store).into_iter().collect(),
        promises: rows::<Promise>(store).into_iter().collect(),
        sleeps: rows::<Sleep>(store).into_iter().map(|(key, ())| key).collect(),
        tombstones: rows::<Tombstone>(store).into_iter().collect(),
        outbox: rows::<Outbox>(store).into_iter().collect(),
        fsm: rows::<Fsm>(store).into_iter().collect(),
    }
}
