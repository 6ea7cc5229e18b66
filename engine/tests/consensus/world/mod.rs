//! The world of one seed: nodes, disks, network, clients and time.
//!
//! Shared by path with the tests of the crate `forebay-storage`, which put a real storage below the
//! disks.

mod check;
pub(crate) mod disk;
pub(crate) mod faults;
pub(crate) mod host;
mod net;
pub(crate) mod seeds;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use forebay_engine::Machine;
use forebay_engine::consensus::{
    Answer, Effect, Entry, Envelope, Group, GroupRows, Identity, Input, Limits, Member, OpenError,
    RequestId, Segment, StorageId, Write,
};
use forebay_messages::Timestamp;

use crate::random::Random;

use check::Checks;
use disk::{Backend, Disk};
use net::{Arrival, Net};

pub(crate) const CLUSTER: u128 = 77;
pub(crate) const GROUP: u32 = 3;
pub(crate) const ELECTION_TICKS: u64 = 5;

pub(crate) fn limits() -> Limits {
    Limits {
        election_ticks: ELECTION_TICKS,
        segment_bytes_max: 6 << 10,
        segment_entries_max: 60,
        undecided_entries_max: 12,
        undecided_bytes_max: 2 << 10,
        block_bytes_max: 1 << 10,
        sync_bytes_max: 1 << 10,
        copy_bytes_max: 600,
        held_messages_max: 200,
        reads_max: 20,
        learners_max: 8,
        ready_lag_bytes_max: 1 << 10,
        ..Limits::default()
    }
}

pub(crate) struct Node<B> {
    pub(crate) name: String,
    pub(crate) disk: Disk<B>,
    pub(crate) group: Option<Group>,
    /// End of the entries that the driver applied, in memory.
    applied: u64,
    pub(crate) starts_at: u64,
    pub(crate) incarnation: u32,
    /// An earlier state of the disk, and when it was taken.
    pub(crate) backup: Option<(u64, Disk<B>)>,
}

impl<B: Backend> Node<B> {
    pub(crate) fn storage(&self) -> StorageId {
        self.disk.storage
    }

    pub(crate) fn member(&self) -> Member {
        Member { name: self.name.as_str().into(), storage: self.disk.storage }
    }
}

/// What the driver of a node learns, for an application on top of the group.
#[derive(Debug)]
pub(crate) enum Happened {
    /// It starts with the durable state of this index; these sealed entries follow.
    Opened(u64, Vec<Entry>),
    Decided(u64, Vec<Entry>),
    /// A segment begins; everything before it is applied.
    Rolled,
    Answered(Answer),
    /// The applied state is durable.
    Flushed,
    Crashed,
}

pub(crate) struct World<B> {
    pub(crate) random: Random,
    pub(crate) now: u64,
    pub(crate) nodes: Vec<Node<B>>,
    pub(crate) net: Net,
    pub(crate) checks: Checks,
    pub(crate) limits: Limits,
    /// Data directories that lost data: none of them may vote again.
    pub(crate) lost: BTreeSet<StorageId>,
    /// For each of them, the nodes that have stored that it had more.
    pub(crate) witnesses: BTreeMap<StorageId, (u64, BTreeSet<StorageId>)>,
    /// All segments that began.
    segments: Vec<Segment>,
    /// The newest segment.
    pub(crate) newest: Segment,
    pub(crate) last_request: u64,
    pub(crate) version: u64,
    pub(crate) steps: u64,
    pub(crate) trace: u64,
    /// Messages and writes are encoded and decoded on their way.
    is_coded: bool,
    /// FOREBAY_SIM_TRACE prints every input and effect.
    prints: bool,
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// The nodes that began a term, in order.
    pub(crate) leaders: Vec<StorageId>,
    /// All answers, in order.
    pub(crate) answers: Vec<Answer>,
    /// Recorded for an application, with the node, if there is one.
    pub(crate) happened: Option<Vec<(usize, Happened)>>,
    /// Stopped nodes, and until when: no tick, no sync.
    pub(crate) stopped: BTreeMap<usize, u64>,
}

