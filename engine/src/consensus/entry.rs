//! Entries of a group, and the running hash over them.

use bytes::Bytes;
use omnipaxos::storage::NoSnapshot;
use xxhash_rust::xxh3::Xxh3;

use super::chain::Member;

/// One entry of a group's sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Proposed by the owner of the group; opaque here, shared, never copied.
    Block(Bytes),
    /// A read waits until its barrier is decided: it then sees everything decided earlier.
    Barrier(Barrier),
    /// Ends the segment.
    Seal(Seal),
}

/// Identifies a barrier: the start of the node that proposed it, and a counter within that start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Barrier {
    /// The boot of the proposer.
    pub boot: u64,
    /// Random number of that boot.
    pub nonce: u64,
    /// Counts the barriers of that boot.
    pub number: u64,
}

/// The last entry of a segment. It contains no derived data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Members of the next segment in the order of their pids. The proposer is last, because the
    /// highest pid wins a fresh instance.
    pub members: Vec<Member>,
    /// Version of the configured members; never lower than the one quoted before.
    pub version: u64,
}

impl omnipaxos::storage::Entry for Entry {
    type Snapshot = NoSnapshot;
}

impl Entry {
    /// Bytes that count against the limits: the block and the overhead of a row.
    #[must_use]
    pub fn weight(&self) -> usize {
        ROW_OVERHEAD_BYTES
            + match self {
                Self::Block(block) => block.len(),
                Self::Barrier(_) => 0,
                Self::Seal(seal) => seal.members.iter().map(|member| member.name.len() + 16).sum(),
            }
    }

    pub(super) fn is_seal(&self) -> bool {
        matches!(self, Self::Seal(_))
    }
}

/// Overhead of an entry beyond its block, in memory and in a row.
const ROW_OVERHEAD_BYTES: usize = 64;

impl Seal {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.version.to_be_bytes());
        out.extend((self.members.len() as u32).to_be_bytes());
        for member in &self.members {
            super::chain::put_bytes(out, member.name.as_bytes().as_ref());
            out.extend(member.storage.0.to_be_bytes());
        }
    }
}

/// A hash over all entries of a group up to an index. Equal hashes at an index mean equal
/// histories: it detects damage and bugs, not attacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunningHash(pub u128);

impl RunningHash {
    /// The hash after one more entry.
    #[must_use]
    pub fn after(self, entry: &Entry) -> Self {
        let mut hasher = Xxh3::new();
        hasher.update(&self.0.to_be_bytes());
        match entry {
            Entry::Block(block) => {
                hasher.update(&[1]);
                hasher.update(block);
            }
            Entry::Barrier(barrier) => {
                hasher.update(&[2]);
                hasher.update(&barrier.boot.to_be_bytes());
                hasher.update(&barrier.nonce.to_be_bytes());
                hasher.update(&barrier.number.to_be_bytes());
            }
            Entry::Seal(seal) => {
                let mut bytes = Vec::new();
                seal.encode(&mut bytes);
                hasher.update(&[3]);
                hasher.update(&bytes);
            }
        }
        Self(hasher.digest128())
    }
}
