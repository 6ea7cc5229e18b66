//! A batch of changes to one partition: only its own reads see its writes before the commit. Also
//! the state machine's ports, over a batch and over committed rows.
//!
//! Must always hold: rows and applied LSN are committed together; a dropped batch leaves nothing
//! behind.

use std::sync::{Arc, MutexGuard};

use bytes::Bytes;
use forebay_engine::partition::{
    rows::{
        DedupKey, DedupRow, EntryRow, FinishedRow, FsmSlot, IdempotencyKey, IdempotencyRow,
        RunningRow, VQueueMeta,
    },
    store::{Read, Rows, SeedRows, Tables, put_fsm_number},
};
use forebay_messages::{EntryId, EntryKey, Lsn, Timestamp, VQueueId};
use rocksdb::BoundColumnFamily;

use super::{
    Page, PartitionStore, StoreError,
    overlays::ResidentTable,
    resident::Resident,
    scan::{Span, merge},
    tables::{
        dedup::Dedup,
        entry::{Attached, Entry},
        finished::Finished,
        fsm::Fsm,
        idempotency::Idempotency,
        inbox::Inbox,
        lock::Lock,
        parked::Parked,
        payload::Payload,
        running::Running,
        timer::Timer,
        vqueue_meta::VQueueMetas,
    },
};

/// The changes of a commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Rows put and deleted.
    pub rows: usize,
    /// Bytes written to RocksDB: none while the rows stay in memory.
    pub bytes: usize,
}

/// A batch of changes to one partition.
pub struct Txn<'s> {
    store: &'s PartitionStore,
    family: Arc<BoundColumnFamily<'s>>,
    /// Locked until the end, so that no one else sees a part of the batch.
    resident: MutexGuard<'s, Resident>,
    is_committed: bool,
}

impl<'s> Txn<'s> {
    pub(super) fn begin(store: &'s PartitionStore) -> Result<Self, StoreError> {
        let family = store.family()?;
        Ok(Self { store, family, resident: store.resident(), is_committed: false })
    }

    /// Commits everything at once, with the LSN of the last applied record.
    ///
    /// Visible to readers when it returns; durable only once the store is flushed: after a crash
    /// before that, replaying the log restores it.
    ///
    /// # Errors
    /// [`StoreError::Fault`]. The partition must stop: only opening the store again shows whether
    /// the batch was written.
    ///
    /// # Panics
    /// If `applied` is below the applied LSN.
    pub fn commit(mut self, applied: Lsn) -> Result<Committed, StoreError> {
        let before = match self.resident.applied() {
            Some(before) => before,
            None => self.store.stored_lsn()?,
        };
        assert!(applied >= before, "applied LSN {applied} after {before}");
        put_fsm_number(&mut self, FsmSlot::AppliedLsn, applied.0);
        #[cfg(any(test, feature = "testkit"))]
        let must_fail = self.store.shared.before_commit()?;
        let (rows, duty) = self.resident.commit(applied);
        self.is_committed = true;
        let bytes = self.store.perform(duty, &mut self.resident, &self.family)?;
        #[cfg(any(test, feature = "testkit"))]
        self.store.shared.after_commit(must_fail)?;
        Ok(Committed { rows, bytes })
    }

    pub(super) fn get<T: ResidentTable>(&self, key: &T::Key) -> Read<Option<T::Row>> {
        self.look_at::<T, T::Row>(key, T::Row::clone)
    }

    fn look_at<T: ResidentTable, R>(
        &self,
        key: &T::Key,
        look: impl FnOnce(&T::Row) -> R,
    ) -> Read<Option<R>> {
        let overlay = self.resident.overlay::<T>();
        if let Some(row) = overlay.borrow().find(key) {
            return Ok(row.map(look));
        }
        let row = self.store.get_stored::<T>(&self.family, key)?;
        let seen = row.as_ref().map(look);
        overlay.borrow_mut().remember(key.clone(), row);
        Ok(seen)
    }

    fn change<T: ResidentTable, R>(
        &mut self,
        key: &T::Key,
        change: impl FnOnce(&mut T::Row) -> R,
    ) -> Read<Option<R>> {
        let mut overlay = self.resident.overlay::<T>().borrow_mut();
        let change = match overlay.change(key, change) {
            Ok(changed) => return Ok(changed),
            Err(change) => change,
        };
        let row = self.store.get_stored::<T>(&self.family, key)?;
        overlay.remember(key.clone(), row);
        Ok(overlay.change(key, change).ok().flatten())
    }

