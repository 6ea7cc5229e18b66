//! The branch that is polled on this thread, and its attempt.
//!
//! Must always hold: the previous place is restored when a poll ends, also by a panic.

use std::cell::Cell;

/// A branch of an attempt: its index in the attempt's list of branches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BranchId(pub(super) usize);

impl BranchId {
    /// The handler's own future.
    pub(super) const ROOT: Self = Self(0);
}

/// Which code is polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// No handler.
    Outside,
    /// A branch of the attempt whose slot has this address.
    Branch { slot: usize, branch: BranchId },
    /// A step of the handler.
    Step,
}

thread_local! {
    static PLACE: Cell<Place> = const { Cell::new(Place::Outside) };
}

/// The place that is polled on this thread.
pub(super) fn place() -> Place {
    PLACE.get()
}

/// Restores the previous place when it is dropped.
pub(super) struct Entered {
    before: Place,
}

/// Sets the place of this thread until the result is dropped.
pub(super) fn enter(place: Place) -> Entered {
    Entered { before: PLACE.replace(place) }
}

impl Drop for Entered {
    fn drop(&mut self) {
        PLACE.set(self.before);
    }
}
