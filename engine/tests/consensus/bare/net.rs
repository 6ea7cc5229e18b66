//! Instances of the bare crate, and the links between them.
//!
//! A link delivers in order and after its delay, unless the test overrides that. Heartbeats travel
//! separately. The storage outlives its instance; `restart` makes a new instance over it.

use std::collections::VecDeque;

use omnipaxos::messages::Message;
use omnipaxos::messages::sequence_paxos::PaxosMsg;
use omnipaxos::{ClusterConfig, OmniPaxos, OmniPaxosConfig, ServerConfig};

use super::store::{Disk, Value};

pub(super) type Instance = OmniPaxos<Value, Disk>;

/// Messages in flight, with their arrival times.
pub(super) type Queue = VecDeque<(u64, Message<Value>)>;

/// Ticks of an election timeout.
pub(super) const ELECTION_TICKS: u64 = 5;

/// A resend timer that never fires.
pub(super) const NEVER: u64 = u64::MAX;

/// Interval at which a driver takes messages that does not take them after every call.
const TAKE_TICKS: u64 = 3;

#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) nodes: u64,
    pub(super) resend_ticks: u64,
    /// The node with priority 1.
    pub(super) preferred: Option<u64>,
    /// Takes the outgoing messages after every call, not once for many inputs.
    pub(super) take_every_call: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: 3, resend_ticks: NEVER, preferred: None, take_every_call: true }
    }
}

pub(super) struct Net {
    pub(super) options: Options,
    /// By pid - 1; `None` while the node is down.
    pub(super) nodes: Vec<Option<Instance>>,
    pub(super) disks: Vec<Disk>,
    /// By sender, then receiver: arrival time and message.
    links: Vec<Vec<Queue>>,
    heartbeats: Vec<Vec<Queue>>,
    pub(super) cut: Vec<Vec<bool>>,
    /// Ticks that a message with a suffix takes.
    pub(super) suffix_ticks: u64,
    pub(super) now: u64,
    /// Reordered messages, with their arrival times.
    pub(super) late: Vec<(u64, Message<Value>)>,
    /// Lengths of the suffixes sent by AcceptSync, in entries.
    pub(super) suffixes: Vec<usize>,
}

impl Net {
    pub(super) fn new(options: Options) -> Self {
        let count = options.nodes as usize;
        let links = || (0..count).map(|_| vec![Queue::new(); count]).collect();
        let mut net = Self {
            nodes: (0..count).map(|_| None).collect(),
            disks: (0..count).map(|_| Disk::default()).collect(),
            links: links(),
            heartbeats: links(),
            cut: vec![vec![false; count]; count],
            suffix_ticks: 1,
            now: 0,
            late: Vec::new(),
            suffixes: Vec::new(),
            options,
        };
        for pid in 1..=count as u64 {
            net.restart(pid);
        }
        net
    }

    /// A new instance over the disk of `pid`.
    pub(super) fn restart(&mut self, pid: u64) {
        let disk = self.disks[pid as usize - 1].clone();
        let server = ServerConfig {
            pid,
            election_tick_timeout: ELECTION_TICKS,
            resend_message_tick_timeout: self.options.resend_ticks,
            leader_priority: u32::from(self.options.preferred == Some(pid)),
            ..ServerConfig::default()
        };
        let config = OmniPaxosConfig {
            cluster_config: ClusterConfig {
                configuration_id: 1,
                nodes: (1..=self.options.nodes).collect(),
                flexible_quorum: None,
            },
            server_config: ServerConfig { buffer_size: 16, ..server },
        };
        self.nodes[pid as usize - 1] = Some(config.build(disk).unwrap());
        self.take(pid);
    }

    /// Drops an instance. Its writes are on its disk; messages in flight to and from it are lost.
    pub(super) fn crash(&mut self, pid: u64) {
        let at = pid as usize - 1;
        self.nodes[at] = None;
        for other in 0..self.nodes.len() {
            self.links[at][other].clear();
            self.links[other][at].clear();
        }
    }

    pub(super) fn node(&mut self, pid: u64) -> &mut Instance {
        self.nodes[pid as usize - 1].as_mut().unwrap()
    }

    /// Makes a call, then takes the messages that it produced.
    pub(super) fn call(&mut self, pid: u64, call: impl FnOnce(&mut Instance)) {
        call(self.node(pid));
        self.take(pid);
    }

    pub(super) fn append(&mut self, pid: u64, value: u64) {
        self.node(pid).append(Value(value)).unwrap();
        self.take_now(pid);
    }

    fn take_now(&mut self, pid: u64) {
        if self.options.take_every_call {
            self.take(pid);
        }
    }

