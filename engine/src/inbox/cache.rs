//! How changes of the inbox rows update the cache: enqueue, removal, yield, and handing out the
//! head.
//!
//! Owns: the cases of each change, one branch per case. Must always hold: a key that is not kept
//! is above the anchor afterwards. Must not know: how scans are merged.

use forebay_messages::EntryKey;

use super::{Inbox, refill::Refill};

impl Inbox {
    /// Reports that a row was stored (after its commit).
    ///
    /// A known row changes nothing: a scan may have returned it before its notification arrived,
    /// and it may even be handed out by now. The partition stores a row under the same key again
    /// only after reporting its removal, or together with it (a yield).
    pub fn enqueue(&mut self, key: EntryKey) {
        if self.is_dispatched(key) {
            return;
        }
        if self.covers(key) {
            self.insert_covered(key);
            return;
        }
        let full = self.is_full();
        match &mut self.refill {
            // The scan's snapshot may or may not contain it.
            Refill::InFlight(flight) => flight.overlay.add(key),
            Refill::Standby if self.complete && !full => {
                self.make_room();
                self.items.push_back(key);
                self.anchor = Some(key);
            }
            // The next refill discovers it.
            Refill::Standby => self.complete = false,
        }
    }

    /// Compares with the anchor, not with the last cached key: once the last cached key is
    /// consumed, keys between the two would be lost.
    fn insert_covered(&mut self, key: EntryKey) {
        let Err(index) = self.items.binary_search(&key) else {
            return;
        };
        if !self.is_full() {
            self.make_room();
            self.items.insert(index, key);
            return;
        }
        if index < self.items.len() {
            self.items.pop_back();
            self.items.insert(index, key);
        }
        // Everything above the last cached key is undiscovered again, and a running scan began
        // above it.
        self.anchor = self.items.back().copied();
        self.complete = false;
        self.cancel_refill();
    }

    /// Reports that a row was removed (after its commit). This also confirms a decision: leaving
    /// the handed-out keys is a removal like any other, because a running scan may still return the
    /// row.
    pub fn remove(&mut self, key: EntryKey) {
        if let Ok(index) = self.items.binary_search(&key) {
            self.items.remove(index);
            return;
        }
        if let Ok(index) = self.dispatched.binary_search(&key) {
            self.dispatched.remove(index);
        }
        if let Refill::InFlight(flight) = &mut self.refill
            && flight.start_anchor.is_none_or(|anchor| key > anchor)
        {
            flight.overlay.tombstone(key);
        }
    }

    /// Reports that a handed-out key stays in the inbox: a removal followed by an enqueue. Returns
    /// whether it was handed out; otherwise nothing changes.
    pub fn yield_back(&mut self, key: EntryKey) -> bool {
        let was_dispatched = self.is_dispatched(key);
        if was_dispatched {
            self.remove(key);
            self.enqueue(key);
        }
        was_dispatched
    }

    /// Hands out the head. It counts as dispatched until [`Self::remove`] or [`Self::yield_back`].
    pub fn take_head(&mut self) -> Option<EntryKey> {
        let key = self.items.pop_front()?;
        match self.dispatched.binary_search(&key) {
            Ok(_) => panic!("{key:?} is cached and handed out"),
            Err(index) => self.dispatched.insert(index, key),
        }
        Some(key)
    }

    /// Grows by doubling, but never beyond the capacity: a million vqueues with one
    /// entry each hold one key each.
    pub(super) fn make_room(&mut self) {
        let len = self.items.len();
        if len == self.items.capacity() {
            let target = (len * 2).clamp(1, self.capacity);
            self.items.reserve_exact(target - len);
        }
    }
}
