//! Calls of the crate, and the steps that must follow each call.
//!
//! Must always hold: the outgoing messages are taken after every single call, because the crate
//! changes messages that are still in its buffer; the writes of a call reach the disk before its
//! messages are sent.

use omnipaxos::messages::Message;
use omnipaxos::messages::ballot_leader_election::{BLEMessage, HeartbeatMsg, HeartbeatRequest};
use omnipaxos::messages::sequence_paxos::{PaxosMessage, PaxosMsg};
use omnipaxos::{ClusterConfig, OmniPaxos, OmniPaxosConfig, ServerConfig};

use crate::consensus::chain::StorageId;
use crate::consensus::entry::Entry;
use crate::consensus::input::Effect;
use crate::consensus::message::{
    BallotNumber, Body, Envelope, Heartbeat, Session, Standing, number_of,
};
use crate::consensus::store::Store;

use super::{Group, Role, links};

/// A resend timer of the crate that never fires: nothing is lost within a session.
const NEVER: u64 = u64::MAX;

/// Initial capacity for outgoing messages of the crate.
const OUTGOING: usize = 16;

impl Group {
    /// Calls the instance, if there is one.
    pub(super) fn call(&mut self, call: impl FnOnce(&mut OmniPaxos<Entry, Store>)) {
        let Role::Votes(instance) = &mut self.seat else { return };
        call(instance);
        let mut messages = std::mem::take(&mut self.scratch);
        instance.take_outgoing_messages(&mut messages);
        self.persist();
        for message in messages.drain(..) {
            self.post(message);
        }
        self.scratch = messages;
    }

    /// Hands the collected writes to the driver.
    pub(super) fn persist(&mut self) {
        let standing = self.store.get().standing(self.segment().number);
        self.persist_to(standing);
    }

    /// As [`Self::persist`], with the position of the storage after these writes.
    pub(super) fn persist_to(&mut self, standing: Standing) {
        let mut mirror = self.store.get_mut();
        let Some((writes, cut)) = mirror.take_writes() else { return };
        let end = mirror.end();
        drop(mirror);
        let upto = self.durable.write(end, cut, standing);
        self.emit(Effect::Persist { writes, upto });
    }

    fn post(&mut self, message: Message<Entry>) {
        let Some(to) = self.segment().member(message.get_receiver()) else { return };
        let to = to.storage;
        match message {
            Message::BLE(BLEMessage { msg, .. }) => {
                if let HeartbeatMsg::Request(HeartbeatRequest { round }) = msg {
                    self.heartbeat_round = round;
                }
                self.send_heartbeat(to, msg);
            }
            Message::SequencePaxos(PaxosMessage { msg, .. }) => {
                let after = match &msg {
                    PaxosMsg::Promise(_) | PaxosMsg::Prepare(_) | PaxosMsg::Accepted(_) => {
                        self.durable.written
                    }
                    // Other messages may precede the local sync: `admit` accepts no acceptance of
                    // an entry that the leader has not synced.
                    _ => 0,
                };
                self.send(to, Body::Paxos(msg), after);
            }
        }
    }

    pub(super) fn send_heartbeat(&mut self, to: StorageId, message: HeartbeatMsg) {
        let heartbeat = Heartbeat { message, standing: self.durable.standing() };
        let envelope = self.envelope(to, Session(0), Body::Heartbeat(heartbeat));
        self.emit(Effect::Send(Box::new(envelope)));
    }

    pub(super) fn envelope(&self, to: StorageId, session: Session, body: Body) -> Envelope {
        Envelope {
            cluster: self.identity.cluster,
            incarnation: self.identity.incarnation,
            group: self.identity.group,
            segment: self.segment().hash,
            from: self.me(),
            to,
            session,
            body,
        }
    }

    /// A new instance over the stored data, as after a restart of the process.
    pub(super) fn build(&self) -> Role {
        let segment = self.segment();
        if segment.is_solo() {
            return Role::Solo;
        }
        let pid = segment.pid_of(&self.identity.me).expect("a voter is a member");
        let highest = segment.members.len() as u64;
        let cluster_config = ClusterConfig {
            configuration_id: 1,
            nodes: (1..=highest).collect(),
            flexible_quorum: None,
        };
        let server_config = ServerConfig {
            pid,
            election_tick_timeout: self.limits.election_ticks,
            resend_message_tick_timeout: NEVER,
            flush_batch_tick_timeout: NEVER,
            buffer_size: OUTGOING,
            batch_size: 1,
            leader_priority: u32::from(pid == highest),
        };
        let config = OmniPaxosConfig { cluster_config, server_config };
        let instance = config.build(self.store.clone()).expect("a segment has two members");
        Role::Votes(Box::new(instance))
    }

    /// Replaces the instance, as a restart would. Its sessions end too, so that no message in
    /// flight to the old instance reaches the new one.
    pub(super) fn rebuild(&mut self) {
        self.seat = self.build();
        self.fresh_until = None;
        self.links.values_mut().for_each(links::Link::forget_rounds);
        let peers: Vec<_> = self.links.keys().copied().collect();
        for peer in peers {
            self.reset(peer);
        }
        // The new instance's requests to its peers are dropped: it has no sessions yet.
        self.call(|_| ());
    }

    /// The pid and ballot with which this member leads, if it leads in the accept phase.
    pub(super) fn leading(&self) -> Option<(u64, BallotNumber)> {
        let Role::Votes(instance) = &self.seat else { return None };
        let pid = instance.get_pid();
        let leads = instance.get_current_leader() == Some((pid, true));
        leads.then(|| (pid, number_of(instance.get_promise())))
    }

    /// Whether it takes part: as the leader, or as a follower in the accept phase.
    pub(super) fn is_in_accept_phase(&self) -> bool {
        match &self.seat {
            Role::Votes(instance) => instance.get_current_leader().is_some_and(|(_, is)| is),
            Role::Solo | Role::Starting(_) | Role::Follows => true,
        }
    }

    /// The member that this member promised to follow.
    pub(super) fn promised(&self) -> Option<StorageId> {
        let Role::Votes(instance) = &self.seat else { return None };
        let member = self.segment().member(instance.get_promise().pid)?;
        Some(member.storage)
    }
}
