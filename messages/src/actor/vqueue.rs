//! What a vqueue is told.

use crate::{
    EntryKey,
    actor::{Permits, RefillDone, RefillFailed},
};

/// A change of the inbox rows, told after the commit that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InboxChange {
    /// The row was put there (`NotifyEnqueued`).
    Enqueued(EntryKey),
    /// The row is gone (`NotifyRemoved`); also how a decision is confirmed.
    Removed(EntryKey),
}

/// What a vqueue is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VQueueMessage {
    /// Changes of the inbox rows, in commit order.
    Notify(Vec<InboxChange>),
    /// A decision was not applied although the row is still there: the entry is no
    /// longer dispatched and may be handed out again.
    DecisionVoid(EntryKey),
    /// The limiter granted permits.
    Granted(Permits),
    /// A refill worker read rows.
    RefillDone(RefillDone),
    /// A refill worker failed.
    RefillFailed(RefillFailed),
    /// The time came that was armed for.
    Wake,
    /// Start nothing until resumed.
    Pause,
    /// Start again.
    Resume,
    /// The entries that were running when this leadership began are back in the
    /// inbox: decisions may be taken.
    Drained,
    /// The partition asks whether this vqueue may go cold.
    Passivate,
    /// The same, and it may go as well if it only waits for a permit.
    MakeRoom,
}
