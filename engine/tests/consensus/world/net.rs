//! The network of the simulation: sessions between pairs of processes, first in, first out in each
//! direction. Heartbeats travel separately and are lost one by one.

use std::collections::{BTreeMap, VecDeque};

use forebay_engine::consensus::{Body, Entry, Envelope, Session, StorageId};
use omnipaxos::messages::sequence_paxos::PaxosMsg;

use crate::random::Random;

pub(crate) type Pair = (StorageId, StorageId);

#[derive(Debug, Default)]
struct Direction {
    queue: VecDeque<(u64, Envelope)>,
    /// No message arrives.
    is_cut: bool,
    /// Maximum number of ticks that a message takes.
    slow: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Net {
    directions: BTreeMap<Pair, Direction>,
    /// The session that a process knows, by process and peer.
    known: BTreeMap<Pair, Session>,
    /// The session of each pair, smaller id first.
    sessions: BTreeMap<Pair, Session>,
    /// Changes that a process has not seen yet: when, which process, peer, session.
    changes: Vec<(u64, StorageId, StorageId, Option<Session>)>,
    heartbeats: Vec<(u64, Envelope)>,
    last_session: u64,
    pub(crate) loss_permille: u64,
    /// Size of the longest suffix sent at once.
    pub(crate) suffix_bytes_max: usize,
}

fn weight_of(body: &Body) -> usize {
    let entries: &[Entry] = match body {
        Body::Paxos(PaxosMsg::AcceptDecide(message)) => &message.entries,
        Body::Paxos(PaxosMsg::AcceptSync(message)) => &message.log_sync.suffix,
        Body::Rows { rows, .. } => return rows.iter().map(|row| row.entry.weight()).sum(),
        _ => &[],
    };
    entries.iter().map(Entry::weight).sum()
}

fn pair(one: StorageId, other: StorageId) -> Pair {
    (one.min(other), one.max(other))
}

/// A network event that a process receives.
pub(crate) enum Arrival {
    Connected(StorageId, StorageId, Session),
    Disconnected(StorageId, StorageId),
    Message(Box<Envelope>),
}

impl Net {
    pub(crate) fn send(&mut self, now: u64, envelope: Envelope, random: &mut Random) {
        let way = (envelope.from, envelope.to);
        let direction = self.directions.entry(way).or_default();
        let at = now + 1 + random.below(direction.slow + 2);
        if matches!(envelope.body, Body::Heartbeat(_)) {
            if !direction.is_cut && !random.permille(self.loss_permille) {
                self.heartbeats.push((at, envelope));
            }
            return;
        }
        if let Body::Paxos(PaxosMsg::AcceptSync(sync)) = &envelope.body {
            let bytes = sync.log_sync.suffix.iter().map(Entry::weight).sum();
            self.suffix_bytes_max = self.suffix_bytes_max.max(bytes);
        }
        if self.sessions.get(&pair(way.0, way.1)) == Some(&envelope.session) {
            let at = direction.queue.back().map_or(at, |(last, _)| at.max(*last));
            direction.queue.push_back((at, envelope));
        }
    }

    pub(crate) fn connect(
        &mut self,
        now: u64,
        one: StorageId,
        other: StorageId,
        random: &mut Random,
    ) {
        if self.sessions.contains_key(&pair(one, other)) {
            return;
        }
        self.last_session += 1;
        let session = Session(self.last_session);
        self.sessions.insert(pair(one, other), session);
        for (here, there) in [(one, other), (other, one)] {
            // A process sees the end of the last session first.
            let last = self.changes.iter().filter(|(_, a, b, _)| (*a, *b) == (here, there));
            let at = last.map(|(at, ..)| *at).max().unwrap_or(0).max(now + 1 + random.below(3));
            self.changes.push((at, here, there, Some(session)));
        }
    }

    pub(crate) fn has_session(&self, one: StorageId, other: StorageId) -> bool {
        self.sessions.contains_key(&pair(one, other))
    }

    /// Whether the session known to `here` is the current one.
    pub(crate) fn is_current(&self, here: StorageId, there: StorageId) -> bool {
        let session = self.sessions.get(&pair(here, there));
        session.is_some() && session == self.known.get(&(here, there))
    }

    /// Ends a session; messages in flight are lost. Each end learns of it later, at its own time.
    pub(crate) fn reset(
        &mut self,
        now: u64,
        one: StorageId,
        other: StorageId,
        random: &mut Random,
    ) {
        if self.sessions.remove(&pair(one, other)).is_none() {
            return;
        }
        for (here, there) in [(one, other), (other, one)] {
            if let Some(direction) = self.directions.get_mut(&(here, there)) {
                direction.queue.clear();
            }
            self.changes.retain(|(_, a, b, _)| (*a, *b) != (here, there));
            if self.known.contains_key(&(here, there)) {
                self.changes.push((now + random.below(3), here, there, None));
            }
        }
    }

    /// A process is gone: its sessions end, and messages to it are dropped.
    pub(crate) fn forget(&mut self, now: u64, process: StorageId, random: &mut Random) {
        let peers = self.sessions.keys().filter(|(a, b)| *a == process || *b == process);
        let peers: Vec<_> = peers.map(|(a, b)| if *a == process { *b } else { *a }).collect();
        for peer in peers {
            self.reset(now, process, peer, random);
        }
        self.known.retain(|(here, _), _| *here != process);
        self.changes.retain(|(_, here, _, _)| *here != process);
        self.heartbeats.retain(|(_, envelope)| envelope.to != process);
    }

    pub(crate) fn set_cut(&mut self, from: StorageId, to: StorageId, is_cut: bool) {
        self.directions.entry((from, to)).or_default().is_cut = is_cut;
    }

    pub(crate) fn set_slow(&mut self, from: StorageId, to: StorageId, ticks: u64) {
        self.directions.entry((from, to)).or_default().slow = ticks;
    }

    /// Pairs with more bytes in flight than this in one direction.
    pub(crate) fn full(&self, bytes_max: usize) -> Vec<Pair> {
        let weight = |direction: &Direction| {
            direction.queue.iter().map(|(_, envelope)| weight_of(&envelope.body)).sum::<usize>()
        };
        let full = self.directions.iter().filter(|(_, way)| weight(way) > bytes_max);
        full.map(|(pair, _)| *pair).collect()
    }

    pub(crate) fn heal(&mut self) {
        self.loss_permille = 0;
        for direction in self.directions.values_mut() {
            direction.is_cut = false;
            direction.slow = 0;
        }
    }

    /// Next due arrival, in order; taken one at a time, because each may change later ones.
    pub(crate) fn next(&mut self, now: u64) -> Option<Arrival> {
        if let Some(at) = self.changes.iter().position(|(at, ..)| *at <= now) {
            let (_, here, there, session) = self.changes.remove(at);
            return Some(match session {
                Some(session) => {
                    self.known.insert((here, there), session);
                    Arrival::Connected(here, there, session)
                }
                None => {
                    self.known.remove(&(here, there));
                    Arrival::Disconnected(here, there)
                }
            });
        }
        if let Some(at) = self.heartbeats.iter().position(|(at, _)| *at <= now) {
            return Some(Arrival::Message(Box::new(self.heartbeats.swap_remove(at).1)));
        }
        for ((from, to), direction) in &mut self.directions {
            let Some((at, envelope)) = direction.queue.front() else { continue };
            let is_known = self.known.get(&(*to, *from)) == Some(&envelope.session);
            if *at <= now && !direction.is_cut && is_known {
                return direction
                    .queue
                    .pop_front()
                    .map(|(_, message)| Arrival::Message(Box::new(message)));
            }
        }
        None
    }
}
