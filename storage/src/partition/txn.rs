//! A batch of changes to one partition: reads see its writes, nobody else does before
//! it is committed.
//!
//! Must always hold: rows and applied LSN are committed together; a batch that is
//! dropped leaves nothing behind.

use std::{cell::RefCell, sync::Arc};

use bytes::Bytes;
use forebay_engine::partition::{
    rows::{
        DedupKey, DedupRow, EntryRow, FinishedRow, FsmSlot, IdempotencyKey, IdempotencyRow,
        RunningRow, VQueueMeta,
    },
    store::{Read, Tables, put_fsm_number},
};
use forebay_messages::{EntryId, EntryKey, Lsn, RecordSeq, Timestamp, VQueueId};
use rocksdb::BoundColumnFamily;

#[cfg(debug_assertions)]
use super::overlays::each_table;
use super::{
    Page, PartitionStore, StoreError,
    overlay::{Overlay, Staged},
    overlays::{Overlays, Resides},
    tables::Table,
};

/// What a commit changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Rows put and deleted.
    pub rows: usize,
    /// Bytes that went to RocksDB: none, while the rows stay in memory.
    pub bytes: usize,
}

/// A batch of changes to one partition.
pub struct Txn<'s> {
    store: &'s PartitionStore,
    family: Arc<BoundColumnFamily<'s>>,
    staged: Overlays,
}

impl<'s> Txn<'s> {
    pub(super) fn begin(store: &'s PartitionStore) -> Result<Self, StoreError> {
        Ok(Self { store, family: store.family()?, staged: store.resident().lend() })
    }

    /// Commits everything at once, with the LSN of the last record applied.
    ///
    /// Visible to readers when it returns; durable only once the store is flushed: a
    /// crash before that is made good by replaying the log.
    ///
    /// # Errors
    /// [`StoreError::Fault`]. The partition must stop: whether the batch was written is
    /// found out by opening the store again.
    ///
    /// # Panics
    /// When `applied` is below what was applied before.
    pub fn commit(mut self, applied: Lsn) -> Result<Committed, StoreError> {
        let before = self.store.applied_lsn()?;
        assert!(applied >= before, "applied LSN {applied} after {before}");
        put_fsm_number(&mut self, FsmSlot::AppliedLsn, applied.0);
        #[cfg(debug_assertions)]
        self.check_assumptions()?;
        self.store.commit(&self.family, self.staged, applied)
    }

    /// Strict tables are told where rows are; a wrong belief would corrupt them later.
    #[cfg(debug_assertions)]
    fn check_assumptions(&self) -> Result<(), StoreError> {
        fn check<T: Resides>(txn: &Txn<'_>, overlay: &Overlay<T>) -> Result<(), StoreError> {
            for (key, believed) in overlay.assumed() {
                let found = txn.store.get_in::<T>(&txn.family, key)?.is_some();
                assert_eq!(believed, found, "{}: is there a row at {key:?}?", T::NAME);
            }
            Ok(())
        }
        each_table!(&self.staged, |overlay| check(self, &overlay.borrow())?);
        Ok(())
    }

    fn get<T: Resides>(&self, overlay: &RefCell<Overlay<T>>, key: &T::Key) -> Read<Option<T::Row>> {
        if let Staged::Known(row) = overlay.borrow().get(key) {
            return Ok(row);
        }
        let row = self.store.get_in::<T>(&self.family, key)?;
        overlay.borrow_mut().remember(key.clone(), row.clone());
        Ok(row)
    }

