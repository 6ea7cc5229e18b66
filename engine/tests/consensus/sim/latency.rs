//! How long it takes until every member has applied a change: exact, in virtual time.
//!
//! Messages and syncs take constant times, so that the longest wait is known. It consists of hops
//! and syncs only: no step waits for a tick.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use forebay_engine::Machine as _;
use forebay_engine::consensus::{
    Answer, Effect, Group, GroupRows, Identity, Input, Limits, Member, RequestId, Segment, Session,
    StorageId,
};
use forebay_messages::Timestamp;

use crate::world::{CLUSTER, GROUP};

/// Microseconds of a message.
const HOP: u64 = 1_000;
/// Microseconds of a sync.
const SYNC: u64 = 10_000;
/// Microseconds of a tick, as `actors/src/consensus/driver` has it.
const TICK: u64 = 15_000;
/// The promise: a rule set on one node is in the metadata of all within this time.
const ALL_WITHIN: u64 = 200_000;

/// An input that arrives at a member.
enum Arrives {
    Input(Input),
    /// A tick; the next one follows.
    Tick,
    /// The end of a sync, of all writes up to this number.
    Synced(u64),
}

struct Node {
    storage: StorageId,
    group: Group,
    /// The sync in progress.
    is_syncing: bool,
    /// The last write that waits for a sync.
    unsynced: Option<u64>,
    /// Proposals that wait while the segment changes, as the driver lets them wait.
    held: VecDeque<(RequestId, Bytes)>,
    /// When it applied each index.
    applied_at: BTreeMap<u64, u64>,
}

struct Three {
    now: u64,
    count: u64,
    arrivals: BTreeMap<(u64, u64), (usize, Arrives)>,
    nodes: Vec<Node>,
    last_request: u64,
    /// Index and time of the answers to proposals.
    decided: BTreeMap<RequestId, (u64, u64)>,
    /// Times of the answers to reads.
    read_at: BTreeMap<RequestId, u64>,
    rolls: u64,
}

impl Three {
    /// Three members, with ticks at these offsets, some time after their first election.
    fn new(offsets: [u64; 3], limits: &Limits) -> Self {
        let storage = |at: u64| StorageId(u128::from(at) + 1);
        let member =
            |at| Member { name: format!("node-{at}").as_str().into(), storage: storage(at) };
        let segment = Segment::first(CLUSTER, GROUP, (0..3).map(member).collect());
        let node = |at| {
            let recovered = GroupRows::new(segment.clone(), true).recover();
            let me = member(at);
            let identity =
                Identity { cluster: CLUSTER, incarnation: 1, group: GROUP, me, boot: 1, nonce: at };
            Node {
                storage: storage(at),
                group: Group::open(identity, limits.clone(), recovered, 0).unwrap(),
                is_syncing: false,
                unsynced: None,
                held: VecDeque::new(),
                applied_at: BTreeMap::new(),
            }
        };
        let mut three = Self {
            now: 0,
            count: 0,
            arrivals: BTreeMap::new(),
            nodes: (0..3).map(node).collect(),
            last_request: 0,
            decided: BTreeMap::new(),
            read_at: BTreeMap::new(),
            rolls: 0,
        };
        for (at, offset) in offsets.into_iter().enumerate() {
            let mut effects = Vec::new();
            three.nodes[at].group.start(Timestamp(0), &mut effects);
            three.perform(at, effects);
            three.arrives(1 + offset, at, Arrives::Tick);
            for peer in (0..3).filter(|peer| *peer != at) {
                let session = Session(1 + (at + peer) as u64);
                let peer = three.nodes[peer].storage;
                three.arrives(1, at, Arrives::Input(Input::Connected { peer, session }));
            }
        }
        three.until(2_000_000);
        assert!(three.leader().is_some(), "there is a leader");
        three
    }

    fn leader(&self) -> Option<usize> {
        self.nodes.iter().position(|node| node.group.term().is_some())
    }

    fn arrives(&mut self, after: u64, at: usize, what: Arrives) {
        self.count += 1;
        self.arrivals.insert((self.now + after, self.count), (at, what));
    }

    /// Time passes up to this moment.
    fn until(&mut self, moment: u64) {
        while let Some(next) = self.arrivals.first_entry().filter(|one| one.key().0 <= moment) {
            self.now = next.key().0;
            let (at, what) = next.remove();
            self.take(at, what);
        }
        self.now = moment;
    }

    fn take(&mut self, at: usize, what: Arrives) {
        match what {
            Arrives::Input(input) => self.step(at, input),
            Arrives::Tick => {
                self.arrives(TICK, at, Arrives::Tick);
                self.step(at, Input::Tick);
            }
            Arrives::Synced(upto) => {
                self.nodes[at].is_syncing = false;
                self.sync(at);
                self.step(at, Input::Persisted { upto });
            }
        }
        while !self.nodes[at].group.is_rolling()
            && let Some((request, block)) = self.nodes[at].held.pop_front()
        {
            self.step(at, Input::Propose { request, block });
        }
    }

    /// One sync for everything that waits.
    fn sync(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if !node.is_syncing
            && let Some(upto) = node.unsynced.take()
        {
            node.is_syncing = true;
            self.arrives(SYNC, at, Arrives::Synced(upto));
        }
    }

    fn step(&mut self, at: usize, input: Input) {
        let mut effects = Vec::new();
        self.nodes[at].group.step(Timestamp(0), input, &mut effects);
        self.nodes[at].group.check();
        self.perform(at, effects);
    }