impl<B: Backend> World<B> {
    /// A world of `count` nodes; the first `voting` are the members of the first segment.
    pub(crate) fn new(seed: u64, count: usize, voting: usize) -> Self {
        let storage = |at: usize| StorageId((at as u128 + 1) * 1000);
        let member = |at| Member { name: name(at).as_str().into(), storage: storage(at) };
        let first = Segment::first(CLUSTER, GROUP, (0..voting).map(member).collect());
        let nodes = (0..count).map(|at| Node {
            name: name(at),
            disk: Disk::new(&member(at), GroupRows::new(first.clone(), at < voting)),
            group: None,
            applied: 0,
            starts_at: 0,
            incarnation: 1,
            backup: None,
        });
        let mut checks = Checks::default();
        checks.segment(StorageId(0), 1, first.hash);
        Self {
            random: Random::new(seed),
            now: 0,
            nodes: nodes.collect(),
            net: Net::default(),
            checks,
            limits: limits(),
            lost: BTreeSet::new(),
            witnesses: BTreeMap::new(),
            segments: vec![first.clone()],
            newest: first,
            last_request: 0,
            version: 0,
            steps: 0,
            trace: seed,
            is_coded: seed.is_multiple_of(8),
            prints: host::prints(),
            counts: BTreeMap::new(),
            leaders: Vec::new(),
            answers: Vec::new(),
            happened: None,
            stopped: BTreeMap::new(),
        }
    }

