//! The nodes' side of the service: states, blocks of commands, reads, watches, snapshots.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use forebay_engine::consensus::{Answer, Entry, ProposalRefusal, RequestId, StorageId};
use forebay_engine::metadata::{
    Changed, Command, Expected, Outcome, Row, Snapshot, State, decode_block, encode_block,
};

use crate::world::{CLUSTER, Happened};

use super::{Planted, World};

/// A client and the number of its attempt.
type Attempt = (usize, u64);

/// What a client is answered.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    Outcome(Outcome),
    Row(Option<Row>),
    NotLeader(Option<StorageId>),
    /// Nothing was done; later it may be.
    Unavailable,
    Unknown,
}

/// A running node.
#[derive(Default)]
struct Node {
    state: State,
    /// Everything below is in the state.
    applied: u64,
    commands: Vec<(Command, Attempt)>,
    proposed: BTreeMap<RequestId, Vec<Attempt>>,
    reads: BTreeMap<RequestId, (String, Attempt)>,
    outcomes: BTreeMap<u64, Vec<Outcome>>,
    /// The version that a watch of each key saw last.
    seen: BTreeMap<String, u64>,
}

pub(super) struct Nodes {
    pub(super) planted: Planted,
    nodes: BTreeMap<usize, Node>,
    /// Snapshots by index: the same for all nodes.
    snapshots: BTreeMap<u64, Bytes>,
    replies: VecDeque<(Attempt, Reply)>,
}

impl Nodes {
    pub(super) fn new(planted: Planted) -> Self {
        let (nodes, snapshots) = (BTreeMap::new(), BTreeMap::new());
        Self { planted, nodes, snapshots, replies: VecDeque::new() }
    }

    pub(super) fn is_running(&self, at: usize) -> bool {
        self.nodes.contains_key(&at)
    }

    pub(super) fn applied(&self, at: usize) -> u64 {
        self.nodes.get(&at).map_or(0, |node| node.applied)
    }

    pub(super) fn answers(&mut self) -> Vec<(usize, u64, Reply)> {
        let replies = std::mem::take(&mut self.replies).into_iter();
        replies.map(|((client, attempt), reply)| (client, attempt, reply)).collect()
    }

    /// A client asks for a change. It is proposed with others of the same tick.
    pub(super) fn change(&mut self, at: usize, command: Command, attempt: Attempt) {
        match self.nodes.get_mut(&at) {
            Some(node) => node.commands.push((command, attempt)),
            None => self.replies.push_back((attempt, Reply::Unavailable)),
        }
    }

    pub(super) fn read(&mut self, world: &mut World, at: usize, key: &str, attempt: Attempt) {
        let planted = self.planted;
        let Some(node) = self.nodes.get_mut(&at) else {
            return self.replies.push_back((attempt, Reply::Unavailable));
        };
        if planted == Planted::StaleRead {
            let row = node.state.get(key).cloned();
            return self.replies.push_back((attempt, Reply::Row(row)));
        }
        world.last_request += 1;
        let request = RequestId(world.last_request);
        node.reads.insert(request, (key.to_owned(), attempt));
        world.read_as(at, request);
        self.follow(world);
    }

    pub(super) fn propose(&mut self, world: &mut World) {
        let waiting = self.nodes.iter_mut().filter(|(_, node)| !node.commands.is_empty());
        let blocks: Vec<_> =
            waiting.map(|(at, node)| (*at, std::mem::take(&mut node.commands))).collect();
        for (at, commands) in blocks {
            world.last_request += 1;
            let request = RequestId(world.last_request);
            let (commands, attempts): (Vec<_>, Vec<_>) = commands.into_iter().unzip();
            if let Some(node) = self.nodes.get_mut(&at) {
                node.proposed.insert(request, attempts);
            }
            world.propose_as(at, request, encode_block(&commands));
            self.follow(world);
        }
    }

    /// Acts on everything that happened.
    pub(super) fn follow(&mut self, world: &mut World) {
        let happened = world.happened.as_mut().map(std::mem::take).unwrap_or_default();
        for (at, what) in happened {
            match what {
                Happened::Opened(applied, sealed) => self.opened(world, at, applied, sealed),
                Happened::Decided(first, entries) => self.decided(at, first, entries),
                Happened::Rolled | Happened::Flushed => self.save(world, at),
                Happened::Answered(answer) => self.answered(at, answer),
                Happened::Crashed => self.crashed(at),
            }
        }
    }