    /// Stored and staged rows after a key, in key order, at most `limit`.
    fn scan<T: Table>(
        &self,
        overlay: &RefCell<Overlay<T>>,
        after: Option<&T::Key>,
        limit: usize,
    ) -> Read<Page<T>> {
        self.store.settle()?;
        let mut staged = overlay.borrow().written_after(after).into_iter().peekable();
        let mut stored = self.store.rows_in::<T>(&self.family, after).peekable();
        let mut found = Vec::new();
        while found.len() < limit {
            if let Some(Err(error)) = stored.next_if(Result::is_err) {
                return Err(error.into());
            }
            let next_stored = stored.peek().and_then(|row| row.as_ref().ok()).map(|(key, _)| key);
            // Which one comes first; a staged row hides the stored one.
            let order = match (next_stored, staged.peek()) {
                (None, None) => break,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(stored), Some((staged, _))) => stored.cmp(staged),
            };
            if order.is_le() {
                let row = stored.next().transpose()?;
                if order.is_lt() {
                    found.extend(row);
                }
            }
            if order.is_ge()
                && let Some((key, Some(row))) = staged.next()
            {
                found.push((key, row));
            }
        }
        Ok(found)
    }

    /// Stages a message to another partition.
    pub fn put_outbox(&mut self, index: RecordSeq, message: Bytes) {
        self.staged.outbox.get_mut().put(index, message);
    }

    /// Stages that a message was delivered.
    pub fn delete_outbox(&mut self, index: RecordSeq) {
        self.staged.outbox.get_mut().delete(index);
    }

    /// Messages after an index, in order, at most `limit`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn outbox_after(
        &self,
        after: Option<RecordSeq>,
        limit: usize,
    ) -> Read<Vec<(RecordSeq, Bytes)>> {
        self.scan(&self.staged.outbox, after.as_ref(), limit)
    }
}

