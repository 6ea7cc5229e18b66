//! Inputs and effects of a [`Group`](super::Group).

use bytes::Bytes;
use omnipaxos::ballot_leader_election::Ballot;

use super::chain::{Member, Segment, StorageId};
use super::entry::Entry;
use super::message::{BallotNumber, Envelope, PeerMemory, Row, Session};

/// Identifies a request of the driver until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// An input of a group.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time passes: a fixed interval.
    Tick,
    /// A session with a peer was established. Before any message of it.
    Connected {
        /// The peer.
        peer: StorageId,
        /// Its number at both ends.
        session: Session,
    },
    /// A session ended; messages in flight are lost.
    Disconnected {
        /// The peer.
        peer: StorageId,
    },
    /// A message. Messages of a session are in order and without gaps.
    Message(Box<Envelope>),
    /// Bytes of an incomplete message arrived from this peer.
    Progress {
        /// The peer.
        peer: StorageId,
    },
    /// Everything written up to this [`Effect::Persist`] is durable.
    Persisted {
        /// Its number.
        upto: u64,
    },
    /// Proposes a block. Answered once.
    Propose {
        /// Identifies it in the answer.
        request: RequestId,
        /// The block.
        block: Bytes,
    },
    /// A linearizable read: answered with an index that covers everything decided before.
    Read {
        /// Identifies it in the answer.
        request: RequestId,
    },
    /// Ends the segment; the next one has these members. Answered once.
    Roll {
        /// Identifies it in the answer.
        request: RequestId,
        /// The wanted members, in any order.
        members: Vec<Member>,
        /// Version of the wanted members.
        version: u64,
    },
    /// Hands leadership over to this member.
    HandOver {
        /// The member.
        to: StorageId,
    },
    /// The driver applied everything below.
    Applied {
        /// An index of the group.
        index: u64,
    },
    /// Answers [`Effect::Read`].
    Rows {
        /// Copied from the effect.
        to: StorageId,
        /// Copied from the effect.
        session: Session,
        /// Copied from the effect.
        first: u64,
        /// The rows that were read.
        rows: Vec<Row>,
    },
    /// Sealed segments that end at or below this index are dropped.
    DropBelow {
        /// An index of the group.
        index: u64,
    },
}

/// Effects of a group, to be performed in order.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Write all of these atomically and in order; sync; then [`Input::Persisted`].
    Persist {
        /// The writes.
        writes: Vec<Write>,
        /// Number of this effect.
        upto: u64,
    },
    /// Send now. A message that must follow a sync was held back until then. Lost when there is no
    /// session; in order within one.
    Send(Box<Envelope>),
    /// End the session with this peer; both ends are told, and a new one may follow.
    Reset {
        /// The peer.
        peer: StorageId,
    },
    /// This peer is refused: report it to people.
    Refuse {
        /// The peer.
        peer: StorageId,
        /// The reason.
        reason: Reason,
    },
    /// Decided and durable here: apply in this order. Indexes have no gap.
    Decided {
        /// Index of the first.
        first: u64,
        /// The entries.
        entries: Vec<Entry>,
    },
    /// The leader changed.
    Leadership(Leadership),
    /// A new segment began. Leadership continues unless a [`Effect::Leadership`] says otherwise.
    Rolled(Box<Segment>),
    /// Answers a request. Exactly one per request.
    Answer(Answer),
    /// Read decided rows of dropped memory for a copying peer; answer with [`Input::Rows`].
    Read {
        /// The copying peer.
        to: StorageId,
        /// Its session.
        session: Session,
        /// The first index.
        first: u64,
        /// Read at most this many bytes, but at least one row.
        bytes_max: usize,
        /// The end of what is decided and sealed.
        end: u64,
    },
    /// Everything that this member lacks was dropped: copy rows of the applied state from the peer,
    /// if they are ahead of the local ones, then open the group again over them.
    CopyState {
        /// The peer that has them.
        from: StorageId,
    },
    /// The leader yielded: report the reason.
    Yielded(&'static str),
}

/// A write.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// A segment begins here; `votes` says that this member votes in it from now on.
    Segment {
        /// Its record.
        segment: Box<Segment>,
        /// Whether this member creates an instance for it.
        votes: bool,
    },
    /// The highest ballot promised in the current segment.
    Promise(Ballot),
    /// The ballot of the last accept.
    Round(Ballot),
    /// How often decided entries were taken over by copying in the current segment.
    Adopted(u64),
    /// Decided up to here. Written along with other writes, never alone.
    Decided(u64),
    /// A row at an index that is the end of the log.
    Append {
        /// The index.
        index: u64,
        /// Entry and running hash.
        row: Row,
    },
    /// Rows from this index on are gone.
    Truncate {
        /// The index.
        from: u64,
    },
    /// Data about a peer.
    Peer(PeerMemory),
    /// Data about a peer is removed.
    Forget(StorageId),
    /// Segments with a lower number and their rows are dropped.
    Drop {
        /// The first number to keep.
        below: u64,
    },
}

/// Identifies an unbroken term: segment and ballot. A term continues over a roll.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term {
    /// The segment in which it began.
    pub segment: u64,
    /// Its ballot there.
    pub ballot: BallotNumber,
}

/// The leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// This member. Reads and applies of earlier terms may still be in flight.
    Leads(Term),
    /// Another member, if known.
    Follows(Option<StorageId>),
}

/// An answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The block, or the seal of the roll, was decided at this index.
    Decided {
        /// The request.
        request: RequestId,
        /// Index in the group.
        index: u64,
    },
    /// A state that applied everything below `index` answers the read.
    ReadAt {
        /// The request.
        request: RequestId,
        /// Index in the group.
        index: u64,
    },
    /// Nothing was done.
    Refused {
        /// The request.
        request: RequestId,
        /// The reason.
        refusal: Refusal,
    },
    /// Leadership was lost: it may be decided later or never.
    Unknown {
        /// The request.
        request: RequestId,
    },
}

/// Why nothing was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Ask the leader, if one is known.
    NotLeader(Option<StorageId>),
    /// A limit on what is undecided was reached: ask again after the next decision.
    Busy,
    /// The segment ends: ask again after [`Effect::Rolled`].
    Rolling,
    /// The block is longer than a block may be.
    TooLong,
    /// The wanted version is lower than the last one quoted.
    OldVersion,
    /// More than one member changes at a time.
    TooManyChanges,
    /// The leader is not among the wanted members: hand over first.
    HandOverFirst,
    /// This new member is not ready.
    NotReady(StorageId),
    /// No majority of the next members is ready.
    NoReadyMajority,
}

/// Why a peer is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its data directory was copied or rolled back: it has less than it had.
    RolledBack,
    /// Another process runs, or ran, with the same data directory at the same boot.
    Copied,
}
