//! Rows of one table that are not in RocksDB yet, and what is known of those that are
//! (see [`super::resident`]).
//!
//! Owns: the coalescing. A row that is written many times is written once; one that
//! was put and deleted is not written at all, where it is known that RocksDB has none.
//! And the journal of the batch that is being written: what each row was before it, so
//! that a batch that is dropped leaves nothing behind. Must always hold: a read sees
//! the last write.

use forebay_engine::machine::Map;
use rocksdb::{AsColumnFamilyRef, WriteBatch};

use super::tables::Table;

/// Rows that were only read, or are known to be gone, and are kept to save the next
/// look into RocksDB; with more, all of these are forgotten.
const CLEAN_MAX: usize = 4_096;

/// Whether RocksDB has a row, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    Unknown,
    Absent,
    Present,
}

#[derive(Clone)]
struct Slot<R> {
    base: Base,
    /// RocksDB is to be told of it; otherwise it says the same.
    written: bool,
    /// It was not `written` before the batch that touched it last.
    is_new: bool,
    /// The batch that touched it last.
    batch: u32,
    row: Option<R>,
}

/// How a row stands to RocksDB after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It is in memory only.
    Here,
    /// It was in memory only, and is gone.
    Gone,
    /// RocksDB has it, or may have it, in another state.
    Differs,
}

/// What a row was before a batch touched it; `None`: nothing was known of it.
type Before<T> = (<T as Table>::Key, Option<Slot<<T as Table>::Row>>);

/// Rows of one table.
pub(super) struct Overlay<T: Table> {
    slots: Map<T::Key, Slot<T::Row>>,
    /// Bytes of the rows, as far as tables say.
    weight: usize,
    /// Slots that are not `written`.
    clean: usize,
    /// The batch that is being written.
    batch: u32,
    /// Its rows as they were when it touched them first.
    journal: Vec<Before<T>>,
    /// Rows that it changes: those that came and went with it do not count.
    changed: usize,
}

impl<T: Table> Default for Overlay<T> {
    fn default() -> Self {
        Self {
            slots: Map::default(),
            weight: 0,
            clean: 0,
            // Not that of a slot that was only read.
            batch: 1,
            journal: Vec::new(),
            changed: 0,
        }
    }
}

fn weight<T: Table>(row: Option<&T::Row>) -> usize {
    row.map_or(0, T::weight)
}

impl<T: Table> Overlay<T> {
    /// What is known of a row; `None`: nothing.
    pub(super) fn find(&self, key: &T::Key) -> Option<Option<&T::Row>> {
        self.slots.get(key).map(|slot| slot.row.as_ref())
    }

    /// Remembers what was read from the store.
    pub(super) fn remember(&mut self, key: T::Key, row: Option<T::Row>) {
        let base = if row.is_some() { Base::Present } else { Base::Absent };
        self.weight += weight::<T>(row.as_ref());
        self.clean += 1;
        let slot = Slot { base, written: false, is_new: false, batch: 0, row };
        let before = self.slots.insert(key, slot);
        assert!(before.is_none(), "{}: what is known was read", T::NAME);
    }

    /// Puts a row.
    pub(super) fn put(&mut self, key: T::Key, row: T::Row) -> Change {
        let base = if T::STRICT { Base::Absent } else { Base::Unknown };
        self.write(key, base, Some(row))
    }

    /// Puts a row where none is, here or in the store.
    pub(super) fn put_new(&mut self, key: T::Key, row: T::Row) -> Change {
        let slot = self.slots.get(&key);
        assert!(slot.is_none_or(|slot| slot.row.is_none()), "{}: it is not new", T::NAME);
        self.write(key, Base::Absent, Some(row))
    }

    /// Deletes a row.
    pub(super) fn delete(&mut self, key: T::Key) -> Change {
        let base = if T::STRICT { Base::Present } else { Base::Unknown };
        let change = self.write(key.clone(), base, None);
        if change == Change::Gone {
            self.forget(&key);
        }
        change
    }

