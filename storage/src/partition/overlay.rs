//! Rows of one table that are not in RocksDB yet, and the known state of rows in RocksDB (see
//! [`super::resident`]).
//!
//! Owns: the coalescing. A row written many times is written once; a row that was put and deleted
//! is not written at all if RocksDB is known to have none. Also the journal of the current batch:
//! each row's previous state, so that a dropped batch leaves nothing behind. Must always hold: a
//! read sees the last write.

use std::{collections::BTreeSet, ops::Bound};

use forebay_engine::machine::{Map, MapEntry};
use rocksdb::{AsColumnFamilyRef, WriteBatch};

use super::tables::Table;

/// Maximum number of rows that were only read or are known to be absent, kept to save the next
/// lookup in RocksDB. Above it, all of them are dropped. Equal to the number of vqueues that stay
/// idle.
const CLEAN_MAX: usize = 8_192;

/// What is known about a row in RocksDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    Unknown,
    Absent,
    Present,
}

struct Slot<T: Table> {
    base: Base,
    /// Whether the row must be written to RocksDB; otherwise RocksDB agrees.
    written: bool,
    /// It was not `written` before the last batch that touched it.
    is_new: bool,
    /// The last batch that touched it.
    batch: u32,
    row: Option<T::Row>,
    /// Empty without a row.
    attached: T::Attached,
}

impl<T: Table> Slot<T> {
    fn new(base: Base, written: bool, batch: u32, row: Option<T::Row>) -> Self {
        Self { base, written, is_new: written, batch, row, attached: T::Attached::default() }
    }

    /// Bytes of the row and its attached rows, as reported by the table.
    fn weight(&self) -> usize {
        self.row.as_ref().map_or(0, T::weight) + T::weight_attached(&self.attached)
    }
}

/// The current batch.
struct Batch<T: Table> {
    number: u32,
    /// Its rows before it first touched them; `None`: nothing was known.
    journal: Vec<Before<T>>,
    /// Number of changed rows; rows created and deleted within the batch do not count.
    changed: usize,
}

type Before<T> = (<T as Table>::Key, Option<Slot<T>>);

impl<T: Table> Batch<T> {
    /// Writes a row about which nothing was known.
    fn write_new(&mut self, key: T::Key, base: Base, row: Option<T::Row>) -> Slot<T> {
        self.changed += 1;
        self.journal.push((key, None));
        Slot::new(base, true, self.number, row)
    }

    /// Writes a row.
    fn write(&mut self, key: &T::Key, slot: &mut Slot<T>, row: Option<T::Row>) {
        let before = std::mem::replace(&mut slot.row, row);
        if slot.batch != self.number {
            self.keep(key, slot, before);
        } else if !slot.written && slot.is_new {
            // It was created and deleted within this batch, and is created again.
            self.changed += 1;
        }
        slot.written = true;
    }

    /// Keeps the previous state of a slot that the batch touches for the first time.
    #[inline]
    fn keep(&mut self, key: &T::Key, slot: &mut Slot<T>, row: Option<T::Row>) {
        let attached = slot.attached.clone();
        self.journal.push((key.clone(), Some(Slot { row, attached, ..*slot })));
        slot.is_new = !slot.written;
        slot.batch = self.number;
        self.changed += 1;
    }

    /// Changes a row and its attached rows in place, if present.
    fn change<R>(
        &mut self,
        key: &T::Key,
        slot: &mut Slot<T>,
        (clean, weight): (&mut usize, &mut usize),
        change: impl FnOnce(&mut T::Row, &mut T::Attached) -> R,
    ) -> Option<R> {
        slot.row.as_ref()?;
        if slot.batch != self.number {
            *clean -= usize::from(!slot.written);
            let before = slot.row.clone();
            self.keep(key, slot, before);
            slot.written = true;
        }
        assert!(slot.written, "{}: a present row touched by the batch", T::NAME);
        *weight -= slot.weight();
        let changed = slot.row.as_mut().map(|row| change(row, &mut slot.attached));
        *weight += slot.weight();
        changed
    }
}

/// Rows to be written to RocksDB, in key order; without a row, the deletion of one.
pub(super) type Written<'a, T> =
    Box<dyn Iterator<Item = (&'a <T as Table>::Key, Option<&'a <T as Table>::Row>)> + 'a>;

/// Rows of one table.
pub(super) struct Overlay<T: Table> {
    slots: Map<T::Key, Slot<T>>,
    /// Of an ordered table: the keys of all written rows, and perhaps others.
    order: BTreeSet<T::Key>,
    batch: Batch<T>,
    /// Bytes of the rows, as reported by the table.
    weight: usize,
    /// Number of slots that are not `written`.
    clean: usize,
    /// Keys read for this batch, dropped with it.
    read: Vec<T::Key>,
    /// Number of rows that RocksDB has or may have and that were deleted since the last flush.
    tombstones: usize,
}