    pub(super) fn put<T: ResidentTable>(&mut self, key: T::Key, row: T::Row) {
        if T::STRICT {
            self.assume::<T>(&key, false);
        }
        self.resident.overlay::<T>().borrow_mut().put(key, row);
    }

    pub(super) fn delete<T: ResidentTable>(&mut self, key: T::Key) {
        if T::STRICT {
            self.assume::<T>(&key, true);
        }
        self.resident.overlay::<T>().borrow_mut().delete(key);
    }

    /// A row attached to an entry, if the entry is in memory.
    fn attached<R>(&self, id: EntryId, look: impl FnOnce(&Attached) -> Option<R>) -> Option<R> {
        self.resident.overlay::<Entry>().borrow().attached(&id).and_then(look)
    }

    /// Whether a row may be attached to an entry: the entry is in memory, and RocksDB does not need
    /// a deletion of the row first.
    fn can_attach<T: ResidentTable>(&self, id: EntryId, key: &T::Key) -> bool {
        self.resident.overlay::<T>().borrow().find(key).is_none()
            && self.resident.overlay::<Entry>().borrow().attached(&id).is_some()
    }

    fn change_attached(&mut self, id: EntryId, change: impl FnOnce(&mut Attached)) {
        let mut entries = self.resident.overlay::<Entry>().borrow_mut();
        let is_here = entries.change_attached(&id, change);
        assert!(is_here, "{id} was in memory just now");
    }

    /// Strict tables rely on the given state of a row; a wrong assumption would corrupt them later.
    #[cfg(debug_assertions)]
    fn assume<T: ResidentTable>(&self, key: &T::Key, believed: bool) {
        if self.resident.overlay::<T>().borrow().find(key).is_some() {
            return;
        }
        if let Ok(found) = self.store.get_stored::<T>(&self.family, key) {
            assert_eq!(believed, found.is_some(), "{}: is there a row at {key:?}?", T::NAME);
        }
    }

    #[cfg(not(debug_assertions))]
    #[expect(clippy::unused_self, reason = "used where assertions are on")]
    fn assume<T: ResidentTable>(&self, _: &T::Key, _: bool) {}

    /// Rows after a key, in key order, at most `limit`.
    fn scan<T: ResidentTable>(&self, after: Option<&T::Key>, limit: usize) -> Read<Page<T>> {
        self.scan_span(&Span::<T>::after(after.cloned()), limit)
    }

    /// The rows of a span, in key order, at most `limit`.
    pub(super) fn scan_span<T: ResidentTable>(
        &self,
        span: &Span<T>,
        limit: usize,
    ) -> Read<Page<T>> {
        let overlay = self.resident.overlay::<T>().borrow();
        let here = overlay.written_after(span.after.as_ref());
        let here = here.take_while(|(key, _)| (span.is_within)(key));
        let end = span.end.clone();
        let stored = self.store.rows_before::<T>(&self.family, span.after.as_ref(), end);
        Ok(merge::<T>(here, stored, limit)?)
    }
}

impl Drop for Txn<'_> {
    fn drop(&mut self) {
        if !self.is_committed {
            self.resident.roll_back();
        }
    }
}

impl Rows for Txn<'_> {
    fn entry(&self, id: EntryId) -> Read<Option<EntryRow>> {
        self.get::<Entry>(&id)
    }

    fn look_at_entry<R>(&self, id: EntryId, look: impl FnOnce(&EntryRow) -> R) -> Read<Option<R>> {
        self.look_at::<Entry, R>(&id, look)
    }

    fn payload(&self, id: EntryId) -> Read<Option<Bytes>> {
        match self.attached(id, |attached| attached.payload.clone()) {
            Some(payload) => Ok(Some(payload)),
            None => self.get::<Payload>(&id),
        }
    }

    fn vqueue_meta(&self, id: VQueueId) -> Read<Option<VQueueMeta>> {
        self.get::<VQueueMetas>(&id)
    }

    fn look_at_vqueue<R>(
        &self,
        id: VQueueId,
        look: impl FnOnce(&VQueueMeta) -> R,
    ) -> Read<Option<R>> {
        self.look_at::<VQueueMetas, R>(&id, look)
    }

    fn lock(&self, vqueue: VQueueId) -> Read<Option<EntryId>> {
        self.get::<Lock>(&vqueue)
    }

    fn dedup(&self, producer: DedupKey) -> Read<Option<DedupRow>> {
        self.get::<Dedup>(&producer)
    }

    fn idempotency(&self, key: &IdempotencyKey) -> Read<Option<IdempotencyRow>> {
        self.get::<Idempotency>(key)
    }

    fn finished(&self, id: EntryId) -> Read<Option<FinishedRow>> {
        self.get::<Finished>(&id)
    }

    fn timers_until(&self, until: Timestamp, limit: usize) -> Read<Vec<(Timestamp, EntryId)>> {
        let rows = self.scan::<Timer>(None, limit)?;
        Ok(rows.into_iter().map(|(key, ())| key).take_while(|(at, _)| *at <= until).collect())
    }

    fn fsm(&self, slot: FsmSlot) -> Read<Option<Bytes>> {
        self.get::<Fsm>(&slot)
    }

    fn vqueues_after(
        &self,
        after: Option<VQueueId>,
        limit: usize,
    ) -> Read<Vec<(VQueueId, VQueueMeta)>> {
        self.scan::<VQueueMetas>(after.as_ref(), limit)
    }
}

