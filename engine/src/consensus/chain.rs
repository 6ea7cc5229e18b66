//! The chain of segments of a group, and their members.
//!
//! Must always hold: the record of a segment is derived from the previous one and from the [`Seal`]
//! that ended it, so every member derives the same one.

use bytestring::ByteString;
use xxhash_rust::xxh3::xxh3_128;

use super::entry::{RunningHash, Seal};

/// Identity of a data directory: random, chosen when it is created. A wiped disk has another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorageId(pub u128);

/// A member of a group: a node by its name, with one data directory. The same node with another
/// data directory is a different member, because it has forgotten its promises.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// The name of the node.
    pub name: ByteString,
    /// Its data directory.
    pub storage: StorageId,
}

/// Identifies a segment: the hash of the previous one and of the seal that ended it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainHash(pub u128);

/// A segment of a group: one instance of the consensus, or the plain log of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Position in the chain, from 1.
    pub number: u64,
    /// Identifies the segment in every message.
    pub hash: ChainHash,
    /// Index in the group of its first entry.
    pub base: u64,
    /// The running hash of all earlier entries.
    pub base_hash: RunningHash,
    /// The voters, in the order of their pids (1, 2, 3, ...).
    pub members: Vec<Member>,
    /// Version of the configured members that its seal quoted.
    pub version: u64,
}

impl Segment {
    /// The first segment of a new group.
    #[must_use]
    pub fn first(cluster: u128, group: u32, members: Vec<Member>) -> Self {
        let mut named = cluster.to_be_bytes().to_vec();
        named.extend(group.to_be_bytes());
        let seal = Seal { members: members.clone(), version: 0 };
        seal.encode(&mut named);
        let hash = ChainHash(xxh3_128(&named));
        Self { number: 1, hash, base: 0, base_hash: RunningHash::default(), members, version: 0 }
    }

    /// The segment after this one, which `seal` ended at `end` (exclusive).
    #[must_use]
    pub fn next(&self, seal: &Seal, end: u64, hash: RunningHash) -> Self {
        let mut named = self.hash.0.to_be_bytes().to_vec();
        seal.encode(&mut named);
        Self {
            number: self.number + 1,
            hash: ChainHash(xxh3_128(&named)),
            base: end,
            base_hash: hash,
            members: seal.members.clone(),
            version: seal.version,
        }
    }

    /// The pid of a member. Needs the data directory as well as the name: see [`Member`].
    #[must_use]
    pub fn pid_of(&self, member: &Member) -> Option<u64> {
        self.members.iter().position(|other| other == member).map(|at| at as u64 + 1)
    }

    pub(super) fn pid_of_storage(&self, storage: StorageId) -> Option<u64> {
        let at = self.members.iter().position(|member| member.storage == storage);
        at.map(|at| at as u64 + 1)
    }

    pub(super) fn member(&self, pid: u64) -> Option<&Member> {
        self.members.get(usize::try_from(pid).ok()?.checked_sub(1)?)
    }

    /// Number of members needed for a decision.
    #[must_use]
    pub fn quorum(&self) -> usize {
        self.members.len() / 2 + 1
    }

    pub(super) fn is_solo(&self) -> bool {
        self.members.len() == 1
    }
}

/// Bytes of an entry as hashed and sent.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}
