//! What the state machine reads and writes: typed tables behind a port.
//!
//! Storage implements it as a write overlay over RocksDB; tests as maps. Must always
//! hold: a read sees the writes of the same batch; nothing is visible to anybody else
//! before the batch is committed.

use bytes::Bytes;
use forebay_messages::{EntryId, EntryKey, Timestamp, VQueueId};
use thiserror::Error;

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
    /// What went wrong.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Result of a read.
pub type Read<T> = Result<T, TablesError>;

/// Point reads, writes and the few bounded scans that applying a command needs.
///
/// Scans see committed *and* staged rows, in key order.
pub trait Tables {
    /// State of an entry that has not ended.
    fn entry(&self, id: EntryId) -> Read<Option<EntryRow>>;
    /// Writes it.
    fn put_entry(&mut self, id: EntryId, row: EntryRow);
    /// Writes it where there is none: that is known, and need not be found out.
    fn put_new_entry(&mut self, id: EntryId, row: EntryRow) {
        self.put_entry(id, row);
    }
    /// Deletes it.
    fn delete_entry(&mut self, id: EntryId);

    /// An entry's payload.
    fn payload(&self, id: EntryId) -> Read<Option<Bytes>>;
    /// Writes it.
    fn put_payload(&mut self, id: EntryId, payload: Bytes);
    /// Deletes it.
    fn delete_payload(&mut self, id: EntryId);

    /// Puts a row in a vqueue's inbox.
    fn put_inbox(&mut self, vqueue: VQueueId, key: EntryKey);
    /// Deletes one.
    fn delete_inbox(&mut self, vqueue: VQueueId, key: EntryKey);

    /// Writes the row of an attempt that runs.
    fn put_running(&mut self, vqueue: VQueueId, entry: EntryId, row: RunningRow);
    /// Deletes it.
    fn delete_running(&mut self, vqueue: VQueueId, entry: EntryId);

    /// Puts a suspended or paused entry among its vqueue's parked ones.
    fn put_parked(&mut self, vqueue: VQueueId, entry: EntryId);
    /// Deletes it.
    fn delete_parked(&mut self, vqueue: VQueueId, entry: EntryId);

    /// A vqueue's name and counts.
    fn vqueue_meta(&self, id: VQueueId) -> Read<Option<VQueueMeta>>;
    /// Writes them.
    fn put_vqueue_meta(&mut self, id: VQueueId, row: VQueueMeta);
    /// Deletes them.
    fn delete_vqueue_meta(&mut self, id: VQueueId);

    /// Who holds a vqueue's lock.
    fn lock(&self, vqueue: VQueueId) -> Read<Option<EntryId>>;
    /// Writes it.
    fn put_lock(&mut self, vqueue: VQueueId, holder: EntryId);
    /// Frees it.
    fn delete_lock(&mut self, vqueue: VQueueId);

    /// Highest sequence seen of a producer.
    fn dedup(&self, producer: DedupKey) -> Read<Option<DedupRow>>;
    /// Writes it.
    fn put_dedup(&mut self, producer: DedupKey, row: DedupRow);

    /// The entry that an idempotency key stands for.
    fn idempotency(&self, key: &IdempotencyKey) -> Read<Option<IdempotencyRow>>;
    /// Writes it.
    fn put_idempotency(&mut self, key: IdempotencyKey, row: IdempotencyRow);
    /// Deletes it.
    fn delete_idempotency(&mut self, key: &IdempotencyKey);

    /// What is kept of an entry that ended.
    fn finished(&self, id: EntryId) -> Read<Option<FinishedRow>>;
    /// Writes it.
    fn put_finished(&mut self, id: EntryId, row: FinishedRow);
    /// Deletes it.
    fn delete_finished(&mut self, id: EntryId);

    /// Notes when a finished entry expires.
    fn put_timer(&mut self, at: Timestamp, entry: EntryId);
    /// Deletes the note.
    fn delete_timer(&mut self, at: Timestamp, entry: EntryId);
    /// The notes up to a time, oldest first, at most `limit`.
    fn timers_until(&self, until: Timestamp, limit: usize) -> Read<Vec<(Timestamp, EntryId)>>;

    /// A slot of the partition's own state.
    fn fsm(&self, slot: FsmSlot) -> Read<Option<Bytes>>;
    /// Writes it.
    fn put_fsm(&mut self, slot: FsmSlot, value: Bytes);

    /// Entries (not finished) after an id, in id order, at most `limit`: for commands
    /// that select by filter.
    fn entries_after(&self, after: Option<EntryId>, limit: usize)
    -> Read<Vec<(EntryId, EntryRow)>>;
    /// Finished entries after an id, in id order, at most `limit`.
    fn finished_after(
        &self,
        after: Option<EntryId>,
        limit: usize,
    ) -> Read<Vec<(EntryId, FinishedRow)>>;
    /// Vqueues after an id, in id order, at most `limit`.
    fn vqueues_after(
        &self,
        after: Option<VQueueId>,
        limit: usize,
    ) -> Read<Vec<(VQueueId, VQueueMeta)>>;
    /// All attempts that run, in key order, after a position, at most `limit`.
    fn running_after(
        &self,
        after: Option<(VQueueId, EntryId)>,
        limit: usize,
    ) -> Read<Vec<(VQueueId, EntryId, RunningRow)>>;
    /// All locks that are held, after a vqueue, at most `limit`.
    fn locks_after(&self, after: Option<VQueueId>, limit: usize) -> Read<Vec<(VQueueId, EntryId)>>;
}

/// A slot that holds one number, 8 bytes big-endian; 0 when it was never written.
///
/// # Errors
/// When the read fails or the slot has another length.
pub fn fsm_number(tables: &impl Tables, slot: FsmSlot) -> Read<u64> {
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
