//! Commands about the partition itself.

use bilrost::Message;
use bytes::Bytes;

use crate::{EntryId, Epoch, Lsn, NodeId, PartitionKey, RecordSeq, Timestamp};

/// A node becomes leader. Its leadership begins when this is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
pub struct AnnounceLeader {
    /// The leading node.
    #[bilrost(1)]
    pub node: NodeId,
    /// Its epoch.
    #[bilrost(2)]
    pub epoch: Epoch,
    /// First key of the partition's range.
    #[bilrost(3)]
    pub key_first: PartitionKey,
    /// Last key of the partition's range.
    #[bilrost(4)]
    pub key_last: PartitionKey,
}

/// A rule book, opaque here. Applied if it is newer than the current one.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
pub struct UpsertRuleBook {
    /// First key of the range it is for.
    #[bilrost(1)]
    pub key_first: PartitionKey,
    /// Last key of the range it is for.
    #[bilrost(2)]
    pub key_last: PartitionKey,
    /// The encoded book.
    #[bilrost(3)]
    pub rule_book: Bytes,
}

/// Outbox messages that were delivered, to one target: targets do not wait for each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct TruncateOutbox {
    /// Reserved: no version has proposed this.
    #[bilrost(1)]
    pub through: u64,
    /// The indexes, in order, at most [`crate::journal::MESSAGES_PER_RECORD_MAX`].
    #[bilrost(tag(2), encoding(packed))]
    pub delivered: Vec<RecordSeq>,
}

/// The LSN up to which the store is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
pub struct UpdateDurability {
    /// Everything up to this LSN is in flushed store files.
    #[bilrost(1)]
    pub durable: Lsn,
}

/// Finished entries to remove.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct Purge {
    /// Exactly these entries (finished ones only).
    #[bilrost(1)]
    pub entries: Vec<EntryId>,
    /// Also everything whose retention ended by this time.
    #[bilrost(2)]
    pub expired_until: Option<Timestamp>,
    /// At most this many entries in one command; 0 means the default.
    #[bilrost(3)]
    pub count_max: u32,
}

/// Older binaries stop here instead of misreading later records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
pub struct VersionBarrier {
    /// Lowest format that may continue to read.
    #[bilrost(1)]
    pub format_min: u32,
}
