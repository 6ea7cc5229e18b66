//! The changes reported while a refill runs, which its snapshot may not contain.
//!
//! Owns: a sorted list of changes and the horizon. Must always hold: at most `capacity` changes;
//! all of them below the horizon; the horizon only shrinks. It never silently evicts a change to
//! make room: an evicted tombstone would let a deleted row back in. A change that does not fit
//! moves the horizon down instead, and nothing at or above the horizon is used, neither change nor
//! row. Must not know: the cache.

use forebay_messages::EntryKey;

/// The latest reported change of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The row is stored.
    Add,
    /// The row is removed.
    Tombstone,
}

#[derive(Debug)]
pub(super) struct Overlay {
    /// Sorted by key, unique, at most `capacity`, all below `horizon`.
    changes: Vec<(EntryKey, Change)>,
    /// Exclusive upper bound of the keys that may be used; only shrinks.
    horizon: Option<EntryKey>,
    capacity: usize,
}

impl Overlay {
    pub(super) fn new(capacity: usize) -> Self {
        Self { changes: Vec::new(), horizon: None, capacity }
    }

    pub(super) fn changes(&self) -> &[(EntryKey, Change)] {
        &self.changes
    }

    pub(super) fn horizon(&self) -> Option<EntryKey> {
        self.horizon
    }

    /// The row was stored. Replaces a tombstone.
    pub(super) fn add(&mut self, key: EntryKey) {
        self.record(key, Change::Add);
    }

    /// The row was removed. Replaces an add: the snapshot may still contain the row.
    pub(super) fn tombstone(&mut self, key: EntryKey) {
        self.record(key, Change::Tombstone);
    }

    fn record(&mut self, key: EntryKey, change: Change) {
        if self.horizon.is_some_and(|horizon| key >= horizon) {
            return;
        }
        match self.changes.binary_search_by(|(other, _)| other.cmp(&key)) {
            Ok(index) => {
                let last = &mut self.changes[index].1;
                assert!(
                    (*last, change) != (Change::Add, Change::Add),
                    "{key:?} was enqueued twice without a removal between"
                );
                *last = change;
            }
            Err(index) if self.changes.len() < self.capacity => {
                self.changes.insert(index, (key, change));
            }
            Err(index) if index == self.changes.len() => self.horizon = Some(key),
            Err(index) => {
                self.horizon = self.changes.pop().map(|(back, _)| back);
                self.changes.insert(index, (key, change));
            }
        }
    }

    /// Panics when an invariant is broken; `start_anchor` is where the scan began.
    pub(super) fn check(&self, start_anchor: Option<EntryKey>) {
        assert!(self.changes.len() <= self.capacity, "the overlay exceeds its capacity");
        assert!(self.changes.is_sorted_by(|a, b| a.0 < b.0), "the overlay is not sorted");
        for (key, _) in &self.changes {
            assert!(self.horizon.is_none_or(|horizon| *key < horizon), "change at the horizon");
            assert!(start_anchor.is_none_or(|anchor| *key > anchor), "change inside coverage");
        }
        if let (Some(horizon), Some(anchor)) = (self.horizon, start_anchor) {
            assert!(horizon > anchor, "the horizon sank into coverage");
        }
    }
}
