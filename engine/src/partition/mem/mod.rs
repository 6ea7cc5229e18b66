//! A partition's tables in memory, for tests and simulation.
//!
//! Owns: one ordered map per table. Must always hold: a deleted row existed, and a stage row is put
//! only where there is none; this double-checks [`super::apply`], which never reads those rows.
//! Must not know: which command writes what.
//!
//! Two replicas that applied the same records have equal tables (`==`, and equal
//! [`MemTables::digest`]s).

mod journal;

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hasher,
    ops::Bound,
};

use bilrost::Message;
use bytes::Bytes;
use bytestring::ByteString;
use forebay_messages::{EntryId, EntryKey, RecordSeq, Timestamp, VQueueId, journal::JournalKey};

use super::{
    rows::{
        DedupKey, DedupRow, EntryRow, FinishedRow, FsmSlot, IdempotencyKey, IdempotencyRow,
        JournalRow, PromiseRow, RunningRow, StoredVQueueMeta, TombstoneRow, VQueueMeta,
    },
    store::{Read, Rows, SeedRows, SleepKey, Tables},
};

/// All tables of one partition. Cloning takes a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemTables {
    /// Entries that have not ended.
    pub entries: BTreeMap<EntryId, EntryRow>,
    /// Payloads.
    pub payloads: BTreeMap<EntryId, Bytes>,
    /// Inbox rows.
    pub inbox: BTreeSet<(VQueueId, EntryKey)>,
    /// Running attempts.
    pub running: BTreeMap<(VQueueId, EntryId), RunningRow>,
    /// Suspended and paused entries.
    pub parked: BTreeSet<(VQueueId, EntryId)>,
    /// Names and counts of vqueues.
    pub vqueues: BTreeMap<VQueueId, VQueueMeta>,
    /// Holders of locks.
    pub locks: BTreeMap<VQueueId, EntryId>,
    /// Highest sequences of producers.
    pub dedup: BTreeMap<DedupKey, DedupRow>,
    /// Idempotency keys.
    pub idempotency: BTreeMap<IdempotencyKey, IdempotencyRow>,
    /// Results.
    pub finished: BTreeMap<EntryId, FinishedRow>,
    /// When results expire.
    pub timers: BTreeSet<(Timestamp, EntryId)>,
    /// Operations of journals.
    pub journal: BTreeMap<(EntryId, JournalKey), JournalRow>,
    /// Promises.
    pub promises: BTreeMap<(EntryId, ByteString), PromiseRow>,
    /// When sleeps end.
    pub sleeps: BTreeSet<SleepKey>,
    /// Children that were stopped before they arrived.
    pub tombstones: BTreeMap<EntryId, TombstoneRow>,
    /// Messages to partitions.
    pub outbox: BTreeMap<RecordSeq, Bytes>,
    /// The partition's own state.
    pub fsm: BTreeMap<FsmSlot, Bytes>,
}

fn page<K: Ord + Copy, V: Clone>(
    table: &BTreeMap<K, V>,
    after: Option<K>,
    limit: usize,
) -> Vec<(K, V)> {
    let start = after.map_or(Bound::Unbounded, Bound::Excluded);
    let rows = table.range((start, Bound::Unbounded));
    rows.take(limit).map(|(key, row)| (*key, row.clone())).collect()
}

impl MemTables {
    /// Inbox rows of a vqueue after a key, in key order, at most `limit`; and whether they are the
    /// last ones.
    #[must_use]
    pub fn inbox_after(
        &self,
        vqueue: VQueueId,
        after: Option<EntryKey>,
        limit: usize,
    ) -> (Vec<EntryKey>, bool) {
        let first = EntryKey { has_lock: true, ..EntryKey::default() };
        let start = after
            .map_or(Bound::Included((vqueue, first)), |after| Bound::Excluded((vqueue, after)));
        let rows = self.inbox.range((start, Bound::Unbounded));
        let mut found: Vec<_> = rows
            .take_while(|(owner, _)| *owner == vqueue)
            .map(|(_, key)| *key)
            .take(limit + 1)
            .collect();
        let reached_end = found.len() <= limit;
        found.truncate(limit);
        (found, reached_end)
    }

