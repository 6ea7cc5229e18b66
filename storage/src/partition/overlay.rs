//! Rows of one table that are not in RocksDB yet, and what is known of those that are
//! (see [`super::resident`]).
//!
//! Owns: the coalescing. A row that is written many times is written once; one that
//! was put and deleted is not written at all, where it is known that RocksDB has none.
//! And the journal of the batch that is being written: what each row was before it, so
//! that a batch that is dropped leaves nothing behind. Must always hold: a read sees
//! the last write.

use forebay_engine::machine::{Map, MapEntry};
use rocksdb::{AsColumnFamilyRef, WriteBatch};

use super::tables::Table;

/// Rows of a table that come back, which were only read or are gone: they are kept to
/// save the next look into RocksDB. With more, all of these are forgotten. As many as
/// vqueues stay idle.
const CLEAN_MAX: usize = 8_192;

/// Whether RocksDB has a row, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    Unknown,
    Absent,
    Present,
}

struct Slot<T: Table> {
    base: Base,
    /// RocksDB is to be told of it; otherwise it says the same.
    written: bool,
    /// It was not `written` before the batch that touched it last.
    is_new: bool,
    /// The batch that touched it last.
    batch: u32,
    row: Option<T::Row>,
    /// Empty without a row.
    beside: T::Beside,
}

impl<T: Table> Slot<T> {
    fn new(base: Base, written: bool, batch: u32, row: Option<T::Row>) -> Self {
        Self { base, written, is_new: written, batch, row, beside: T::Beside::default() }
    }

    /// Bytes of the row and what goes with it, as far as the table says.
    fn weight(&self) -> usize {
        self.row.as_ref().map_or(0, T::weight) + T::weight_beside(&self.beside)
    }
}

/// The batch that is being written.
struct Batch<T: Table> {
    number: u32,
    /// Its rows as they were when it touched them first; `None`: nothing was known.
    journal: Vec<Before<T>>,
    /// Rows that it changes: those that came and went with it do not count.
    changed: usize,
}

type Before<T> = (<T as Table>::Key, Option<Slot<T>>);

impl<T: Table> Batch<T> {
    /// Writes a row of which nothing was known.
    fn write_new(&mut self, key: T::Key, base: Base, row: Option<T::Row>) -> Slot<T> {
        self.changed += 1;
        self.journal.push((key, None));
        Slot::new(base, true, self.number, row)
    }

    /// Writes a row.
    fn write(&mut self, key: &T::Key, slot: &mut Slot<T>, row: Option<T::Row>) {
        let before = std::mem::replace(&mut slot.row, row);
        if slot.batch != self.number {
            let beside = slot.beside.clone();
            self.journal.push((key.clone(), Some(Slot { row: before, beside, ..*slot })));
            slot.is_new = !slot.written;
            slot.batch = self.number;
            self.changed += 1;
        } else if !slot.written && slot.is_new {
            // It came and went with this batch, and comes back.
            self.changed += 1;
        }
        slot.written = true;
    }

    /// Changes a row, and what goes with it, where they are, if they are there.
    fn change<R>(
        &mut self,
        key: &T::Key,
        slot: &mut Slot<T>,
        (clean, weight): (&mut usize, &mut usize),
        change: impl FnOnce(&mut T::Row, &mut T::Beside) -> R,
    ) -> Option<R> {
        let row = slot.row.as_ref()?;
        if slot.batch != self.number {
            // The copy stays, the row goes to the journal.
            let row = row.clone();
            *clean -= usize::from(!slot.written);
            self.write(key, slot, Some(row));
        }
        assert!(slot.written, "{}: a row that the batch touched and that is there", T::NAME);
        *weight -= slot.weight();
        let changed = slot.row.as_mut().map(|row| change(row, &mut slot.beside));
        *weight += slot.weight();
        changed
    }
}

