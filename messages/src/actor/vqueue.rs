//! Messages to a vqueue.

use crate::{
    EntryKey,
    actor::{Permits, RefillDone, RefillFailed},
};

/// A change of the inbox rows, sent after the commit that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InboxChange {
    /// The row was stored (`NotifyEnqueued`).
    Enqueued(EntryKey),
    /// The row was removed (`NotifyRemoved`); also confirms a decision.
    Removed(EntryKey),
}

/// Messages to a vqueue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VQueueMessage {
    /// Changes of the inbox rows, in commit order.
    Notify(Vec<InboxChange>),
    /// A decision was not applied although the row still exists: the entry is no longer dispatched
    /// and may be handed out again.
    DecisionVoid(EntryKey),
    /// The limiter granted permits.
    Granted(Permits),
    /// A refill worker read rows.
    RefillDone(RefillDone),
    /// A refill worker failed.
    RefillFailed(RefillFailed),
    /// The armed time was reached.
    Wake,
    /// Start nothing until resumed.
    Pause,
    /// Start again.
    Resume,
    /// The entries that were running when this leadership began are back in the inbox: decisions
    /// may be made.
    Drained,
    /// The partition asks whether this vqueue may be passivated.
    Passivate,
    /// The same, also if the vqueue only waits for a permit.
    MakeRoom,
}
