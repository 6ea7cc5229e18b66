//! What a vqueue wants done, and how far each wish may be relied on.
//!
//! Owns: the closed vocabulary of effects. Must not know: who performs them.

use forebay_messages::{
    EntryKey, PermitId, Timestamp,
    actor::{LockWish, Permits, RefillRequest},
};

/// What a [`VQueue`](super::VQueue) wants done. The shell performs them in order.
///
/// Delivery: actors of one partition share a thread and their mailboxes are FIFO, so
/// an effect is delivered exactly once unless its receiver or this vqueue dies. Each
/// variant says what then happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VQueueEffect {
    /// To the limiter: an `Acquire` under this vqueue's handle, id and name. Stands
    /// until granted; a further one replaces it and keeps its place. Lost with the
    /// limiter, which takes the vqueues with it; lost with the vqueue, whose death
    /// watch withdraws it.
    Acquire {
        /// How many permits at most: from 1 to the quantum; 1 with a lock.
        count: u32,
        /// What is wished of the vqueue's lock.
        lock: LockWish,
    },
    /// To the limiter: a release of a permit that no entry can use, with the lock it
    /// holds (`keep_lock: None`). Exactly once per permit; if this vqueue dies first,
    /// its death watch returns the permit.
    ReturnPermit(PermitId),
    /// To the partition, which from then on owns permits and decisions. Each is answered
    /// by the removal of its key (applied, or the row is gone otherwise) or by a
    /// `DecisionVoid`; until then the key is not decided again, by this incarnation
    /// or the next.
    Decide {
        /// The entries that may run.
        keys: Vec<EntryKey>,
        /// What they run under, one each, in the same order.
        permits: Permits,
    },
    /// Read the inbox. First without blocking, and if that succeeds its `RefillDone`
    /// may be stepped in at once (this is always the last effect of a step); else by a
    /// refill worker. Exactly one answer, done or failed, unless this vqueue is gone;
    /// a canceled request may stay without one.
    ReadInbox(RefillRequest),
    /// To the partition's timers: a `Wake` at this time. A vqueue has one timer;
    /// arming replaces. Early, late and needless wakes do no harm, a lost one would.
    ArmTimer(Timestamp),
    /// To the partition's timers: no `Wake` is needed. May be ignored.
    DisarmTimer,
    /// As [`Self::ArmTimer`], and the same timer: a scan failed and is tried again
    /// at this time.
    RetryRefillAt(Timestamp),
    /// To the partition: the answer to `Passivate`. The vqueue takes no further
    /// message; the partition replays what came meanwhile to the next incarnation,
    /// and makes one when [`Rest`] says so. The partition also withdraws from the limiter
    /// what this incarnation still asks for or was granted. The vqueue must not do that
    /// itself: its message could overtake the partition's `HandedOver` of an earlier
    /// decision, and the limiter would take back a permit that an entry runs under.
    Passivated(Rest),
    /// To the partition: the answer to `Passivate` when there is something to do.
    StillNeeded,
    /// To the partition, unasked and once per rest: a `Passivate` would be granted
    /// now. A hint; ignoring it costs memory only.
    Idle(Rest),
    /// The same, while an `Acquire` stands that nobody needs any more. Ignoring it costs
    /// a turn (and tokens) of whoever waits behind: only going cold takes it back.
    WantsToGo(Rest),
}

/// Why a vqueue has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Nothing is in its inbox: until an entry is enqueued.
    Empty,
    /// Its head may not run earlier: until then, or a change of the inbox.
    Until(Timestamp),
    /// It is paused: until resumed.
    Paused,
    /// It only waits for a permit, for this head; said only when it is to make room.
    Waits(EntryKey),
    /// No handler serves it here: until the services with a handler change. The shell says
    /// so in place of the vqueue, which is not started at all.
    NotServed,
}
