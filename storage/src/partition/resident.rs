//! Committed rows that are not in RocksDB yet, and those of the current batch.
//!
//! Most entries exist for milliseconds. Their rows stay here, and rows put and deleted before a
//! spill never reach RocksDB at all: no memtable, no tombstone, no compaction. The log is the
//! source of truth, so the store may lag behind it.
//!
//! Owns: the decision when to spill. Must always hold:
//! - a spill writes everything in one batch, including the applied LSN: RocksDB always holds the
//!   rows of one moment, from which a replay can start;
//! - a read by key looks here first; a scan spills first, except for a refill from memory, which
//!   merges the rows here with those in RocksDB;
//! - only the writer of a batch sees its writes: it holds the lock from its first row to the
//!   commit, and dropping the batch discards its writes;
//! - rows and bytes here are bounded, and so is what a partition replays after a crash: the store
//!   is flushed after a maximum number of changes.

use std::{cell::RefCell, collections::BTreeMap, ops::Bound};

use forebay_engine::machine::Map;
use forebay_messages::{
    EntryKey, Lsn, Timestamp, VQueueId,
    actor::{RefillDone, RefillRequest},
};
use rocksdb::{AsColumnFamilyRef, WriteBatch};

use super::{
    overlay::Overlay,
    overlays::{Overlays, ResidentTable, each_table},
    tables::{Table, inbox::Inbox as InboxTable},
};

/// Maximum number of rows kept here; beyond it, everything is spilled.
const ROWS_MAX: usize = 32_768;
/// Maximum number of payload bytes kept here.
const BYTES_MAX: usize = 16 << 20;
/// Number of row changes after which the store is flushed, spilled or not. It bounds what a
/// partition replays after a crash, and how much of the log is trimmed before its files are merged.
const CHANGES_UNTIL_FLUSH: usize = 500_000;
/// Maximum number of bytes reserved for the next spill.
const SPILL_RESERVED_MAX: usize = 8 << 20;

/// Minimum interval, in milliseconds, between flushes that only free disk space.
pub const GIVE_BACK_EVERY_MS: u64 = 60_000;

/// The rows of a vqueue's inbox in memory.
#[derive(Default)]
struct InboxRows {
    /// Rows that RocksDB does not have, each with the batch that added it.
    here: BTreeMap<EntryKey, u32>,
    /// Some rows that RocksDB has or may have were written: they are in the overlay.
    differs: bool,
}

impl InboxRows {
    fn is_nothing(&self) -> bool {
        self.here.is_empty() && !self.differs
    }
}

/// Changes by the current batch to rows that exist only in memory.
#[derive(Default)]
struct InboxBatch {
    number: u32,
    /// Each added or removed row, and the batch that had added it before.
    journal: Vec<(VQueueId, EntryKey, Option<u32>)>,
    /// Number of changed rows; rows added and removed within the batch do not count.
    changed: usize,
}

/// Work that is due after a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    Nothing,
    Spill,
    SpillAndFlush,
}

/// The rows of a partition in memory.
#[derive(Default)]
pub(super) struct Resident {
    overlays: Overlays,
    inboxes: Map<VQueueId, InboxRows>,
    inbox_batch: InboxBatch,
    /// Number of inbox rows that RocksDB does not have.
    inbox_rows: usize,
    applied: Option<Lsn>,
    changes: usize,
    /// When the store was last flushed to free disk space.
    given_back_at: Option<Timestamp>,
    /// Length of the last batch that was spilled, at most [`SPILL_RESERVED_MAX`].
    spilled_len: usize,
}

impl Resident {
    /// The row, if known here.
    pub(super) fn get<T: ResidentTable>(&self, key: &T::Key) -> Option<Option<T::Row>> {
        self.overlay::<T>().borrow().find(key).map(Option::<&T::Row>::cloned)
    }

    /// The rows of a table.
    pub(super) fn overlay<T: ResidentTable>(&self) -> &RefCell<Overlay<T>> {
        T::overlay(&self.overlays)
    }