impl<T: Table> Default for Overlay<T> {
    fn default() -> Self {
        // No slot that was only read belongs to batch 1.
        let batch = Batch { number: 1, journal: Vec::new(), changed: 0 };
        let (slots, order, read) = (Map::default(), BTreeSet::new(), Vec::new());
        Self { slots, order, batch, weight: 0, clean: 0, read, tombstones: 0 }
    }
}

impl<T: Table> Overlay<T> {
    /// What is known about a row; `None`: nothing.
    pub(super) fn find(&self, key: &T::Key) -> Option<Option<&T::Row>> {
        self.slots.get(key).map(|slot| slot.row.as_ref())
    }

    /// Remembers a row read from the store.
    pub(super) fn remember(&mut self, key: T::Key, row: Option<T::Row>) {
        let base = if row.is_some() { Base::Present } else { Base::Absent };
        self.weight += row.as_ref().map_or(0, T::weight);
        self.clean += 1;
        if !T::REUSES_KEYS {
            self.read.push(key.clone());
        }
        let slot = Slot::new(base, false, 0, row);
        let before = self.slots.insert(key, slot);
        assert!(before.is_none(), "{}: a known row was read", T::NAME);
    }

    /// Puts a row.
    pub(super) fn put(&mut self, key: T::Key, row: T::Row) {
        let base = if T::STRICT { Base::Absent } else { Base::Unknown };
        self.put_over(base, !T::STRICT, key, row);
    }

    /// Puts a row where none exists, here or in the store.
    pub(super) fn put_new(&mut self, key: T::Key, row: T::Row) {
        self.put_over(Base::Absent, false, key, row);
    }

    /// Puts a row; `base` is what to assume about RocksDB if nothing is known.
    fn put_over(&mut self, base: Base, may_replace: bool, key: T::Key, row: T::Row) {
        self.weight += T::weight(&row);
        self.note(&key);
        match self.slots.entry(key) {
            MapEntry::Vacant(place) => {
                let slot = self.batch.write_new(place.key().clone(), base, Some(row));
                place.insert(slot);
            }
            MapEntry::Occupied(mut place) => {
                let is_there = place.get().row.is_some();
                assert!(may_replace || !is_there, "{}: {:?} is put twice", T::NAME, place.key());
                let (key, slot) = (place.key().clone(), place.get_mut());
                self.weight -= slot.row.as_ref().map_or(0, T::weight);
                self.clean -= usize::from(!slot.written);
                self.batch.write(&key, slot, Some(row));
            }
        }
    }

    /// Deletes a row and returns its attached rows. If RocksDB does not have it, it is simply
    /// dropped at no cost.
    pub(super) fn delete(&mut self, key: T::Key) -> T::Attached {
        self.note(&key);
        let mut place = match self.slots.entry(key) {
            MapEntry::Occupied(place) => place,
            MapEntry::Vacant(place) => {
                let base = if T::STRICT { Base::Present } else { Base::Unknown };
                let slot = self.batch.write_new(place.key().clone(), base, None);
                place.insert(slot);
                self.tombstones += 1;
                return T::Attached::default();
            }
        };
        let is_there = place.get().row.is_some();
        assert!(!T::STRICT || is_there, "{}: {:?} is deleted twice", T::NAME, place.key());
        let (key, slot) = (place.key().clone(), place.get_mut());
        self.weight -= slot.weight();
        self.clean -= usize::from(!slot.written);
        self.batch.write(&key, slot, None);
        let attached = std::mem::take(&mut slot.attached);
        if slot.base == Base::Absent {
            self.batch.changed -= usize::from(slot.is_new);
            if T::REUSES_KEYS {
                slot.written = false;
                self.clean += 1;
            } else {
                place.remove();
                if T::ORDERED {
                    self.order.remove(&key);
                }
            }
        } else {
            self.tombstones += 1;
        }
        attached
    }

    /// Changes a row in place, if present.
    ///
    /// # Errors
    /// Returns `change` if nothing is known about the row.
    pub(super) fn change<R, F: FnOnce(&mut T::Row) -> R>(
        &mut self,
        key: &T::Key,
        change: F,
    ) -> Result<Option<R>, F> {
        match self.slots.get_mut(key) {
            None => Err(change),
            Some(slot) => {
                assert!(!T::ORDERED, "{}: rows of ordered tables are put", T::NAME);
                let (batch, counts) = (&mut self.batch, (&mut self.clean, &mut self.weight));
                Ok(batch.change(key, slot, counts, |row, _| change(row)))
            }
        }
    }

    /// The attached rows of a row in memory.
    pub(super) fn attached(&self, key: &T::Key) -> Option<&T::Attached> {
        self.slots.get(key).filter(|slot| slot.row.is_some()).map(|slot| &slot.attached)
    }

    /// Changes the attached rows of a row, if that is in memory; returns whether it is.
    pub(super) fn change_attached(
        &mut self,
        key: &T::Key,
        change: impl FnOnce(&mut T::Attached),
    ) -> bool {
        let Some(slot) = self.slots.get_mut(key) else { return false };
        let counts = (&mut self.clean, &mut self.weight);
        self.batch.change(key, slot, counts, |_, attached| change(attached)).is_some()
    }

