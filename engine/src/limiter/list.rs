//! First-in-first-out lists threaded through the records of a slab: no allocation, removal from any
//! position in constant time.
//!
//! Must always hold: a record is in at most one list at a time; its owner knows which one (the
//! links do not say).

use super::slab::{Index, Slab};

/// The links that a record carries.
#[derive(Debug)]
pub(super) struct Links<T> {
    prev: Option<Index<T>>,
    next: Option<Index<T>>,
}

impl<T> Default for Links<T> {
    fn default() -> Self {
        Self { prev: None, next: None }
    }
}

/// A record that can be in a list.
pub(super) trait Linked: Sized {
    fn links(&self) -> &Links<Self>;
    fn links_mut(&mut self) -> &mut Links<Self>;
}

/// A list: its ends and its length.
#[derive(Debug)]
pub(super) struct List<T> {
    front: Option<Index<T>>,
    back: Option<Index<T>>,
    len: u32,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self { front: None, back: None, len: 0 }
    }
}

impl<T: Linked> List<T> {
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.front.is_none()
    }

    pub(super) fn front(&self) -> Option<Index<T>> {
        self.front
    }

    pub(super) fn after(&self, slab: &Slab<T>, index: Index<T>) -> Option<Index<T>> {
        slab[index].links().next
    }

    pub(super) fn push_back(&mut self, slab: &mut Slab<T>, index: Index<T>) {
        *slab[index].links_mut() = Links { prev: self.back, next: None };
        match self.back.replace(index) {
            Some(back) => slab[back].links_mut().next = Some(index),
            None => self.front = Some(index),
        }
        self.len += 1;
    }

    pub(super) fn push_front(&mut self, slab: &mut Slab<T>, index: Index<T>) {
        *slab[index].links_mut() = Links { prev: None, next: self.front };
        match self.front.replace(index) {
            Some(front) => slab[front].links_mut().prev = Some(index),
            None => self.back = Some(index),
        }
        self.len += 1;
    }

    /// Removes a record of this list.
    pub(super) fn remove(&mut self, slab: &mut Slab<T>, index: Index<T>) {
        let Links { prev, next } = std::mem::take(slab[index].links_mut());
        match prev {
            Some(prev) => slab[prev].links_mut().next = next,
            None => self.front = next,
        }
        match next {
            Some(next) => slab[next].links_mut().prev = prev,
            None => self.back = prev,
        }
        self.len = self.len.checked_sub(1).expect("removed from an empty list");
    }

    pub(super) fn iter<'a>(&self, slab: &'a Slab<T>) -> impl Iterator<Item = Index<T>> + 'a {
        let mut at = self.front;
        std::iter::from_fn(move || {
            let index = at?;
            at = slab[index].links().next;
            Some(index)
        })
    }
}