/// Rows of one table.
pub(super) struct Overlay<T: Table> {
    slots: Map<T::Key, Slot<T>>,
    batch: Batch<T>,
    /// Bytes of the rows, as far as tables say.
    weight: usize,
    /// Slots that are not `written`.
    clean: usize,
    /// What was read for this batch, and is forgotten with it.
    read: Vec<T::Key>,
    /// Rows that RocksDB has or may have and that were deleted since the last flush.
    tombstones: usize,
}

impl<T: Table> Default for Overlay<T> {
    fn default() -> Self {
        // No slot that was only read is of batch 1.
        let batch = Batch { number: 1, journal: Vec::new(), changed: 0 };
        let (slots, read) = (Map::default(), Vec::new());
        Self { slots, batch, weight: 0, clean: 0, read, tombstones: 0 }
    }
}

impl<T: Table> Overlay<T> {
    /// What is known of a row; `None`: nothing.
    pub(super) fn find(&self, key: &T::Key) -> Option<Option<&T::Row>> {
        self.slots.get(key).map(|slot| slot.row.as_ref())
    }

    /// Remembers what was read from the store.
    pub(super) fn remember(&mut self, key: T::Key, row: Option<T::Row>) {
        let base = if row.is_some() { Base::Present } else { Base::Absent };
        self.weight += row.as_ref().map_or(0, T::weight);
        self.clean += 1;
        if !T::COMES_BACK {
            self.read.push(key.clone());
        }
        let slot = Slot::new(base, false, 0, row);
        let before = self.slots.insert(key, slot);
        assert!(before.is_none(), "{}: what is known was read", T::NAME);
    }

    /// Puts a row.
    pub(super) fn put(&mut self, key: T::Key, row: T::Row) {
        let base = if T::STRICT { Base::Absent } else { Base::Unknown };
        self.put_over(base, !T::STRICT, key, row);
    }

    /// Puts a row where none is, here or in the store.
    pub(super) fn put_new(&mut self, key: T::Key, row: T::Row) {
        self.put_over(Base::Absent, false, key, row);
    }

