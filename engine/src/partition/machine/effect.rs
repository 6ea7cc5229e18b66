//! What a partition wants done.

use std::sync::Arc;

use bytestring::ByteString;
use forebay_messages::{
    AttemptToken, EntryId, EntryKey, Epoch, Lsn, NodeId, Outcome, Record, ReplyId, Timestamp,
    VQueueHandle, VQueueId, VQueueName,
    actor::{LimiterMessage, Permits, VQueueMessage},
    command::Decision,
};

use super::{super::apply::Reply, KnownAttempt, TooLarge};

/// What somebody who asked is told.
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
    /// Too much is waiting already.
    Busy,
    /// The log or the store cannot be written.
    StorageFailed(String),
    /// The command does not fit into a record of the log: nothing was stored.
    TooLarge(TooLarge),
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
    /// What the last failed attempt said.
    pub last_failure: ByteString,
    /// Attempts in all; 0 means no limit.
    pub attempts_max: u32,
}

/// What a partition wants done. Performed in order, on the partition's thread.
#[derive(Clone, Debug)]
pub enum PartitionEffect {
    /// Append to the log. At most once: either it is committed or refused.
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
    /// Answer somebody, at most once.
    Answer {
        /// Whom.
        to: ReplyId,
        /// What.
        answer: Answer,
    },
    /// Read what is known of entries; if any is not live, answered at once with
    /// `LookedUp`.
    LookUp {
        /// The entries.
        entries: Vec<EntryId>,
    },
    /// Send `Flush` to this partition behind everything in its mailbox.
    ScheduleFlush,
    /// Tell the log how much of it the store has in files. Also of followers.
    ReportDurable,
    /// Say whether anything expired by then (`ExpiredFound`).
    CheckExpired {
        /// Up to when.
        until: Timestamp,
    },

    /// Tell the supervisor that an announcement was applied.
    TellAnnounced {
        /// Who leads.
        node: NodeId,
        /// Under which epoch.
        epoch: Epoch,
    },
    /// Tell the supervisor that the limiter is seeded.
    TellSeeded {
        /// The epoch in force.
        epoch: Epoch,
    },
    /// Tell the supervisor that attempts of earlier epochs go back: the gate may open.
    TellDraining {
        /// The epoch in force.
        epoch: Epoch,
    },
    /// Tell the supervisor that the gate is closed and everything has come to its end:
    /// no attempt is left, nobody waits for a proposal.
    TellQuiet {
        /// The epoch in force.
        epoch: Epoch,
    },
    /// Tell the supervisor that the log refuses this leader.
    TellRefused(super::Refusal),

    /// Put the limiter that was started for this request in the place of the one before,
    /// read locks and running rows, add these proposed attempts and those whose handlers
    /// have not stopped and that are neither proposed nor in the rows, seed it; answered
    /// at once with `SeedSent`. The node's capacity is joined: all that runs here or is
    /// about to has its slot, whatever was left before. Requests and started limiters match in order; if there is
    /// none (it was stopped), do nothing. Before it is in its place and has its seed,
    /// nothing reaches a limiter, whoever sends it.
    SeedLimiter {
        /// Attempts proposed and not applied.
        proposed: Vec<KnownAttempt>,
        /// Attempts whose handlers were told to stop and may run.
        stopping: Vec<KnownAttempt>,
    },
    /// There is no limiter any more: what it had of the node's capacity goes back, but for
    /// a slot for each handler that has not stopped. In order with the next one.
    LeaveCapacity {
        /// How many they are.
        running: u32,
    },
    /// One of them has stopped.
    ReturnCapacity,
    /// Tell the limiter. In order, not lost while it lives.
    ToLimiter(LimiterMessage),

    /// Find vqueues with entries in their inboxes; answered with `VQueuesFound`
    /// behind everything in the mailbox.
    FindVQueues {
        /// Where to go on.
        after: Option<VQueueId>,
    },
    /// Send `Tick` at this time. The last one asked for replaces the others.
    WakeAt(Timestamp),
    /// Start an incarnation of a vqueue. If there is nothing to start (it has no rows, or
    /// no handler serves it here), say so at once with `Passivated`.
    SpawnVQueue {
        /// Its handle.
        handle: VQueueHandle,
        /// Its id.
        vqueue: VQueueId,
        /// Places handed out whose decision is not applied yet.
        dispatched: Vec<EntryKey>,
        /// What it was granted while it waited without an actor.
        permits: Option<Permits>,
    },
    /// Ask the limiter for a permit for a vqueue without an actor, with the wish that
    /// follows from its name and head ([`crate::vqueue::wish`]); the grant comes as
    /// `Granted`. If there is nothing to ask for, say so at once with `Passivated`: it is
    /// paused, or has no rows or no handler here, or somebody holds its lock and its head is not known for
    /// sure (`Rest::Until` a time that is past).
    Acquire {
        /// Its handle.
        handle: VQueueHandle,
        /// Its id.
        vqueue: VQueueId,
        /// Its head.
        head: EntryKey,
        /// It was its head until now; else it is just one of its rows.
        is_known: bool,
    },
    /// Stop one. It tells nobody.
    StopVQueue(VQueueHandle),
    /// Tell a vqueue. In order, not lost while it lives.
    ToVQueue(VQueueHandle, VQueueMessage),

    /// These decisions are proposed (their record was appended before this): run those
    /// that fit the committed rows as they are ([`super::super::apply::begin`]), and say
    /// which with `Begun`, at once. Of the others nothing is said.
    Begin(Vec<Decision>),
    /// Run a handler, as the rows say ([`super::super::apply::started`]). When it is gone
    /// that comes back, exactly once: as `Ended`, or as `Stopped`.
    Run {
        /// The entry.
        entry: EntryId,
        /// The attempt.
        token: AttemptToken,
    },
    /// Stop a handler; its end is of no interest, but that it is gone is told. Nothing of
    /// its entry or its key starts here before.
    Abort {
        /// The entry.
        entry: EntryId,
        /// The attempt.
        token: AttemptToken,
    },
    /// Ask a handler to stop; its end comes back as `Ended`.
    Cancel {
        /// The entry.
        entry: EntryId,
        /// The attempt.
        token: AttemptToken,
    },
}
