//! The task that drives the metadata group: the machine, its disk, its links, its state.
//!
//! Owns: the order of inputs, waiting requests, the applied state. Must always hold: effects are
//! performed in their order; a command is answered after it is applied; every waiting request is
//! answered, at the latest when the task ends. Must not know: how a node joins a cluster.
//!
//! It runs on the node's thread (`node/thread.rs`) with the network, because the machine belongs to
//! one thread.

mod apply;
mod members;
mod open;
mod perform;
mod view;
mod waiting;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forebay_engine::Machine as _;
use forebay_engine::cluster::{Base, NodeAnswer, NodesConfig};
use forebay_engine::consensus::{
    Effect, Envelope, Group, Input, Leadership, Member, RequestId, Row, Session, StorageId,
};
use forebay_engine::metadata::{Command, Row as StateRow, Snapshot, State};
use forebay_messages::Timestamp;
use forebay_net::{Event as NetEvent, Net, NodeName};
use forebay_storage::consensus::{Bases, ConsensusError, Groups, Listener, Writer};
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::ClusterError;
use super::events::Events;
use super::watches::Watches;

pub(super) use open::{Opened, open};
pub(super) use view::{DriverView, NodePosition};

/// The machine's unit of time; ten of them are an election timeout.
pub(super) const TICK: Duration = Duration::from_millis(15);
/// Number of events handled before the network is polled again.
const EVENTS_MAX: usize = 256;
/// Time for a successor to take over before a planned stop.
const YIELD_TIME: Duration = Duration::from_millis(400);

/// Inputs of the task in addition to the network's events.
pub(super) enum Event {
    /// A request of a client here or at another node.
    Ask(Ask, oneshot::Sender<NodeAnswer>),
    /// Nodes that should not lead: their clocks are off.
    Avoid(BTreeSet<StorageId>),
    /// Report the present rows to new watches.
    Watched(oneshot::Sender<()>),
    /// The row of a key, as it is applied here.
    Applied(String, oneshot::Sender<Option<StateRow>>),
    /// Report the state of the group.
    View(oneshot::Sender<DriverView>),
    /// Everything up to this number is durable.
    Persisted(u64),
    /// The disk failed.
    Failed(String),
    /// Rows that were read for a copying peer.
    Rows { to: StorageId, session: Session, first: u64, rows: Vec<Row> },
    /// A snapshot was written, or could not be.
    BaseWritten(u64, Result<Base, ConsensusError>),
    /// Hand leadership over and end.
    Stop,
}

/// A request to the metadata.
pub(super) enum Ask {
    Change(Command),
    Get(Vec<String>),
    List { prefix: String, after: String },
    HandOver(String),
}

/// Why the task ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// On request.
    Stopped,
    /// This node lacks entries that are dropped everywhere: it must copy this peer's snapshot.
    CopyState(NodeName),
    /// It cannot continue.
    Failed(ClusterError),
}

impl Ended {
    fn text(&self) -> String {
        match self {
            Self::Stopped => "the node stops".to_owned(),
            Self::CopyState(from) => format!("the state is copied from {from}"),
            Self::Failed(error) => error.to_string(),
        }
    }
}

/// The parts that the task is started with.
pub(super) struct Parts {
    pub(super) me: Member,
    pub(super) groups: Arc<Groups>,
    pub(super) bases: Bases,
    pub(super) net: Net,
    pub(super) watches: Watches,
    /// The snapshot that other nodes can copy.
    pub(super) base: Arc<Mutex<Base>>,
    /// Another node that leads.
    pub(super) leader: Arc<Mutex<Option<NodeName>>>,
    /// Nodes with the address that was given at the start.
    pub(super) configured: BTreeMap<NodeName, String>,
    pub(super) tick: Duration,
    /// A member that was not reached for this time is replaced by a standby.
    pub(super) dead_after: Duration,
    pub(super) events: Events,
}

/// Reports of the writer's thread.
struct Reports(mpsc::UnboundedSender<Event>);

impl Listener for Reports {
    fn persisted(&mut self, _group: u32, upto: u64) {
        let _ = self.0.send(Event::Persisted(upto));
    }

    fn stopped(&mut self, why: &ConsensusError) {
        let _ = self.0.send(Event::Failed(why.to_string()));
    }
}

