//! The commands of the log, and the actions of users that become commands. The engine
//! implements each command in its own file; these are their contents.

mod check_calls;
mod deliver;
mod entry;
mod fail_calls;
mod partition;
mod restart;
mod settle_promise;
mod suspend;
mod wake_sleepers;
mod write_journal;

pub use check_calls::{AskChild, BeginIncarnation, CheckCalls, CheckedTable};
pub use deliver::{Deliver, Invoke, MessageBody, OutboxMessage, Response, StopChild};

pub use entry::{
    Complete, CompleteOutcome, Decision, EndAttempts, Enqueue, EnqueueBatch, EntrySelector,
    ExecutorId, NewEntry, Reschedule, RetryAttempt, RetryPolicy, RetryReason, SchedulerDecisions,
    VQueueSelector, payload_hash,
};
pub use fail_calls::{FailCalls, PendingCall};
pub use partition::{
    AnnounceLeader, Purge, TruncateOutbox, UpdateDurability, UpsertRuleBook, VersionBarrier,
};
pub use restart::{AfterRun, EndRun, Restart};
pub use settle_promise::SettlePromise;
pub use suspend::{Suspend, SuspendAttempt};
pub use wake_sleepers::WakeSleepers;
pub use write_journal::{
    AttemptWrites, JournalWrite, NewChild, Operation, StepResult, WriteJournal,
};

use bilrost::Oneof;
use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// The command of a record, in the record's tags 16 to 63.
#[derive(Clone, Debug, PartialEq, Oneof)]
pub enum Command {
    /// A node becomes leader.
    #[bilrost(tag(16))]
    AnnounceLeader(AnnounceLeader),
    /// One new entry.
    #[bilrost(tag(17))]
    Enqueue(Enqueue),
    /// Several new entries, all or none.
    #[bilrost(tag(18))]
    EnqueueBatch(EnqueueBatch),
    /// Entries that start to run.
    #[bilrost(tag(19))]
    SchedulerDecisions(SchedulerDecisions),
    /// An attempt ended, and with it the entry.
    #[bilrost(tag(20))]
    Complete(Complete),
    /// An attempt ended and the entry returns to its inbox.
    #[bilrost(tag(21))]
    Retry(RetryAttempt),
    /// Cooperative cancellation.
    #[bilrost(tag(22))]
    Cancel(EntrySelector),
    /// Immediate cancellation, without asking the handler.
    #[bilrost(tag(23))]
    Kill(EntrySelector),
    /// Entries to pause.
    #[bilrost(tag(24))]
    Pause(EntrySelector),
    /// Entries to resume.
    #[bilrost(tag(25))]
    Resume(EntrySelector),
    /// Entries to move to another time (and so another place in the queue).
    #[bilrost(tag(26))]
    Reschedule(Reschedule),
    /// Vqueues to pause.
    #[bilrost(tag(27))]
    PauseVQueue(VQueueSelector),
    /// Vqueues to resume.
    #[bilrost(tag(28))]
    ResumeVQueue(VQueueSelector),
    /// A rule book, opaque here.
    #[bilrost(tag(29))]
    UpsertRuleBook(UpsertRuleBook),
    /// Outbox messages that were delivered.
    #[bilrost(tag(30))]
    TruncateOutbox(TruncateOutbox),
    /// The LSN up to which the store is durable.
    #[bilrost(tag(31))]
    UpdateDurability(UpdateDurability),
    /// Finished entries to remove: expired or purged on request.
    #[bilrost(tag(32))]
    Purge(Purge),
    /// Older binaries must stop here.
    #[bilrost(tag(33))]
    VersionBarrier(VersionBarrier),
    /// Dead letters to retry from attempt one.
    #[bilrost(tag(34))]
    Redrive(EntrySelector),
    /// Several attempts ended.
    #[bilrost(tag(35))]
    EndAttempts(EndAttempts),
    /// Operations of running attempts, for their journals.
    #[bilrost(tag(36))]
    WriteJournal(WriteJournal),
    /// Attempts that suspend until an operation finishes.
    #[bilrost(tag(37))]
    Suspend(Suspend),
    /// A promise is resolved or rejected.
    #[bilrost(tag(38))]
    SettlePromise(SettlePromise),
    /// Messages from an outbox.
    #[bilrost(tag(39))]
    Deliver(Deliver),
    /// Sleeps are over.
    #[bilrost(tag(40))]
    WakeSleepers(WakeSleepers),
    /// Restarts entries with a new run.
    #[bilrost(tag(41))]
    Restart(Restart),
    /// An attempt ends its run.
    #[bilrost(tag(42))]
    EndRun(EndRun),
    /// Calls whose children are in keys without an owner.
    #[bilrost(tag(43))]
    FailCalls(FailCalls),
    /// A copy of an earlier state continues.
    #[bilrost(tag(44))]
    BeginIncarnation(BeginIncarnation),
    /// Calls whose children may be lost.
    #[bilrost(tag(45))]
    CheckCalls(CheckCalls),
    /// Reserved to keep the tag range of the record closed.
    #[bilrost(tag(63))]
    Reserved(()),
}

/// An external action on entries.
///
/// Not `non_exhaustive`: a new action must define its effect on each stage, and the compiler names
/// the places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryAction {
    /// Ask a running entry to stop; a waiting one ends at once.
    Cancel,
    /// End the entry at once, whatever its stage.
    Kill,
    /// Pause an entry that waits or is suspended.
    Pause,
    /// Resume a paused entry.
    Resume,
    /// Set a new start time, which is also the position in the queue.
    Reschedule {
        /// When it may run.
        run_at: Timestamp,
    },
    /// Remove an ended entry.
    Purge,
    /// Retry an entry that failed permanently. By filter: entries whose handler failed, but not
    /// canceled or killed ones, unless the filter asks for that outcome.
    Redrive,
    /// Begin again with an empty journal, in any stage; calls without an answer are canceled. An
    /// ended entry that did not succeed is redriven. By filter: only entries that have not ended.
    Restart,
}

impl EntryAction {
    /// Its name, as users type it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Reschedule { .. } => "reschedule",
            Self::Purge => "purge",
            Self::Redrive => "redrive",
            Self::Restart => "restart",
        }
    }

    /// State of an entry after the action.
    #[must_use]
    pub fn done(self) -> &'static str {
        match self {
            Self::Cancel => "canceled",
            Self::Kill => "killed",
            Self::Pause => "paused",
            Self::Resume => "resumed",
            Self::Reschedule { .. } => "rescheduled",
            Self::Purge => "purged",
            Self::Redrive => "redriven",
            Self::Restart => "restarted",
        }
    }

    /// The command that applies it to the selected entries.
    #[must_use]
    pub fn command(self, selector: EntrySelector) -> Command {
        match self {
            Self::Cancel => Command::Cancel(selector),
            Self::Kill => Command::Kill(selector),
            Self::Pause => Command::Pause(EntrySelector { includes_suspended: true, ..selector }),
            Self::Resume => Command::Resume(selector),
            Self::Reschedule { run_at } => Command::Reschedule(Reschedule { selector, run_at }),
            Self::Purge => Command::Purge(Purge { entries: selector.entries, ..Purge::default() }),
            Self::Redrive => Command::Redrive(selector),
            Self::Restart => Command::Restart(Restart { selector, from: None }),
        }
    }
}