    fn happens(&mut self, at: usize, what: impl FnOnce() -> Happened) {
        if let Some(happened) = &mut self.happened {
            happened.push((at, what()));
        }
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(crate) fn at(&self, storage: StorageId) -> Option<usize> {
        self.nodes.iter().position(|node| node.storage() == storage)
    }

    pub(crate) fn group(&self, at: usize) -> &Group {
        self.nodes[at].group.as_ref().unwrap()
    }

    /// The leader of the newest segment, or of an older one if it has none.
    pub(crate) fn leader(&self) -> Option<usize> {
        let leads = |at: &usize| {
            let group = self.nodes[*at].group.as_ref()?;
            Some((group.segment().number, group.term()?))
        };
        (0..self.nodes.len()).filter(|at| leads(at).is_some()).max_by_key(leads)
    }

    pub(crate) fn start(&mut self, at: usize) {
        let nonce = self.random.next();
        let (boot, recovered) = self.nodes[at].disk.open(nonce);
        self.replay(at);
        let node = &mut self.nodes[at];
        let identity = Identity {
            cluster: CLUSTER,
            incarnation: node.incarnation,
            group: GROUP,
            me: node.member(),
            boot,
            nonce,
        };
        let opened = Group::open(identity, self.limits.clone(), recovered, node.applied);
        match opened {
            Ok(group) => node.group = Some(group),
            Err(OpenError::LogTooShort { .. }) if self.lost.contains(&node.disk.storage) => {
                node.starts_at = u64::MAX;
                return;
            }
            Err(error) => panic!("{}: {error}", node.name),
        }
        let mut effects = Vec::new();
        self.nodes[at].group.as_mut().unwrap().start(Timestamp(0), &mut effects);
        self.perform(at, effects, false);
    }

    /// The driver applies entries of sealed segments from its storage.
    fn replay(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let base = node.disk.rows.recover().segments.last().unwrap().base;
        node.applied = node.disk.applied;
        if node.applied < base {
            let rows = node.disk.read(node.applied, base, usize::MAX);
            let (storage, first) = (node.disk.storage, node.applied);
            node.applied = base;
            let entries: Vec<_> = rows.into_iter().map(|row| row.entry).collect();
            assert_eq!(first + entries.len() as u64, base, "sealed rows are kept until applied");
            self.checks.decided(storage, first, &entries);
            self.happens(at, || Happened::Opened(first, entries));
        } else {
            let applied = node.applied;
            self.happens(at, || Happened::Opened(applied, Vec::new()));
        }
    }

    pub(crate) fn crash(&mut self, at: usize, back_at: u64) {
        let node = &mut self.nodes[at];
        node.group = None;
        node.starts_at = back_at;
        node.disk.crash(&mut self.random);
        let storage = node.storage();
        self.checks.crashed(storage);
        self.happens(at, || Happened::Crashed);
        self.net.forget(self.now, storage, &mut self.random);
    }

    pub(crate) fn step(&mut self, at: usize, input: Input) {
        let Some(group) = &self.nodes[at].group else { return };
        let led = group.term().is_some();
        if self.prints {
            host::print(format_args!("{} {} <- {input:?}", self.now, self.nodes[at].name));
        }
        let storage = self.nodes[at].storage();
        let group = self.nodes[at].group.as_mut().unwrap();
        let mut effects = Vec::new();
        self.steps += 1;
        group.step(Timestamp(0), input, &mut effects);
        group.check();
        if let Some(term) = group.term() {
            self.checks.leads(storage, term);
        }
        self.check_witness(at);
        self.perform(at, effects, led);
    }

    #[expect(clippy::too_many_lines, reason = "one arm per effect")]
    fn perform(&mut self, at: usize, effects: Vec<Effect>, led: bool) {
        let storage = self.nodes[at].storage();
        let mut follow_up = Vec::new();
        for effect in effects {
            self.record(at, &effect);
            match effect {
                Effect::Persist { writes, upto } => {
                    if led {
                        self.check_seal(&writes, at);
                    }
                    let writes = if self.is_coded { coded_writes(&writes) } else { writes };
                    self.nodes[at].disk.write(upto, writes);
                }
                Effect::Send(envelope) => {
                    let envelope = if self.is_coded { coded(&envelope) } else { *envelope };
                    self.net.send(self.now, envelope, &mut self.random);
                }
                Effect::Reset { peer } => {
                    self.net.reset(self.now, storage, peer, &mut self.random);
                }
                Effect::Refuse { peer, reason } => {
                    self.count("refused peers");
                    assert!(
                        self.lost.contains(&peer) || self.lost.contains(&storage),
                        "{storage:?} refuses {peer:?}, which lost nothing: {reason:?}"
                    );
                }
                Effect::Decided { first, entries } => {
                    let end = first + entries.len() as u64;
                    let node = &mut self.nodes[at];
                    assert!(node.disk.rows.end() >= end, "only durable entries are applied");
                    assert_eq!(node.applied, first, "applied without a gap");
                    node.applied = end;
                    let is_new = end > self.checks.decided.len() as u64;
                    self.checks.decided(storage, first, &entries);
                    if is_new {
                        self.check_durable(end - 1);
                    }
                    self.happens(at, || Happened::Decided(first, entries));
                    follow_up.push(Input::Applied { index: end });
                }
                Effect::Rolled(segment) => {
                    self.count("rolls");
                    self.checks.segment(storage, segment.number, segment.hash);
                    self.began(*segment);
                    self.happens(at, || Happened::Rolled);
                }
                Effect::Answer(answer) => {
                    self.answers.push(answer.clone());
                    self.checks.answered(storage, &answer);
                    self.happens(at, || Happened::Answered(answer.clone()));
                    if let Answer::Decided { request, index } = answer {
                        self.checks.acknowledged_is(request, index);
                    }
                }
                Effect::Read { to, session, first, bytes_max, end } => {
                    let rows = self.nodes[at].disk.read(first, end, bytes_max);
                    follow_up.push(Input::Rows { to, session, first, rows });
                }
                Effect::CopyState { from } => return self.copy_state(at, from),
                Effect::Leadership(leadership) => {
                    if let forebay_engine::consensus::Leadership::Leads(_) = leadership {
                        self.leaders.push(storage);
                    }
                }
                Effect::Yielded(_) => self.count("yields"),
            }
        }
        for input in follow_up {
            self.step(at, input);
        }
    }

    /// Records a segment when the first node begins it.
    pub(crate) fn began(&mut self, segment: Segment) {
        if segment.number > self.newest.number {
            self.segments.push(segment.clone());
            self.newest = segment;
        }
    }

    /// Adds an effect to the trace of the seed.
    fn record(&mut self, at: usize, effect: &Effect) {
        if self.prints {
            host::print(format_args!("{} {} -> {effect:?}", self.now, self.nodes[at].name));
        }
        let value = match effect {
            Effect::Persist { upto, writes } => (1, *upto, writes.len() as u64),
            Effect::Send(envelope) => (2, envelope.to.0 as u64, envelope.session.0),
            Effect::Reset { peer } => (3, peer.0 as u64, 0),
            Effect::Refuse { peer, .. } => (4, peer.0 as u64, 0),
            Effect::Decided { first, entries } => (5, *first, entries.len() as u64),
            Effect::Leadership(_) => (6, 0, 0),
            Effect::Rolled(segment) => (7, segment.number, segment.hash.0 as u64),
            Effect::Answer(_) => (8, 0, 0),
            Effect::Read { first, .. } => (9, *first, 0),
            Effect::CopyState { .. } => (10, 0, 0),
            Effect::Yielded(_) => (11, 0, 0),
        };
        for part in [self.now, at as u64, value.0, value.1, value.2] {
            self.trace = (self.trace ^ part).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        }
    }

    /// Checks that no node talks to a voter whose disk it knows to have been rolled back, while
    /// that voter is in the segment in which it lost data.
    fn check_witness(&self, at: usize) {
        let storage = self.nodes[at].storage();
        for (lost, (segment, witnesses)) in &self.witnesses {
            let talks = witnesses.contains(&storage)
                && self.group(at).talks_to(*lost)
                && self.net.is_current(storage, *lost);
            let number = self.at(*lost).map(|at| self.nodes[at].disk.rows.newest());
            assert!(
                !talks || number > Some(*segment),
                "{storage:?} knows that {lost:?} was rolled back, and talks to it"
            );
        }
    }

    /// Checks that a newly decided entry is on the disks of a majority.
    fn check_durable(&self, index: u64) {
        let entry = &self.checks.decided[index as usize];
        let segment = self.segments.iter().rev().find(|segment| segment.base <= index).unwrap();
        let has = |member: &&Member| {
            let Some(at) = self.at(member.storage) else { return true };
            let rows = &self.nodes[at].disk.rows;
            let is_gone = rows.base() > index || self.lost.contains(&member.storage);
            is_gone || rows.read(index, index + 1, usize::MAX).iter().any(|row| row.entry == *entry)
        };
        let count = segment.members.iter().filter(has).count();
        assert!(count >= segment.quorum(), "decided entries are on a majority of disks: {index}");
    }

    /// Checks that the added members and a majority are ready when a leader proposes a seal.
    fn check_seal(&self, writes: &[Write], at: usize) {
        if writes.iter().any(|write| matches!(write, Write::Adopted(_))) {
            // A leader that was replaced without noticing copies the seal of another leader.
            return;
        }
        let seals = writes.iter().filter_map(|write| match write {
            Write::Append { row, .. } => match &row.entry {
                Entry::Seal(seal) => Some(seal),
                _ => None,
            },
            _ => None,
        });
        let group = self.group(at);
        for seal in seals {
            let is_ready = |member: &Member| {
                let Some(peer) = self.at(member.storage) else { return true };
                if self.lost.contains(&member.storage) {
                    // The leader relies on reports from before the rollback.
                    return true;
                }
                let durable = self.nodes[peer].disk.rows.end() as usize;
                let upto = (group.decided() as usize).min(self.checks.decided.len());
                let lacks = self.checks.decided.get(durable..upto).unwrap_or_default();
                let lag: usize = lacks.iter().map(Entry::weight).sum();
                peer == at || lag <= self.limits.ready_lag_bytes_max
            };
            let ready = seal.members.iter().filter(|member| is_ready(member)).count();
            assert!(ready > seal.members.len() / 2, "a majority is ready when a seal is proposed");
            let mut new = seal.members.iter().filter(|m| group.segment().pid_of(m).is_none());
            assert!(new.all(is_ready), "new members are ready when a seal names them");
        }
    }

    /// Replaces the rows of this node by those of a peer's applied state.
    fn copy_state(&mut self, at: usize, from: StorageId) {
        self.count("states copied");
        let Some(peer) = self.at(from).filter(|peer| self.nodes[*peer].group.is_some()) else {
            return;
        };
        let segment = self.group(peer).segment().clone();
        if segment.base <= self.group(at).decided() {
            // The peer was replaced meanwhile by one that is not ahead.
            return;
        }
        self.crash(at, self.now + 1);
        let node = &mut self.nodes[at];
        let votes = segment.pid_of(&node.member()).is_some();
        node.disk.rebase(segment, votes);
        node.backup = None;
    }

    pub(crate) fn propose(&mut self, at: usize, length: usize) {
        self.last_request += 1;
        let request = RequestId(self.last_request);
        let mut block = self.last_request.to_be_bytes().to_vec();
        block.resize(length.max(8), self.last_request as u8);
        self.propose_as(at, request, Bytes::from(block));
    }

    pub(crate) fn propose_as(&mut self, at: usize, request: RequestId, block: Bytes) {
        self.checks.asked(self.nodes[at].storage(), request, Some(block.clone()));
        self.step(at, Input::Propose { request, block });
    }

    pub(crate) fn read(&mut self, at: usize) {
        self.last_request += 1;
        self.read_as(at, RequestId(self.last_request));
    }

    pub(crate) fn read_as(&mut self, at: usize, request: RequestId) {
        self.checks.asked(self.nodes[at].storage(), request, None);
        self.step(at, Input::Read { request });
    }

    pub(crate) fn roll(&mut self, at: usize, members: Vec<Member>) {
        self.last_request += 1;
        self.version += 1;
        let request = RequestId(self.last_request);
        self.checks.asked(self.nodes[at].storage(), request, None);
        self.step(at, Input::Roll { request, members, version: self.version });
    }

    pub(crate) fn ticks(&mut self, count: u64) {
        for _ in 0..count {
            self.tick();
        }
    }

    /// Ends sessions with too many bytes in flight, as a driver does.
    pub(crate) fn reset_full_links(&mut self, bytes_max: usize) {
        for (one, other) in self.net.full(bytes_max) {
            self.count("full links");
            self.net.reset(self.now, one, other, &mut self.random);
        }
    }

    /// Ticks until the condition holds; panics after many ticks.
    pub(crate) fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..2000 {
            if holds(self) {
                return;
            }
            self.tick();
        }
        panic!("never: {what}");
    }