/// The task's state.
struct Driver {
    parts: Parts,
    cluster: u128,
    incarnation: u32,
    group: Group,
    links: forebay_net::Group,
    writer: Writer,
    events: mpsc::UnboundedSender<Event>,
    state: State,
    /// Everything below is applied.
    applied: u64,
    nodes: NodesConfig,
    waiting: waiting::Waiting,
    /// Inputs produced by effects.
    inputs: VecDeque<Input>,
    names: BTreeMap<StorageId, NodeName>,
    /// Peers with a session.
    sessions: BTreeMap<NodeName, (StorageId, u64)>,
    /// The leadership last reported by the group.
    leadership: Leadership,
    /// Leaders that were seen since the start.
    leaders: u64,
    yielded: Option<&'static str>,
    refused: BTreeMap<String, String>,
    base_error: Option<String>,
    /// A snapshot is being written; the next one to write.
    is_writing: bool,
    next_base: Option<Snapshot>,
    /// A proposed roll without an answer.
    roll: Option<RequestId>,
    ticks: u64,
    /// Members without a session, and since which tick.
    silent: BTreeMap<StorageId, u64>,
    avoid: BTreeSet<StorageId>,
    /// Reported last: the member that is to lead, and the next members.
    successor: Option<StorageId>,
    next_members: Vec<Member>,
    /// Set by a request to stop: the tick at which it stops waiting for a successor.
    stops_at: Option<u64>,
    ended: Option<Ended>,
}

/// The sender of events, and how the thread ended.
pub(super) struct Running {
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) ended: oneshot::Receiver<Ended>,
}

/// Starts the task over an opened group, on the node's thread.
pub(super) fn spawn(parts: Parts, opened: Opened) -> Result<Running, ClusterError> {
    let (events, received) = mpsc::unbounded_channel();
    let (end, ended) = oneshot::channel();
    let writer = Writer::spawn(Arc::clone(&parts.groups), Reports(events.clone()))?;
    let links = parts.net.group(super::METADATA_GROUP)?;
    let driver = Driver::new(parts, opened, links, writer, events.clone())?;
    tokio::task::spawn_local(async move {
        let _ = end.send(driver.run(received).await);
    });
    Ok(Running { events, ended })
}

impl Driver {
    fn new(
        parts: Parts,
        opened: Opened,
        links: forebay_net::Group,
        writer: Writer,
        events: mpsc::UnboundedSender<Event>,
    ) -> Result<Self, ClusterError> {
        let Opened { cluster, incarnation, identity, limits, recovered, applied, state } = opened;
        let group = Group::open(identity, limits, recovered, applied)?;
        Ok(Self {
            parts,
            cluster,
            incarnation,
            group,
            links,
            writer,
            events,
            state,
            applied,
            nodes: NodesConfig::default(),
            waiting: waiting::Waiting::default(),
            inputs: VecDeque::new(),
            names: BTreeMap::new(),
            sessions: BTreeMap::new(),
            leadership: Leadership::Follows(None),
            leaders: 0,
            yielded: None,
            refused: BTreeMap::new(),
            base_error: None,
            is_writing: false,
            next_base: None,
            roll: None,
            ticks: 0,
            silent: BTreeMap::new(),
            avoid: BTreeSet::new(),
            successor: None,
            next_members: Vec::new(),
            stops_at: None,
            ended: None,
        })
    }