impl Tables for Txn<'_> {
    fn put_entry(&mut self, id: EntryId, row: EntryRow) {
        self.put::<Entry>(id, row);
    }

    fn put_new_entry(&mut self, id: EntryId, row: EntryRow) {
        self.assume::<Entry>(&id, false);
        self.resident.overlay::<Entry>().borrow_mut().put_new(id, row);
    }

    fn change_entry<R>(
        &mut self,
        id: EntryId,
        change: impl FnOnce(&mut EntryRow) -> R,
    ) -> Read<Option<R>> {
        self.change::<Entry, R>(&id, change)
    }

    fn delete_entry(&mut self, id: EntryId) {
        let vqueue = self.attached(id, |attached| attached.running).and_then(|_| {
            let entries = self.resident.overlay::<Entry>().borrow();
            entries.find(&id).flatten().map(|row| row.vqueue)
        });
        let attached = self.resident.overlay::<Entry>().borrow_mut().delete(id);
        // Rows kept without the entry get a place of their own from now on.
        if let Some(payload) = attached.payload {
            self.put::<Payload>(id, payload);
        }
        if let Some((vqueue, running)) = vqueue.zip(attached.running) {
            self.put::<Running>((vqueue, id), running);
        }
    }

    fn end_entry(&mut self, id: EntryId, vqueue: VQueueId, was_running: bool, keeps_payload: bool) {
        let is_attached =
            |attached: &Attached| Some((attached.payload.is_some(), attached.running.is_some()));
        let (has_payload, has_running) = self.attached(id, is_attached).unwrap_or_default();
        if was_running && !has_running {
            self.delete::<Running>((vqueue, id));
        }
        if !keeps_payload && !has_payload {
            self.delete::<Payload>(id);
        }
        let attached = self.resident.overlay::<Entry>().borrow_mut().delete(id);
        if let Some(payload) = attached.payload.filter(|_| keeps_payload) {
            self.put::<Payload>(id, payload);
        }
    }

    fn put_payload(&mut self, id: EntryId, payload: Bytes) {
        if self.can_attach::<Payload>(id, &id) {
            self.change_attached(id, |attached| attached.payload = Some(payload));
        } else {
            self.put::<Payload>(id, payload);
        }
    }

    fn delete_payload(&mut self, id: EntryId) {
        if self.attached(id, |attached| attached.payload.as_ref().map(|_| ())).is_some() {
            self.change_attached(id, |attached| attached.payload = None);
        } else {
            self.delete::<Payload>(id);
        }
    }

    fn put_inbox(&mut self, vqueue: VQueueId, key: EntryKey) {
        self.assume::<Inbox>(&(vqueue, key), false);
        self.resident.put_inbox(vqueue, key);
    }

    fn delete_inbox(&mut self, vqueue: VQueueId, key: EntryKey) {
        #[cfg(debug_assertions)]
        if !self.resident.has_inbox_here(vqueue, key) {
            self.assume::<Inbox>(&(vqueue, key), true);
        }
        self.resident.delete_inbox(vqueue, key);
    }

    fn put_running(&mut self, vqueue: VQueueId, entry: EntryId, row: RunningRow) {
        if self.can_attach::<Running>(entry, &(vqueue, entry)) {
            self.change_attached(entry, |attached| attached.running = Some(row));
        } else {
            self.put::<Running>((vqueue, entry), row);
        }
    }

    fn delete_running(&mut self, vqueue: VQueueId, entry: EntryId) {
        if self.attached(entry, |attached| attached.running).is_some() {
            self.change_attached(entry, |attached| attached.running = None);
        } else {
            self.delete::<Running>((vqueue, entry));
        }
    }

    fn put_parked(&mut self, vqueue: VQueueId, entry: EntryId) {
        self.put::<Parked>((vqueue, entry), ());
    }

    fn delete_parked(&mut self, vqueue: VQueueId, entry: EntryId) {
        self.delete::<Parked>((vqueue, entry));
    }

    fn put_vqueue_meta(&mut self, id: VQueueId, row: VQueueMeta) {
        self.put::<VQueueMetas>(id, row);
    }

    fn change_vqueue_meta<R>(
        &mut self,
        id: VQueueId,
        change: impl FnOnce(&mut VQueueMeta) -> R,
    ) -> Read<Option<R>> {
        self.change::<VQueueMetas, R>(&id, change)
    }

    fn delete_vqueue_meta(&mut self, id: VQueueId) {
        self.delete::<VQueueMetas>(id);
    }

    fn put_lock(&mut self, vqueue: VQueueId, holder: EntryId) {
        self.put::<Lock>(vqueue, holder);
    }

    fn delete_lock(&mut self, vqueue: VQueueId) {
        self.delete::<Lock>(vqueue);
    }

    fn put_dedup(&mut self, producer: DedupKey, row: DedupRow) {
        self.put::<Dedup>(producer, row);
    }

    fn put_idempotency(&mut self, key: IdempotencyKey, row: IdempotencyRow) {
        self.put::<Idempotency>(key, row);
    }

    fn delete_idempotency(&mut self, key: &IdempotencyKey) {
        self.delete::<Idempotency>(key.clone());
    }

    fn put_finished(&mut self, id: EntryId, row: FinishedRow) {
        self.put::<Finished>(id, row);
    }

    fn delete_finished(&mut self, id: EntryId) {
        self.delete::<Finished>(id);
    }

    fn put_timer(&mut self, at: Timestamp, entry: EntryId) {
        self.put::<Timer>((at, entry), ());
    }

    fn delete_timer(&mut self, at: Timestamp, entry: EntryId) {
        self.delete::<Timer>((at, entry));
    }

    fn put_fsm(&mut self, slot: FsmSlot, value: Bytes) {
        self.put::<Fsm>(slot, value);
    }
}