    /// Both directions.
    pub(crate) fn set_cut(&mut self, one: usize, other: usize, is_cut: bool) {
        let (a, b) = (self.nodes[one].storage(), self.nodes[other].storage());
        self.net.set_cut(a, b, is_cut);
        self.net.set_cut(b, a, is_cut);
    }

    pub(crate) fn isolate(&mut self, at: usize, is_cut: bool) {
        for other in (0..self.nodes.len()).filter(|other| *other != at) {
            self.set_cut(at, other, is_cut);
        }
    }

    /// One tick of the world.
    pub(crate) fn tick(&mut self) {
        self.now += 1;
        for at in 0..self.nodes.len() {
            if self.nodes[at].group.is_none() {
                if self.now >= self.nodes[at].starts_at {
                    self.start(at);
                }
                continue;
            }
            if self.stopped.get(&at).is_some_and(|until| self.now < *until) {
                continue;
            }
            if !self.random.permille(20) {
                self.step(at, Input::Tick);
            }
            self.sync(at);
        }
        self.connect();
        while let Some(arrival) = self.net.next(self.now) {
            self.arrive(arrival);
        }
    }

    fn sync(&mut self, at: usize) {
        while let Some(upto) = self.nodes[at].disk.poll_sync(self.now, &mut self.random) {
            self.step(at, Input::Persisted { upto });
        }
        if self.nodes[at].group.is_some() && self.random.permille(30) {
            self.nodes[at].disk.applied = self.nodes[at].applied;
            self.happens(at, || Happened::Flushed);
        }
    }