    /// A hash over all rows: the same in every run and on every replica.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut hash = Digest::default();
        hash.table(self.entries.iter().map(|(id, row)| (id.to_bytes().to_vec(), bytes_of(row))));
        hash.table(self.payloads.iter().map(|(id, row)| (id.to_bytes().to_vec(), row.to_vec())));
        hash.table(
            self.inbox
                .iter()
                .map(|(vqueue, key)| (vqueue.to_bytes().to_vec(), key.to_bytes().to_vec())),
        );
        hash.table(self.running.iter().map(|((vqueue, id), row)| {
            ([vqueue.to_bytes(), id.to_bytes()].concat(), bytes_of(row))
        }));
        hash.table(
            self.parked
                .iter()
                .map(|(vqueue, id)| (vqueue.to_bytes().to_vec(), id.to_bytes().to_vec())),
        );
        let meta = |row| bytes_of(&StoredVQueueMeta::from(row));
        hash.table(self.vqueues.iter().map(|(id, row)| (id.to_bytes().to_vec(), meta(row))));
        hash.table(
            self.locks
                .iter()
                .map(|(vqueue, id)| (vqueue.to_bytes().to_vec(), id.to_bytes().to_vec())),
        );
        hash.table(
            self.dedup.iter().map(|(key, row)| (format!("{key:?}").into_bytes(), bytes_of(row))),
        );
        hash.table(
            self.idempotency
                .iter()
                .map(|(key, row)| ([&key.domain[..], key.key.as_bytes()].concat(), bytes_of(row))),
        );
        hash.table(self.finished.iter().map(|(id, row)| (id.to_bytes().to_vec(), bytes_of(row))));
        hash.table(
            self.timers
                .iter()
                .map(|(at, id)| (at.0.to_be_bytes().to_vec(), id.to_bytes().to_vec())),
        );
        self.digest_journals(&mut hash);
        hash.table(
            self.fsm
                .iter()
                .map(|(slot, value)| ((*slot as u16).to_be_bytes().to_vec(), value.to_vec())),
        );
        hash.0.finish()
    }
}

fn bytes_of(row: &impl Message) -> Vec<u8> {
    row.encode_to_vec()
}

#[derive(Default)]
struct Digest(rustc_hash::FxHasher);

impl Digest {
    fn table(&mut self, rows: impl ExactSizeIterator<Item = (Vec<u8>, Vec<u8>)>) {
        self.0.write_usize(rows.len());
        for (key, value) in rows {
            for bytes in [key, value] {
                self.0.write_usize(bytes.len());
                self.0.write(&bytes);
            }
        }
    }
}

impl Rows for MemTables {
    fn entry(&self, id: EntryId) -> Read<Option<EntryRow>> {
        Ok(self.entries.get(&id).cloned())
    }

    fn payload(&self, id: EntryId) -> Read<Option<Bytes>> {
        Ok(self.payloads.get(&id).cloned())
    }

    fn vqueue_meta(&self, id: VQueueId) -> Read<Option<VQueueMeta>> {
        Ok(self.vqueues.get(&id).cloned())
    }

    fn lock(&self, vqueue: VQueueId) -> Read<Option<EntryId>> {
        Ok(self.locks.get(&vqueue).copied())
    }

    fn dedup(&self, producer: DedupKey) -> Read<Option<DedupRow>> {
        Ok(self.dedup.get(&producer).copied())
    }

    fn idempotency(&self, key: &IdempotencyKey) -> Read<Option<IdempotencyRow>> {
        Ok(self.idempotency.get(key).copied())
    }

    fn finished(&self, id: EntryId) -> Read<Option<FinishedRow>> {
        Ok(self.finished.get(&id).cloned())
    }

    fn timers_until(&self, until: Timestamp, limit: usize) -> Read<Vec<(Timestamp, EntryId)>> {
        Ok(self.timers.iter().take_while(|(at, _)| *at <= until).take(limit).copied().collect())
    }

    fn fsm(&self, slot: FsmSlot) -> Read<Option<Bytes>> {
        Ok(self.fsm.get(&slot).cloned())
    }

    fn vqueues_after(
        &self,
        after: Option<VQueueId>,
        limit: usize,
    ) -> Read<Vec<(VQueueId, VQueueMeta)>> {
        Ok(page(&self.vqueues, after, limit))
    }
}

