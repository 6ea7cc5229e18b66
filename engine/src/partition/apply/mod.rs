//! Applying one record: the partition's state machine. One file per command; this one
//! deduplicates and dispatches.
//!
//! Must always hold: the same records give the same rows and the same replies on
//! every replica. "Now" is the record's time. A command that makes no sense any more
//! is a typed no-op, never an error; an error is a fault of the store or of the log.
//! Must not know: whether this replica leads.

mod act;
mod announce_leader;
mod barrier;
mod cancel;
mod complete;
mod decisions;
mod end;
mod end_attempts;
mod enqueue;
mod pause;
mod pause_vqueue;
mod place;
mod purge;
mod redrive;
mod reschedule;
mod retry;
mod rule_book;
mod select;

use std::sync::Arc;

use forebay_messages::{
    AttemptToken, EntryId, EntryKey, Epoch, Lsn, NodeId, Outcome, Producer, Record, Timestamp,
    VQueueId,
    command::{Command, RetryPolicy},
    rule::RuleUpdate,
};
use thiserror::Error;

pub use super::backlog::BacklogFull;
use super::{
    rows::{DedupKey, DedupRow, FsmSlot},
    state::State,
    store::{Tables, TablesError, put_fsm_number},
};
pub use act::{
    Acted, ENTRIES_PER_COMMAND_MAX, NeverMatches, Skip, check, check_can_match, check_finished,
    is_for_finished, spares,
};
pub use decisions::{begin, started};

/// Format of commands and rows that this code understands. 2: rule books with pauses.
pub const FORMAT_VERSION: u64 = 2;

/// Why a partition must stop.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// The store cannot be read.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// The log goes on in a format that this binary does not know.
    #[error(
        "the log needs format {needed}, this forebay knows {FORMAT_VERSION}: use a newer forebay"
    )]
    TooNew {
        /// The lowest format that may read on.
        needed: u64,
    },
    /// The record carries no command that this binary knows.
    #[error("the record carries a command that this forebay does not know: use a newer forebay")]
    UnknownCommand,
    /// The rows contradict each other.
    #[error("partition store: {what}; restore the partition from a snapshot and the log")]
    Inconsistent {
        /// What does not fit.
        what: String,
    },
}

/// What the proposer of a command is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The entry is stored. `existing`: it was before (same id or idempotency key).
    Enqueued(Enqueued),
    /// All entries of the batch are stored.
    EnqueuedBatch(Vec<Enqueued>),
    /// There is no room for them under a backlog limit: none was stored.
    BacklogFull(Box<BacklogFull>),
    /// Done; so many attempts or rules were changed.
    Changed(u64),
    /// Done to those entries to which it applies.
    Acted(Acted),
    /// Done to those vqueues to which it applies.
    VQueuesActed(Acted<VQueueId>),
    /// Nothing to do any more, and why.
    Stale(Stale),
    /// The rule book does not decode; the old one stays.
    RuleBookRefused(String),
    /// A duplicate of a record that was applied before.
    Duplicate,
    /// Proposed under an epoch that is over: nothing was done.
    Fenced,
}

/// One stored entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enqueued {
    /// Its id: the first one's when an idempotency key was known.
    pub entry: EntryId,
    /// It was stored before.
    pub existing: bool,
    /// Whether the payload that is stored is another one; `None` when that is not known.
    pub payload_differs: Option<bool>,
}

/// Why a command had nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    /// No such entry.
    Unknown,
    /// It has ended.
    Finished,
    /// Another attempt superseded this one, or none runs.
    Superseded,
    /// An older rule book or epoch than the one in force.
    Older,
}

/// What applying has brought about. Told to others only after the commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// A row was put in an inbox.
    InboxAdded {
        /// Whose.
        vqueue: VQueueId,
        /// Where.
        key: EntryKey,
    },
    /// A row left an inbox.
    InboxRemoved {
        /// Whose.
        vqueue: VQueueId,
        /// Where it was.
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
        /// What follows if this one fails.
        retry: RetryPolicy,
    },
    /// A decision was not applied.
    DecisionVoid {
        /// The vqueue.
        vqueue: VQueueId,
        /// The place it was decided for.
        key: EntryKey,
        /// The attempt that does not start.
        token: AttemptToken,
        /// The row is still at that place.
        still_there: bool,
        /// Who holds the vqueue's lock by now; it does not come back with the permit.
        lock_holder: Option<EntryId>,
    },
    /// An attempt is over (ended, superseded or ended from outside).
    AttemptOver {
        /// The entry.
        entry: EntryId,
        /// Its vqueue.
        vqueue: VQueueId,
        /// The attempt.
        token: AttemptToken,
        /// The entry keeps its vqueue's lock.
        keeps_lock: bool,
        /// The handler must be stopped: the end came from outside.
        abort: bool,
    },
    /// A lock was freed that no attempt held (its entry ended while waiting).
    LockFreed {
        /// The vqueue.
        vqueue: VQueueId,
        /// Who had it.
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
        /// How.
        outcome: Outcome,
    },
    /// A finished entry was forgotten.
    Purged {
        /// The entry.
        entry: EntryId,
    },
    /// A vqueue was paused or resumed.
    VQueuePaused {
        /// Which.
        vqueue: VQueueId,
        /// Paused (or resumed).
        paused: bool,
    },
    /// Rules changed.
    RulesUpdated(Vec<RuleUpdate>),
    /// Somebody leads from here on.
    LeaderAnnounced {
        /// Who.
        node: NodeId,
        /// Under which epoch.
        epoch: Epoch,
    },
}

/// What applying one record needs at hand.
pub(super) struct Context<'a, T: Tables> {
    /// State in memory.
    pub(super) state: &'a mut State,
    /// The tables, with the writes of this batch.
    pub(super) tables: &'a mut T,
    /// The record's time.
    pub(super) now: Timestamp,
    /// What came of it.
    pub(super) applied: &'a mut Vec<Applied>,
}

/// Applies a record at its LSN.
///
/// # Errors
/// [`ApplyError`]: the partition must stop; the batch must not be committed.
///
/// # Panics
/// When the LSN does not follow the last applied one: records were skipped.
pub fn apply<T: Tables>(
    state: &mut State,
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
        let mut context = Context { state, tables, now: record.created_at, applied };
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
        Command::TruncateOutbox(_)
        | Command::WriteJournal(_)
        | Command::Suspend(_)
        | Command::SettlePromise(_)
        | Command::Deliver(_)
        | Command::WakeSleepers(_)
        | Command::Restart(_)
        | Command::EndRun(_)
        | Command::Reserved(()) => Err(ApplyError::UnknownCommand),
    }
}

/// Drops what was applied before and what an older leader wrote.
fn refuse_duplicate<T: Tables>(
    state: &mut State,
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