    /// Puts a row, `base` being what is said of RocksDB if nothing is known.
    fn put_over(&mut self, base: Base, may_replace: bool, key: T::Key, row: T::Row) {
        self.weight += T::weight(&row);
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

    /// Deletes a row; what went with it. If RocksDB knows nothing of it, it is forgotten: it
    /// cost nothing.
    pub(super) fn delete(&mut self, key: T::Key) -> T::Beside {
        let mut place = match self.slots.entry(key) {
            MapEntry::Occupied(place) => place,
            MapEntry::Vacant(place) => {
                let base = if T::STRICT { Base::Present } else { Base::Unknown };
                let slot = self.batch.write_new(place.key().clone(), base, None);
                place.insert(slot);
                self.tombstones += 1;
                return T::Beside::default();
            }
        };
        let is_there = place.get().row.is_some();
        assert!(!T::STRICT || is_there, "{}: {:?} is deleted twice", T::NAME, place.key());
        let (key, slot) = (place.key().clone(), place.get_mut());
        self.weight -= slot.weight();
        self.clean -= usize::from(!slot.written);
        self.batch.write(&key, slot, None);
        let beside = std::mem::take(&mut slot.beside);
        if slot.base == Base::Absent {
            self.batch.changed -= usize::from(slot.is_new);
            if T::COMES_BACK {
                slot.written = false;
                self.clean += 1;
            } else {
                place.remove();
            }
        } else {
            self.tombstones += 1;
        }
        beside
    }

    /// Changes a row where it is, if it is there.
    ///
    /// # Errors
    /// Gives `change` back when nothing is known of the row.
    pub(super) fn change<R, F: FnOnce(&mut T::Row) -> R>(
        &mut self,
        key: &T::Key,
        change: F,
    ) -> Result<Option<R>, F> {
        match self.slots.get_mut(key) {
            None => Err(change),
            Some(slot) => {
                let (batch, counts) = (&mut self.batch, (&mut self.clean, &mut self.weight));
                Ok(batch.change(key, slot, counts, |row, _| change(row)))
            }
        }
    }

    /// What goes with a row that is in memory.
    pub(super) fn beside(&self, key: &T::Key) -> Option<&T::Beside> {
        self.slots.get(key).filter(|slot| slot.row.is_some()).map(|slot| &slot.beside)
    }

    /// Changes what goes with a row, if that is in memory; whether it is.
    pub(super) fn change_beside(
        &mut self,
        key: &T::Key,
        change: impl FnOnce(&mut T::Beside),
    ) -> bool {
        let Some(slot) = self.slots.get_mut(key) else { return false };
        let counts = (&mut self.clean, &mut self.weight);
        self.batch.change(key, slot, counts, |_, beside| change(beside)).is_some()
    }

    /// Rows that RocksDB is to be told of.
    pub(super) fn written_len(&self) -> usize {
        self.slots.len() - self.clean
    }

    /// Rows that are only known.
    #[cfg(test)]
    pub(super) fn clean_len(&self) -> usize {
        self.clean
    }

    /// Bytes of the rows, as far as tables say.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    /// Rows that RocksDB has or may have and that were deleted since the last flush.
    pub(super) fn tombstones(&self) -> usize {
        self.tombstones
    }

    /// The store is being flushed.
    pub(super) fn flushed(&mut self) {
        self.tombstones = 0;
    }

    /// RocksDB has everything: nothing is kept but memory for the next rows.
    pub(super) fn clear(&mut self) {
        assert!(self.batch.journal.is_empty(), "{}: no batch is being written", T::NAME);
        self.slots.clear();
        (self.weight, self.clean) = (0, 0);
    }

    /// What the batch wrote stays; how many rows that changed.
    pub(super) fn commit(&mut self) -> usize {
        self.forget_read();
        let batch = &mut self.batch;
        batch.journal.clear();
        batch.number = batch.number.wrapping_add(1).max(1);
        std::mem::take(&mut batch.changed)
    }

    /// What was only read may be large, and mostly is of no use to the next batch.
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

    /// What the batch wrote goes; whether it wrote anything.
    pub(super) fn roll_back(&mut self) -> bool {
        if self.batch.journal.is_empty() {
            self.forget_read();
            return false;
        }
        for (key, before) in self.batch.journal.drain(..).rev() {
            match before {
                Some(slot) => self.slots.insert(key, slot),
                None => self.slots.remove(&key),
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

    /// Which rows are written.
    pub(super) fn written_keys(&self) -> impl Iterator<Item = &T::Key> {
        self.slots.iter().filter(|(_, slot)| slot.written).map(|(key, _)| key)
    }

    /// The written rows after a key, in key order; `None` is a deleted one.
    pub(super) fn written_after<'a>(
        &'a self,
        after: Option<&T::Key>,
    ) -> impl Iterator<Item = (&'a T::Key, Option<&'a T::Row>)> + use<'a, T> {
        let mut written = self.written();
        written.retain(|(key, _)| after.is_none_or(|after| *key > after));
        written.into_iter().map(|(key, slot)| (key, slot.row.as_ref()))
    }

    /// In key order.
    fn written(&self) -> Vec<(&T::Key, &Slot<T>)> {
        let mut written: Vec<_> = self.slots.iter().filter(|(_, slot)| slot.written).collect();
        written.sort_unstable_by_key(|(key, _)| *key);
        written
    }

    /// Puts what is written into a batch for RocksDB; the number of rows.
    pub(super) fn emit(
        &self,
        family: &impl AsColumnFamilyRef,
        key_scratch: &mut Vec<u8>,
        row_scratch: &mut Vec<u8>,
        batch: &mut WriteBatch,
    ) -> usize {
        let before = batch.len();
        // In key order: the bytes of a batch depend on its rows only.
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
            // A strict row that was deleted and put again: its first put must meet a
            // deletion before the second one comes.
            if T::STRICT && slot.base == Base::Present {
                batch.single_delete_cf(family, &key_scratch);
            }
            batch.put_cf(family, &key_scratch, &row_scratch);
            T::put_beside(key, row, &slot.beside, &mut |key, row| batch.put_cf(family, key, row));
        }
        batch.len() - before
    }
}
