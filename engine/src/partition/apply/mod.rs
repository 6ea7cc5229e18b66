//! Applying one record: the partition's state machine. One file per command; this one deduplicates
//! and dispatches.
//!
//! Must always hold: the same records give the same rows and the same replies on every replica.
//! "Now" is the record's time. A command that no longer makes sense is a typed no-op, never an
//! error; an error is a fault of the store or of the log. Must not know: whether this replica
//! leads.

mod act;
mod announce_leader;
mod barrier;
mod cancel;
mod check_calls;
mod complete;
mod decisions;
mod deliver;
mod end;
mod end_attempts;
mod enqueue;
mod fail_calls;
mod journal;
mod outbox;
mod pause;
mod pause_vqueue;
mod place;
mod purge;
mod redrive;
mod reschedule;
mod restart;
mod retry;
mod rule_book;
mod select;
mod settle_promise;
mod suspend;
mod wake_sleepers;
mod write_journal;

use std::sync::Arc;

use forebay_messages::{
    AttemptToken, EntryId, EntryKey, Epoch, Lsn, NodeId, Outcome, PartitionKey, Producer, Record,
    Timestamp, VQueueId,
    command::{Command, OutboxMessage, RetryPolicy},
    journal::{JournalKey, JournalKind},
    rule::RuleUpdate,
};
use thiserror::Error;

pub use super::backlog::BacklogFull;
use super::{
    rows::{DedupKey, DedupRow, FsmSlot},
    state::PartitionState,
    store::{Tables, TablesError, put_fsm_number},
};
pub use act::{
    Acted, ENTRIES_PER_COMMAND_MAX, NeverMatches, Skip, check, check_can_match, check_finished,
    is_for_finished, spares,
};
pub use decisions::{begin, started};
pub use journal::OperationFinished;
pub use retry::interrupted_text;

/// Format of commands and rows that this code knows. 2: rule books with pauses. 3: journals. 4:
/// incarnations of outboxes.
pub const FORMAT_VERSION: u64 = 4;

/// Why a partition must stop.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// The store cannot be read.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// The log continues in a format that this binary does not know.
    #[error(
        "the log needs format {needed}, this forebay knows {FORMAT_VERSION}: use a newer forebay"
    )]
    TooNew {
        /// The lowest format that may continue to read.
        needed: u64,
    },
    /// The record contains no command that this binary knows.
    #[error("the record contains a command that this forebay does not know: use a newer forebay")]
    UnknownCommand,
    /// The rows contradict each other.
    #[error("partition store: {what}; restore the partition from a snapshot and the log")]
    Inconsistent {
        /// The contradiction.
        what: String,
    },
}

/// The reply to the proposer of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The entry is stored. `existing`: it already was (same id or idempotency key).
    Enqueued(Enqueued),
    /// All entries of the batch are stored.
    EnqueuedBatch(Vec<Enqueued>),
    /// There is no room for them under a backlog limit: none was stored.
    BacklogFull(Box<BacklogFull>),
    /// Done; this many attempts or rules were changed.
    Changed(u64),
    /// Done for the entries it applies to.
    Acted(Acted),
    /// Done for the vqueues it applies to.
    VQueuesActed(Acted<VQueueId>),
    /// There is nothing to do any more, and why.
    Stale(Stale),
    /// The rule book does not decode; the current one stays.
    RuleBookRefused(String),
    /// A duplicate of an applied record.
    Duplicate,
    /// Proposed under an old epoch: nothing was done.
    Fenced,
}

/// One stored entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enqueued {
    /// Its id: that of the first entry if the idempotency key is known.
    pub entry: EntryId,
    /// Whether it was already stored.
    pub existing: bool,
    /// Whether the stored payload differs; `None` if unknown.
    pub payload_differs: Option<bool>,
}

/// Why a command had nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    /// No such entry.
    Unknown,
    /// It has ended.
    Finished,
    /// Another attempt superseded this one, or none is running.
    Superseded,
    /// Older than the current rule book or epoch.
    Older,
    /// The promise was resolved or rejected before.
    AlreadySettled,
    /// The entry has as many promises as it may.
    TooManyPromises,
}

