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
    /// A fixed interval has passed.
    Tick,
    /// A session with a peer was established; precedes all its messages.
    Connected {
        /// The peer.
        peer: StorageId,
        /// Number of the session, the same at both ends.
        session: Session,
    },
    /// A session ended; messages in flight are lost.
    Disconnected {
        /// The peer.
        peer: StorageId,
    },
    /// A message. Messages of a session arrive in order and without gaps.
    Message(Box<Envelope>),
    /// Bytes of an incomplete message arrived from this peer.
    Progress {
        /// The peer.
        peer: StorageId,
    },
    /// All writes up to this [`Effect::Persist`] are durable.
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
        /// The members of the next segment, in any order.
        members: Vec<Member>,
        /// Version of the configured members.
        version: u64,
    },
    /// Hands leadership over to this member.
    HandOver {
        /// The member.
        to: StorageId,
    },
    /// The driver applied all entries below this index.
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
    /// Drops sealed segments that end at or below this index.
    DropBelow {
        /// An index of the group.
        index: u64,
    },
}

/// Effects of a group, to be performed in order.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Write all of these atomically and in order, sync, then report [`Input::Persisted`].
    Persist {
        /// The writes.
        writes: Vec<Write>,
        /// Number of this effect.
        upto: u64,
    },
    /// Send now; a message that must follow a sync was held back until then. Dropped without a
    /// session; in order within one.
    Send(Box<Envelope>),
    /// End the session with this peer. Both ends are informed; a new session may follow.
    Reset {
        /// The peer.
        peer: StorageId,
    },
    /// This peer is refused: report it to the operator.
    Refuse {
        /// The peer.
        peer: StorageId,
        /// The reason.
        reason: Reason,
    },
    /// Decided and durable here: apply in this order. Indexes have no gap.
    Decided {
        /// Index of the first entry.
        first: u64,
        /// The entries.
        entries: Vec<Entry>,
    },
    /// The leader changed.
    Leadership(Leadership),
    /// A new segment began. Leadership continues unless an [`Effect::Leadership`] says otherwise.
    Rolled(Box<Segment>),
    /// Answers a request. Exactly one per request.
    Answer(Answer),
    /// Read decided rows that are no longer in memory for a copying peer; answer with
    /// [`Input::Rows`].
    Read {
        /// The copying peer.
        to: StorageId,
        /// Its session.
        session: Session,
        /// The first index.
        first: u64,
        /// Read at most this many bytes, but at least one row.
        bytes_max: usize,
        /// End of the decided and sealed entries.
        end: u64,
    },
    /// Everything that this member lacks was dropped. Copy the rows of the applied state from the
    /// peer, if they are ahead of the local ones, then open the group again over them.
    CopyState {
        /// The peer that has them.
        from: StorageId,
    },
    /// The leader gave up its leadership: report the reason.
    Yielded(&'static str),
}

/// A write.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// A segment begins here; `votes` says whether this member votes in it.
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
    /// Number of times decided entries were taken over by copying in the current segment.
    Adopted(u64),
    /// Entries below this index are decided. Written along with other writes, never alone.
    Decided(u64),
    /// A row at the end of the log.
    Append {
        /// The index.
        index: u64,
        /// Entry and running hash.
        row: Row,
    },
    /// Removes all rows from this index on.
    Truncate {
        /// The index.
        from: u64,
    },
    /// Stores data about a peer.
    Peer(PeerMemory),
    /// Removes the data about a peer.
    Forget(StorageId),
    /// Drops segments with a lower number, and their rows.
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
    /// This member leads. Reads and applies of earlier terms may still be in flight.
    Leads(Term),
    /// Another member leads, if it is known.
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
    /// The read may be answered from a state that has applied everything below `index`.
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
        refusal: ProposalRefusal,
    },
    /// Leadership was lost: the block may be decided later or never.
    Unknown {
        /// The request.
        request: RequestId,
    },
}

/// Why nothing was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProposalRefusal {
    /// Ask the leader, if one is known.
    NotLeader(Option<StorageId>),
    /// A limit on undecided entries was reached: retry after the next decision.
    Busy,
    /// The segment is ending: retry after [`Effect::Rolled`].
    Rolling,
    /// The block is longer than the limit.
    TooLong,
    /// The version is lower than the last one quoted.
    OldVersion,
    /// More than one member would change at once.
    TooManyChanges,
    /// The leader is not among the new members: hand over first.
    HandOverFirst,
    /// This added member is not ready.
    NotReady(StorageId),
    /// No majority of the next members is ready.
    NoReadyMajority,
}

/// Why a peer is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its data directory was copied or rolled back: it has less than it once reported.
    RolledBack,
    /// Another process runs, or ran, with a copy of the data directory and the same boot.
    Copied,
}