    fn perform(&mut self, at: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Persist { upto, .. } => {
                    self.nodes[at].unsynced = Some(upto);
                    self.sync(at);
                }
                Effect::Send(envelope) => {
                    let to = self.nodes.iter().position(|node| node.storage == envelope.to);
                    self.arrives(HOP, to.unwrap(), Arrives::Input(Input::Message(envelope)));
                }
                Effect::Decided { first, entries } => {
                    let end = first + entries.len() as u64;
                    let now = self.now;
                    self.nodes[at].applied_at.extend((first..end).map(|index| (index, now)));
                    self.step(at, Input::Applied { index: end });
                }
                Effect::Rolled(_) => self.rolls += u64::from(at == 0),
                Effect::Answer(Answer::Decided { request, index }) => {
                    self.decided.insert(request, (index, self.now));
                }
                Effect::Answer(Answer::ReadAt { request, .. }) => {
                    self.read_at.insert(request, self.now);
                }
                Effect::Leadership(_) => {}
                other => panic!("not in a healthy cluster: {other:?}"),
            }
        }
    }

    fn request(&mut self) -> RequestId {
        self.last_request += 1;
        RequestId(self.last_request)
    }

    /// Proposes a block at the leader, as the driver does.
    fn propose(&mut self, bytes: usize) -> RequestId {
        let (request, leader) = (self.request(), self.leader().unwrap());
        let block = Bytes::from(vec![7; bytes]);
        match self.nodes[leader].group.is_rolling() {
            true => self.nodes[leader].held.push_back((request, block)),
            false => self.step(leader, Input::Propose { request, block }),
        }
        request
    }

    fn read(&mut self) -> RequestId {
        let (request, leader) = (self.request(), self.leader().unwrap());
        self.step(leader, Input::Read { request });
        request
    }

    /// When all members had applied a decided proposal, and when it was answered.
    fn times(&self, request: RequestId) -> (u64, u64) {
        let (index, answered) = self.decided[&request];
        let applied = self.nodes.iter().map(|node| node.applied_at[&index]);
        (applied.max().unwrap(), answered)
    }
}

/// Offsets of the ticks of the members.
const OFFSETS: [[u64; 3]; 3] = [[0, 0, 0], [0, 5_000, 10_000], [9_000, 1_000, 14_500]];

#[test]
fn a_change_takes_one_sync_and_three_hops_whenever_it_comes() {
    for offsets in OFFSETS {
        let mut three = Three::new(offsets, &Limits::default());
        for phase in 0..300 {
            // Another moment between the ticks each time.
            three.until(three.now + 10 * TICK + 50 * phase);
            let began = three.now;
            let request = three.propose(100);
            three.until(began + 10 * TICK);
            let (all, answered) = three.times(request);
            assert_eq!(answered - began, 2 * HOP + SYNC, "{offsets:?}, {phase}");
            assert_eq!(all - began, 3 * HOP + SYNC, "{offsets:?}, {phase}");
        }
    }
}

#[test]
fn under_load_a_change_waits_for_one_sync_more() {
    for offsets in OFFSETS {
        let mut three = Three::new(offsets, &Limits::default());
        let mut proposed = Vec::new();
        for at in 0..2_000 {
            three.until(three.now + 700 + at % 13 * 50);
            proposed.push((three.now, three.propose(100)));
        }
        three.until(three.now + 10 * TICK);
        for (began, request) in proposed {
            let (all, answered) = three.times(request);
            assert!(answered - began <= 2 * HOP + 2 * SYNC, "{} us", answered - began);
            assert!(all - began <= 3 * HOP + 2 * SYNC, "{} us", all - began);
        }
    }
}

/// A read waits for the barrier in flight, and then for its own.
#[test]
fn a_read_takes_at_most_two_barriers() {
    let mut three = Three::new(OFFSETS[1], &Limits::default());
    let mut asked = Vec::new();
    for at in 0..2_000 {
        three.until(three.now + 700 + at % 13 * 50);
        asked.push((three.now, three.read()));
    }
    three.until(three.now + 10 * TICK);
    let longest = asked.iter().map(|(began, request)| three.read_at[request] - began).max();
    let longest = longest.unwrap();
    assert_eq!(longest, 2 * (2 * HOP + SYNC), "twice as long as a change");
}

/// Changes that come while a segment ends and the next begins wait for it, and are proposed at
/// once.
#[test]
fn changes_that_meet_the_end_of_a_segment_are_applied_within_the_promised_time() {
    let limits = Limits { segment_bytes_max: 8 << 10, ..Limits::default() };
    for offsets in OFFSETS {
        let mut three = Three::new(offsets, &limits);
        let mut proposed = Vec::new();
        for at in 0..3_000 {
            three.until(three.now + 700 + at % 13 * 50);
            proposed.push((three.now, three.propose(100)));
        }
        three.until(three.now + 20 * TICK);
        assert!(three.rolls > 10, "{} rolls", three.rolls);
        let waited = proposed.iter().map(|(began, request)| three.times(*request).0 - began);
        let longest = waited.max().unwrap();
        // Seal; begin; promise; the entries. A sync in progress may come before each of them.
        assert!(longest <= 10 * HOP + 8 * SYNC, "{longest} us");
        assert!(longest <= ALL_WITHIN, "{longest} us");
    }
}
