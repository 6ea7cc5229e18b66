//! `Deliver`: messages from the outbox of a partition, this one or another.

use bilrost::{Message, Oneof, OwnedMessage as _};

use crate::{
    EntryId, Incarnation, PartitionId, PartitionKey, RecordSeq, Run,
    journal::{JournalKey, JournalOutcome, ParentLink},
};

use super::{AskChild, NewEntry};

/// Messages from one outbox, proposed by the leader of the partition that receives them.
///
/// The receiver keeps (incarnation, index) of the last message of each source and skips messages
/// that are not above it. So the sender has at most one such command in flight per target, with its
/// messages in the order of their indexes: a message that is left out and sent later is lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct Deliver {
    /// The partition of the outbox.
    #[bilrost(1)]
    pub source: PartitionId,
    /// The incarnation of messages that have none of their own.
    #[bilrost(2)]
    pub incarnation: Incarnation,
    /// In the order of their indexes, at most
    /// [`crate::journal::MESSAGES_PER_RECORD_MAX`].
    #[bilrost(3)]
    pub messages: Vec<OutboxMessage>,
}

/// One message, as stored in an outbox and as delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct OutboxMessage {
    /// Its index in the outbox, from 1.
    #[bilrost(1)]
    pub index: RecordSeq,
    /// Its destination: the partition that owns this key when it is sent.
    #[bilrost(2)]
    pub to: PartitionKey,
    /// The content; absent only when written by a newer format.
    #[bilrost(oneof(3-6))]
    pub body: Option<MessageBody>,
    /// The incarnation of the outbox when it was put there. Messages of the first one have none.
    #[bilrost(7)]
    pub incarnation: Incarnation,
}

/// The destination of a message, without its content.
#[derive(Default, Message)]
struct Destination {
    #[bilrost(2)]
    to: PartitionKey,
}

impl OutboxMessage {
    /// The destination of an encoded message, without decoding its content; `None` if the bytes do
    /// not decode.
    #[must_use]
    pub fn destination(encoded: &[u8]) -> Option<PartitionKey> {
        Destination::decode(encoded).ok().map(|destination| destination.to)
    }
}

/// The content of a message.
#[derive(Clone, Debug, PartialEq, Eq, Oneof)]
pub enum MessageBody {
    /// Make a child.
    #[bilrost(3)]
    Invoke(Box<Invoke>),
    /// A called child ended.
    #[bilrost(4)]
    Response(Response),
    /// Cancel or kill a child.
    #[bilrost(5)]
    Stop(StopChild),
    /// Ask for a called child.
    #[bilrost(6)]
    Ask(Box<AskChild>),
}

/// Make a child. If it exists, nothing is made; if it has ended, its answer is sent again.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
pub struct Invoke {
    /// The child: its id is derived, it is not fresh and has no idempotency key.
    #[bilrost(1)]
    pub child: NewEntry,
    /// The link to the parent.
    #[bilrost(2)]
    pub parent: ParentLink,
}

/// A called child ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct Response {
    /// The child.
    #[bilrost(1)]
    pub child: EntryId,
    /// Its parent.
    #[bilrost(2)]
    pub parent: EntryId,
    /// The run that called it; a later run ignores the answer.
    #[bilrost(3)]
    pub run: Run,
    /// The operation.
    #[bilrost(4)]
    pub key: JournalKey,
    /// The outcome; absent means success with no bytes.
    #[bilrost(oneof(14, 15))]
    pub outcome: Option<JournalOutcome>,
}

/// Cancel or kill a child. One that does not exist (yet) leaves a tombstone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Message)]
pub struct StopChild {
    /// The child.
    #[bilrost(1)]
    pub child: EntryId,
    /// Kill it; otherwise cancel it.
    #[bilrost(2)]
    pub is_kill: bool,
}
