//! Which nodes are linked, which should be members, and the planned end.

use forebay_engine::cluster::NodesConfig;
use forebay_engine::consensus::{Input, Leadership, StorageId};
use forebay_net::NodeName;

use super::{Driver, Ended, YIELD_TIME};

/// Ticks between two looks at the members.
const MEMBERS_TICKS: u64 = 10;

impl Driver {
    /// Links to all nodes of the configuration, at their addresses.
    pub(super) fn set_nodes(&mut self, nodes: NodesConfig) {
        let net = &self.parts.net;
        let me = &self.parts.me.name;
        let names = |nodes: &NodesConfig| -> Vec<(NodeName, String)> {
            // A node that has not joined is part of no cluster, and would refuse a link.
            let joined = nodes.nodes.iter().filter(|node| node.storage != StorageId(0));
            let others = joined.filter(|node| node.name != *me);
            others
                .filter_map(|node| Some((node.name.parse().ok()?, node.address.to_string())))
                .collect()
        };
        let before = names(&self.nodes);
        let mut wanted = names(&nodes);
        let given = &mut self.parts.configured;
        for (name, address) in &mut wanted {
            let is_changed = before.iter().any(|(of, old)| of == name && old != address);
            if is_changed {
                given.remove(name);
            } else if let Some(given) = given.get(name) {
                // Given at the start: it may be newer than the configuration.
                address.clone_from(given);
            }
        }
        // Before the configuration is known, only the nodes named at the start are.
        let named = given.iter().map(|(name, address)| (name.clone(), address.clone()));
        if wanted.is_empty() {
            wanted = named.collect();
        }
        // Tasks that the network spawns belong to the node's runtime, not to this thread.
        let _entered = self.parts.runtime.enter();
        for (name, address) in &wanted {
            let address = (!address.is_empty()).then_some(address.as_str());
            let added = net.add_peer(name, address).and_then(|()| self.links.add_peer(name));
            if let Err(error) = added {
                tracing::warn!(node = %me, peer = %name, %error, "a node cannot be linked");
            }
        }
        for (name, _) in before.iter().filter(|(name, _)| wanted.iter().all(|(of, _)| of != name)) {
            self.links.remove_peer(name);
        }
        self.nodes = nodes;
    }

    /// The leader changes the members towards the configured ones.
    pub(super) fn tick_members(&mut self) {
        if !self.ticks.is_multiple_of(MEMBERS_TICKS)
            || self.roll.is_some()
            || self.stops_at.is_some()
            || self.group.term().is_none()
        {
            return;
        }
        let next =
            self.nodes.next_members(self.group.segment(), |storage| self.group.is_ready(storage));
        let Some(members) = next else { return };
        if !members.contains(&self.parts.me) {
            let successor = members.iter().find(|member| self.group.is_ready(member.storage));
            if let Some(to) = successor.map(|member| member.storage) {
                self.step(Input::HandOver { to });
            }
            return;
        }
        let request = self.waiting.request();
        let version =
            self.state.get(forebay_engine::cluster::NODES_KEY).map_or(0, |row| row.version);
        self.roll = Some(request);
        self.step(Input::Roll { request, members, version });
    }

    /// A leader hands over before it stops, so that no election timeout passes.
    pub(super) fn stop(&mut self) {
        let me = self.parts.me.storage;
        let others = self.group.segment().members.iter().map(|member| member.storage);
        let successor =
            others.filter(|storage| *storage != me).find(|one| self.group.is_ready(*one));
        match (self.group.term(), successor) {
            (Some(_), Some(to)) => {
                let ticks = YIELD_TIME.as_millis() / self.parts.tick.as_millis().max(1);
                self.stops_at = Some(self.ticks + ticks as u64);
                self.step(Input::HandOver { to });
            }
            _ => self.ended = Some(Ended::Stopped),
        }
    }

    pub(super) fn tick_stop(&mut self) {
        let Some(at) = self.stops_at else { return };
        let has_successor = matches!(self.leadership, Leadership::Follows(Some(_)));
        if has_successor || self.ticks >= at {
            self.ended = Some(Ended::Stopped);
        }
    }
}
