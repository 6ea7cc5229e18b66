//! The status of a node, for display: health in words first.

use std::collections::BTreeMap;

use forebay_api::{
    ClusterNodeView, ClusterView, GroupView, MemberView, NodeStateView, RefusedView,
};
use forebay_engine::cluster::CLUSTER_FORMAT;
use forebay_engine::consensus::{Member, StorageId};

use crate::consensus::driver::{DriverView, NodePosition};

use super::clock::{self, Differences};
use super::shared::{RAN_ALONE, Shared};

impl Shared {
    pub(super) async fn status(&self) -> ClusterView {
        let view = self.view().await;
        let net = self.net();
        let node = self.disk.groups.node();
        let cluster = self.cluster();
        let refused = self.refused(view.as_ref());
        let errors: BTreeMap<String, String> = net
            .iter()
            .flat_map(forebay_net::Net::peers)
            .filter_map(|peer| Some((peer.name.to_string(), peer.error?)))
            .collect();
        let clocks = self.clocks();
        let nodes = view.as_ref().map_or_else(Vec::new, |view| nodes(view, &errors, &clocks));
        let state = match (&view, cluster) {
            (_, None) => NodeStateView::Uninitialized,
            (Some(view), _) => own_state(view, node.storage),
            (None, _) => NodeStateView::Learner,
        };
        let (health, is_healthy, serves) = match (&view, cluster) {
            (_, None) => (self.outside_health(), false, false),
            (None, _) => ("the group begins, or does not answer".to_owned(), false, false),
            (Some(view), _) => self.health(view, state, &refused),
        };
        ClusterView {
            health,
            is_healthy,
            serves,
            node: self.name().to_string(),
            state,
            storage: hex(node.storage),
            boot: node.boot,
            address: self.address(),
            cluster: cluster.map(|(cluster, _)| format!("{cluster:032x}")),
            incarnation: cluster.map(|(_, incarnation)| incarnation),
            format: view.as_ref().map(|view| u32::from(view.format)),
            format_max: u32::from(CLUSTER_FORMAT),
            group: view.as_ref().map(group),
            nodes,
            refused,
            certificate_days: net.and_then(|net| net.certificate()).map(|status| status.days_left),
        }
    }

    fn refused(&self, view: Option<&DriverView>) -> Vec<RefusedView> {
        let by_net = self.net().map(|net| net.refused()).unwrap_or_default();
        let connected: Vec<_> = view
            .iter()
            .flat_map(|view| &view.nodes)
            .filter(|node| node.is_connected)
            .map(|node| node.entry.name.to_string())
            .collect();
        // Refusals from before the two agreed no longer apply.
        let by_net = by_net.into_iter().filter(|refused| {
            let who = refused.who.split(' ').next().unwrap_or_default();
            connected.iter().all(|name| name != who)
        });
        let by_net = by_net.map(|refused| (refused.who, refused.why));
        let here = view.map(|view| view.refused.clone()).unwrap_or_default();
        let all = self.refusals().into_iter().chain(here).chain(by_net);
        all.map(|(who, why)| RefusedView { who, why }).collect()
    }

    fn outside_health(&self) -> String {
        let errors = self.errors();
        if self.disk.alone.is_some() {
            return format!("part of no cluster: {} {RAN_ALONE}", self.name());
        }
        if self.peers.is_empty() {
            return "part of no cluster: run `forebay cluster provision`, or name nodes of a \
                    cluster with --peer"
                .to_owned();
        }
        let errors: Vec<_> = errors.iter().map(|(peer, why)| format!("{peer}: {why}")).collect();
        format!(
            "part of no cluster: run `forebay cluster provision` on one node, or wait for a peer \
             that is part of one ({})",
            if errors.is_empty() { "they are being asked".to_owned() } else { errors.join("; ") }
        )
    }

