//! The reads and writes of the state machine: typed tables behind a port.
//!
//! Storage implements it as rows in memory over RocksDB; tests as maps. Must always hold: a read
//! sees the writes of the same batch; nothing is visible outside before the batch is committed.

mod journal;

use bytes::Bytes;
use forebay_messages::{EntryId, EntryKey, Timestamp, VQueueId};
use thiserror::Error;

pub use journal::{JournalRows, JournalTables, SleepKey};

use super::rows::{
    DedupKey, DedupRow, EntryRow, FinishedRow, FsmSlot, IdempotencyKey, IdempotencyRow, RunningRow,
    VQueueMeta,
};

/// A read of the store failed, or a row does not decode.
#[derive(Debug, Error)]
#[error("partition store, table `{table}`: {source}")]
pub struct TablesError {
    /// The table.
    pub table: &'static str,
    /// The error.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Result of a read.
pub type Read<T> = Result<T, TablesError>;

/// Point reads and the few bounded scans that applying a command needs.
///
/// Scans see committed *and* staged rows, in key order.
pub trait Rows {
    /// State of an entry that has not ended.
    fn entry(&self, id: EntryId) -> Read<Option<EntryRow>>;
    /// Reads a part of it without copying the row.
    fn look_at_entry<R>(&self, id: EntryId, look: impl FnOnce(&EntryRow) -> R) -> Read<Option<R>> {
        Ok(self.entry(id)?.as_ref().map(look))
    }
    /// An entry's payload.
    fn payload(&self, id: EntryId) -> Read<Option<Bytes>>;
    /// A vqueue's name and counts.
    fn vqueue_meta(&self, id: VQueueId) -> Read<Option<VQueueMeta>>;
    /// Reads a part of them without copying the row.
    fn look_at_vqueue<R>(
        &self,
        id: VQueueId,
        look: impl FnOnce(&VQueueMeta) -> R,
    ) -> Read<Option<R>> {
        Ok(self.vqueue_meta(id)?.as_ref().map(look))
    }
    /// The holder of a vqueue's lock.
    fn lock(&self, vqueue: VQueueId) -> Read<Option<EntryId>>;
    /// Highest known sequence of a producer.
    fn dedup(&self, producer: DedupKey) -> Read<Option<DedupRow>>;
    /// The entry of an idempotency key.
    fn idempotency(&self, key: &IdempotencyKey) -> Read<Option<IdempotencyRow>>;
    /// The stored result of an ended entry.
    fn finished(&self, id: EntryId) -> Read<Option<FinishedRow>>;
    /// When finished entries expire, up to a time, oldest first, at most `limit`.
    fn timers_until(&self, until: Timestamp, limit: usize) -> Read<Vec<(Timestamp, EntryId)>>;
    /// A slot of the partition's own state.
    fn fsm(&self, slot: FsmSlot) -> Read<Option<Bytes>>;
    /// Vqueues after an id, in id order, at most `limit`.
    fn vqueues_after(
        &self,
        after: Option<VQueueId>,
        limit: usize,
    ) -> Read<Vec<(VQueueId, VQueueMeta)>>;
}

/// The scans for a limiter's seed, in key order.
pub trait SeedRows: Rows {
    /// Running attempts, by vqueue, after a position, at most `limit`.
    fn running_after(
        &self,
        after: Option<(VQueueId, EntryId)>,
        limit: usize,
    ) -> Read<Vec<((VQueueId, EntryId), RunningRow)>>;
    /// Held locks, after a vqueue, at most `limit`.
    fn locks_after(&self, after: Option<VQueueId>, limit: usize) -> Read<Vec<(VQueueId, EntryId)>>;
}

/// The rows that a batch changes, as it sees them, and its writes.
pub trait Tables: Rows + JournalTables {
    /// Writes the state of an entry.
    fn put_entry(&mut self, id: EntryId, row: EntryRow);
    /// Writes the state of an entry that is known to have none.
    fn put_new_entry(&mut self, id: EntryId, row: EntryRow) {
        self.put_entry(id, row);
    }
    /// Changes it in place, if present.
    fn change_entry<R>(
        &mut self,
        id: EntryId,
        change: impl FnOnce(&mut EntryRow) -> R,
    ) -> Read<Option<R>> {
        let Some(mut row) = self.entry(id)? else { return Ok(None) };
        let changed = change(&mut row);
        self.put_entry(id, row);
        Ok(Some(changed))
    }
    /// Deletes it.
    fn delete_entry(&mut self, id: EntryId);

