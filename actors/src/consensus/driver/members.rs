//! Which nodes are linked, which should be members, and the planned end.

use forebay_engine::cluster::{NodeAnswer, NodesConfig};
use forebay_engine::consensus::{Input, Leadership, Member, StorageId};
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
        let me = self.parts.me.storage;
        if !self.should_lead(me)
            && let Some(to) = self.best_successor().filter(|to| self.should_lead(*to))
        {
            if self.successor != Some(to) {
                self.successor = Some(to);
                let text =
                    "this node hands its leadership over: it is drained, or its clock is off";
                self.note("hands-over", text.to_owned());
            }
            self.step(Input::HandOver { to });
            return;
        }
        self.look_for_dead();
        let is_ready = |storage| self.group.is_ready(storage);
        let is_dead = |storage| self.is_dead(storage);
        let next = self.nodes.next_members(self.group.segment(), is_ready, is_dead);
        let Some(members) = next else { return };
        if !members.contains(&self.parts.me) {
            let successor = members.iter().find(|member| self.group.is_ready(member.storage));
            if let Some(to) = successor.map(|member| member.storage) {
                self.step(Input::HandOver { to });
            }
            return;
        }
        if self.next_members != members {
            self.note_change(&members);
            self.next_members.clone_from(&members);
        }
        let request = self.waiting.request();
        let version =
            self.state.get(forebay_engine::cluster::NODES_KEY).map_or(0, |row| row.version);
        self.roll = Some(request);
        self.step(Input::Roll { request, members, version });
    }

    /// Whether a node should lead if others can: it is not drained, and its clock is right.
    fn should_lead(&self, storage: StorageId) -> bool {
        let mut nodes = self.nodes.nodes.iter();
        let is_drained = nodes.any(|node| node.storage == storage && node.is_drained);
        !is_drained && !self.avoid.contains(&storage)
    }

    /// Another member that can lead: best one that should.
    fn best_successor(&self) -> Option<StorageId> {
        let me = self.parts.me.storage;
        let members = self.group.segment().members.iter().map(|member| member.storage);
        let others: Vec<_> =
            members.filter(|one| *one != me && self.group.is_ready(*one)).collect();
        let best = others.iter().find(|one| self.should_lead(**one));
        best.or(others.first()).copied()
    }

    /// Lets a member lead, when asked for.
    pub(super) fn hand_over(&mut self, to: &str) -> NodeAnswer {
        if self.group.term().is_none() {
            let leader = self.group.leader().and_then(|leader| self.name_of(leader));
            return NodeAnswer::NotLeader { leader: leader.map(|name| name.to_string().into()) };
        }
        let members = &self.group.segment().members;
        let Some(member) = members.iter().find(|member| member.name == to) else {
            let mut names: Vec<_> = members.iter().map(|one| one.name.to_string()).collect();
            names.sort_unstable();
            let text = format!("{to} is no member: the members are {}", names.join(", "));
            return NodeAnswer::Refused(text.into());
        };
        let storage = member.storage;
        if storage == self.parts.me.storage {
            return NodeAnswer::Done;
        }
        if !self.group.is_ready(storage) {
            let text = format!("{to} is not connected, or lacks too much");
            return NodeAnswer::Unavailable(text.into());
        }
        self.note("hands-over", format!("this node hands its leadership over to {to}, as asked"));
        self.step(Input::HandOver { to: storage });
        NodeAnswer::Done
    }

    /// Remembers since when members have no session.
    fn look_for_dead(&mut self) {
        let me = self.parts.me.storage;
        let members = self.group.segment().members.iter().map(|member| member.storage);
        let silent: Vec<_> =
            members.filter(|one| *one != me && !self.group.talks_to(*one)).collect();
        self.silent.retain(|storage, _| silent.contains(storage));
        for storage in silent {
            self.silent.entry(storage).or_insert(self.ticks);
        }
    }

    fn is_dead(&self, storage: StorageId) -> bool {
        let ticks = self.parts.dead_after.as_millis() / self.parts.tick.as_millis().max(1);
        let since = self.silent.get(&storage);
        since.is_some_and(|since| u128::from(self.ticks - since) >= ticks)
    }

    /// Why members are changed.
    fn note_change(&self, next: &[Member]) {
        let members = &self.group.segment().members;
        let name = |member: &Member| member.name.to_string();
        let gone = members.iter().filter(|member| !next.contains(member));
        let gone = gone.map(|member| match self.is_dead(member.storage) {
            true => format!("{} (not reached for {:?})", member.name, self.parts.dead_after),
            false => name(member),
        });
        let gone: Vec<_> = gone.collect();
        let new: Vec<_> =
            next.iter().filter(|member| !members.contains(member)).map(name).collect();
        let list = |names: &[String]| match names {
            [] => "none".to_owned(),
            names => names.join(", "),
        };
        let text = format!("members change: {} leave, {} join", list(&gone), list(&new));
        self.note("members", text);
    }

    /// A leader hands over before it stops, so that no election timeout passes.
    pub(super) fn stop(&mut self) {
        match (self.group.term(), self.best_successor()) {
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
