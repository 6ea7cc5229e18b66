//! The effects of a partition.

use std::sync::Arc;

use bytestring::ByteString;
use forebay_messages::{
    AttemptToken, EntryId, EntryKey, Epoch, Lsn, NodeId, Outcome, Record, ReplyId, Timestamp,
    VQueueHandle, VQueueId, VQueueName,
    actor::{LimiterMessage, Permits, VQueueMessage},
    command::{Decision, OutboxMessage},
    journal::{JournalKey, JournalKind},
};

use super::{
    super::{
        apply::{OperationFinished, Reply},
        read::JournalRead,
    },
    KnownAttempt, OutboxWait, TooLarge,
};

/// Answers to requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The command was applied.
    Reply(Reply),
    /// The entry ended.
    Outcome(Outcome),
    /// No such entry.
    UnknownEntry,
    /// This replica does not lead.
    NotLeading,
    /// Leadership was lost before the command was known to be applied: the outcome is
    /// unknown. A retry with the same entry id is de-duplicated.
    LostLeadership,
    /// Too many requests are waiting.
    Busy,
    /// The log or the store cannot be written.
    StorageFailed(String),
    /// The command does not fit into a record of the log: nothing was stored.
    TooLarge(TooLarge),
    /// The calls and sends of an entry that wait for room in the outbox.
    OutboxWaits(Vec<OutboxWait>),
}

/// An attempt that starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAttempt {
    /// The entry.
    pub entry: EntryId,
    /// Its vqueue.
    pub name: Arc<VQueueName>,
    /// The attempt.
    pub token: AttemptToken,
    /// Its number, from 1.
    pub attempt: u32,
    /// Message of the last failed attempt.
    pub last_failure: ByteString,
    /// Maximum number of attempts; 0 means no limit.
    pub attempts_max: u32,
    /// How often a process died while the entry ran.
    pub interrupted: u32,
    /// Time of the record that decided it.
    pub decided_at: Timestamp,
    /// The stored journal of the entry; absent when it has none.
    pub journal: Option<Box<JournalRead>>,
}

/// Progress of an attempt's operations, or of one of its requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptNews {
    /// An operation of its journal finished.
    Finished(Box<OperationFinished>),
    /// Another operation has the key that it wrote to.
    WriteRefused {
        /// The key.
        key: JournalKey,
        /// The operation that has it.
        found: JournalKind,
    },
    /// It was not suspended: it continues.
    SuspendVoid,
}

/// Effects of a partition. Performed in order, on the partition's thread.
#[derive(Clone, Debug)]
pub enum PartitionEffect {
    /// Append to the log. At most once: it is either committed or refused.
    Append {
        /// Epoch of the proposer.
        epoch: Epoch,
        /// The record.
        record: Arc<Record>,
    },
    /// Apply records, commit, then step [`super::PartitionInput::Applied`] in at once.
    Apply {
        /// LSN of the first.
        first: Lsn,
        /// The records.
        records: Vec<Arc<Record>>,
    },
    /// Answer a request, at most once.
    Answer {
        /// The request.
        to: ReplyId,
        /// The answer.
        answer: Answer,
    },
    /// Read the state of entries; if any has ended or is unknown, answered at once with `LookedUp`.
    LookUp {
        /// The entries.
        entries: Vec<EntryId>,
    },
    /// Send `Flush` to this partition behind everything in its mailbox.
    ScheduleFlush,
    /// Report to the log how much of it the store has in files. Followers do so too.
    ReportDurable,
    /// Report whether anything expired by then (`ExpiredFound`).
    CheckExpired {
        /// The time.
        until: Timestamp,
    },

    /// Tell the supervisor that an announcement was applied.
    TellAnnounced {
        /// The leading node.
        node: NodeId,
        /// Its epoch.
        epoch: Epoch,
    },
    /// Tell the supervisor that the limiter is seeded.
    TellSeeded {
        /// The epoch in force.
        epoch: Epoch,
    },
    /// Tell the supervisor that attempts of earlier epochs are returning: the gate may open.
    TellDraining {
        /// The epoch in force.
        epoch: Epoch,
    },
    /// Tell the supervisor that the gate is closed and everything has ended: no attempt is left, no
    /// proposal is unanswered.
    TellQuiet {
        /// The epoch in force.
        epoch: Epoch,
    },
    /// Tell the supervisor that the log refuses this leader.
    TellRefused(super::AppendRefusal),

