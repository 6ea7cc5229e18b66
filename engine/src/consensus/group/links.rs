//! Links to peers: sessions, the handshake, queued messages in both directions, and which messages
//! are accepted.
//!
//! Must always hold: within a session no single message is dropped in either direction; a message
//! waits for the ones before it; a peer that has less on disk than it once reported is refused.

use std::collections::{BTreeMap, VecDeque};

use omnipaxos::messages::Message;
use omnipaxos::messages::ballot_leader_election::{BLEMessage, HeartbeatMsg};
use omnipaxos::messages::sequence_paxos::{PaxosMessage, PaxosMsg};

use crate::consensus::chain::StorageId;
use crate::consensus::entry::Entry;
use crate::consensus::input::{Effect, Reason, Write};
use crate::consensus::message::{
    Body, Envelope, Heartbeat, Hello, PeerMemory, Session, Standing, number_of,
};

use super::{Group, Role};

/// The data about each peer; also stored on disk.
pub(super) type Memories = BTreeMap<StorageId, PeerMemory>;

/// A link to a peer.
#[derive(Debug, Default)]
pub(super) struct Link {
    pub(super) session: Option<Session>,
    /// The peer's hello was accepted.
    pub(super) is_up: bool,
    /// One of its hellos was accepted since this group was opened, and none was refused later.
    is_admitted: bool,
    /// The peer accepted a hello of this member since this group was opened.
    has_welcomed: bool,
    /// Messages in sending order, each with the number of the write that must be durable first.
    out: VecDeque<(u64, Envelope)>,
    /// Acceptances above the leader's durable end, and all messages behind them.
    inbound: VecDeque<PaxosMsg<Entry>>,
    /// Decided at the peer, as last reported.
    pub(super) decided: u64,
    /// End of the entries that it accepted from this leader.
    pub(super) accepted: u64,
    /// Tick of the last heartbeat that it answered.
    pub(super) alive: Option<u64>,
    /// It sent a heartbeat in this segment.
    pub(super) is_heard: bool,
    /// The last round of heartbeats that it answered.
    replied: u32,
    /// Its position, from its heartbeats.
    pub(super) standing: Standing,
    /// Tick at which it was last informed that it is behind.
    behind_sent: Option<u64>,
    /// The stored data about it has changed since it was last written.
    pub(super) is_dirty: bool,
}

impl Link {
    pub(super) fn held(&self) -> usize {
        self.out.len() + self.inbound.len()
    }

    fn end(&mut self) {
        let Self { is_admitted, has_welcomed, alive, is_heard, replied, .. } = *self;
        let Self { standing, is_dirty, .. } = *self;
        let kept = Self { is_admitted, has_welcomed, alive, is_heard, replied, ..Self::default() };
        *self = Self { standing, is_dirty, ..kept };
    }

    /// A new instance counts its heartbeat rounds from zero.
    pub(super) fn forget_rounds(&mut self) {
        self.replied = 0;
    }

    /// Drops messages of the segment that ended.
    pub(super) fn roll(&mut self) {
        self.inbound.clear();
        self.is_heard = false;
        self.replied = 0;
        self.accepted = 0;
        self.behind_sent = None;
    }
}

impl Group {
    pub(super) fn connected(&mut self, peer: StorageId, session: Session) {
        let link = self.links.entry(peer).or_default();
        link.end();
        link.session = Some(session);
        let hello = Hello {
            member: self.identity.me.clone(),
            boot: self.identity.boot,
            nonce: self.identity.nonce,
            standing: self.durable.standing(),
            decided: self.store.get().decided,
        };
        self.post_to(peer, Body::Hello(hello), 0);
    }

