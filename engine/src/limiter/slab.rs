//! Records at small indices that stay the same while the record lives.
//!
//! Must always hold: an index is used only while its record exists (except with [`Slab::get`],
//! whose caller can tell records apart); a stale index panics (or, if its place was reused, breaks
//! an invariant that `check` names). Indices are reused in a fixed order: the same inputs give the
//! same indices.

use std::{fmt, hash, marker::PhantomData, num::NonZeroU32, ops};

/// Index of a `T`. 4 bytes, also as an `Option`.
pub(super) struct Index<T> {
    /// Place in the slab plus one.
    raw: NonZeroU32,
    of: PhantomData<fn() -> T>,
}

impl<T> Index<T> {
    fn of_place(place: usize) -> Self {
        let raw = u32::try_from(place + 1).ok().and_then(NonZeroU32::new);
        Self { raw: raw.expect("a slab holds fewer than 2^32 records"), of: PhantomData }
    }

    fn place(self) -> usize {
        self.raw.get() as usize - 1
    }
}

impl<T> Clone for Index<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Index<T> {}

impl<T> PartialEq for Index<T> {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}

impl<T> Eq for Index<T> {}

impl<T> PartialOrd for Index<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Index<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.raw.cmp(&other.raw)
    }
}

impl<T> hash::Hash for Index<T> {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.raw.hash(state);
    }
}

impl<T> fmt::Debug for Index<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.place())
    }
}

/// The records.
#[derive(Debug)]
pub(super) struct Slab<T> {
    places: Vec<Option<T>>,
    free: Vec<Index<T>>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    #[inline]
    pub(super) fn insert(&mut self, record: T) -> Index<T> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            Index::of_place(self.places.len() - 1)
        });
        self.places[index.place()] = Some(record);
        index
    }

    #[inline]
    pub(super) fn remove(&mut self, index: Index<T>) -> T {
        let record = self.places[index.place()].take().expect("removed twice from a slab");
        self.free.push(index);
        record
    }

    /// The record that is at an index now, if any: it may be a different one than before.
    pub(super) fn get(&self, index: Index<T>) -> Option<&T> {
        self.places.get(index.place())?.as_ref()
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Index<T>, &T)> {
        let places = self.places.iter().enumerate();
        places.filter_map(|(place, record)| Some((Index::of_place(place), record.as_ref()?)))
    }
}

impl<T> ops::Index<Index<T>> for Slab<T> {
    type Output = T;

    #[inline]
    fn index(&self, index: Index<T>) -> &T {
        self.places[index.place()].as_ref().expect("an index outlived its record")
    }
}

impl<T> ops::IndexMut<Index<T>> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, index: Index<T>) -> &mut T {
        self.places[index.place()].as_mut().expect("an index outlived its record")
    }
}
