//! The effects of a vqueue and their delivery guarantees.
//!
//! Owns: the closed vocabulary of effects. Must not know: how they are performed.

use forebay_messages::{
    EntryKey, PermitId, Timestamp,
    actor::{LockWish, Permits, RefillRequest},
};

/// An action that a [`VQueue`](super::VQueue) requests. The shell performs them in order.
///
/// Delivery: actors of one partition share a thread and their mailboxes are FIFO, so an effect is
/// delivered exactly once unless its receiver or this vqueue dies. Each variant says what happens
/// then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VQueueEffect {
    /// To the limiter: an `Acquire` under this vqueue's handle, id and name. It stands until
    /// granted; a later one replaces it and keeps its place in the queue. If the limiter dies, its
    /// vqueues die with it; if the vqueue dies, its death watch withdraws the request.
    Acquire {
        /// Maximum number of permits: from 1 to the quantum; 1 with a lock.
        count: u32,
        /// The request for the vqueue's lock.
        lock: LockWish,
    },
    /// To the limiter: release a permit that no entry can use, together with the lock it holds
    /// (`keep_lock: None`). Exactly once per permit; if this vqueue dies first, its death watch
    /// returns the permit.
    ReturnPermit(PermitId),
    /// To the partition, which owns permits and decisions from here on. Each is answered by the
    /// removal of its key (applied, or the row disappeared for another reason) or by a
    /// `DecisionVoid`; until then neither this incarnation nor the next decides the key again.
    Decide {
        /// The entries that may run.
        keys: Vec<EntryKey>,
        /// The permit of each key, in the same order.
        permits: Permits,
    },
    /// Read the inbox. The shell first tries without blocking; on success it may step the
    /// `RefillDone` in at once (this is always the last effect of a step). Otherwise a refill
    /// worker reads. Exactly one answer, done or failed, unless this vqueue is gone; a canceled
    /// request may get none.
    ReadInbox(RefillRequest),
    /// To the partition's timers: a `Wake` at this time. A vqueue has one timer; arming replaces
    /// it. Early, late or superfluous wakes are harmless; a lost one is not.
    ArmTimer(Timestamp),
    /// To the partition's timers: no `Wake` is needed. May be ignored.
    DisarmTimer,
    /// Like [`Self::ArmTimer`], on the same timer: a scan failed and is retried at this time.
    RetryRefillAt(Timestamp),
    /// To the partition: the answer to `Passivate`. The vqueue takes no further messages; the
    /// partition replays messages that arrived meanwhile to the next incarnation, which it starts
    /// when [`Rest`] says so. The partition also withdraws this incarnation's outstanding request
    /// and unused permits from the limiter. The vqueue must not do so itself: its message could
    /// overtake the partition's `HandedOver` of an earlier decision, and the limiter would take
    /// back a permit under which an entry runs.
    Passivated(Rest),
    /// To the partition: the answer to `Passivate` when there is work to do.
    StillNeeded,
    /// To the partition, unsolicited and once per rest: a `Passivate` would be granted now. A hint;
    /// ignoring it costs only memory.
    Idle(Rest),
    /// The same, while an `Acquire` is outstanding that is no longer needed. Ignoring it costs the
    /// vqueues behind it a turn (and tokens): only passivation withdraws the request.
    WantsToGo(Rest),
}

/// Why a vqueue has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Its inbox is empty: until an entry is enqueued.
    Empty,
    /// Its head is not due: until this time, or until the inbox changes.
    Until(Timestamp),
    /// It is paused: until resumed.
    Paused,
    /// It only waits for a permit for this head; reported only when asked to make room.
    Waits(EntryKey),
    /// No handler on this node serves it: until the set of served services changes. Reported by the
    /// shell; such a vqueue is never started.
    NotServed,
}
