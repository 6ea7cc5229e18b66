//! A record of the log: one command and everything that applying it may depend on.

use bilrost::{Message, Oneof, OwnedMessage};
use thiserror::Error;

use crate::{Epoch, PartitionId, PartitionKey, RecordSeq, Timestamp, command::Command};

/// Version of the record format that this code writes.
pub const RECORD_FORMAT: u8 = 1;

/// Largest record, in bytes as stored, with its frame.
pub const RECORD_LEN_MAX: usize = 64 << 20;
/// Bytes stored before a record in a log.
pub const FRAME_LEN: usize = 5;
/// Maximum size of a record of one entry beyond the entry's payload, result or error: names, keys,
/// tokens and the frame.
pub const RECORD_ROOM: usize = 4 << 10;

/// The points of the key space that a record concerns.
#[derive(Clone, Debug, PartialEq, Eq, Oneof)]
pub enum RecordKeys {
    /// One point.
    #[bilrost(1)]
    Single(PartitionKey),
    /// Two points (caller and callee).
    #[bilrost(2)]
    Pair((PartitionKey, PartitionKey)),
    /// Any number of points.
    #[bilrost(tag(3), encoding(packed))]
    Set(Vec<PartitionKey>),
    /// A closed range of points.
    #[bilrost(4)]
    Range((PartitionKey, PartitionKey)),
}

/// The producer of a record, and the record's sequence among those of its producer.
#[derive(Clone, Debug, PartialEq, Eq, Oneof)]
pub enum Producer {
    /// The partition's own leader. Records of an epoch older than the one in force, and known
    /// sequences, are dropped when applied.
    #[bilrost(tag(5))]
    Leader(LeaderSeq),
    /// An external producer with its own id.
    #[bilrost(tag(6))]
    External(ExternalSeq),
    /// Another partition's outbox.
    #[bilrost(tag(7))]
    Partition(OutboxSeq),
}

/// Sequence of a leader's own proposals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Message)]
pub struct LeaderSeq {
    /// Epoch of the leader that proposed.
    #[bilrost(1)]
    pub epoch: Epoch,
    /// Sequence of the proposal under that epoch, from 1.
    #[bilrost(2)]
    pub seq: RecordSeq,
}

/// Sequence of an external producer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct ExternalSeq {
    /// The producer's id.
    #[bilrost(1)]
    pub id: u64,
    /// Its sequence, from 1.
    #[bilrost(2)]
    pub seq: RecordSeq,
}

/// Sequence of a message from another partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct OutboxSeq {
    /// The sending partition.
    #[bilrost(1)]
    pub source: PartitionId,
    /// Index in its outbox.
    #[bilrost(2)]
    pub index: RecordSeq,
}

/// One record. Its LSN is its position and not part of it.
#[derive(Clone, Debug, PartialEq, Message)]
pub struct Record {
    /// The points of the key space it concerns; `None` concerns only the partition it was appended
    /// to.
    #[bilrost(oneof(1, 2, 3, 4))]
    pub keys: Option<RecordKeys>,
    /// The producer; `None` is never deduplicated.
    #[bilrost(oneof(5, 6, 7))]
    pub producer: Option<Producer>,
    /// When it was proposed. Applying uses this as "now".
    #[bilrost(8)]
    pub created_at: Timestamp,
    /// The command. `None` only if written by a newer format.
    #[bilrost(oneof(16-45, 63))]
    pub command: Option<Command>,
}

/// Why bytes are not a record.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// No bytes at all.
    #[error("the record is empty")]
    Empty,
    /// Written by a newer version of forebay.
    #[error(
        "the record has format {found}, this forebay reads formats up to {RECORD_FORMAT}: \
             use a newer forebay"
    )]
    Format {
        /// The format found.
        found: u8,
    },
    /// The bytes do not decode.
    #[error("the record does not decode: {0}")]
    Decode(String),
}

impl Record {
    /// Its size in a log, with its frame, in bytes.
    #[must_use]
    pub fn stored_len(&self) -> usize {
        FRAME_LEN + self.encoded_len()
    }

    /// Encodes the record after a format byte.
    #[must_use]
    pub fn encode_framed(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + self.encoded_len());
        bytes.push(RECORD_FORMAT);
        self.encode(&mut bytes).expect("a Vec grows as needed");
        bytes
    }

    /// The inverse of [`Self::encode_framed`].
    ///
    /// # Errors
    /// [`RecordError`] saying what is wrong with the bytes.
    pub fn decode_framed(bytes: bytes::Bytes) -> Result<Self, RecordError> {
        let format = *bytes.first().ok_or(RecordError::Empty)?;
        if format != RECORD_FORMAT {
            return Err(RecordError::Format { found: format });
        }
        Self::decode(bytes.slice(1..)).map_err(|error| RecordError::Decode(error.to_string()))
    }
}