impl SeedRows for MemTables {
    fn running_after(
        &self,
        after: Option<(VQueueId, EntryId)>,
        limit: usize,
    ) -> Read<Vec<((VQueueId, EntryId), RunningRow)>> {
        Ok(page(&self.running, after, limit))
    }

    fn locks_after(&self, after: Option<VQueueId>, limit: usize) -> Read<Vec<(VQueueId, EntryId)>> {
        Ok(page(&self.locks, after, limit))
    }
}

impl Tables for MemTables {
    fn put_entry(&mut self, id: EntryId, row: EntryRow) {
        self.entries.insert(id, row);
    }

    fn delete_entry(&mut self, id: EntryId) {
        assert!(self.entries.remove(&id).is_some(), "{id} is deleted but does not exist");
    }

    fn put_payload(&mut self, id: EntryId, payload: Bytes) {
        self.payloads.insert(id, payload);
    }

    fn delete_payload(&mut self, id: EntryId) {
        assert!(self.payloads.remove(&id).is_some(), "{id} has no payload to delete");
    }

    fn put_inbox(&mut self, vqueue: VQueueId, key: EntryKey) {
        assert!(self.inbox.insert((vqueue, key)), "{key:?} is put into an inbox twice");
    }

    fn delete_inbox(&mut self, vqueue: VQueueId, key: EntryKey) {
        assert!(self.inbox.remove(&(vqueue, key)), "{key:?} is not in the inbox");
    }

    fn put_running(&mut self, vqueue: VQueueId, entry: EntryId, row: RunningRow) {
        let before = self.running.insert((vqueue, entry), row);
        assert_eq!(before, None, "{entry} starts while it runs");
    }

    fn delete_running(&mut self, vqueue: VQueueId, entry: EntryId) {
        let before = self.running.remove(&(vqueue, entry));
        assert!(before.is_some(), "{entry} stops but is not running");
    }

    fn put_parked(&mut self, vqueue: VQueueId, entry: EntryId) {
        assert!(self.parked.insert((vqueue, entry)), "{entry} is parked twice");
    }

    fn delete_parked(&mut self, vqueue: VQueueId, entry: EntryId) {
        assert!(self.parked.remove(&(vqueue, entry)), "{entry} was not parked");
    }

    fn put_vqueue_meta(&mut self, id: VQueueId, row: VQueueMeta) {
        self.vqueues.insert(id, row);
    }

    fn delete_vqueue_meta(&mut self, id: VQueueId) {
        assert!(self.vqueues.remove(&id).is_some(), "{id} is deleted but unknown");
    }

    fn put_lock(&mut self, vqueue: VQueueId, holder: EntryId) {
        let before = self.locks.insert(vqueue, holder);
        assert_eq!(before, None, "a held lock is taken by {holder}");
    }

    fn delete_lock(&mut self, vqueue: VQueueId) {
        assert!(self.locks.remove(&vqueue).is_some(), "a free lock is freed");
    }

    fn put_dedup(&mut self, producer: DedupKey, row: DedupRow) {
        self.dedup.insert(producer, row);
    }

    fn put_idempotency(&mut self, key: IdempotencyKey, row: IdempotencyRow) {
        let before = self.idempotency.insert(key, row);
        assert_eq!(before, None, "an idempotency key refers to two entries");
    }

    fn delete_idempotency(&mut self, key: &IdempotencyKey) {
        assert!(self.idempotency.remove(key).is_some(), "{key:?} is not stored");
    }

    fn put_finished(&mut self, id: EntryId, row: FinishedRow) {
        assert!(self.finished.insert(id, row).is_none(), "{id} ends twice");
    }

    fn delete_finished(&mut self, id: EntryId) {
        assert!(self.finished.remove(&id).is_some(), "{id} had not ended");
    }

    fn put_timer(&mut self, at: Timestamp, entry: EntryId) {
        assert!(self.timers.insert((at, entry)), "{entry} expires twice at {at:?}");
    }

    fn delete_timer(&mut self, at: Timestamp, entry: EntryId) {
        assert!(self.timers.remove(&(at, entry)), "{entry} did not expire at {at:?}");
    }

    fn put_fsm(&mut self, slot: FsmSlot, value: Bytes) {
        self.fsm.insert(slot, value);
    }
}
