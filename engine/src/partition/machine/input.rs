//! The inputs of a partition.

use std::sync::Arc;

use forebay_messages::{
    AttemptToken, EntryId, EntryKey, Epoch, InboxSeq, Lsn, Outcome, PermitId, Record, ReplyId, Run,
    Timestamp, VQueueHandle, VQueueId,
    actor::{AttemptEnd, Permits},
    command::{Command, JournalWrite, RetryPolicy, SuspendAttempt},
    record::LeaderSeq,
};

use crate::vqueue::Rest;

use super::{
    super::apply::{Applied, Reply},
    KnownAttempt, OutboxCount, TooLarge,
};

/// The result of applying consecutive records, sent after their commit.
#[derive(Clone, Debug)]
pub struct AppliedBatch {
    /// LSN of the last record of the run.
    pub last: Lsn,
    /// Reply per record, with its sequence if a leader proposed it.
    pub replies: Vec<(Option<LeaderSeq>, Reply)>,
    /// The changes, in order.
    pub applied: Vec<Applied>,
}

/// State of an entry that is not live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryState {
    /// It ended.
    Finished(Outcome),
    /// There is no such entry (or it was purged).
    Unknown,
}

/// An attempt that runs before its decision is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EarlyStart {
    /// The attempt.
    pub token: AttemptToken,
    /// Its number, from 1.
    pub attempt: u32,
    /// What happens if it fails.
    pub retry: RetryPolicy,
}

/// Why an append was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendRefusal {
    /// A newer epoch fenced this leader off.
    Fenced {
        /// The epoch in force.
        current: Epoch,
    },
    /// The log cannot be written.
    Failed {
        /// The reason, for display.
        reason: String,
    },
}

/// Inputs of a partition.
#[derive(Clone, Debug)]
pub enum PartitionInput {
    /// The log committed records; from the log writer, in LSN order.
    Committed {
        /// LSN of the first.
        first: Lsn,
        /// The records.
        records: Vec<Arc<Record>>,
    },
    /// An append of this leader was refused; none of it is in the log.
    AppendRefused(AppendRefusal),
    /// A record of this leader is too large for the log, and not in it. The others are.
    RecordTooLarge {
        /// The record.
        record: Arc<Record>,
        /// Its length, and the maximum.
        why: TooLarge,
    },
    /// Answer to `Apply`, after the commit.
    Applied(AppliedBatch),
    /// A command to propose.
    Propose {
        /// The command; boxed because the other inputs are small.
        command: Box<Command>,
        /// The request to answer.
        reply: ReplyId,
    },
    /// Requests to wait for the results of entries.
    Attach {
        /// Each entry with the request to answer.
        waits: Vec<(EntryId, ReplyId)>,
    },
    /// These requests no longer wait.
    Detach {
        /// As attached.
        waits: Vec<(EntryId, ReplyId)>,
    },
    /// Answer to `LookUp`: the entries that are not live.
    LookedUp {
        /// Each with its state.
        gone: Vec<(EntryId, EntryState)>,
    },
    /// Answer to `ScheduleFlush`, after all messages that came before it.
    Flush,
    /// Answer to `Begin`: these handlers run.
    Begun(Vec<EarlyStart>),
    /// A handler ended; from the executor.
    Ended {
        /// The entry.
        entry: EntryId,
        /// The attempt.
        token: AttemptToken,
        /// How it ended.
        ended: AttemptEnd,
    },
    /// An attempt handed in operations for its journal; from the executor.
    Journal {
        /// The entry.
        entry: EntryId,
        /// The attempt.
        token: AttemptToken,
        /// The run of the entry.
        run: Run,
        /// The operations, in order.
        writes: Vec<JournalWrite>,
    },
    /// An attempt only waits; from the executor. Its handler stays until this is applied: then
    /// `Abort` stops it, or `TellAttempt` reports that the suspension was void.
    Suspend(SuspendAttempt),
    /// Answer to `FindDue`.
    DueFound {
        /// When the first sleep ends.
        first: Option<Timestamp>,
    },
    /// Answer to `CountOutbox`.
    OutboxCounted(OutboxCount),
    /// Key ranges have other owners now.
    Rerouted,
    /// A request for the calls and sends of an entry that wait for room in the outbox.
    AskOutbox {
        /// The entry.
        entry: EntryId,
        /// The request to answer.
        reply: ReplyId,
    },
    /// A handler stopped without an end; from the executor.
    Stopped {
        /// The attempt.
        token: AttemptToken,
    },
    /// The node's capacity was restarted: report the attempts that run here without a limiter.
    TellCapacity,
    /// Answer to `CheckExpired`: something expired by then.
    ExpiredFound {
        /// The time.
        until: Timestamp,
    },
    /// Time passed.
    Tick,