    fn opened(&mut self, world: &World, at: usize, applied: u64, sealed: Vec<Entry>) {
        let state = match self.snapshots.get(&applied) {
            Some(bytes) => Snapshot::decode(bytes.clone()).unwrap().state,
            None => {
                assert_eq!(applied, 0, "only the first state has no snapshot");
                State::default()
            }
        };
        let seen = BTreeMap::new();
        self.nodes.insert(at, Node { state, applied, seen, ..Node::default() });
        let node = &self.nodes[&at];
        let keys: Vec<_> =
            node.state.range("", None).map(|(key, row)| (key, row.version)).collect();
        let seen = keys.into_iter().map(|(key, version)| (key.to_string(), version)).collect();
        self.nodes.get_mut(&at).unwrap().seen = seen;
        self.decided(at, applied, sealed);
        self.save(world, at);
    }

    fn decided(&mut self, at: usize, first: u64, entries: Vec<Entry>) {
        let planted = self.planted;
        let Some(node) = self.nodes.get_mut(&at) else { return };
        assert_eq!(node.applied, first, "applied without a gap");
        for (index, entry) in (first..).zip(entries) {
            node.applied = index + 1;
            let Entry::Block(block) = entry else { continue };
            let mut changed = Vec::new();
            let commands = decode_block(block).unwrap();
            let apply = |command: &Command| {
                node.state.apply(index, &with_fault(command, planted), &mut changed)
            };
            let outcomes = commands.iter().map(apply).collect();
            node.outcomes.insert(index, outcomes);
            node.state.check();
            for Changed { key, row } in changed {
                let before = node.seen.insert(key.to_string(), row.version).unwrap_or(0);
                assert_eq!(row.version, before + 1, "a watch sees each version of {key}");
            }
        }
    }

    /// The state of this index, which other nodes may have written too.
    fn save(&mut self, world: &World, at: usize) {
        let (Some(node), Some(group)) = (self.nodes.get(&at), &world.nodes[at].group) else {
            return;
        };
        let segment = group.segment().clone();
        let state = node.state.clone();
        let snapshot = Snapshot { cluster: CLUSTER, incarnation: 1, segment, state };
        match self.snapshots.get(&node.applied) {
            Some(bytes) => {
                let known = Snapshot::decode(bytes.clone()).unwrap();
                assert_eq!(known.state, node.state, "one state at index {}", node.applied);
            }
            None => drop(self.snapshots.insert(node.applied, snapshot.encode())),
        }
    }

    fn answered(&mut self, at: usize, answer: Answer) {
        let Some(node) = self.nodes.get_mut(&at) else { return };
        let (request, reply) = match answer {
            Answer::Decided { request, index } => {
                let Some(attempts) = node.proposed.remove(&request) else { return };
                let outcomes = node.outcomes.remove(&index).expect("applied before it is answered");
                assert_eq!(outcomes.len(), attempts.len(), "an outcome per command");
                let replies = outcomes.into_iter().map(Reply::Outcome);
                return self.replies.extend(attempts.into_iter().zip(replies));
            }
            Answer::ReadAt { request, index } => {
                assert!(node.applied >= index, "the state covers the read");
                let Some((key, attempt)) = node.reads.remove(&request) else { return };
                let row = node.state.get(&key).cloned();
                return self.replies.push_back((attempt, Reply::Row(row)));
            }
            Answer::Refused { request, refusal: ProposalRefusal::NotLeader(leader) } => {
                (request, Reply::NotLeader(leader))
            }
            Answer::Refused { request, .. } => (request, Reply::Unavailable),
            Answer::Unknown { request } => (request, Reply::Unknown),
        };
        let proposed = node.proposed.remove(&request).unwrap_or_default();
        let read = node.reads.remove(&request).map(|(_, attempt)| attempt);
        let attempts = proposed.into_iter().chain(read);
        self.replies.extend(attempts.map(|attempt| (attempt, reply.clone())));
    }

    /// Connections of its clients break.
    fn crashed(&mut self, at: usize) {
        let Some(node) = self.nodes.remove(&at) else { return };
        let commands = node.commands.into_iter().map(|(_, attempt)| attempt);
        let reads = node.reads.into_values().map(|(_, attempt)| attempt);
        let attempts = commands.chain(node.proposed.into_values().flatten()).chain(reads);
        self.replies.extend(attempts.map(|attempt| (attempt, Reply::Unknown)));
    }

    /// Nodes that applied the same entries have the same state.
    pub(super) fn check_equal(&self, world: &World) {
        let running = self.nodes.iter().filter(|(at, _)| world.nodes[**at].group.is_some());
        let mut by_index: BTreeMap<u64, &State> = BTreeMap::new();
        for (at, node) in running {
            let known = by_index.entry(node.applied).or_insert(&node.state);
            assert_eq!(*known, &node.state, "node {at} at index {}", node.applied);
        }
    }
}

/// The command as a faulty state machine would read it.
fn with_fault(command: &Command, planted: Planted) -> Command {
    let mut command = command.clone();
    if planted == Planted::LostUpdate {
        command.changes.iter_mut().for_each(|change| change.expected = Expected::Anything);
    }
    command
}