    pub(super) fn disconnected(&mut self, peer: StorageId) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.end();
        }
        if self.copy.as_ref().is_some_and(|copy| copy.peer == peer) {
            self.copy = None;
        }
    }

    /// Ends a session.
    pub(super) fn reset(&mut self, peer: StorageId) {
        let has_session = self.links.get(&peer).is_some_and(|link| link.session.is_some());
        if has_session {
            self.disconnected(peer);
            self.emit(Effect::Reset { peer });
        }
    }

    /// Sends within an established session; without one, the whole message is dropped.
    pub(super) fn send(&mut self, to: StorageId, body: Body, after: u64) {
        if self.links.get(&to).is_some_and(|link| link.is_up) {
            self.post_to(to, body, after);
        }
    }

    fn post_to(&mut self, to: StorageId, body: Body, after: u64) {
        let Some(session) = self.links.get(&to).and_then(|link| link.session) else { return };
        let envelope = self.envelope(to, session, body);
        let link = self.links.get_mut(&to).expect("it has a session");
        if link.out.is_empty() && after <= self.durable.synced {
            self.emit(Effect::Send(Box::new(envelope)));
            return;
        }
        link.out.push_back((after, envelope));
        if link.out.len() > self.limits.held_messages_max {
            self.reset(to);
        }
    }

    /// Sends messages whose sync has finished.
    pub(super) fn release(&mut self) {
        for link in self.links.values_mut() {
            while let Some((after, _)) = link.out.front()
                && *after <= self.durable.synced
            {
                let (_, envelope) = link.out.pop_front().expect("it has a front");
                self.effects.push(Effect::Send(Box::new(envelope)));
            }
        }
    }

    pub(super) fn receive(&mut self, envelope: Envelope) {
        let Envelope { cluster, incarnation, group, segment, from, to, session, body } = envelope;
        let here = &self.identity;
        let is_for_me = (cluster, incarnation, group, to)
            == (here.cluster, here.incarnation, here.group, here.me.storage);
        let link = self.links.get(&from);
        let in_session = link.is_some_and(|link| link.session == Some(session));
        let is_up = in_session && link.is_some_and(|link| link.is_up);
        let is_admitted = link.is_some_and(|link| link.is_admitted);
        let is_current = segment == self.segment().hash;
        match body {
            _ if !is_for_me => self.dropped += 1,
            Body::Hello(hello) if in_session => self.hello(from, hello),
            Body::Welcome if in_session => {
                let link = self.links.get_mut(&from).expect("it has a session");
                link.has_welcomed = true;
            }
            Body::Heartbeat(heartbeat) if is_admitted && is_current => {
                self.heartbeat(from, heartbeat);
            }
            Body::Paxos(message) if is_up && is_current => self.admit(from, message),
            Body::Behind { decided } if is_up => self.behind(from, decided),
            Body::Copy { from: first, durable } if is_up => self.copy_asked(from, first, durable),
            Body::Rows { first, rows, decided } if is_up => self.copied(from, first, rows, decided),
            Body::TooOld { .. } if is_up => self.too_old(from),
            Body::TakeOver if is_up && is_current && self.promised() == Some(from) => {
                self.call(omnipaxos::OmniPaxos::try_become_leader);
            }
            Body::Heartbeat(_) | Body::Paxos(_) => {
                self.dropped += 1;
                // From an older segment: answer. From a newer one: the peer ignores the answer.
                if is_for_me && !is_current {
                    self.send_behind(from);
                }
            }
            _ => self.dropped += 1,
        }
    }

    fn hello(&mut self, from: StorageId, hello: Hello) {
        let link = self.links.get(&from).expect("it has a session");
        if hello.member.storage != from || link.is_up {
            self.dropped += 1;
            return;
        }
        if let Some(known) = self.peers.get(&from)
            && let Some(reason) = refusal(known, &hello)
        {
            self.emit(Effect::Refuse { peer: from, reason });
            self.reset(from);
            if let Some(link) = self.links.get_mut(&from) {
                link.is_admitted = false;
            }
            return;
        }
        let Hello { boot, nonce, standing, decided, .. } = hello;
        let memory = PeerMemory { storage: from, boot, nonce, standing };
        if self.peers.insert(from, memory) != Some(memory) {
            self.store.get_mut().write(Write::Peer(memory));
            self.forget_one(from);
            self.persist();
        }
        let link = self.links.get_mut(&from).expect("it has a session");
        link.is_up = true;
        link.is_admitted = true;
        link.decided = decided;
        link.standing = standing;
        self.send(from, Body::Welcome, 0);
        if let Some(pid) = self.segment().pid_of_storage(from) {
            self.call(|instance| instance.reconnected(pid));
        }
        let mine = self.store.get().decided;
        if standing.segment < self.segment().number && decided < mine {
            self.send_behind(from);
        }
    }

    /// Only voters have promises to forget: above the limit, remove a peer without a vote.
    fn forget_one(&mut self, newest: StorageId) {
        if self.peers.len() <= self.limits.peers_max {
            return;
        }
        let segment = self.segment();
        let has_vote = |peer: &&StorageId| segment.pid_of_storage(**peer).is_some();
        let gone = self.peers.keys().find(|peer| !has_vote(peer) && **peer != newest).copied();
        if let Some(gone) = gone {
            self.peers.remove(&gone);
            self.store.get_mut().write(Write::Forget(gone));
        }
    }

    /// Whether enough members have accepted this one since it was opened. A member whose disk was
    /// rolled back is refused; otherwise it could repeat an earlier promise on its own and appear
    /// to have forgotten nothing.
    pub(super) fn is_welcome(&mut self) -> bool {
        if !self.is_welcomed {
            let segment = self.segment();
            let members = segment.members.iter();
            let welcomes = members.filter(|member| {
                self.links.get(&member.storage).is_some_and(|link| link.has_welcomed)
            });
            self.is_welcomed = welcomes.count() + 1 >= segment.quorum();
        }
        self.is_welcomed
    }

    fn heartbeat(&mut self, from: StorageId, heartbeat: Heartbeat) {
        let Some(pid) = self.segment().pid_of_storage(from) else {
            self.dropped += 1;
            return;
        };
        let now = self.now;
        let link = self.links.get_mut(&from).expect("it was admitted");
        link.standing = heartbeat.standing;
        link.alive = Some(now);
        link.is_heard = true;
        if let HeartbeatMsg::Reply(reply) = &heartbeat.message {
            // A repeated request is answered again; the crate would count the answer twice.
            if reply.round <= link.replied {
                return;
            }
            link.replied = reply.round;
        }
        if let Some(memory) = self.peers.get_mut(&from)
            && link.is_up
            && memory.standing.may_become(heartbeat.standing)
        {
            link.is_dirty |= memory.standing != heartbeat.standing;
            memory.standing = heartbeat.standing;
        }
        let to = self.segment().pid_of(&self.identity.me).unwrap_or_default();
        let message = BLEMessage { from: pid, to, msg: heartbeat.message };
        self.call(|instance| instance.handle_incoming(Message::BLE(message)));
    }

    /// Accepts messages of the crate in order. An acceptance must wait until the leader itself has
    /// the entries on disk, because the crate counts the leader at once.
    fn admit(&mut self, from: StorageId, message: PaxosMsg<Entry>) {
        let must_wait = self.must_wait(&message);
        let link = self.links.get_mut(&from).expect("it has a session");
        if link.inbound.is_empty() && !must_wait {
            self.deliver(from, message);
            return;
        }
        link.inbound.push_back(message);
        if link.inbound.len() > self.limits.held_messages_max {
            self.reset(from);
        }
    }

    /// Accepts messages that waited for the leader's sync.
    pub(super) fn admit_held(&mut self) {
        let waiting = self.links.iter().filter(|(_, link)| !link.inbound.is_empty());
        for peer in waiting.map(|(peer, _)| *peer).collect::<Vec<_>>() {
            while let Some(message) = self.links.get_mut(&peer).and_then(|link| {
                // Put back below if it must wait longer.
                link.inbound.pop_front()
            }) {
                if self.must_wait(&message) {
                    let link = self.links.get_mut(&peer).expect("it was there");
                    link.inbound.push_front(message);
                    break;
                }
                self.deliver(peer, message);
            }
        }
    }

    fn must_wait(&self, message: &PaxosMsg<Entry>) -> bool {
        let PaxosMsg::Accepted(accepted) = message else { return false };
        let is_mine = self.leading().is_some_and(|(_, ballot)| ballot == number_of(accepted.n));
        is_mine && self.segment().base + accepted.accepted_idx as u64 > self.durable.end()
    }

    fn deliver(&mut self, from: StorageId, message: PaxosMsg<Entry>) {
        let Some(pid) = self.segment().pid_of_storage(from) else {
            self.dropped += 1;
            return;
        };
        if !self.is_used(&message) {
            self.dropped += 1;
            return;
        }
        self.remember(from, &message);
        if self.lacks_too_much(from, &message) {
            self.send_behind(from);
            return;
        }
        let Role::Votes(instance) = &self.seat else {
            self.dropped += 1;
            return;
        };
        let mut message = PaxosMessage { from: pid, to: instance.get_pid(), msg: message };
        if self.leading().is_some() {
            sync_from_decided(&mut message.msg);
        }
        self.call(|instance| instance.handle_incoming(Message::SequencePaxos(message)));
    }

    /// Whether the crate expects this message: it belongs to a used part, and its number is that of
    /// a member.
    fn is_used(&mut self, message: &PaxosMsg<Entry>) -> bool {
        let highest = self.segment().members.len() as u64;
        let ballot = match message {
            PaxosMsg::PrepareReq(message) => message.n,
            PaxosMsg::Prepare(message) => message.n,
            PaxosMsg::Promise(message) => message.n,
            PaxosMsg::AcceptSync(message) => message.n,
            PaxosMsg::AcceptDecide(message) => message.n,
            PaxosMsg::Accepted(message) => message.n,
            PaxosMsg::NotAccepted(message) => message.n,
            PaxosMsg::Decide(message) => message.n,
            PaxosMsg::ProposalForward(_)
            | PaxosMsg::Compaction(_)
            | PaxosMsg::AcceptStopSign(_)
            | PaxosMsg::ForwardStopSign(_) => return false,
        };
        let moves = !matches!(message, PaxosMsg::PrepareReq(_) | PaxosMsg::NotAccepted(_));
        if moves {
            self.watch.moved(self.now);
        }
        ballot.pid <= highest
    }

    /// Records what the peer reported as written to its disk: it may never have less.
    fn remember(&mut self, from: StorageId, message: &PaxosMsg<Entry>) {
        let segment = self.segment();
        let (number, base) = (segment.number, segment.base);
        let link = self.links.get_mut(&from).expect("it has a session");
        let Some(memory) = self.peers.get_mut(&from) else { return };
        let before = memory.standing;
        if before.segment < number {
            memory.standing = Standing { segment: number, ..Standing::default() };
        }
        match message {
            PaxosMsg::Promise(promise) => memory.standing.promised = number_of(promise.n),
            PaxosMsg::Accepted(accepted) => {
                link.accepted = base + accepted.accepted_idx as u64;
                memory.standing.round = number_of(accepted.n);
                memory.standing.accepted = link.accepted;
            }
            _ => {}
        }
        if !before.may_become(memory.standing) {
            memory.standing = before;
        }
        link.is_dirty |= memory.standing != before;
    }

    /// Writes changed data about peers along with the next sync.
    pub(super) fn write_memories(&mut self) {
        for (peer, link) in &mut self.links {
            if std::mem::take(&mut link.is_dirty)
                && let Some(memory) = self.peers.get(peer)
            {
                self.store.get_mut().write_later(Write::Peer(*memory));
            }
        }
    }

    /// Tells a peer that it lacks decided entries, once per election timeout.
    pub(super) fn send_behind(&mut self, peer: StorageId) {
        let decided = self.store.get().decided;
        let (now, pause) = (self.now, self.limits.election_ticks);
        let Some(link) = self.links.get_mut(&peer).filter(|link| link.is_up) else { return };
        if link.behind_sent.is_none_or(|sent| now >= sent + pause) {
            link.behind_sent = Some(now);
            self.send(peer, Body::Behind { decided }, 0);
        }
    }
}

/// A leader in the accept phase answers a late promise with the entries after the peer's decided
/// ones, which are a prefix of its own log whatever else the peer accepted. The crate on its own
/// would compare the rounds, which are too low for a copied log.
fn sync_from_decided(message: &mut PaxosMsg<Entry>) {
    if let PaxosMsg::Promise(promise) = message
        && promise.n_accepted != promise.n
    {
        promise.n_accepted = promise.n;
        promise.accepted_idx = promise.decided_idx;
        promise.log_sync = None;
    }
}

fn refusal(known: &PeerMemory, hello: &Hello) -> Option<Reason> {
    match known.boot.cmp(&hello.boot) {
        std::cmp::Ordering::Greater => Some(Reason::RolledBack),
        std::cmp::Ordering::Equal if known.nonce != hello.nonce => Some(Reason::Copied),
        _ if !known.standing.may_become(hello.standing) => Some(Reason::RolledBack),
        _ => None,
    }
}
