//! The order of entries inside a vqueue.

use crate::{EntryId, InboxSeq, Timestamp, wire::wire_bytes};

/// Place of an entry in its vqueue's inbox: `(has_lock descending, run_at, seq, entry id)`.
///
/// Encoded in 41 bytes, big-endian, so that byte order equals this order: one byte (0 for an entry
/// that holds its lock, 1 otherwise), `run_at` (8), `seq` (8), entry id (24).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EntryKey {
    /// The entry already holds its vqueue's lock (a retry): it sorts first.
    pub has_lock: bool,
    /// Earliest start.
    pub run_at: Timestamp,
    /// The partition's inbox sequence, assigned when the row was written.
    pub seq: InboxSeq,
    /// The entry.
    pub entry: EntryId,
}

impl EntryKey {
    /// Length of the encoded form.
    pub const LEN: usize = 41;

    /// Bytes whose order is the order of the keys.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0] = u8::from(!self.has_lock);
        bytes[1..9].copy_from_slice(&self.run_at.0.to_be_bytes());
        bytes[9..17].copy_from_slice(&self.seq.0.to_be_bytes());
        bytes[17..].copy_from_slice(&self.entry.to_bytes());
        bytes
    }

    /// The inverse of [`Self::to_bytes`].
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        let (mut run_at, mut seq, mut entry) = ([0; 8], [0; 8], [0; 24]);
        run_at.copy_from_slice(&bytes[1..9]);
        seq.copy_from_slice(&bytes[9..17]);
        entry.copy_from_slice(&bytes[17..]);
        Self {
            has_lock: bytes[0] == 0,
            run_at: Timestamp(u64::from_be_bytes(run_at)),
            seq: InboxSeq(u64::from_be_bytes(seq)),
            entry: EntryId::from_bytes(entry),
        }
    }
}

impl Ord for EntryKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other
            .has_lock
            .cmp(&self.has_lock)
            .then_with(|| self.run_at.cmp(&other.run_at))
            .then_with(|| self.seq.cmp(&other.seq))
            .then_with(|| self.entry.cmp(&other.entry))
    }
}

impl PartialOrd for EntryKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

wire_bytes!(EntryKey, 41);