impl Tables for Txn<'_> {
    fn entry(&self, id: EntryId) -> Read<Option<EntryRow>> {
        self.get(&self.staged.entry, &id)
    }

    fn put_entry(&mut self, id: EntryId, row: EntryRow) {
        self.staged.entry.get_mut().put(id, row);
    }

    fn put_new_entry(&mut self, id: EntryId, row: EntryRow) {
        self.staged.entry.get_mut().put_new(id, row);
    }

    fn delete_entry(&mut self, id: EntryId) {
        self.staged.entry.get_mut().delete(id);
    }

    fn payload(&self, id: EntryId) -> Read<Option<Bytes>> {
        self.get(&self.staged.payload, &id)
    }

    fn put_payload(&mut self, id: EntryId, payload: Bytes) {
        self.staged.payload.get_mut().put(id, payload);
    }

    fn delete_payload(&mut self, id: EntryId) {
        self.staged.payload.get_mut().delete(id);
    }

    fn put_inbox(&mut self, vqueue: VQueueId, key: EntryKey) {
        self.staged.inbox.get_mut().put((vqueue, key), ());
    }

    fn delete_inbox(&mut self, vqueue: VQueueId, key: EntryKey) {
        self.staged.inbox.get_mut().delete((vqueue, key));
    }

    fn put_running(&mut self, vqueue: VQueueId, entry: EntryId, row: RunningRow) {
        self.staged.running.get_mut().put((vqueue, entry), row);
    }

    fn delete_running(&mut self, vqueue: VQueueId, entry: EntryId) {
        self.staged.running.get_mut().delete((vqueue, entry));
    }

    fn put_parked(&mut self, vqueue: VQueueId, entry: EntryId) {
        self.staged.parked.get_mut().put((vqueue, entry), ());
    }

    fn delete_parked(&mut self, vqueue: VQueueId, entry: EntryId) {
        self.staged.parked.get_mut().delete((vqueue, entry));
    }

    fn vqueue_meta(&self, id: VQueueId) -> Read<Option<VQueueMeta>> {
        self.get(&self.staged.vqueue_meta, &id)
    }

    fn put_vqueue_meta(&mut self, id: VQueueId, row: VQueueMeta) {
        self.staged.vqueue_meta.get_mut().put(id, row);
    }

    fn delete_vqueue_meta(&mut self, id: VQueueId) {
        self.staged.vqueue_meta.get_mut().delete(id);
    }

    fn lock(&self, vqueue: VQueueId) -> Read<Option<EntryId>> {
        self.get(&self.staged.lock, &vqueue)
    }

    fn put_lock(&mut self, vqueue: VQueueId, holder: EntryId) {
        self.staged.lock.get_mut().put(vqueue, holder);
    }

    fn delete_lock(&mut self, vqueue: VQueueId) {
        self.staged.lock.get_mut().delete(vqueue);
    }

    fn dedup(&self, producer: DedupKey) -> Read<Option<DedupRow>> {
        self.get(&self.staged.dedup, &producer)
    }

    fn put_dedup(&mut self, producer: DedupKey, row: DedupRow) {
        self.staged.dedup.get_mut().put(producer, row);
    }

    fn idempotency(&self, key: &IdempotencyKey) -> Read<Option<IdempotencyRow>> {
        self.get(&self.staged.idempotency, key)
    }

    fn put_idempotency(&mut self, key: IdempotencyKey, row: IdempotencyRow) {
        self.staged.idempotency.get_mut().put(key, row);
    }

    fn delete_idempotency(&mut self, key: &IdempotencyKey) {
        self.staged.idempotency.get_mut().delete(key.clone());
    }

    fn finished(&self, id: EntryId) -> Read<Option<FinishedRow>> {
        self.get(&self.staged.finished, &id)
    }

    fn put_finished(&mut self, id: EntryId, row: FinishedRow) {
        self.staged.finished.get_mut().put(id, row);
    }

    fn delete_finished(&mut self, id: EntryId) {
        self.staged.finished.get_mut().delete(id);
    }

    fn put_timer(&mut self, at: Timestamp, entry: EntryId) {
        self.staged.timer.get_mut().put((at, entry), ());
    }

    fn delete_timer(&mut self, at: Timestamp, entry: EntryId) {
        self.staged.timer.get_mut().delete((at, entry));
    }

    fn timers_until(&self, until: Timestamp, limit: usize) -> Read<Vec<(Timestamp, EntryId)>> {
        let rows = self.scan(&self.staged.timer, None, limit)?;
        Ok(rows.into_iter().map(|(key, ())| key).take_while(|(at, _)| *at <= until).collect())
    }

    fn fsm(&self, slot: FsmSlot) -> Read<Option<Bytes>> {
        self.get(&self.staged.fsm, &slot)
    }

    fn put_fsm(&mut self, slot: FsmSlot, value: Bytes) {
        self.staged.fsm.get_mut().put(slot, value);
    }

    fn entries_after(
        &self,
        after: Option<EntryId>,
        limit: usize,
    ) -> Read<Vec<(EntryId, EntryRow)>> {
        self.scan(&self.staged.entry, after.as_ref(), limit)
    }

    fn finished_after(
        &self,
        after: Option<EntryId>,
        limit: usize,
    ) -> Read<Vec<(EntryId, FinishedRow)>> {
        self.scan(&self.staged.finished, after.as_ref(), limit)
    }

    fn vqueues_after(
        &self,
        after: Option<VQueueId>,
        limit: usize,
    ) -> Read<Vec<(VQueueId, VQueueMeta)>> {
        self.scan(&self.staged.vqueue_meta, after.as_ref(), limit)
    }

    fn running_after(
        &self,
        after: Option<(VQueueId, EntryId)>,
        limit: usize,
    ) -> Read<Vec<(VQueueId, EntryId, RunningRow)>> {
        let rows = self.scan(&self.staged.running, after.as_ref(), limit)?;
        Ok(rows.into_iter().map(|((vqueue, entry), row)| (vqueue, entry, row)).collect())
    }

    fn locks_after(&self, after: Option<VQueueId>, limit: usize) -> Read<Vec<(VQueueId, EntryId)>> {
        self.scan(&self.staged.lock, after.as_ref(), limit)
    }
}
