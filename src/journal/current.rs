//! Which branch of which attempt is polled on this thread.
//!
//! Must always hold: what was there before is there again when a poll ends, also by a panic.

use std::cell::Cell;

/// A branch of an attempt, by its place in the attempt's list of branches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BranchId(pub(super) usize);

impl BranchId {
    /// The handler's own future.
    pub(super) const ROOT: Self = Self(0);
}

/// What is polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// No handler.
    Outside,
    /// A branch of the attempt whose slot has this address.
    Branch { slot: usize, branch: BranchId },
    /// A step of it.
    Step,
}

thread_local! {
    static PLACE: Cell<Place> = const { Cell::new(Place::Outside) };
}

/// What is polled on this thread.
pub(super) fn place() -> Place {
    PLACE.get()
}

/// While this lives, the thread polls another place.
pub(super) struct Entered {
    before: Place,
}

/// Enters a place until the result is dropped.
pub(super) fn enter(place: Place) -> Entered {
    Entered { before: PLACE.replace(place) }
}

impl Drop for Entered {
    fn drop(&mut self) {
        PLACE.set(self.before);
    }
}
