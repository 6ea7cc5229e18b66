//! Rows of one table that are not in RocksDB yet: what a batch has read and written
//! (see [`super::Txn`]), and what was committed and not spilled (see
//! [`super::resident`]).
//!
//! Owns: the coalescing. A row that is written many times is written once; one that
//! was put and deleted is not written at all, where it is known that RocksDB has none.
//! Must always hold: a read sees the last write.

use std::collections::BTreeMap;

use forebay_engine::machine::Map;
use rocksdb::{AsColumnFamilyRef, WriteBatch};

use super::tables::Table;

/// Whether the store has a row, as far as the batch knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    Unknown,
    Absent,
    Present,
}

struct Slot<R> {
    base: Base,
    /// The row as the batch sees it.
    row: Option<R>,
    /// The batch wrote it; otherwise it was only read.
    written: bool,
}

/// How a row stands to RocksDB after a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It is in memory only.
    Here,
    /// It was in memory only, and is gone.
    Gone,
    /// RocksDB has it, or may have it, in another state.
    Differs,
}

impl Change {
    fn of<R>(slot: &Slot<R>) -> Self {
        match (slot.base, &slot.row) {
            (Base::Absent, Some(_)) => Self::Here,
            (Base::Absent, None) => Self::Gone,
            (Base::Present | Base::Unknown, _) => Self::Differs,
        }
    }
}

/// What the batch knows of a row.
pub(super) enum Staged<R> {
    /// It has not touched it.
    Unknown,
    /// Its state as the batch sees it.
    Known(Option<R>),
}

/// Staged rows of one table.
pub(super) struct Overlay<T: Table> {
    slots: Map<T::Key, Slot<T::Row>>,
    /// Bytes of the rows written, as far as tables say.
    weight: usize,
}

impl<T: Table> Default for Overlay<T> {
    fn default() -> Self {
        Self { slots: Map::default(), weight: 0 }
    }
}

impl<T: Table> Overlay<T> {
    /// The row as the batch sees it.
    pub(super) fn get(&self, key: &T::Key) -> Staged<T::Row> {
        match self.slots.get(key) {
            None => Staged::Unknown,
            Some(slot) => Staged::Known(slot.row.clone()),
        }
    }

    /// Remembers what was read from the store.
    pub(super) fn remember(&mut self, key: T::Key, row: Option<T::Row>) {
        let base = if row.is_some() { Base::Present } else { Base::Absent };
        self.slots.insert(key, Slot { base, row, written: false });
    }

    /// Stages a put.
    pub(super) fn put(&mut self, key: T::Key, row: T::Row) {
        if let Some(slot) = self.slots.get_mut(&key) {
            assert!(!T::STRICT || slot.row.is_none(), "{}: {key:?} is put twice", T::NAME);
            slot.row = Some(row);
            slot.written = true;
            return;
        }
        let base = if T::STRICT { Base::Absent } else { Base::Unknown };
        self.slots.insert(key, Slot { base, row: Some(row), written: true });
    }

    /// Stages a put where nothing is, here or in the store.
    pub(super) fn put_new(&mut self, key: T::Key, row: T::Row) {
        let slot = Slot { base: Base::Absent, row: Some(row), written: true };
        let before = self.slots.insert(key, slot);
        assert!(before.is_none_or(|before| before.row.is_none()), "{}: it is not new", T::NAME);
    }

    /// Stages a delete.
    pub(super) fn delete(&mut self, key: T::Key) {
        if let Some(slot) = self.slots.get_mut(&key) {
            assert!(!T::STRICT || slot.row.is_some(), "{}: {key:?} is deleted twice", T::NAME);
            slot.row = None;
            slot.written = true;
            return;
        }
        let base = if T::STRICT { Base::Present } else { Base::Unknown };
        self.slots.insert(key, Slot { base, row: None, written: true });
    }

    /// Rows it knows of.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Bytes of the rows that [`Overlay::absorb`] took in, as far as tables say.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    /// Forgets everything, and keeps the memory for the next batch.
    pub(super) fn clear(&mut self) {
        self.slots.clear();
        self.weight = 0;
    }

    /// Takes over what a batch wrote, leaving it empty; `told` hears of every row that
    /// RocksDB will be told of or might have been. The number of those.
    ///
    /// A row that is gone and that RocksDB never had is forgotten: it cost nothing.
    pub(super) fn absorb(
        &mut self,
        batch: &mut Self,
        mut told: impl FnMut(&T::Key, Change),
    ) -> usize {
        let mut count = 0;
        for (key, slot) in batch.slots.drain() {
            if !slot.written {
                continue;
            }
            let is_nothing = slot.row.is_none() && slot.base == Base::Absent;
            let Some(before) = self.slots.get_mut(&key) else {
                if is_nothing {
                    continue;
                }
                count += 1;
                told(&key, Change::of(&slot));
                self.weight += slot.row.as_ref().map_or(0, T::weight);
                self.slots.insert(key, slot);
                continue;
            };
            count += 1;
            self.weight -= before.row.as_ref().map_or(0, T::weight);
            self.weight += slot.row.as_ref().map_or(0, T::weight);
            before.row = slot.row;
            told(&key, Change::of(before));
            if before.row.is_none() && before.base == Base::Absent {
                self.slots.remove(&key);
            }
        }
        count
    }

    /// The written rows after a key, in key order; `None` is a deleted one.
    pub(super) fn written_after(&self, after: Option<&T::Key>) -> BTreeMap<T::Key, Option<T::Row>> {
        let written = self.slots.iter().filter(|(_, slot)| slot.written);
        written
            .filter(|(key, _)| after.is_none_or(|after| *key > after))
            .map(|(key, slot)| (key.clone(), slot.row.clone()))
            .collect()
    }

    /// Puts what was written into a batch; the number of rows.
    pub(super) fn emit(
        &self,
        family: &impl AsColumnFamilyRef,
        key_scratch: &mut Vec<u8>,
        row_scratch: &mut Vec<u8>,
        batch: &mut WriteBatch,
    ) -> usize {
        let before = batch.len();
        let mut written: Vec<_> = self.slots.iter().filter(|(_, slot)| slot.written).collect();
        // In key order: the bytes of a batch depend on its rows only.
        written.sort_unstable_by_key(|(key, _)| *key);
        for (key, slot) in written {
            key_scratch.clear();
            T::put_key(key, key_scratch);
            let had = slot.base != Base::Absent;
            let Some(row) = &slot.row else {
                match (had, T::STRICT) {
                    (false, _) => {}
                    (true, true) => batch.single_delete_cf(family, &key_scratch),
                    (true, false) => batch.delete_cf(family, &key_scratch),
                }
                continue;
            };
            row_scratch.clear();
            T::put_row(row, row_scratch);
            // A strict row that was deleted and put again: its first put must meet a
            // deletion before the second one comes.
            if T::STRICT && slot.base == Base::Present {
                batch.single_delete_cf(family, &key_scratch);
            }
            batch.put_cf(family, &key_scratch, &row_scratch);
        }
        batch.len() - before
    }

    /// Keys whose presence in the store was assumed, not read: `(key, present)`.
    #[cfg(debug_assertions)]
    pub(super) fn assumed(&self) -> impl Iterator<Item = (&T::Key, bool)> {
        let is_assumed = |slot: &Slot<T::Row>| T::STRICT || slot.base == Base::Absent;
        let written = self.slots.iter().filter(move |(_, slot)| slot.written && is_assumed(slot));
        written.map(|(key, slot)| (key, slot.base == Base::Present))
    }
}
