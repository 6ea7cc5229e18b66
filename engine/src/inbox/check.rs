//! The inbox's invariants, checked after every step in debug builds and simulation.

use super::{Inbox, overlay::Change};

impl Inbox {
    /// Panics when an invariant is broken, saying which.
    pub fn check(&self) {
        assert!(self.items.len() <= self.capacity, "the cache exceeds its capacity");
        assert!(self.items.iter().is_sorted_by(|a, b| a < b), "the cache is not sorted");
        assert!(self.dispatched.iter().is_sorted_by(|a, b| a < b), "dispatched is not sorted");
        assert!(
            self.items.back().is_none_or(|back| self.covers(*back)),
            "a cached key lies above the anchor"
        );
        for key in &self.items {
            assert!(!self.is_dispatched(*key), "{key:?} is cached and handed out");
        }
        let Some(flight) = self.in_flight() else {
            return;
        };
        assert!(!self.complete, "complete, yet a refill is in flight");
        assert_eq!(flight.start_anchor, self.anchor, "the anchor moved under a refill");
        assert_eq!(flight.id, self.refill_last, "a superseded refill is in flight");
        flight.overlay.check(flight.start_anchor);
        for (key, change) in flight.overlay.changes() {
            let is_added = *change == Change::Add;
            assert!(!(is_added && self.is_dispatched(*key)), "{key:?} is added and handed out");
        }
    }
}
