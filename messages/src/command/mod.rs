//! The commands of the log. What they do is written in the engine, one file each;
//! this is what they say.

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

/// What a record asks for. Tags 16 to 63 of the record are its.
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
    /// An attempt ended for good.
    #[bilrost(tag(20))]
    Complete(Complete),
    /// An attempt ended and the entry goes back to its inbox.
    #[bilrost(tag(21))]
    Retry(RetryAttempt),
    /// Cooperative cancellation.
    #[bilrost(tag(22))]
    Cancel(EntrySelector),
    /// Cancellation that asks nobody.
    #[bilrost(tag(23))]
    Kill(EntrySelector),
    /// Entries that must not run for now.
    #[bilrost(tag(24))]
    Pause(EntrySelector),
    /// Entries that may run again.
    #[bilrost(tag(25))]
    Resume(EntrySelector),
    /// Another time (and so another place in the queue).
    #[bilrost(tag(26))]
    Reschedule(Reschedule),
    /// Vqueues that must not start anything for now.
    #[bilrost(tag(27))]
    PauseVQueue(VQueueSelector),
    /// Vqueues that may start again.
    #[bilrost(tag(28))]
    ResumeVQueue(VQueueSelector),
    /// A rule book, opaque here.
    #[bilrost(tag(29))]
    UpsertRuleBook(UpsertRuleBook),
    /// Outbox messages that were delivered.
    #[bilrost(tag(30))]
    TruncateOutbox(TruncateOutbox),
    /// What is durable outside of the log.
    #[bilrost(tag(31))]
    UpdateDurability(UpdateDurability),
    /// Finished entries whose retention is over, or that were asked to go.
    #[bilrost(tag(32))]
    Purge(Purge),
    /// Older binaries stop here.
    #[bilrost(tag(33))]
    VersionBarrier(VersionBarrier),
    /// Dead letters that are to be tried again from attempt one.
    #[bilrost(tag(34))]
    Redrive(EntrySelector),
    /// Several attempts ended.
    #[bilrost(tag(35))]
    EndAttempts(EndAttempts),
    /// Reserved to keep the tag range of the record closed.
    #[bilrost(tag(63))]
    Reserved(()),
}