/// An effect of applying a record. Reported only after the commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// A row was added to an inbox.
    InboxAdded {
        /// The vqueue.
        vqueue: VQueueId,
        /// The row's key.
        key: EntryKey,
    },
    /// A row was removed from an inbox.
    InboxRemoved {
        /// The vqueue.
        vqueue: VQueueId,
        /// The row's key.
        key: EntryKey,
    },
    /// An attempt starts.
    Started {
        /// The entry.
        entry: EntryId,
        /// Its vqueue.
        vqueue: VQueueId,
        /// The attempt.
        token: AttemptToken,
        /// Its number, from 1 (attempts that do not count are not counted).
        attempt: u32,
        /// What happens if it fails.
        retry: RetryPolicy,
    },
    /// A decision was not applied.
    DecisionVoid {
        /// The vqueue.
        vqueue: VQueueId,
        /// The place it was decided at.
        key: EntryKey,
        /// The attempt that does not start.
        token: AttemptToken,
        /// Whether the row is still at that place.
        still_there: bool,
        /// The current holder of the vqueue's lock, which is not returned with the permit.
        lock_holder: Option<EntryId>,
    },
    /// An attempt is over (ended, superseded or ended externally).
    AttemptOver {
        /// The entry.
        entry: EntryId,
        /// Its vqueue.
        vqueue: VQueueId,
        /// The attempt.
        token: AttemptToken,
        /// Whether the entry keeps its vqueue's lock.
        keeps_lock: bool,
        /// Whether the handler must be stopped because the end was external.
        abort: bool,
    },
    /// A lock was freed that no attempt held (its entry ended while waiting).
    LockFreed {
        /// The vqueue.
        vqueue: VQueueId,
        /// The former holder.
        entry: EntryId,
    },
    /// A running handler is asked to stop.
    CancelRequested {
        /// The entry.
        entry: EntryId,
        /// The attempt.
        token: AttemptToken,
    },
    /// An entry ended.
    Finished {
        /// The entry.
        entry: EntryId,
        /// Its outcome.
        outcome: Outcome,
    },
    /// A finished entry was removed.
    Purged {
        /// The entry.
        entry: EntryId,
    },
    /// A vqueue was paused or resumed.
    VQueuePaused {
        /// The vqueue.
        vqueue: VQueueId,
        /// Whether it was paused (or resumed).
        paused: bool,
    },
    /// An operation of a journal finished.
    OperationFinished {
        /// The entry.
        entry: EntryId,
        /// Its running attempt according to the rows, if there is one.
        token: Option<AttemptToken>,
        /// The operation and its outcome; boxed, because the other variants are small.
        finished: Box<OperationFinished>,
    },
    /// Another operation has the key that an attempt wrote to: nothing was written.
    WriteRefused {
        /// The entry.
        entry: EntryId,
        /// The attempt.
        token: AttemptToken,
        /// The key.
        key: JournalKey,
        /// The operation that has it.
        found: JournalKind,
    },
    /// An attempt is not suspended: something that it waits for is finished, or it was asked
    /// to stop.
    SuspendVoid {
        /// The entry.
        entry: EntryId,
        /// The attempt, which continues.
        token: AttemptToken,
    },
    /// A sleep began.
    SleepAdded {
        /// When it ends.
        until: Timestamp,
    },
    /// Sleeps were ended; there may be more that are due.
    SleepersWoken,
    /// A message was put into the outbox.
    OutboxAdded(Arc<OutboxMessage>),
    /// Delivered messages were deleted from the outbox.
    OutboxRemoved {
        /// The destination of each.
        to: Vec<PartitionKey>,
    },
    /// Rules changed.
    RulesUpdated(Vec<RuleUpdate>),
    /// A node leads from here on.
    LeaderAnnounced {
        /// The node.
        node: NodeId,
        /// Its epoch.
        epoch: Epoch,
    },
}

/// Everything needed to apply one record.
pub(super) struct Context<'a, T: Tables> {
    /// State in memory.
    pub(super) state: &'a mut PartitionState,
    /// The tables, with the writes of this batch.
    pub(super) tables: &'a mut T,
    /// The record's time.
    pub(super) now: Timestamp,
    /// The effects.
    pub(super) applied: &'a mut Vec<Applied>,
    /// The record's LSN.
    pub(super) lsn: Lsn,
    /// Operations of journals that it finished.
    pub(super) finished: u64,
    /// Messages that it put into the outbox.
    pub(super) sent: usize,
    /// Rows of journals that it walked over.
    pub(super) swept: usize,
}

