//! The commands of the log. The engine implements each in its own file; these are their contents.

mod entry;
mod partition;

pub use entry::{
    Complete, CompleteOutcome, Decision, EndAttempts, Enqueue, EnqueueBatch, EntrySelector,
    ExecutorId, NewEntry, Reschedule, RetryAttempt, RetryPolicy, RetryReason, SchedulerDecisions,
    VQueueSelector, payload_hash,
};
pub use partition::{
    AnnounceLeader, Purge, TruncateOutbox, UpdateDurability, UpsertRuleBook, VersionBarrier,
};

use bilrost::Oneof;

/// The command of a record, in the record's tags 16 to 63.
#[derive(Clone, Debug, PartialEq, Oneof)]
pub enum Command {
    /// A node leads from here on.
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
    /// How far the store is durable.
    #[bilrost(tag(31))]
    UpdateDurability(UpdateDurability),
    /// Finished entries to remove: expired or purged on request.
    #[bilrost(tag(32))]
    Purge(Purge),
    /// Older binaries stop here.
    #[bilrost(tag(33))]
    VersionBarrier(VersionBarrier),
    /// Dead letters to retry from attempt one.
    #[bilrost(tag(34))]
    Redrive(EntrySelector),
    /// Several attempts ended.
    #[bilrost(tag(35))]
    EndAttempts(EndAttempts),
    /// Reserved to keep the tag range of the record closed.
    #[bilrost(tag(63))]
    Reserved(()),
}