    /// Replace the limiter by the one started for this request, read locks and running rows, add
    /// these proposed attempts and those whose handlers have not stopped and that are neither
    /// proposed nor in the rows, and seed it; answered at once with `SeedSent`. It joins the node's
    /// capacity: everything that runs here or is about to has its slot, whatever was left before.
    /// Requests and started limiters match in order; if there is none (it was stopped), do nothing.
    /// No message reaches a limiter before it is in place and seeded.
    SeedLimiter {
        /// Attempts that are proposed but not applied.
        proposed: Vec<KnownAttempt>,
        /// Attempts whose handlers were asked to stop and may still run.
        stopping: Vec<KnownAttempt>,
    },
    /// There is no limiter any more: its slots return to the node, except one for each handler that
    /// has not stopped. In order with the next one.
    LeaveCapacity {
        /// The number of these handlers.
        running: u32,
    },
    /// One of these handlers has stopped.
    ReturnCapacity,
    /// Message to the limiter. In order, not lost while it lives.
    ToLimiter(LimiterMessage),

    /// Find vqueues with entries in their inboxes; answered with `VQueuesFound` behind everything
    /// in the mailbox.
    FindVQueues {
        /// Continue after this vqueue.
        after: Option<VQueueId>,
    },
    /// Send `Tick` at this time. A later request replaces earlier ones.
    WakeAt(Timestamp),
    /// Start an incarnation of a vqueue. If there is nothing to start (it has no rows, or no
    /// handler here serves it), answer at once with `Passivated`.
    SpawnVQueue {
        /// Its handle.
        handle: VQueueHandle,
        /// Its id.
        vqueue: VQueueId,
        /// Handed-out places whose decision is not applied yet.
        dispatched: Vec<EntryKey>,
        /// Permits granted while it waited without an actor.
        permits: Option<Permits>,
    },
    /// Ask the limiter for a permit for a vqueue without an actor, with the lock request that
    /// follows from its name and head ([`crate::vqueue::wish`]); the grant arrives as `Granted`. If
    /// there is nothing to ask for, answer at once with `Passivated`: it is paused, or has no rows
    /// or no handler here, or its lock is held and its head is not known for sure (`Rest::Until` a
    /// past time).
    Acquire {
        /// Its handle.
        handle: VQueueHandle,
        /// Its id.
        vqueue: VQueueId,
        /// Its head.
        head: EntryKey,
        /// Whether it was its head until now; otherwise it is just one of its rows.
        is_known: bool,
    },
    /// Stop a vqueue. It sends no message.
    StopVQueue(VQueueHandle),
    /// Message to a vqueue. In order, not lost while it lives.
    ToVQueue(VQueueHandle, VQueueMessage),

    /// These decisions are proposed (their record was appended before this): run the ones that
    /// match the committed rows ([`super::super::apply::begin`]), and report them with `Begun`, at
    /// once. The others are not reported.
    Begin(Vec<Decision>),
    /// Run a handler, as the rows say ([`super::super::apply::started`]). When it has stopped, this
    /// is reported exactly once: as `Ended`, or as `Stopped`.
    Run {
        /// The entry.
        entry: EntryId,
        /// The attempt.
        token: AttemptToken,
    },
    /// Report the progress of an attempt's operations to it, in order. Operations that finished
    /// before its handler started are in the rows that it read at its start.
    TellAttempt {
        /// The entry.
        entry: EntryId,
        /// The attempt.
        token: AttemptToken,
        /// The progress.
        news: AttemptNews,
    },
    /// Start the shuffle, if none runs and the outbox has messages.
    StartShuffle,
    /// Stop the shuffle, if one runs.
    StopShuffle,
    /// Hand these committed messages to the shuffle, and start it if none runs. One that misses
    /// them finds them in the outbox.
    OutboxAdded {
        /// In the order of their indexes.
        messages: Vec<Arc<OutboxMessage>>,
    },
    /// Count the messages of the outbox by target; answered at once with `OutboxCounted`.
    CountOutbox,
    /// Read when the first sleep ends; answered at once with `DueFound`.
    FindDue,
    /// Stop a handler. Its result is ignored; its stop is reported, and nothing of its entry or its
    /// key starts here before that.
    Abort {
        /// The entry.
        entry: EntryId,
        /// The attempt.
        token: AttemptToken,
    },
    /// Ask a handler to stop; its end is reported as `Ended`.
    Cancel {
        /// The entry.
        entry: EntryId,
        /// The attempt.
        token: AttemptToken,
    },
}