    /// Writes an entry's payload.
    fn put_payload(&mut self, id: EntryId, payload: Bytes);
    /// Deletes it.
    fn delete_payload(&mut self, id: EntryId);

    /// Ends an entry: deletes its state, its running row, and its payload unless kept.
    fn end_entry(&mut self, id: EntryId, vqueue: VQueueId, was_running: bool, keeps_payload: bool) {
        if was_running {
            self.delete_running(vqueue, id);
        }
        if !keeps_payload {
            self.delete_payload(id);
        }
        self.delete_entry(id);
    }

    /// Adds a row to a vqueue's inbox.
    fn put_inbox(&mut self, vqueue: VQueueId, key: EntryKey);
    /// Deletes a row.
    fn delete_inbox(&mut self, vqueue: VQueueId, key: EntryKey);

    /// Writes the row of a running attempt.
    fn put_running(&mut self, vqueue: VQueueId, entry: EntryId, row: RunningRow);
    /// Deletes it.
    fn delete_running(&mut self, vqueue: VQueueId, entry: EntryId);

    /// Adds a suspended or paused entry to its vqueue's parked ones.
    fn put_parked(&mut self, vqueue: VQueueId, entry: EntryId);
    /// Deletes it.
    fn delete_parked(&mut self, vqueue: VQueueId, entry: EntryId);

    /// Writes a vqueue's name and counts.
    fn put_vqueue_meta(&mut self, id: VQueueId, row: VQueueMeta);
    /// Changes them in place, if present.
    fn change_vqueue_meta<R>(
        &mut self,
        id: VQueueId,
        change: impl FnOnce(&mut VQueueMeta) -> R,
    ) -> Read<Option<R>> {
        let Some(mut row) = self.vqueue_meta(id)? else { return Ok(None) };
        let changed = change(&mut row);
        self.put_vqueue_meta(id, row);
        Ok(Some(changed))
    }
    /// Deletes them.
    fn delete_vqueue_meta(&mut self, id: VQueueId);

    /// Writes the holder of a vqueue's lock.
    fn put_lock(&mut self, vqueue: VQueueId, holder: EntryId);
    /// Frees it.
    fn delete_lock(&mut self, vqueue: VQueueId);

    /// Writes the highest known sequence of a producer.
    fn put_dedup(&mut self, producer: DedupKey, row: DedupRow);

    /// Writes the entry of an idempotency key.
    fn put_idempotency(&mut self, key: IdempotencyKey, row: IdempotencyRow);
    /// Deletes it.
    fn delete_idempotency(&mut self, key: &IdempotencyKey);

    /// Writes the result of an ended entry.
    fn put_finished(&mut self, id: EntryId, row: FinishedRow);
    /// Deletes it.
    fn delete_finished(&mut self, id: EntryId);

    /// Writes when a finished entry expires.
    fn put_timer(&mut self, at: Timestamp, entry: EntryId);
    /// Deletes it.
    fn delete_timer(&mut self, at: Timestamp, entry: EntryId);

    /// Writes a slot of the partition's own state.
    fn put_fsm(&mut self, slot: FsmSlot, value: Bytes);
}

/// A slot that holds one number, 8 bytes big-endian; 0 if it was never written.
///
/// # Errors
/// If the read fails or the slot has another length.
pub fn fsm_number(tables: &impl Rows, slot: FsmSlot) -> Read<u64> {
    match tables.fsm(slot)? {
        None => Ok(0),
        Some(bytes) => bytes.as_ref().try_into().map(u64::from_be_bytes).map_err(|_| TablesError {
            table: "fsm",
            source: format!("slot {slot:?} has {} bytes instead of 8", bytes.len()).into(),
        }),
    }
}

/// Writes a slot that holds one number.
pub fn put_fsm_number(tables: &mut impl Tables, slot: FsmSlot, value: u64) {
    tables.put_fsm(slot, Bytes::copy_from_slice(&value.to_be_bytes()));
}
