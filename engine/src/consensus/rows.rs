//! The stored data of a group as a value: the result of all its writes.
//!
//! Must always hold: applying all writes in order gives everything that [`Recovered`] needs. Tests
//! compare a storage on disk with this model.

use std::collections::BTreeMap;

use omnipaxos::ballot_leader_election::Ballot;

use super::chain::{Member, Segment, StorageId};
use super::entry::Seal;
use super::input::Write;
use super::message::{PeerMemory, Row};

/// Identifies a group, and this member of it.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The cluster.
    pub cluster: u128,
    /// Its incarnation.
    pub incarnation: u32,
    /// The group.
    pub group: u32,
    /// This member.
    pub me: Member,
    /// Counts the starts of this node; durable.
    pub boot: u64,
    /// Random number of this start; durable.
    pub nonce: u64,
}

/// The data from which a group is opened.
#[derive(Clone, Debug, PartialEq)]
pub struct Recovered {
    /// Kept segments, without gaps; the last one is current.
    pub segments: Vec<Segment>,
    /// Whether this member votes in the current segment.
    pub votes: bool,
    /// The promise in the current segment.
    pub promise: Option<Ballot>,
    /// The ballot of the last accept in the current segment.
    pub round: Option<Ballot>,
    /// Number of times it took over decided entries in the current segment.
    pub adopted: u64,
    /// Entries below this index are known to be decided.
    pub decided: u64,
    /// The rows of the current segment.
    pub rows: Vec<Row>,
    /// Data about peers.
    pub peers: Vec<PeerMemory>,
}

/// The rows of one group.
#[derive(Clone, Debug, Default)]
pub struct GroupRows {
    segments: Vec<Segment>,
    votes: bool,
    promise: Option<Ballot>,
    round: Option<Ballot>,
    adopted: u64,
    decided: u64,
    rows: BTreeMap<u64, Row>,
    peers: BTreeMap<StorageId, PeerMemory>,
}

impl GroupRows {
    /// Rows of a group that starts with `segment`.
    #[must_use]
    pub fn new(segment: Segment, votes: bool) -> Self {
        Self { decided: segment.base, segments: vec![segment], votes, ..Self::default() }
    }

    /// The rows after the applied state of a peer was copied: the group begins here with the peer's
    /// current segment. Data about peers is kept: it belongs to this node.
    pub fn rebase(&mut self, segment: Segment, votes: bool) {
        let peers = std::mem::take(&mut self.peers);
        *self = Self { peers, ..Self::new(segment, votes) };
    }

    /// After a lost quorum, this member continues alone with everything that it accepted, in a
    /// segment of its own. Entries that others decided beyond that are lost. The cluster needs a
    /// new incarnation, so that messages of members that return from the old one are dropped.
    pub fn continue_alone(&mut self, me: Member) {
        let writes = Self::alone(&self.recover(), me);
        writes.into_iter().for_each(|write| self.apply(write));
    }

    /// The writes of [`Self::continue_alone`].
    #[must_use]
    pub fn alone(recovered: &Recovered, me: Member) -> Vec<Write> {
        let Some(last) = recovered.segments.last() else { return Vec::new() };
        let end = last.base + recovered.rows.len() as u64;
        let hash = recovered.rows.last().map_or(last.base_hash, |row| row.hash);
        let seal = Seal { members: vec![me], version: last.version };
        let segment = Box::new(last.next(&seal, end, hash));
        vec![Write::Decided(end), Write::Segment { segment, votes: true }]
    }

    /// Applies a write.
    pub fn apply(&mut self, write: Write) {
        match write {
            Write::Segment { segment, votes } => {
                self.votes = votes;
                self.promise = None;
                self.round = None;
                self.adopted = 0;
                self.segments.push(*segment);
            }
            Write::Promise(ballot) => self.promise = Some(ballot),
            Write::Round(ballot) => self.round = Some(ballot),
            Write::Adopted(count) => self.adopted = count,
            Write::Decided(index) => self.decided = index,
            Write::Append { index, row } => {
                assert_eq!(index, self.end(), "a row is appended at the end");
                self.rows.insert(index, row);
            }
            Write::Truncate { from } => {
                assert!(from >= self.decided, "decided rows are not truncated");
                self.rows.split_off(&from);
            }
            Write::Peer(memory) => {
                self.peers.insert(memory.storage, memory);
            }
            Write::Forget(storage) => {
                self.peers.remove(&storage);
            }
            Write::Drop { below } => {
                self.segments.retain(|segment| segment.number >= below);
                let base = self.segments.first().map_or(0, |segment| segment.base);
                self.rows = self.rows.split_off(&base);
            }
        }
    }

    /// End of the log.
    #[must_use]
    pub fn end(&self) -> u64 {
        let base = self.segments.last().map_or(0, |segment| segment.base);
        self.rows.last_key_value().map_or(base, |(index, _)| index + 1)
    }

    /// Number of the newest segment.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.segments.last().map_or(0, |segment| segment.number)
    }

    /// Index of the first row that may be present.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.segments.first().map_or(0, |segment| segment.base)
    }

    /// End of the entries known to be decided.
    #[must_use]
    pub fn decided(&self) -> u64 {
        self.decided
    }

    /// Rows from `first` to `end` (exclusive), at most `bytes_max` bytes but at least one row.
    #[must_use]
    pub fn read(&self, first: u64, end: u64, bytes_max: usize) -> Vec<Row> {
        let mut bytes = 0;
        let rows = self.rows.range(first..end.max(first)).map(|(_, row)| row);
        rows.take_while(|row| {
            let is_first = bytes == 0;
            bytes += row.entry.weight();
            is_first || bytes <= bytes_max
        })
        .cloned()
        .collect()
    }

    /// The data from which a group is opened.
    #[must_use]
    pub fn recover(&self) -> Recovered {
        let base = self.segments.last().map_or(0, |segment| segment.base);
        Recovered {
            segments: self.segments.clone(),
            votes: self.votes,
            promise: self.promise,
            round: self.round,
            adopted: self.adopted,
            decided: self.decided,
            rows: self.rows.range(base..).map(|(_, row)| row.clone()).collect(),
            peers: self.peers.values().copied().collect(),
        }
    }
}