    /// Number of rows to write to RocksDB.
    pub(super) fn written_len(&self) -> usize {
        self.slots.len() - self.clean
    }

    /// Number of rows that are only known.
    #[cfg(test)]
    pub(super) fn clean_len(&self) -> usize {
        self.clean
    }

    /// Bytes of the rows, as reported by the table.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    /// Number of rows that RocksDB has or may have and that were deleted since the last flush.
    pub(super) fn tombstones(&self) -> usize {
        self.tombstones
    }

    /// The store is being flushed.
    pub(super) fn flushed(&mut self) {
        self.tombstones = 0;
    }

    /// RocksDB has everything: drop all rows, keep the allocation.
    pub(super) fn clear(&mut self) {
        assert!(self.batch.journal.is_empty(), "{}: no batch is being written", T::NAME);
        self.slots.clear();
        self.order.clear();
        (self.weight, self.clean) = (0, 0);
    }

    /// Keeps the batch's writes; returns the number of changed rows.
    pub(super) fn commit(&mut self) -> usize {
        self.forget_read();
        let batch = &mut self.batch;
        batch.journal.clear();
        batch.number = batch.number.wrapping_add(1).max(1);
        std::mem::take(&mut batch.changed)
    }

    /// Rows that were only read may be large, and are mostly useless to the next batch.
    fn forget_read(&mut self) {
        for key in self.read.drain(..) {
            if let MapEntry::Occupied(place) = self.slots.entry(key)
                && !place.get().written
            {
                self.clean -= 1;
                self.weight -= place.remove().weight();
            }
        }
        if self.clean > CLEAN_MAX {
            self.slots.retain(|_, slot| slot.written);
            self.recount();
        }
    }

    /// Drops the batch's writes; returns whether there were any.
    pub(super) fn roll_back(&mut self) -> bool {
        if self.batch.journal.is_empty() {
            self.forget_read();
            return false;
        }
        for (key, before) in self.batch.journal.drain(..).rev() {
            match before {
                Some(slot) => {
                    if T::ORDERED {
                        self.order.insert(key.clone());
                    }
                    self.slots.insert(key, slot)
                }
                None => {
                    if T::ORDERED {
                        self.order.remove(&key);
                    }
                    self.slots.remove(&key)
                }
            };
        }
        self.recount();
        self.forget_read();
        self.batch.changed = 0;
        true
    }

    fn recount(&mut self) {
        self.weight = self.slots.values().map(Slot::weight).sum();
        self.clean = self.slots.values().filter(|slot| !slot.written).count();
    }

    /// Keys of the written rows.
    pub(super) fn written_keys(&self) -> impl Iterator<Item = &T::Key> {
        self.slots.iter().filter(|(_, slot)| slot.written).map(|(key, _)| key)
    }

    /// The written rows after a key, in key order; `None` is a deleted one.
    pub(super) fn written_after<'a>(&'a self, after: Option<&T::Key>) -> Written<'a, T> {
        if T::ORDERED {
            let after = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.clone()));
            let keys = self.order.range((after, Bound::Unbounded));
            let written = keys.filter_map(|key| {
                self.slots.get(key).filter(|slot| slot.written).map(|slot| (key, slot.row.as_ref()))
            });
            return Box::new(written);
        }
        let mut written = self.written();
        written.retain(|(key, _)| after.is_none_or(|after| *key > after));
        Box::new(written.into_iter().map(|(key, slot)| (key, slot.row.as_ref())))
    }

    /// Records the key of a row of an ordered table.
    fn note(&mut self, key: &T::Key) {
        if T::ORDERED && !self.order.contains(key) {
            self.order.insert(key.clone());
        }
    }

    /// The written rows, in key order.
    fn written(&self) -> Vec<(&T::Key, &Slot<T>)> {
        let mut written: Vec<_> = self.slots.iter().filter(|(_, slot)| slot.written).collect();
        written.sort_unstable_by_key(|(key, _)| *key);
        written
    }

    /// Puts the written rows into a batch for RocksDB; returns their number.
    pub(super) fn emit(
        &self,
        family: &impl AsColumnFamilyRef,
        key_scratch: &mut Vec<u8>,
        row_scratch: &mut Vec<u8>,
        batch: &mut WriteBatch,
    ) -> usize {
        let before = batch.len();
        // In key order, so that the bytes of a batch depend only on its rows.
        for (key, slot) in self.written() {
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
            // A strict row that was deleted and put again: its first put must meet a deletion
            // before the second put follows.
            if T::STRICT && slot.base == Base::Present {
                batch.single_delete_cf(family, &key_scratch);
            }
            batch.put_cf(family, &key_scratch, &row_scratch);
            T::put_attached(key, row, &slot.attached, &mut |key, row| {
                batch.put_cf(family, key, row)
            });
        }
        batch.len() - before
    }
}