    fn connect(&mut self) {
        for one in 0..self.nodes.len() {
            for other in one + 1..self.nodes.len() {
                let (a, b) = (&self.nodes[one], &self.nodes[other]);
                let are_up = a.group.is_some() && b.group.is_some();
                let (a, b) = (a.storage(), b.storage());
                if are_up && !self.net.has_session(a, b) && self.random.permille(400) {
                    self.net.connect(self.now, a, b, &mut self.random);
                }
            }
        }
    }

    fn arrive(&mut self, arrival: Arrival) {
        let (to, input) = match arrival {
            Arrival::Connected(here, peer, session) => (here, Input::Connected { peer, session }),
            Arrival::Disconnected(here, peer) => (here, Input::Disconnected { peer }),
            Arrival::Message(envelope) => (envelope.to, Input::Message(envelope)),
        };
        if let Some(at) = self.at(to) {
            self.step(at, input);
            self.sync(at);
        }
    }
}

fn name(at: usize) -> String {
    format!("node-{at}")
}

fn coded(envelope: &Envelope) -> Envelope {
    let mut bytes = Vec::new();
    envelope.encode(&mut bytes);
    Envelope::decode(Bytes::from(bytes)).expect("sent messages decode")
}

fn coded_writes(writes: &[Write]) -> Vec<Write> {
    let mut bytes = Vec::new();
    Write::encode_all(writes, &mut bytes);
    let read = Write::decode_all(Bytes::from(bytes)).expect("written records decode");
    assert_eq!(read, writes);
    read
}
