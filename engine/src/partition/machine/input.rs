//! What a partition is told.

use std::sync::Arc;

use forebay_messages::{
    AttemptToken, EntryId, EntryKey, Epoch, InboxSeq, Lsn, Outcome, PermitId, Record, ReplyId,
    Timestamp, VQueueHandle, VQueueId,
    actor::{AttemptEnd, Permits},
    command::{Command, RetryPolicy},
    record::LeaderSeq,
};

use crate::vqueue::Rest;

use super::{
    super::apply::{Applied, Reply},
    KnownAttempt, TooLarge,
};

/// What came of applying a run of records, told after their commit.
#[derive(Clone, Debug)]
pub struct AppliedBatch {
    /// LSN of the last record of the run.
    pub last: Lsn,
    /// Reply per record, with its sequence if a leader proposed it.
    pub replies: Vec<(Option<LeaderSeq>, Reply)>,
    /// What changed, in order.
    pub applied: Vec<Applied>,
}

/// What is known of an entry that is not live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryState {
    /// It ended.
    Finished(Outcome),
    /// There is no such entry (or it was purged).
    Unknown,
}

/// An attempt that runs before its decision is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// The attempt.
    pub token: AttemptToken,
    /// Its number, from 1.
    pub attempt: u32,
    /// What follows if it fails.
    pub retry: RetryPolicy,
}

/// Why an append was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A newer epoch fenced this leader off.
    Fenced {
        /// The epoch in force.
        current: Epoch,
    },
    /// The log cannot be written.
    Failed {
        /// Why, for people.
        reason: String,
    },
}

/// What a partition is told.
#[derive(Clone, Debug)]
pub enum PartitionInput {
    /// The log committed records; from the log writer, in LSN order.
    Committed {
        /// LSN of the first.
        first: Lsn,
        /// The records.
        records: Vec<Arc<Record>>,
    },
    /// An append of this leader was refused; nothing of it is in the log.
    AppendRefused(Refusal),
    /// A record of this leader is too large for the log, and not in it. The others are.
    RecordTooLarge {
        /// The record.
        record: Arc<Record>,
        /// Its length, and what fits.
        why: TooLarge,
    },
    /// Answer to `Apply`, after the commit.
    Applied(AppliedBatch),
    /// Somebody wants a command to go through the log.
    Propose {
        /// The command; boxed, for the other inputs are small.
        command: Box<Command>,
        /// Who is answered.
        reply: ReplyId,
    },
    /// Somebody waits for the results of entries.
    Attach {
        /// Each with who is answered.
        waits: Vec<(EntryId, ReplyId)>,
    },
    /// Somebody waits no more.
    Detach {
        /// As it was attached.
        waits: Vec<(EntryId, ReplyId)>,
    },
    /// Answer to `LookUp`: those that are not live.
    LookedUp {
        /// Each with what is known of it.
        gone: Vec<(EntryId, EntryState)>,
    },
    /// Answer to `ScheduleFlush`, after all messages that came before it.
    Flush,
    /// Answer to `Begin`: these handlers run.
    Begun(Vec<Begun>),
    /// A handler ended; from the executor.
    Ended {
        /// The entry.
        entry: EntryId,
        /// The attempt.
        token: AttemptToken,
        /// How it ended.
        ended: AttemptEnd,
    },
    /// A handler is gone without an end; from the executor.
    Stopped {
        /// The attempt.
        token: AttemptToken,
    },
    /// The node's capacity was made anew: tell it what runs here without a limiter.
    TellCapacity,
    /// Answer to `CheckExpired`: something expired by then.
    ExpiredFound {
        /// Up to when.
        until: Timestamp,
    },
    /// Time passed.
    Tick,

    /// From the supervisor: an epoch was obtained; announce it through the log.
    Announce {
        /// The epoch.
        epoch: Epoch,
    },
    /// From the supervisor: a fresh limiter was started; seed it.
    BeginSeed {
        /// Under which epoch.
        epoch: Epoch,
    },
    /// Answer to `SeedLimiter`: what it was told runs, in this order.
    SeedSent {
        /// Attempts that run or were proposed.
        running: Vec<KnownAttempt>,
        /// Behind them: attempts that are over and whose handlers have not stopped, each
        /// with whoever has its vqueue's lock.
        stopping: Vec<(KnownAttempt, Option<EntryId>)>,
        /// Attempts among them whose process died without giving them back, each with the
        /// number of interruptions after which its entry is a dead letter.
        interrupted: Vec<(AttemptToken, u32)>,
        /// The last place that was given in any inbox.
        last_seq: InboxSeq,
    },
    /// From the limiter: permits for what runs or stops, in the order of `SeedSent`.
    LimiterSeeded {
        /// One per attempt.
        permits: Vec<PermitId>,
    },
    /// From the supervisor: give back what ran under earlier epochs.
    Drain {
        /// The epoch in force.
        epoch: Epoch,
    },
    /// From the supervisor: lead from now on.
    OpenGate {
        /// The epoch in force.
        epoch: Epoch,
    },
    /// The node goes down: start nothing new, let what runs end.
    CloseGate,
    /// The process is about to end, its handlers were dropped: give back what still runs.
    /// Only after the gate was closed.
    HandBack,
    /// From the supervisor: stop leading, at once.
    StopLeading,

    /// Answer to `FindVQueues`: vqueues with entries in their inboxes.
    VQueuesFound {
        /// Which, and their heads, as far as they are known.
        found: Vec<(VQueueId, Option<EntryKey>)>,
        /// Where to go on; `None` at the end.
        next: Option<VQueueId>,
    },
    /// From a vqueue: run these entries under these permits. The partition owns both from
    /// here on.
    Decide {
        /// Who says so.
        handle: VQueueHandle,
        /// The entries and their places.
        keys: Vec<EntryKey>,
        /// The permits, one each, in the same order.
        permits: Permits,
    },
    /// From the limiter: permits for a vqueue that has no actor (any more).
    Granted {
        /// Who asked.
        handle: VQueueHandle,
        /// What it got.
        permits: Permits,
    },
    /// From a vqueue: nothing to do any more.
    Idle(VQueueHandle),
    /// From a vqueue: nothing to do any more, and better gone than idle.
    WantsToGo(VQueueHandle),
    /// From a vqueue: it is gone, as asked.
    Passivated {
        /// Which.
        handle: VQueueHandle,
        /// Why it had nothing to do.
        rest: Rest,
    },
    /// From a vqueue: something came up, it stays.
    StillNeeded(VQueueHandle),
    /// Other services than before have a handler on this node. Sent after the change.
    ServicesChanged {
        /// Some service that had a handler has none any more.
        lost: bool,
    },
    /// From its death watch: a vqueue died without being asked.
    VQueueDied(VQueueHandle),
}