    /// Puts the outgoing messages of `pid` on their links.
    pub(super) fn take(&mut self, pid: u64) {
        let mut messages = Vec::new();
        self.node(pid).take_outgoing_messages(&mut messages);
        for message in messages {
            self.send(message);
        }
    }

    fn send(&mut self, message: Message<Value>) {
        let (from, to) = (message.get_sender() as usize - 1, message.get_receiver() as usize - 1);
        if self.cut[from][to] {
            return;
        }
        let mut ticks = 1;
        let queue = match &message {
            Message::BLE(_) => &mut self.heartbeats[from][to],
            Message::SequencePaxos(paxos) => {
                if let PaxosMsg::AcceptSync(sync) = &paxos.msg {
                    ticks = self.suffix_ticks;
                    self.suffixes.push(sync.log_sync.suffix.len());
                }
                &mut self.links[from][to]
            }
        };
        let at = queue.back().map_or(0, |(at, _)| *at).max(self.now + ticks);
        queue.push_back((at, message));
    }

    /// All messages between two nodes, in sending order.
    pub(super) fn link(&mut self, from: u64, to: u64) -> &mut Queue {
        &mut self.links[from as usize - 1][to as usize - 1]
    }

    /// Both directions, heartbeats and other messages.
    pub(super) fn set_cut(&mut self, one: u64, other: u64, cut: bool) {
        self.cut[one as usize - 1][other as usize - 1] = cut;
        self.cut[other as usize - 1][one as usize - 1] = cut;
    }

    pub(super) fn isolate(&mut self, pid: u64, cut: bool) {
        for other in (1..=self.options.nodes).filter(|other| *other != pid) {
            self.set_cut(pid, other, cut);
        }
    }

    /// Delivers due messages, then ticks every node.
    pub(super) fn tick(&mut self) {
        self.now += 1;
        self.deliver();
        for pid in 1..=self.options.nodes {
            if self.nodes[pid as usize - 1].is_some() {
                self.node(pid).tick();
                self.take_now(pid);
                if self.now.is_multiple_of(TAKE_TICKS) {
                    self.take(pid);
                }
            }
        }
    }

    pub(super) fn ticks(&mut self, count: u64) {
        for _ in 0..count {
            self.tick();
        }
    }

    fn deliver(&mut self) {
        let (due, late): (Vec<_>, Vec<_>) =
            self.late.drain(..).partition(|(at, _)| *at <= self.now);
        self.late = late;
        for (_, message) in due {
            let to = message.get_receiver();
            if self.nodes[to as usize - 1].is_some() {
                self.call(to, |node| node.handle_incoming(message));
            }
        }
        for to in 0..self.nodes.len() {
            for from in 0..self.nodes.len() {
                loop {
                    let now = self.now;
                    let due = |queue: &mut Queue| {
                        queue.front().is_some_and(|(at, _)| *at <= now).then(|| queue.pop_front())
                    };
                    let message = due(&mut self.heartbeats[from][to])
                        .or_else(|| due(&mut self.links[from][to]));
                    let Some((_, message)) = message.flatten() else { break };
                    let Some(node) = &mut self.nodes[to] else { continue };
                    node.handle_incoming(message);
                    self.take_now(to as u64 + 1);
                }
            }
        }
    }

    /// The node that regards itself as leader and is in the accept phase.
    pub(super) fn leader(&self) -> Option<u64> {
        let nodes = self.nodes.iter().flatten();
        let leads = |node: &&Instance| node.get_current_leader() == Some((node.get_pid(), true));
        nodes.filter(leads).max_by_key(|node| node.get_promise()).map(OmniPaxos::get_pid)
    }

    pub(super) fn until_leader(&mut self) -> u64 {
        for _ in 0..200 {
            self.tick();
            if let Some(leader) = self.leader() {
                self.ticks(3);
                return leader;
            }
        }
        panic!("no leader within 200 ticks");
    }

    pub(super) fn decided(&self, pid: u64) -> Vec<Value> {
        let node = self.nodes[pid as usize - 1].as_ref().unwrap();
        let rows = self.disks[pid as usize - 1].rows();
        rows.log[..node.get_decided_idx().min(rows.log.len())].to_vec()
    }

    /// Whether some pair of nodes decided differently.
    pub(super) fn disagrees(&self) -> bool {
        let alive: Vec<_> = (1..=self.options.nodes)
            .filter(|pid| self.nodes[*pid as usize - 1].is_some())
            .collect();
        alive.iter().any(|one| {
            alive.iter().any(|other| {
                let (one, other) = (self.decided(*one), self.decided(*other));
                one.iter().zip(&other).any(|(one, other)| one != other)
            })
        })
    }
}