    /// From the supervisor: an epoch was obtained; announce it through the log.
    Announce {
        /// The epoch.
        epoch: Epoch,
    },
    /// From the supervisor: a new limiter was started; seed it.
    BeginSeed {
        /// Under which epoch.
        epoch: Epoch,
    },
    /// Answer to `SeedLimiter`: the attempts in the seed, in this order.
    SeedSent {
        /// Attempts that run or are proposed.
        running: Vec<KnownAttempt>,
        /// After them: attempts that are over but whose handlers have not stopped, each with the
        /// holder of its vqueue's lock.
        stopping: Vec<(KnownAttempt, Option<EntryId>)>,
        /// Attempts among them whose process died without returning them, each with the number of
        /// interruptions after which its entry becomes a dead letter.
        interrupted: Vec<(AttemptToken, u32)>,
        /// The last inbox sequence assigned.
        last_seq: InboxSeq,
    },
    /// From the limiter: permits for running and stopping attempts, in the order of `SeedSent`.
    LimiterSeeded {
        /// One per attempt.
        permits: Vec<PermitId>,
    },
    /// From the supervisor: return attempts of earlier epochs to their inboxes.
    Drain {
        /// The epoch in force.
        epoch: Epoch,
    },
    /// From the supervisor: lead from now on.
    OpenGate {
        /// The epoch in force.
        epoch: Epoch,
    },
    /// The node shuts down: start nothing new, let running attempts end.
    CloseGate,
    /// The process is about to end and its handlers were dropped: return attempts that still run to
    /// their inboxes. Only after the gate was closed.
    HandBack,
    /// From the supervisor: stop leading, at once.
    StopLeading,

    /// Answer to `FindVQueues`: vqueues with entries in their inboxes.
    VQueuesFound {
        /// The vqueues, and their heads as far as known.
        found: Vec<(VQueueId, Option<EntryKey>)>,
        /// Continue after this one; `None` at the end.
        next: Option<VQueueId>,
    },
    /// From a vqueue: run these entries under these permits. The partition owns both from here on.
    Decide {
        /// The vqueue.
        handle: VQueueHandle,
        /// The entries and their places.
        keys: Vec<EntryKey>,
        /// The permits of the entries, in the same order.
        permits: Permits,
    },
    /// From the limiter: permits for a vqueue that has no actor (any more).
    Granted {
        /// The vqueue.
        handle: VQueueHandle,
        /// Its permits.
        permits: Permits,
    },
    /// From a vqueue: it has nothing to do.
    Idle(VQueueHandle),
    /// From a vqueue: it has nothing to do, and should rather be passivated than stay idle.
    WantsToGo(VQueueHandle),
    /// From a vqueue: it passivated, as asked.
    Passivated {
        /// The vqueue.
        handle: VQueueHandle,
        /// Why it had nothing to do.
        rest: Rest,
    },
    /// From a vqueue: it has work and stays.
    StillNeeded(VQueueHandle),
    /// The set of services with a handler on this node changed. Sent after the change.
    ServicesChanged {
        /// Whether some service lost its handler.
        lost: bool,
    },
    /// From its death watch: a vqueue died unexpectedly.
    VQueueDied(VQueueHandle),
}
