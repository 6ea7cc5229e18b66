//! The branch that is polled on this thread, and its attempt.
//!
//! Must always hold: the previous value is restored when a poll ends, also by a panic.

use std::cell::Cell;

/// A branch of an attempt: its index in the attempt's list of branches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BranchId(pub(super) usize);

impl BranchId {
    /// The handler's own future.
    pub(super) const ROOT: Self = Self(0);
}

/// The code that is being polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Polled {
    /// No handler.
    Outside,
    /// A branch of the attempt whose slot has this address.
    Branch { slot: usize, branch: BranchId },
    /// A step of the handler.
    Step,
}

thread_local! {
    static POLLED: Cell<Polled> = const { Cell::new(Polled::Outside) };
}

/// The code that is being polled on this thread.
pub(super) fn polled() -> Polled {
    POLLED.get()
}

/// Restores the previous value when it is dropped.
pub(super) struct Entered {
    before: Polled,
}

/// Sets the polled code of this thread until the result is dropped.
pub(super) fn enter(polled: Polled) -> Entered {
    Entered { before: POLLED.replace(polled) }
}

impl Drop for Entered {
    fn drop(&mut self) {
        POLLED.set(self.before);
    }
}