/// Committed rows, for readers that do not write a batch. No lock is held between two reads; each
/// sees the rows committed at that time.
impl Rows for PartitionStore {
    fn entry(&self, id: EntryId) -> Read<Option<EntryRow>> {
        Ok(self.get::<Entry>(&id)?)
    }

    fn payload(&self, id: EntryId) -> Read<Option<Bytes>> {
        Ok(self.payload(id)?)
    }

    fn vqueue_meta(&self, id: VQueueId) -> Read<Option<VQueueMeta>> {
        Ok(self.get::<VQueueMetas>(&id)?)
    }

    fn lock(&self, vqueue: VQueueId) -> Read<Option<EntryId>> {
        Ok(self.get::<Lock>(&vqueue)?)
    }

    fn dedup(&self, producer: DedupKey) -> Read<Option<DedupRow>> {
        Ok(self.get::<Dedup>(&producer)?)
    }

    fn idempotency(&self, key: &IdempotencyKey) -> Read<Option<IdempotencyRow>> {
        Ok(self.get::<Idempotency>(key)?)
    }

    fn finished(&self, id: EntryId) -> Read<Option<FinishedRow>> {
        Ok(self.get::<Finished>(&id)?)
    }

    fn timers_until(&self, until: Timestamp, limit: usize) -> Read<Vec<(Timestamp, EntryId)>> {
        Ok(self.expired(until, limit)?)
    }

    fn fsm(&self, slot: FsmSlot) -> Read<Option<Bytes>> {
        Ok(self.get::<Fsm>(&slot)?)
    }

    fn vqueues_after(
        &self,
        after: Option<VQueueId>,
        limit: usize,
    ) -> Read<Vec<(VQueueId, VQueueMeta)>> {
        Ok(self.page::<VQueueMetas>(after.as_ref(), limit)?)
    }
}

impl SeedRows for PartitionStore {
    fn running_after(
        &self,
        after: Option<(VQueueId, EntryId)>,
        limit: usize,
    ) -> Read<Vec<((VQueueId, EntryId), RunningRow)>> {
        Ok(self.page::<Running>(after.as_ref(), limit)?)
    }

    fn locks_after(&self, after: Option<VQueueId>, limit: usize) -> Read<Vec<(VQueueId, EntryId)>> {
        Ok(self.page::<Lock>(after.as_ref(), limit)?)
    }
}
