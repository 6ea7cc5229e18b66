//! Rows that were committed and are not in RocksDB yet, and those of the batch that is
//! being written.
//!
//! Most entries come and go within milliseconds. Their rows stay here, and what is put
//! and deleted before it is spilled never reaches RocksDB at all: no memtable, no
//! tombstone, no compaction. The log is the truth, so the store may lag behind it.
//!
//! Owns: when to spill. Must always hold:
//! - a spill writes everything in one batch, the applied LSN included: RocksDB always
//!   holds the rows of one moment, and a replay can start from there;
//! - who reads by key looks here first; who scans spills first, except a refill from
//!   memory, which merges what is here with what RocksDB has;
//! - whoever is not the writer of a batch never sees a part of it: the writer holds the
//!   lock from its first row to the commit, and what it wrote goes when it is dropped;
//! - it is bounded, in rows and in bytes; and so is what a crash makes a partition
//!   replay, for after so many changes the store is flushed.

use std::{cell::RefCell, collections::BTreeSet, ops::Bound};

use forebay_engine::machine::Map;
use forebay_messages::{
    EntryKey, Lsn, VQueueId,
    actor::{RefillDone, RefillRequest},
};
use rocksdb::{AsColumnFamilyRef, WriteBatch};

use super::{
    overlay::{Change, Overlay},
    overlays::{Overlays, Resides, each_table},
};

/// Rows that stay here at most; with more, everything is spilled.
const ROWS_MAX: usize = 32_768;
/// Bytes of payloads that stay here at most.
const BYTES_MAX: usize = 16 << 20;
/// Changes of rows after which the store is flushed, spilled or not: a replay of them
/// takes about a second.
const CHANGES_UNTIL_FLUSH: usize = 2_000_000;

/// What is here of a vqueue's inbox.
#[derive(Default)]
struct InboxRows {
    /// Rows that RocksDB does not have.
    here: BTreeSet<EntryKey>,
    /// Some rows of it differ from RocksDB's.
    differs: bool,
}

impl InboxRows {
    fn note(&mut self, key: EntryKey, change: Change) {
        match change {
            Change::Here => {
                self.here.insert(key);
            }
            Change::Gone => {
                self.here.remove(&key);
            }
            Change::Differs => self.differs = true,
        }
    }

    fn is_nothing(&self) -> bool {
        self.here.is_empty() && !self.differs
    }
}

/// What must be done after a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    Nothing,
    Spill,
    SpillAndFlush,
}

/// Rows of a partition. See the module's documentation.
#[derive(Default)]
pub(super) struct Resident {
    overlays: Overlays,
    inboxes: Map<VQueueId, InboxRows>,
    applied: Option<Lsn>,
    changes: usize,
}

impl Resident {
    /// The row, if it is known here.
    pub(super) fn get<T: Resides>(&self, key: &T::Key) -> Option<Option<T::Row>> {
        self.overlay::<T>().borrow().find(key).map(Option::<&T::Row>::cloned)
    }

    /// The rows of a table.
    pub(super) fn overlay<T: Resides>(&self) -> &RefCell<Overlay<T>> {
        T::overlay(&self.overlays)
    }

    /// Puts a row in an inbox.
    pub(super) fn put_inbox(&mut self, vqueue: VQueueId, key: EntryKey) {
        let change = self.overlays.inbox.get_mut().put((vqueue, key), ());
        self.inboxes.entry(vqueue).or_default().note(key, change);
    }

    /// Deletes one.
    pub(super) fn delete_inbox(&mut self, vqueue: VQueueId, key: EntryKey) {
        let change = self.overlays.inbox.get_mut().delete((vqueue, key));
        let rows = self.inboxes.entry(vqueue).or_default();
        rows.note(key, change);
        if rows.is_nothing() {
            self.inboxes.remove(&vqueue);
        }
    }

    /// The LSN of the last commit, if it was not spilled.
    pub(super) fn applied(&self) -> Option<Lsn> {
        self.applied
    }

    /// What a batch wrote stays; the number of rows, and what is to be done now.
    pub(super) fn commit(&mut self, applied: Lsn) -> (usize, Duty) {
        let mut count = 0;
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

    /// What a batch wrote goes.
    pub(super) fn roll_back(&mut self) {
        let mut wrote = false;
        each_table!(self.overlays, |mine| wrote |= mine.borrow_mut().roll_back());
        if !wrote {
            return;
        }
        self.inboxes.clear();
        for ((vqueue, key), change) in self.overlays.inbox.borrow().changes() {
            self.inboxes.entry(*vqueue).or_default().note(*key, change);
        }
    }

    /// Rows that are here and not in RocksDB.
    pub(super) fn rows(&self) -> usize {
        let mut rows = 0;
        each_table!(self.overlays, |mine| rows += mine.borrow().written_len());
        rows
    }

    /// Puts everything into a batch for RocksDB.
    pub(super) fn emit(&self, family: &impl AsColumnFamilyRef, batch: &mut WriteBatch) {
        let (mut key, mut row) = (Vec::with_capacity(128), Vec::with_capacity(512));
        each_table!(self.overlays, |mine| {
            mine.borrow().emit(family, &mut key, &mut row, batch);
        });
    }

    /// RocksDB has everything.
    pub(super) fn clear(&mut self) {
        each_table!(self.overlays, |mine| mine.borrow_mut().clear());
        self.inboxes.clear();
        self.applied = None;
    }

    /// The store is being flushed.
    pub(super) fn flushed(&mut self) {
        self.changes = 0;
    }

    /// Whether nothing is here that RocksDB does not have.
    pub(super) fn is_empty(&self) -> bool {
        self.applied.is_none()
    }

    /// Answers a refill, if the inbox is here as a whole.
    pub(super) fn refill(&self, request: &RefillRequest) -> Inbox {
        let Some(rows) = self.inboxes.get(&request.vqueue) else {
            return self.refill_empty(request);
        };
        // The counts are of all rows: when so many are here, RocksDB has none.
        let is_whole = self.inbox_count(request.vqueue) == Some(rows.here.len() as u64);
        if rows.differs || !is_whole {
            return Inbox::Split;
        }
        let mut found = rows.here.range(above(request.after));
        let rows: Vec<_> = found.by_ref().take(request.limit).copied().collect();
        let reached_end = found.next().is_none();
        Inbox::Here(RefillDone { id: request.id, rows, reached_end })
    }

    /// The rows of an inbox that RocksDB does not have, above a place.
    pub(super) fn inbox_here(
        &self,
        vqueue: VQueueId,
        after: Option<EntryKey>,
    ) -> impl Iterator<Item = EntryKey> {
        let rows = self.inboxes.get(&vqueue);
        rows.into_iter().flat_map(move |rows| rows.here.range(above(after))).copied()
    }

    /// Whether a row that RocksDB has was deleted.
    pub(super) fn is_gone_from_inbox(&self, vqueue: VQueueId, key: EntryKey) -> bool {
        self.overlays.inbox.borrow().find(&(vqueue, key)) == Some(None)
    }

    /// Nothing of the inbox is here: either it is empty, or RocksDB has all of it.
    fn refill_empty(&self, request: &RefillRequest) -> Inbox {
        match self.inbox_count(request.vqueue) {
            Some(0) => {
                Inbox::Here(RefillDone { id: request.id, rows: Vec::new(), reached_end: true })
            }
            _ => Inbox::Stored,
        }
    }

    /// How many rows the inbox of a vqueue has, here and in RocksDB, if that is known here.
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
    /// All of them here: the answer.
    Here(RefillDone),
    /// All of them in RocksDB.
    Stored,
    /// Some here, some there.
    Split,
}