/// Applies a record at its LSN.
///
/// # Errors
/// [`ApplyError`]: the partition must stop; the batch must not be committed.
///
/// # Panics
/// When the LSN does not follow the last applied one: records were skipped.
pub fn apply<T: Tables>(
    state: &mut PartitionState,
    tables: &mut T,
    lsn: Lsn,
    record: &Arc<Record>,
    applied: &mut Vec<Applied>,
) -> Result<Reply, ApplyError> {
    assert_eq!(lsn, state.applied_lsn.next(), "records are applied one after the other");
    let reply = if let Some(reply) = refuse_duplicate(state, tables, record)? {
        reply
    } else {
        let command = record.command.as_ref().ok_or(ApplyError::UnknownCommand)?;
        let places = state.places();
        let now = record.created_at;
        let mut context =
            Context { state, tables, now, applied, lsn, finished: 0, sent: 0, swept: 0 };
        let reply = dispatch(&mut context, command)?;
        state.put_places(places, tables);
        state.put_record_time(record.created_at, tables);
        reply
    };
    state.applied_lsn = lsn;
    put_fsm_number(tables, FsmSlot::AppliedLsn, lsn.0);
    Ok(reply)
}

fn dispatch<T: Tables>(
    context: &mut Context<'_, T>,
    command: &Command,
) -> Result<Reply, ApplyError> {
    match command {
        Command::AnnounceLeader(command) => Ok(announce_leader::apply(context, command)),
        Command::Enqueue(command) => enqueue::apply(context, command),
        Command::EnqueueBatch(command) => enqueue::apply_batch(context, command),
        Command::SchedulerDecisions(command) => decisions::apply(context, command),
        Command::Complete(command) => complete::apply(context, command),
        Command::Retry(command) => retry::apply(context, command),
        Command::EndAttempts(command) => end_attempts::apply(context, command),
        Command::Cancel(selector) => cancel::apply(context, selector).map(Reply::Acted),
        Command::Kill(selector) => cancel::apply_kill(context, selector).map(Reply::Acted),
        Command::Pause(selector) => pause::apply(context, selector).map(Reply::Acted),
        Command::Resume(selector) => pause::apply_resume(context, selector).map(Reply::Acted),
        Command::Reschedule(command) => reschedule::apply(context, command).map(Reply::Acted),
        Command::PauseVQueue(selector) => {
            pause_vqueue::apply(context, selector, true).map(Reply::VQueuesActed)
        }
        Command::ResumeVQueue(selector) => {
            pause_vqueue::apply(context, selector, false).map(Reply::VQueuesActed)
        }
        Command::UpsertRuleBook(command) => rule_book::apply(context, command),
        Command::Purge(command) => purge::apply(context, command).map(Reply::Acted),
        Command::Redrive(selector) => redrive::apply(context, selector).map(Reply::Acted),
        Command::VersionBarrier(command) => barrier::apply(context, *command),
        Command::UpdateDurability(command) => {
            put_fsm_number(context.tables, FsmSlot::DurableLsn, command.durable.0);
            Ok(Reply::Changed(0))
        }
        Command::TruncateOutbox(command) => outbox::truncate(context, command),
        Command::WriteJournal(command) => write_journal::apply(context, command),
        Command::Suspend(command) => suspend::apply(context, command),
        Command::SettlePromise(command) => settle_promise::apply(context, command),
        Command::Deliver(command) => deliver::apply(context, command),
        Command::WakeSleepers(command) => wake_sleepers::apply(context, command),
        Command::Restart(command) => restart::apply(context, command).map(Reply::Acted),
        Command::EndRun(command) => restart::apply_end(context, command),
        Command::FailCalls(command) => fail_calls::apply(context, command),
        Command::BeginIncarnation(command) => Ok(check_calls::begin(context, *command)),
        Command::CheckCalls(command) => check_calls::apply(context, command),
        Command::Reserved(()) => Err(ApplyError::UnknownCommand),
    }
}

/// Drops records that were already applied and records of an older leader.
fn refuse_duplicate<T: Tables>(
    state: &mut PartitionState,
    tables: &mut T,
    record: &Record,
) -> Result<Option<Reply>, ApplyError> {
    let (key, row) = match &record.producer {
        None => return Ok(None),
        Some(Producer::Leader(own)) => {
            if own.epoch < state.leader_epoch {
                return Ok(Some(Reply::Fenced));
            }
            (DedupKey::Leader, DedupRow { epoch: own.epoch.0, seq: own.seq.0 })
        }
        Some(Producer::External(other)) => {
            (DedupKey::External(other.id), DedupRow { epoch: 0, seq: other.seq.0 })
        }
        Some(Producer::Partition(outbox)) => {
            (DedupKey::Partition(outbox.source.0), DedupRow { epoch: 0, seq: outbox.index.0 })
        }
    };
    let seen = match key {
        DedupKey::Leader => Some(state.leader_dedup),
        _ => tables.dedup(key)?,
    };
    if seen.is_some_and(|seen| row <= seen) {
        return Ok(Some(Reply::Duplicate));
    }
    if key == DedupKey::Leader {
        state.leader_dedup = row;
    }
    tables.put_dedup(key, row);
    Ok(None)
}