    /// Adds a row to an inbox.
    pub(super) fn put_inbox(&mut self, vqueue: VQueueId, key: EntryKey) {
        let rows = self.inboxes.entry(vqueue).or_default();
        let overlay = self.overlays.inbox.get_mut();
        if rows.differs && overlay.find(&(vqueue, key)).is_some() {
            overlay.put((vqueue, key), ());
            return;
        }
        let batch = &mut self.inbox_batch;
        let before = rows.here.insert(key, batch.number);
        assert!(before.is_none(), "inbox: {key:?} is put twice");
        batch.journal.push((vqueue, key, None));
        batch.changed += 1;
        self.inbox_rows += 1;
    }

    /// Deletes a row from an inbox.
    pub(super) fn delete_inbox(&mut self, vqueue: VQueueId, key: EntryKey) {
        let rows = self.inboxes.entry(vqueue).or_default();
        let Some(came) = rows.here.remove(&key) else {
            rows.differs = true;
            self.overlays.inbox.get_mut().delete((vqueue, key));
            return;
        };
        let batch = &mut self.inbox_batch;
        batch.journal.push((vqueue, key, Some(came)));
        if came == batch.number {
            batch.changed -= 1;
        } else {
            batch.changed += 1;
        }
        self.inbox_rows -= 1;
        if rows.is_nothing() {
            self.inboxes.remove(&vqueue);
        }
    }

    /// Whether a row of an inbox is in memory only.
    #[cfg(debug_assertions)]
    pub(super) fn has_inbox_here(&self, vqueue: VQueueId, key: EntryKey) -> bool {
        self.inboxes.get(&vqueue).is_some_and(|rows| rows.here.contains_key(&key))
    }

    /// The LSN of the last commit, if it was not spilled.
    pub(super) fn applied(&self) -> Option<Lsn> {
        self.applied
    }

    /// Keeps the writes of the batch; returns the number of changed rows, and what to do now.
    pub(super) fn commit(&mut self, applied: Lsn) -> (usize, Duty) {
        let batch = &mut self.inbox_batch;
        batch.journal.clear();
        batch.number = batch.number.wrapping_add(1);
        let mut count = std::mem::take(&mut batch.changed);
        each_table!(self.overlays, |mine| count += mine.borrow_mut().commit());
        self.applied = Some(applied);
        self.changes += count;
        let mut bytes = 0;
        each_table!(self.overlays, |mine| bytes += mine.borrow().weight());
        let duty = if self.changes >= CHANGES_UNTIL_FLUSH {
            Duty::SpillAndFlush
        } else if self.rows() > ROWS_MAX || bytes > BYTES_MAX {
            Duty::Spill
        } else {
            Duty::Nothing
        };
        (count, duty)
    }

    /// Drops the writes of the batch.
    pub(super) fn roll_back(&mut self) {
        let mut wrote = !self.inbox_batch.journal.is_empty();
        each_table!(self.overlays, |mine| wrote |= mine.borrow_mut().roll_back());
        if !wrote {
            return;
        }
        self.inbox_batch.changed = 0;
        for (vqueue, key, came) in self.inbox_batch.journal.drain(..).rev() {
            let here = &mut self.inboxes.entry(vqueue).or_default().here;
            match came {
                Some(came) => here.insert(key, came),
                None => here.remove(&key),
            };
        }
        self.inboxes.values_mut().for_each(|rows| rows.differs = false);
        for (vqueue, _) in self.overlays.inbox.borrow().written_keys() {
            self.inboxes.entry(*vqueue).or_default().differs = true;
        }
        self.inboxes.retain(|_, rows| !rows.is_nothing());
        self.inbox_rows = self.inboxes.values().map(|rows| rows.here.len()).sum();
    }

    /// Number of rows that are not in RocksDB.
    pub(super) fn rows(&self) -> usize {
        let mut rows = self.inbox_rows;
        each_table!(self.overlays, |mine| rows += mine.borrow().written_len());
        rows
    }

    /// Everything, as a batch for RocksDB.
    pub(super) fn emit(&mut self, family: &impl AsColumnFamilyRef) -> WriteBatch {
        // As large as the last one, so that it does not grow step by step.
        let mut batch = WriteBatch::with_capacity_bytes(self.spilled_len);
        let (mut key, mut row) = (Vec::with_capacity(128), Vec::with_capacity(512));
        each_table!(self.overlays, |mine| {
            mine.borrow().emit(family, &mut key, &mut row, &mut batch);
        });
        // In key order, so that the bytes of a batch depend only on its rows.
        let mut inboxes: Vec<_> = self.inboxes.iter().collect();
        inboxes.sort_unstable_by_key(|(vqueue, _)| **vqueue);
        for (vqueue, rows) in inboxes {
            for place in rows.here.keys() {
                key.clear();
                InboxTable::put_key(&(*vqueue, *place), &mut key);
                batch.put_cf(family, &key, b"");
            }
        }
        self.spilled_len = batch.size_in_bytes().min(SPILL_RESERVED_MAX);
        batch
    }

