//! The journal of an entry: the operations of its handler and their results, in types shared by
//! records, rows and handlers.
//!
//! Owns: keys, kinds, outcomes, ids of steps and children, and the limits. Must always hold: keys,
//! fingerprints and derived ids are pinned by golden tests; a stored journal has the same bytes
//! when it is read later. Must not know: what writes a journal, where it is stored.

mod key;
mod outcome;
mod step;

pub use key::{BranchElement, BranchKind, JournalKey, KeyError, KeyParts};
pub use outcome::{JournalFailure, JournalFailureKind, JournalOutcome};
pub use step::{ParentLink, StepId, child_id};

use bilrost::Enumeration;
use xxhash_rust::xxh3::xxh3_64;

use crate::{VQueueName, command::payload_hash};

/// Maximum number of rows in the journal of a run; one more ends the entry (`JournalFull`).
pub const JOURNAL_ROWS_MAX: u32 = 10_000;
/// Maximum bytes of keys and results in the journal of a run; more ends the entry.
pub const JOURNAL_BYTES_MAX: u64 = 64 << 20;
/// Maximum number of promises of an entry, resolved or waited for.
pub const PROMISES_MAX: u32 = 1_024;
/// Maximum length of the name of an operation or a promise, in bytes.
pub const NAME_LEN_MAX: usize = 128;
/// Maximum number of elements in the path of a branch.
pub const BRANCH_DEPTH_MAX: usize = 16;
/// Maximum length of a key given to a branch, in bytes.
pub const BRANCH_KEY_LEN_MAX: usize = 128;
/// Maximum depth of calls: the child of an entry at this depth is refused (`CallTooDeep`).
pub const CALL_DEPTH_MAX: u32 = 64;
/// Maximum number of keys that a suspended entry names in its row; with more, any finished
/// operation wakes it.
pub const WAITS_KEPT_MAX: usize = 256;
/// Maximum number of attempts that share a record of journal writes.
pub const ATTEMPTS_PER_RECORD_MAX: usize = 512;
/// Maximum number of writes in a record of journal writes.
pub const WRITES_PER_RECORD_MAX: usize = 1_024;
/// Maximum number of messages in a record of delivered messages.
pub const MESSAGES_PER_RECORD_MAX: usize = 512;
/// Maximum number of sleepers that one record wakes.
pub const SLEEPERS_PER_RECORD_MAX: usize = 1_024;
/// Maximum number of messages in an outbox to one partition, by default. Beyond that, the leader
/// holds back calls and sends to it; applying a record never refuses one.
pub const OUTBOX_PER_TARGET_MAX: usize = 16_384;
/// How long a tombstone is kept, in milliseconds: an invoke that arrives later than this after the
/// cancel of its child starts the child. 24 hours.
pub const TOMBSTONE_RETENTION_MS: u64 = 24 * 60 * 60 * 1000;

/// The kind of a journal row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(u32)]
pub enum JournalKind {
    /// A result that the handler computed.
    #[default]
    Step = 0,
    /// A child whose result the handler gets.
    Call = 1,
    /// A child whose result is ignored.
    Send = 2,
    /// A wait for a point in time.
    Sleep = 3,
    /// A wait for a promise of the entry; the name of the key is the promise's name.
    Promise = 4,
}

impl std::fmt::Display for JournalKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Step => "step",
            Self::Call => "call",
            Self::Send => "send",
            Self::Sleep => "sleep",
            Self::Promise => "promise",
        })
    }
}

impl JournalKind {
    /// Whether the entry may be suspended while this is unfinished.
    #[must_use]
    pub fn is_durable_wait(self) -> bool {
        matches!(self, Self::Call | Self::Sleep | Self::Promise)
    }
}

/// Identifies an operation on replay: xxh3-64 over its kind (one byte) and, for a child, its vqueue
/// (16 bytes) and the hash of its payload (8 bytes, big-endian).
#[must_use]
pub fn fingerprint(kind: JournalKind, child: Option<(&VQueueName, &[u8])>) -> u64 {
    let mut bytes = vec![kind as u8];
    if let Some((vqueue, payload)) = child {
        bytes.extend_from_slice(&vqueue.id(Default::default()).hash);
        bytes.extend_from_slice(&payload_hash(payload).to_be_bytes());
    }
    xxh3_64(&bytes)
}
