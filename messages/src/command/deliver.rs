//! `Deliver`: messages from the outbox of a partition, of this one or another.

use bilrost::{Message, Oneof};

use crate::{
    EntryId, Incarnation, PartitionId, PartitionKey, RecordSeq, Run,
    journal::{JournalKey, JournalOutcome, ParentLink},
};

use super::NewEntry;

/// Messages from one outbox, proposed by the leader of the partition that gets them.
///
/// The receiver keeps (incarnation, index) of the last message of each source and skips what
/// is not above it. So the sender has at most one such command in flight per target, and its
/// messages are in the order of their indexes: what was left out and comes later is lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct Deliver {
    /// The partition whose outbox they are from.
    #[bilrost(1)]
    pub source: PartitionId,
    /// The incarnation of that outbox.
    #[bilrost(2)]
    pub incarnation: Incarnation,
    /// In the order of their indexes, at most
    /// [`crate::journal::MESSAGES_PER_RECORD_MAX`].
    #[bilrost(3)]
    pub messages: Vec<OutboxMessage>,
}

/// One message, as it lies in an outbox and as it is delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct OutboxMessage {
    /// Its index in the outbox, from 1.
    #[bilrost(1)]
    pub index: RecordSeq,
    /// Where it goes: to the partition that owns this key when it is sent.
    #[bilrost(2)]
    pub to: PartitionKey,
    /// What it says; absent only when written by a newer format.
    #[bilrost(oneof(3-5))]
    pub body: Option<MessageBody>,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq, Oneof)]
pub enum MessageBody {
    /// Make a child.
    #[bilrost(3)]
    Invoke(Box<Invoke>),
    /// A child that was called ended.
    #[bilrost(4)]
    Response(Response),
    /// Cancel or kill a child.
    #[bilrost(5)]
    Stop(StopChild),
}

/// Make a child. Where it is there already, nothing is made; where it has ended, it is
/// answered for again.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
pub struct Invoke {
    /// The child: its id is derived, it is not fresh and has no idempotency key.
    #[bilrost(1)]
    pub child: NewEntry,
    /// Where it comes from.
    #[bilrost(2)]
    pub parent: ParentLink,
}

/// A child that was called ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct Response {
    /// The child.
    #[bilrost(1)]
    pub child: EntryId,
    /// Its parent.
    #[bilrost(2)]
    pub parent: EntryId,
    /// The run that called it; a later run does not take the answer.
    #[bilrost(3)]
    pub run: Run,
    /// The operation.
    #[bilrost(4)]
    pub key: JournalKey,
    /// How it ended; absent means with no bytes.
    #[bilrost(oneof(14, 15))]
    pub outcome: Option<JournalOutcome>,
}

/// Cancel or kill a child. One that is not there (yet) leaves a tombstone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Message)]
pub struct StopChild {
    /// The child.
    #[bilrost(1)]
    pub child: EntryId,
    /// Kill it; else cancel it.
    #[bilrost(2)]
    pub is_kill: bool,
}