    fn health(
        &self,
        view: &DriverView,
        state: NodeStateView,
        refused: &[RefusedView],
    ) -> (String, bool, bool) {
        let count = view.members.len();
        let connected =
            view.nodes.iter().filter(|node| node.is_member && node.is_connected).count();
        let lost: Vec<_> = view
            .nodes
            .iter()
            .filter(|node| node.is_member && !node.is_connected)
            .map(|node| node.entry.name.to_string())
            .collect();
        let of = format!("{connected} of {count} members are connected");
        let needed = view.quorum;
        let is_reached = |leader: &&String| {
            let mut nodes = view.nodes.iter();
            nodes.any(|node| node.entry.name == leader.as_str() && node.is_connected)
        };
        let Some(leader) = view.leader.as_ref().filter(is_reached) else {
            let why = match refused.iter().find(|refused| refused.is_of_this_node()) {
                Some(refused) => format!("{}: {}", refused.who, refused.why),
                None => "no leader is reached".to_owned(),
            };
            return (format!("{why}: {of}, {needed} are needed"), false, false);
        };
        if view.leads && !view.hears_quorum {
            return (format!("no majority: {of}, {needed} are needed"), false, false);
        }
        if let Some(error) = &view.base_error {
            return (format!("no snapshot was written: {error}"), false, true);
        }
        let spare = connected.saturating_sub(view.quorum);
        let more = match spare {
            0 if count == 1 => "one member: its disk is the only one".to_owned(),
            0 => "none of them may be lost".to_owned(),
            1 => "1 of them may be lost".to_owned(),
            _ => format!("{spare} of them may be lost"),
        };
        if !lost.is_empty() {
            let lost = lost.join(", ");
            return (format!("{lost} is not reached: {of}, {more}"), false, true);
        }
        if let Some((name, difference)) = self.clock_off(view) {
            return (clock::text(&name, difference), false, true);
        }
        let joining = view.nodes.iter().filter(|node| !node.is_member && !node.entry.is_removed);
        let missing = (self.wanted(view)).saturating_sub(count);
        if missing > 0 {
            let names: Vec<_> = joining.map(|node| node.entry.name.to_string()).collect();
            let names = names.join(", ");
            return (
                format!("{missing} more members are waited for ({names}): {more}"),
                false,
                true,
            );
        }
        let role = if state == NodeStateView::Member { "" } else { ", this node does not vote" };
        (format!("healthy: {leader} leads, {of}, {more}{role}"), true, true)
    }

    /// A node whose clock is off, this one first.
    fn clock_off(&self, view: &DriverView) -> Option<(String, i64)> {
        let clocks = self.clocks();
        let me = self.disk.groups.node().storage;
        let mut nodes: Vec<_> = view.nodes.iter().map(|node| &node.entry).collect();
        nodes.sort_by_key(|entry| entry.storage != me);
        let difference = |storage| clocks.get(&storage).copied().filter(|one| clock::is_off(*one));
        nodes
            .into_iter()
            .find_map(|entry| Some((entry.name.to_string(), difference(entry.storage)?)))
    }

    fn wanted(&self, view: &DriverView) -> usize {
        let live = view.nodes.iter().filter(|node| !node.entry.is_removed).count();
        (view.wanted as usize).min(live)
    }
}

fn hex(storage: StorageId) -> String {
    if storage == StorageId(0) { String::new() } else { format!("{:032x}", storage.0) }
}

fn own_state(view: &DriverView, me: StorageId) -> NodeStateView {
    match view.nodes.iter().find(|node| node.entry.storage == me) {
        Some(node) => state_of(node, view),
        None if view.votes => NodeStateView::Member,
        // Another data directory took its place, or it has not copied its own entry yet.
        None => NodeStateView::Learner,
    }
}

fn state_of(node: &NodePosition, view: &DriverView) -> NodeStateView {
    let is_near = node.is_ready || node.durable.is_some_and(|durable| durable >= view.decided);
    match node.entry.storage {
        _ if node.is_member => NodeStateView::Member,
        _ if node.entry.is_removed => NodeStateView::Removed,
        StorageId(0) => NodeStateView::Absent,
        _ if is_near => NodeStateView::Standby,
        _ => NodeStateView::Learner,
    }
}

fn nodes(
    view: &DriverView,
    errors: &BTreeMap<String, String>,
    clocks: &Differences,
) -> Vec<ClusterNodeView> {
    let shown = |node: &NodePosition| ClusterNodeView {
        name: node.entry.name.to_string(),
        state: state_of(node, view),
        storage: hex(node.entry.storage),
        address: node.entry.address.to_string(),
        is_connected: node.is_connected,
        durable: node.durable,
        lag: node.durable.map(|durable| view.decided.saturating_sub(durable)),
        is_drained: node.entry.is_drained,
        clock_ms: clocks.get(&node.entry.storage).copied(),
        error: errors.get(&*node.entry.name).filter(|_| !node.is_connected).cloned(),
    };
    view.nodes.iter().map(shown).collect()
}

fn member(member: &Member) -> MemberView {
    MemberView { name: member.name.to_string(), storage: hex(member.storage) }
}

fn group(view: &DriverView) -> GroupView {
    let role = match (view.leads, view.votes) {
        (true, _) => "leader",
        (false, true) => "follower",
        (false, false) => "learner",
    };
    GroupView {
        role: role.to_owned(),
        leader: view.leader.clone(),
        segment: view.segment,
        base: view.base,
        decided: view.decided,
        applied: view.applied,
        accepted: view.accepted,
        durable: view.durable,
        log_bytes: view.log_bytes,
        state_bytes: view.state_bytes,
        members: view.members.iter().map(member).collect(),
        quorum: view.quorum as u64,
        elections: view.leaders,
        dropped: view.dropped,
        yielded: view.yielded.map(str::to_owned),
    }
}