    /// RocksDB has everything.
    pub(super) fn clear(&mut self) {
        each_table!(self.overlays, |mine| mine.borrow_mut().clear());
        assert!(self.inbox_batch.journal.is_empty(), "inbox: no batch is being written");
        self.inboxes.clear();
        self.inbox_rows = 0;
        self.applied = None;
    }

    /// The store is being flushed.
    pub(super) fn flushed(&mut self) {
        self.changes = 0;
        self.overlays.finished.get_mut().flushed();
        self.overlays.payload.get_mut().flushed();
    }

    /// Whether there are unflushed deletions of large rows, and no such flush was made recently. If
    /// so, it counts as made.
    pub(super) fn is_flush_due(&mut self, now: Timestamp) -> bool {
        let overlays = &mut self.overlays;
        let deleted =
            overlays.finished.get_mut().tombstones() + overlays.payload.get_mut().tombstones();
        let lately = |at: Timestamp| now.0.abs_diff(at.0) < GIVE_BACK_EVERY_MS;
        if deleted == 0 || self.given_back_at.is_some_and(lately) {
            return false;
        }
        self.given_back_at = Some(now);
        true
    }

    /// Whether RocksDB has everything.
    pub(super) fn is_empty(&self) -> bool {
        self.applied.is_none()
    }

    /// Answers a refill, if the whole inbox is in memory.
    pub(super) fn refill(&self, request: &RefillRequest) -> Inbox {
        let Some(rows) = self.inboxes.get(&request.vqueue) else {
            return self.refill_empty(request);
        };
        // The counts include all rows: if this many are here, RocksDB has none.
        let is_whole = self.inbox_count(request.vqueue) == Some(rows.here.len() as u64);
        if rows.differs || !is_whole {
            return Inbox::Split;
        }
        let mut found = rows.here.range(above(request.after));
        let rows: Vec<_> = found.by_ref().take(request.limit).map(|(place, _)| *place).collect();
        let reached_end = found.next().is_none();
        Inbox::Here(RefillDone { id: request.id, rows, reached_end })
    }

    /// The rows of an inbox that RocksDB does not have, above a key.
    pub(super) fn inbox_here(
        &self,
        vqueue: VQueueId,
        after: Option<EntryKey>,
    ) -> impl Iterator<Item = EntryKey> {
        let rows = self.inboxes.get(&vqueue);
        rows.into_iter()
            .flat_map(move |rows| rows.here.range(above(after)))
            .map(|(place, _)| *place)
    }

    /// Whether a row in RocksDB was deleted.
    pub(super) fn is_gone_from_inbox(&self, vqueue: VQueueId, key: EntryKey) -> bool {
        self.overlays.inbox.borrow().find(&(vqueue, key)) == Some(None)
    }

    /// Nothing of the inbox is in memory: either it is empty, or RocksDB has all of it.
    fn refill_empty(&self, request: &RefillRequest) -> Inbox {
        match self.inbox_count(request.vqueue) {
            Some(0) => {
                Inbox::Here(RefillDone { id: request.id, rows: Vec::new(), reached_end: true })
            }
            _ => Inbox::Stored,
        }
    }

    /// Number of rows of a vqueue's inbox, here and in RocksDB, if known here.
    fn inbox_count(&self, vqueue: VQueueId) -> Option<u64> {
        let metas = self.overlays.vqueue_meta.borrow();
        metas.find(&vqueue).map(|meta| meta.map_or(0, |meta| meta.inbox))
    }
}

fn above(after: Option<EntryKey>) -> (Bound<EntryKey>, Bound<EntryKey>) {
    (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
}

/// Where the rows of an inbox are.
pub(super) enum Inbox {
    /// All of them are here: the answer.
    Here(RefillDone),
    /// All of them are in RocksDB.
    Stored,
    /// They are in both places.
    Split,
}
