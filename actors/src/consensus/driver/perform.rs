//! Performing the effects of the machine.

use std::sync::{Arc, PoisonError};

use forebay_api::RefusedView;
use forebay_engine::cluster::NodeRequest;
use forebay_engine::consensus::{Body, Effect, Envelope, Leadership, Reason, Session, StorageId};
use forebay_net::{NodeName, NotSent};

use crate::consensus::{ClusterError, METADATA_GROUP};

use super::{Driver, Ended, Event};

/// How long a refused peer is waited for when it is informed.
const REFUSE_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);

impl Driver {
    pub(super) fn perform_one(&mut self, effect: Effect) {
        match effect {
            Effect::Persist { writes, upto } => self.writer.write(METADATA_GROUP, upto, writes),
            Effect::Send(envelope) => self.send(&envelope),
            Effect::Reset { peer } => {
                let session = self.name_of(peer).and_then(|name| {
                    let (_, session) = self.sessions.get(&name)?;
                    Some((name, *session))
                });
                if let Some((name, session)) = session {
                    self.links.reset(&name, session);
                }
            }
            Effect::Refuse { peer, reason } => self.refuse(peer, reason),
            Effect::Decided { first, entries } => self.decided(first, entries),
            Effect::Leadership(leadership) => self.lead(leadership),
            Effect::Rolled(segment) => self.rolled(*segment),
            Effect::Answer(answer) => self.answered(answer),
            Effect::Read { to, session, first, bytes_max, end } => {
                self.read_rows(to, session, first, bytes_max, end);
            }
            Effect::CopyState { from } => {
                if let Some(name) = self.name_of(from) {
                    self.ended = Some(Ended::CopyState(name));
                }
            }
            Effect::Yielded(why) => {
                self.warn("yields", format!("this node gives its leadership up: {why}"));
                self.yielded = Some(why);
            }
        }
    }

    /// The name of a data directory: of a connected peer, or as configured.
    pub(super) fn name_of(&self, storage: StorageId) -> Option<NodeName> {
        if let Some(name) = self.names.get(&storage) {
            return Some(name.clone());
        }
        let members = self.group.segment().members.iter();
        let mut all = members
            .map(|member| (member.storage, &member.name))
            .chain(self.nodes.nodes.iter().map(|node| (node.storage, &node.name)));
        all.find(|(of, _)| *of == storage).and_then(|(_, name)| name.parse().ok())
    }

    fn send(&mut self, envelope: &Envelope) {
        let Some(name) = self.name_of(envelope.to) else { return };
        let mut bytes = Vec::new();
        envelope.encode(&mut bytes);
        if matches!(envelope.body, Body::Heartbeat(_)) {
            self.links.heartbeat(&name, bytes.into());
            return;
        }
        let session = envelope.session.0;
        // Without a session the message is lost with it; after an overflow the session ends.
        if let Err(NotSent::TooLong) = self.links.send(&name, session, bytes.into()) {
            tracing::error!(peer = %name, "a message is too long for the network");
            self.links.reset(&name, session);
        }
    }

    fn refuse(&mut self, peer: StorageId, reason: Reason) {
        let why = match reason {
            Reason::RolledBack => {
                "its data directory was rolled back or is a copy: it has less than it had; empty \
                 the directory and start the node again"
            }
            Reason::Copied => {
                "another process ran with a copy of its data directory: stop one of them, empty \
                 its directory and start it again"
            }
        };
        let Some(name) = self.name_of(peer) else { return };
        let is_new = self.refused.insert(name.to_string(), why.to_owned()).is_none();
        if !is_new {
            return;
        }
        self.warn("refuses", format!("{name} is refused: {why}"));
        // The peer can act on it.
        let net = self.parts.net.clone();
        let reason = format!("{}: {why}", RefusedView::BY_OTHERS);
        let request = NodeRequest::Refused { reason: reason.into() }.encode();
        tokio::spawn(async move {
            let _ = net.request(&name, request, REFUSE_WITHIN).await;
        });
    }

    fn lead(&mut self, leadership: Leadership) {
        match &leadership {
            Leadership::Leads(term) => {
                self.leaders += 1;
                self.note("leads", format!("this node leads, term {term:?}"));
            }
            Leadership::Follows(Some(leader)) => {
                self.leaders += 1;
                let name = self.name_of(*leader).map(|name| name.to_string());
                let name = name.unwrap_or_else(|| format!("{:032x}", leader.0));
                self.note("follows", format!("{name} leads"));
            }
            Leadership::Follows(None) => {
                self.warn("no-leader", "no node is known to lead".to_owned());
            }
        }
        let other = match &leadership {
            Leadership::Follows(Some(leader)) => self.name_of(*leader),
            _ => None,
        };
        self.set_leader(other);
        self.silent.clear();
        self.successor = None;
        self.next_members.clear();
        if !matches!(leadership, Leadership::Leads(_)) {
            self.roll = None;
        }
        self.leadership = leadership;
    }

    /// Requests of this node go to another node that leads at once.
    pub(super) fn set_leader(&self, leader: Option<NodeName>) {
        *self.parts.leader.lock().unwrap_or_else(PoisonError::into_inner) = leader;
    }

    fn read_rows(
        &mut self,
        to: StorageId,
        session: Session,
        first: u64,
        bytes_max: usize,
        end: u64,
    ) {
        let (groups, events) = (Arc::clone(&self.parts.groups), self.events.clone());
        tokio::task::spawn_blocking(move || {
            let event = match groups.read(METADATA_GROUP, first, end, bytes_max) {
                Ok(rows) => Event::Rows { to, session, first, rows },
                // Dropped meanwhile: the peer asks again and is refused as too old.
                Err(forebay_storage::consensus::ConsensusError::Gone { .. }) => return,
                Err(error) => Event::Failed(ClusterError::from(error).to_string()),
            };
            let _ = events.send(event);
        });
    }
}