    async fn run(mut self, mut events: mpsc::UnboundedReceiver<Event>) -> Ended {
        self.start();
        let mut ticks = tokio::time::interval(self.parts.tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let ended = loop {
            tokio::select! {
                _ = ticks.tick() => self.tick(),
                event = events.recv() => {
                    let Some(event) = event else { break Ended::Stopped };
                    self.take(event);
                    for _ in 1..EVENTS_MAX {
                        let Ok(event) = events.try_recv() else { break };
                        self.take(event);
                    }
                }
                event = self.links.next() => self.receive(event),
            }
            self.propose_waiting();
            if let Some(ended) = self.ended.take() {
                break ended;
            }
        };
        self.waiting.end();
        self.set_leader(None);
        self.note("end", format!("the metadata group ends: {}", ended.text()));
        ended
    }

    fn note(&self, kind: &'static str, text: String) {
        self.parts.events.note(kind, Some(self.group.segment().number), text);
    }

    fn warn(&self, kind: &'static str, text: String) {
        self.parts.events.warn(kind, Some(self.group.segment().number), text);
    }

    fn start(&mut self) {
        self.parts.watches.catch_up(&self.state);
        self.read_nodes();
        let mut effects = Vec::new();
        self.group.start(Timestamp::default(), &mut effects);
        self.perform(effects);
        self.step_all();
        let votes = if self.group.votes() { "this node votes" } else { "this node does not vote" };
        let applied = self.applied;
        self.note("begin", format!("the metadata group begins at {applied}; {votes}"));
    }

    fn step(&mut self, input: Input) {
        self.inputs.push_back(input);
        self.step_all();
    }

    fn step_all(&mut self) {
        while self.ended.is_none()
            && let Some(input) = self.inputs.pop_front()
        {
            let mut effects = Vec::new();
            self.group.step(Timestamp::default(), input, &mut effects);
            if cfg!(debug_assertions) {
                self.group.check();
            }
            self.perform(effects);
        }
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if self.ended.is_none() {
                self.perform_one(effect);
            }
        }
        self.waiting.forget_outcomes();
    }

    fn tick(&mut self) {
        self.ticks += 1;
        self.step(Input::Tick);
        self.tick_members();
        self.tick_stop();
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Ask(Ask::Change(command), reply) => self.waiting.change(command, reply),
            Event::Ask(Ask::Get(keys), reply) => self.read(waiting::Read::Get(keys), reply),
            Event::Ask(Ask::List { prefix, after }, reply) => {
                self.read(waiting::Read::List { prefix, after }, reply);
            }
            Event::Ask(Ask::HandOver(to), reply) => {
                let answer = self.hand_over(&to);
                let _ = reply.send(answer);
            }
            Event::Avoid(avoid) => self.avoid = avoid,
            Event::Watched(done) => {
                self.parts.watches.catch_up(&self.state);
                let _ = done.send(());
            }
            Event::Applied(key, reply) => drop(reply.send(self.state.get(&key).cloned())),
            Event::View(reply) => drop(reply.send(self.view())),
            Event::Persisted(upto) => self.step(Input::Persisted { upto }),
            Event::Failed(why) => self.ended = Some(Ended::Failed(ClusterError::Stopped(why))),
            Event::Rows { to, session, first, rows } => {
                self.step(Input::Rows { to, session, first, rows });
            }
            Event::BaseWritten(end, written) => self.base_written(end, written),
            Event::Stop => self.stop(),
        }
    }

    fn receive(&mut self, event: NetEvent) {
        match event {
            NetEvent::Connected { peer, session } => {
                let Some(identity) = self.parts.net.identity_of(&peer) else { return };
                let storage = StorageId(identity.storage);
                self.names.insert(storage, peer.clone());
                if self.sessions.insert(peer.clone(), (storage, session)).is_none() {
                    self.note("connected", format!("{peer} is connected"));
                }
                self.step(Input::Connected { peer: storage, session: Session(session) });
            }
            NetEvent::Disconnected { peer, session } => {
                let known = self.sessions.get(&peer).copied();
                if let Some((storage, of)) = known
                    && of == session
                {
                    self.sessions.remove(&peer);
                    self.note("disconnected", format!("{peer} is not connected any more"));
                    self.step(Input::Disconnected { peer: storage });
                }
            }
            NetEvent::Progress { peer } => {
                if let Some((peer, _)) = self.sessions.get(&peer).copied() {
                    self.step(Input::Progress { peer });
                }
            }
            NetEvent::Message { peer, body, .. } | NetEvent::Heartbeat { peer, body } => {
                self.message(&peer, body);
            }
        }
    }

    /// A peer speaks for itself only: its certificate carries its name.
    fn message(&mut self, peer: &NodeName, body: bytes::Bytes) {
        let Some((storage, session)) = self.sessions.get(peer).copied() else { return };
        match Envelope::decode(body) {
            Ok(envelope) if envelope.from == storage => {
                self.step(Input::Message(Box::new(envelope)));
            }
            Ok(_) => tracing::warn!(%peer, "a message names another sender: it is dropped"),
            Err(error) => {
                tracing::warn!(%peer, %error, "a message cannot be read: the session ends");
                self.links.reset(peer, session);
            }
        }
    }
}
