//! Committed rows through the state machine's tables, for readers that do not write a batch.
//!
//! Must always hold: no lock is held between two reads; each sees the rows committed at that time.

use bytes::Bytes;
use forebay_engine::partition::{
    rows::{
        DedupKey, DedupRow, EntryRow, FinishedRow, FsmSlot, IdempotencyKey, IdempotencyRow,
        RunningRow, VQueueMeta,
    },
    store::{Read, Rows, SeedRows},
};
use forebay_messages::{EntryId, Timestamp, VQueueId};

use super::{
    PartitionStore,
    tables::{
        dedup::Dedup, entry::Entry, finished::Finished, fsm::Fsm, idempotency::Idempotency,
        lock::Lock, running::Running, vqueue_meta::VQueueMetas,
    },
};

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
