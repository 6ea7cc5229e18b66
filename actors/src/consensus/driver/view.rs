//! The state of the group, for a status.

use std::collections::BTreeMap;

use forebay_engine::cluster::NodeEntry;
use forebay_engine::consensus::{Leadership, Member, StorageId};

use super::Driver;

/// A node, as this one sees it.
#[derive(Clone, Debug)]
pub(in crate::consensus) struct NodePosition {
    pub(in crate::consensus) entry: NodeEntry,
    /// Member of the current segment, with this data directory.
    pub(in crate::consensus) is_member: bool,
    /// There is a session.
    pub(in crate::consensus) is_connected: bool,
    /// It lacks little; known to the leader only.
    pub(in crate::consensus) is_ready: bool,
    /// The end of the durable entries there.
    pub(in crate::consensus) durable: Option<u64>,
}

/// The group, as this node sees it.
#[derive(Clone, Debug)]
pub(in crate::consensus) struct DriverView {
    pub(in crate::consensus) leads: bool,
    pub(in crate::consensus) votes: bool,
    /// A majority answers heartbeats.
    pub(in crate::consensus) hears_quorum: bool,
    pub(in crate::consensus) leader: Option<String>,
    pub(in crate::consensus) segment: u64,
    pub(in crate::consensus) base: u64,
    pub(in crate::consensus) members: Vec<Member>,
    pub(in crate::consensus) quorum: usize,
    pub(in crate::consensus) decided: u64,
    pub(in crate::consensus) applied: u64,
    pub(in crate::consensus) accepted: u64,
    pub(in crate::consensus) durable: u64,
    pub(in crate::consensus) log_bytes: u64,
    pub(in crate::consensus) state_bytes: u64,
    pub(in crate::consensus) dropped: u64,
    pub(in crate::consensus) leaders: u64,
    pub(in crate::consensus) wanted: u32,
    pub(in crate::consensus) format: u8,
    pub(in crate::consensus) yielded: Option<&'static str>,
    pub(in crate::consensus) base_error: Option<String>,
    pub(in crate::consensus) refused: BTreeMap<String, String>,
    pub(in crate::consensus) nodes: Vec<NodePosition>,
}

impl Driver {
    pub(super) fn view(&self) -> DriverView {
        let segment = self.group.segment();
        let me = self.parts.me.storage;
        let position = |entry: &NodeEntry| {
            let is_me = entry.storage == me;
            let member = Member { name: entry.name.clone(), storage: entry.storage };
            NodePosition {
                entry: entry.clone(),
                is_member: segment.members.contains(&member),
                is_connected: is_me || self.group.talks_to(entry.storage),
                is_ready: is_me || self.group.is_ready(entry.storage),
                durable: if is_me {
                    Some(self.group.durable())
                } else {
                    self.group.position_of(entry.storage)
                },
            }
        };
        DriverView {
            leads: matches!(self.leadership, Leadership::Leads(_)),
            votes: self.group.votes(),
            hears_quorum: self.group.hears_quorum(),
            leader: self.group.leader().and_then(|leader| self.shown_name(leader)),
            segment: segment.number,
            base: segment.base,
            members: segment.members.clone(),
            quorum: segment.quorum(),
            decided: self.group.decided(),
            applied: self.applied,
            accepted: self.group.accepted(),
            durable: self.group.durable(),
            log_bytes: self.group.memory_bytes(),
            state_bytes: self.state.bytes() as u64,
            dropped: self.group.dropped(),
            leaders: self.leaders,
            wanted: self.nodes.wanted,
            format: self.nodes.format,
            yielded: self.yielded,
            base_error: self.base_error.clone(),
            refused: self.refused.clone(),
            nodes: self.nodes.nodes.iter().map(position).collect(),
        }
    }

    fn shown_name(&self, storage: StorageId) -> Option<String> {
        if storage == self.parts.me.storage {
            return Some(self.parts.me.name.to_string());
        }
        self.name_of(storage).map(|name| name.to_string())
    }
}
