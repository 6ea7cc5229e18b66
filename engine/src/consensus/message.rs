//! Messages between the members of a group.
//!
//! Must always hold: an envelope names cluster, incarnation, group, segment, both data directories
//! and the session. A mismatch is dropped and counted, because some messages of the crate carry
//! nothing else that would distinguish them.

use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::messages::ballot_leader_election::HeartbeatMsg;
use omnipaxos::messages::sequence_paxos::PaxosMsg;

use super::chain::{ChainHash, Member, StorageId};
use super::entry::{Entry, RunningHash};

/// Number of a session of a link, the same at both ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session(pub u64);

/// A message and its context.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// The cluster.
    pub cluster: u128,
    /// Increased when the cluster is recovered by hand; messages of an older incarnation are
    /// dropped.
    pub incarnation: u32,
    /// The group.
    pub group: u32,
    /// The sender's current segment.
    pub segment: ChainHash,
    /// The sender.
    pub from: StorageId,
    /// The receiver.
    pub to: StorageId,
    /// The session; 0 for heartbeats, which need none.
    pub session: Session,
    /// The content.
    pub body: Body,
}

/// The content of an envelope.
#[derive(Clone, Debug)]
pub enum Body {
    /// The first message of a session.
    Hello(Hello),
    /// The receiver's hello was accepted.
    Welcome,
    /// A message of the crate's leader election.
    Heartbeat(Heartbeat),
    /// Any other message of the crate; in order, within a session.
    Paxos(PaxosMsg<Entry>),
    /// The receiver lacks decided entries up to this index: it should copy them.
    Behind {
        /// Decided at the sender.
        decided: u64,
    },
    /// Requests decided entries, and reports the sender's durable position.
    Copy {
        /// The first requested index.
        from: u64,
        /// Entries below this index are durable at the sender.
        durable: u64,
    },
    /// Answers [`Body::Copy`].
    Rows {
        /// Index of the first row.
        first: u64,
        /// Decided entries, in order.
        rows: Vec<Row>,
        /// Decided at the sender.
        decided: u64,
    },
    /// Answers [`Body::Copy`]: entries from the requested index on were dropped; rows of the
    /// applied state must be copied instead.
    TooOld {
        /// The oldest remaining index.
        oldest: u64,
    },
    /// The leader asks the receiver to become leader.
    TakeOver,
}

/// A decided entry and the running hash after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The entry.
    pub entry: Entry,
    /// The running hash after it.
    pub hash: RunningHash,
}

/// A ballot without its configuration: number, priority, pid. Ordered.
pub type BallotNumber = (u32, u32, u64);

pub(super) fn number_of(ballot: Ballot) -> BallotNumber {
    (ballot.n, ballot.priority, ballot.pid)
}

/// The position of a member's durable storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Standing {
    /// The last segment that it started.
    pub segment: u64,
    /// The ballot that it promised in that segment.
    pub promised: BallotNumber,
    /// Number of times it took over decided entries by copying: its log may have become shorter.
    pub adopted: u64,
    /// The ballot in which it accepted.
    pub round: BallotNumber,
    /// The end of its accepted entries.
    pub accepted: u64,
}

impl Standing {
    /// Whether a storage at `self` can reach `later` without having lost anything.
    #[must_use]
    pub fn may_become(self, later: Self) -> bool {
        match self.segment.cmp(&later.segment) {
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Greater => false,
            std::cmp::Ordering::Equal => {
                self.promised <= later.promised
                    && (self.adopted, self.round, self.accepted)
                        <= (later.adopted, later.round, later.accepted)
            }
        }
    }
}

/// The opener of a session, and the position of its storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The sender.
    pub member: Member,
    /// Number of starts of its node; durable before the first message.
    pub boot: u64,
    /// Random number of that start.
    pub nonce: u64,
    /// Its durable position.
    pub standing: Standing,
    /// Decided there, as far as the sender knows.
    pub decided: u64,
}

/// The stored data about a peer: a peer that now has less was rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerMemory {
    /// The peer.
    pub storage: StorageId,
    /// Its latest boot.
    pub boot: u64,
    /// Random number of that boot.
    pub nonce: u64,
    /// Its highest durable position.
    pub standing: Standing,
}

/// A message of the election, and the sender's position.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    /// The crate's message.
    pub message: HeartbeatMsg,
    /// The sender's durable position: the member that is furthest ahead campaigns first.
    pub standing: Standing,
}