    /// Writes a row, `base` being what is said of RocksDB if nothing is known.
    fn write(&mut self, key: T::Key, base: Base, row: Option<T::Row>) -> Change {
        self.weight += weight::<T>(row.as_ref());
        let is_put = row.is_some();
        let Some(slot) = self.slots.get_mut(&key) else {
            self.changed += 1;
            let slot = Slot { base, written: true, is_new: true, batch: self.batch, row };
            self.slots.insert(key.clone(), slot);
            self.journal.push((key, None));
            return Change::of(base, is_put);
        };
        let fits = !T::STRICT || slot.row.is_some() != is_put;
        assert!(fits, "{}: {key:?} is {} twice", T::NAME, if is_put { "put" } else { "deleted" });
        self.weight -= weight::<T>(slot.row.as_ref());
        let (base, was_written) = (slot.base, slot.written);
        let before = std::mem::replace(&mut slot.row, row);
        if slot.batch != self.batch {
            let (is_new, batch) = (slot.is_new, slot.batch);
            let before = Slot { base, written: was_written, is_new, batch, row: before };
            slot.batch = self.batch;
            slot.is_new = !was_written;
            self.changed += 1;
            self.journal.push((key, Some(before)));
        } else if !was_written && slot.is_new {
            // It came and went with this batch, and comes back.
            self.changed += 1;
        }
        slot.written = true;
        self.clean -= usize::from(!was_written);
        Change::of(base, is_put)
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
        let Some(slot) = self.slots.get_mut(key) else { return Err(change) };
        if slot.row.is_none() {
            return Ok(None);
        }
        if slot.batch != self.batch {
            self.journal.push((key.clone(), Some(slot.clone())));
            slot.batch = self.batch;
            slot.is_new = !slot.written;
            self.changed += 1;
        }
        self.clean -= usize::from(!slot.written);
        slot.written = true;
        Ok(slot.row.as_mut().map(|row| {
            self.weight -= T::weight(row);
            let changed = change(row);
            self.weight += T::weight(row);
            changed
        }))
    }

    /// A row is gone of which RocksDB knows nothing.
    fn forget(&mut self, key: &T::Key) {
        if !T::COMES_BACK {
            let slot = self.slots.remove(key).expect("it was written just now");
            self.changed -= usize::from(slot.is_new);
            return;
        }
        let slot = self.slots.get_mut(key).expect("it was written just now");
        self.changed -= usize::from(slot.is_new);
        slot.written = false;
        self.clean += 1;
    }

    /// Rows that RocksDB is to be told of, and those that are only known.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Bytes of the rows, as far as tables say.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    /// RocksDB has everything: nothing is kept but memory for the next rows.
    pub(super) fn clear(&mut self) {
        assert!(self.journal.is_empty(), "{}: no batch is being written", T::NAME);
        self.slots.clear();
        (self.weight, self.clean) = (0, 0);
    }

    /// What the batch wrote stays; how many rows that changed.
    pub(super) fn commit(&mut self) -> usize {
        if self.clean > CLEAN_MAX {
            self.slots.retain(|_, slot| slot.written);
            self.recount();
        }
        self.journal.clear();
        self.batch = self.batch.wrapping_add(1).max(1);
        std::mem::take(&mut self.changed)
    }

    /// What the batch wrote goes; whether it wrote anything.
    pub(super) fn roll_back(&mut self) -> bool {
        if self.journal.is_empty() {
            return false;
        }
        for (key, before) in self.journal.drain(..).rev() {
            match before {
                Some(slot) => self.slots.insert(key, slot),
                None => self.slots.remove(&key),
            };
        }
        self.recount();
        self.changed = 0;
        true
    }

    fn recount(&mut self) {
        let weights = self.slots.values().map(|slot| weight::<T>(slot.row.as_ref()));
        self.weight = weights.sum();
        self.clean = self.slots.values().filter(|slot| !slot.written).count();
    }

    /// What is written, and how it stands to RocksDB.
    pub(super) fn changes(&self) -> impl Iterator<Item = (&T::Key, Change)> {
        let written = self.slots.iter().filter(|(_, slot)| slot.written);
        written.map(|(key, slot)| (key, Change::of(slot.base, slot.row.is_some())))
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
    fn written(&self) -> Vec<(&T::Key, &Slot<T::Row>)> {
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
        }
        batch.len() - before
    }
}

impl Change {
    fn of(base: Base, is_there: bool) -> Self {
        match (base, is_there) {
            (Base::Absent, true) => Self::Here,
            (Base::Absent, false) => Self::Gone,
            (Base::Present | Base::Unknown, _) => Self::Differs,
        }
    }
}
