//! State shared by the parts of a node.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use forebay_engine::cluster::{Base, NodeAnswer, NodeRequest};
use forebay_engine::metadata::Row;
use forebay_net::{Net, NodeName, RequestError};
use tokio::sync::{mpsc, oneshot, watch};

use crate::consensus::client::Client;
use crate::consensus::driver::{Ask, DriverView, Event};
use crate::consensus::events::Events;
use crate::consensus::watches::{MetadataWatch, Watches};

use super::clock::Differences;
use super::life::Command;
use super::{ClusterNodeConfig, OnDisk};

/// How long the thread of the group is waited for when a status is asked for.
const VIEW_WITHIN: Duration = Duration::from_secs(2);

/// A node's parts.
pub(in crate::consensus) struct Shared {
    pub(super) config: ClusterNodeConfig,
    name: NodeName,
    pub(super) peers: Vec<(NodeName, String)>,
    pub(super) disk: OnDisk,
    /// Names the provisioning by this process: one that failed is tried again under it.
    pub(super) provision: u128,
    pub(super) watches: Watches,
    pub(in crate::consensus) events: Events,
    /// The snapshot that others can copy.
    pub(super) base: Arc<Mutex<Base>>,
    /// Another node that leads, as this node's group knows.
    pub(super) leader: Arc<Mutex<Option<NodeName>>>,
    phase: watch::Sender<Phase>,
    state: Mutex<State>,
}

/// Answers a request about entries, as JSON.
pub type EntriesFront =
    Arc<dyn Fn(Bytes) -> Pin<Box<dyn Future<Output = Bytes> + Send>> + Send + Sync>;

/// Whether the group runs here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Part of no cluster, or the group begins.
    Outside,
    Runs,
    Over,
}

#[derive(Default)]
struct State {
    net: Option<Net>,
    address: Option<String>,
    driver: Option<mpsc::UnboundedSender<Event>>,
    commands: Option<mpsc::Sender<Command>>,
    client: Option<Arc<Client>>,
    /// The cluster and its incarnation.
    cluster: Option<(u128, u32)>,
    /// A provisioning that this node takes part in, and until when.
    reserved: Option<(u128, tokio::time::Instant)>,
    /// Why the node could not join or copy, by peer.
    errors: BTreeMap<String, String>,
    /// Peers that refuse this node.
    refusals: BTreeMap<String, String>,
    /// Answers requests about entries, when a runtime runs on this node.
    entries: Option<EntriesFront>,
    /// A leader that did not answer, and until when others are asked to relay to it.
    unreached: Option<(NodeName, tokio::time::Instant)>,
    /// The clocks of the nodes, as last compared.
    clocks: Differences,
}

/// Why a directory that ran alone joins no cluster, after the name of its node.
pub(super) const RAN_ALONE: &str = "has a data directory that ran alone, with rules, partitions and \
     entries of its own, which a cluster does not take over: provision the cluster on that node, \
     or start it with an empty data directory";

/// For how long a node takes part in one provisioning only.
const RESERVED_TIME: Duration = Duration::from_secs(10);

/// For how long a leader that did not answer is asked through another node.
const UNREACHED_TIME: Duration = Duration::from_secs(1);

impl Shared {
    pub(super) fn new(
        config: ClusterNodeConfig,
        name: NodeName,
        peers: Vec<(NodeName, String)>,
        disk: OnDisk,
    ) -> Self {
        let base = Arc::new(Mutex::new(Base { segment: 0, bytes: 0 }));
        let (watches, state) = (Watches::default(), Mutex::default());
        let (provision, events) = (super::random(), Events::new(name.as_str()));
        let phase = watch::Sender::new(Phase::Outside);
        let leader = Arc::default();
        Self { config, name, peers, disk, provision, watches, events, base, leader, phase, state }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::consensus) fn name(&self) -> &NodeName {
        &self.name
    }

    pub(super) fn set_commands(&self, commands: mpsc::Sender<Command>) {
        self.lock().commands = Some(commands);
    }

    pub(super) async fn send_command(&self, command: Command) -> Result<(), ()> {
        let commands = self.lock().commands.clone();
        commands.ok_or(())?.send(command).await.map_err(drop)
    }

    /// Without waiting, when the handle of the node is dropped.
    pub(super) fn try_stop(&self) {
        if let Some(commands) = &self.lock().commands {
            let _ = commands.try_send(Command::Stop);
        }
    }

    pub(super) fn set_net(&self, net: Option<Net>) {
        let mut state = self.lock();
        if let Some(net) = &net
            && let Some(address) = &net.identity().address
        {
            state.address = Some(address.clone());
        }
        state.net = net;
    }

    pub(super) fn net(&self) -> Option<Net> {
        self.lock().net.clone()
    }

    pub(super) fn address(&self) -> Option<String> {
        self.lock().address.clone()
    }

    /// The node becomes part of a cluster, or its group begins again.
    pub(super) fn set_driver(&self, driver: Option<mpsc::UnboundedSender<Event>>) {
        let phase = if driver.is_some() { Phase::Runs } else { Phase::Outside };
        self.lock().driver = driver;
        self.phase.send_replace(phase);
    }

    pub(super) fn set_cluster(&self, cluster: u128, incarnation: u32) {
        self.lock().cluster = Some((cluster, incarnation));
    }

    pub(super) fn cluster(&self) -> Option<(u128, u32)> {
        self.lock().cluster
    }

    pub(in crate::consensus) fn is_provisioned(&self) -> bool {
        self.lock().cluster.is_some()
    }

    pub(in crate::consensus) fn client(&self) -> Option<Arc<Client>> {
        self.lock().client.clone()
    }

    pub(super) fn begin_client(&self, since: u64) {
        self.lock().client.get_or_insert_with(|| Arc::new(Client::new(since)));
    }

    /// The cluster may have forgotten this client's requests.
    pub(in crate::consensus) fn renew_client(&self, old: &Arc<Client>, since: u64) {
        let mut state = self.lock();
        if state.client.as_ref().is_some_and(|now| Arc::ptr_eq(now, old)) {
            state.client = Some(Arc::new(Client::new(since)));
        }
    }

    pub(in crate::consensus) fn watch(
        &self,
        key: &str,
        on_change: Box<dyn FnMut(&Row) + Send>,
    ) -> (MetadataWatch, Option<oneshot::Receiver<()>>) {
        let watch = self.watches.add(key, on_change);
        // Without a thread the present row is reported when one begins.
        let reported = self.lock().driver.clone().and_then(|driver| {
            let (reply, reported) = oneshot::channel();
            driver.send(Event::Watched(reply)).ok().map(|()| reported)
        });
        (watch, reported)
    }

    /// The row of a key, as this node has applied it.
    pub(in crate::consensus) async fn applied(&self, key: &str) -> Option<Option<Row>> {
        let driver = self.lock().driver.clone()?;
        let (reply, row) = oneshot::channel();
        driver.send(Event::Applied(key.to_owned(), reply)).ok()?;
        tokio::time::timeout(VIEW_WITHIN, row).await.ok()?.ok()
    }

    /// Waits until the group runs here: the node is part of a cluster. Returns false when the node
    /// ends before.
    pub(in crate::consensus) async fn joined(&self) -> bool {
        let mut phase = self.phase.subscribe();
        let found = phase.wait_for(|phase| *phase != Phase::Outside).await;
        found.is_ok_and(|phase| *phase == Phase::Runs)
    }

    /// The node has ended.
    pub(super) fn set_over(&self) {
        self.phase.send_replace(Phase::Over);
    }

    /// Takes part in a provisioning, if in no other one.
    pub(super) fn reserve(&self, provision: u128) -> Result<(), String> {
        let now = tokio::time::Instant::now();
        let mut state = self.lock();
        if let Some((cluster, _)) = state.cluster {
            let name = &self.name;
            return Err(format!("{name} is part of the cluster {cluster:032x} already"));
        }
        if self.disk.alone.is_some() && provision != self.provision {
            return Err(format!("{} {RAN_ALONE}", self.name));
        }
        if state.reserved.is_some_and(|(other, until)| other != provision && now < until) {
            let name = &self.name;
            return Err(format!("{name} takes part in another provisioning: try again in 10 s"));
        }
        state.reserved = Some((provision, now + RESERVED_TIME));
        Ok(())
    }

    pub(super) fn set_entries(&self, front: EntriesFront) {
        self.lock().entries = Some(front);
    }

    pub(super) fn entries(&self) -> Option<EntriesFront> {
        self.lock().entries.clone()
    }

    pub(super) fn set_error(&self, peer: &str, error: Option<String>) {
        let mut state = self.lock();
        match error {
            Some(error) => {
                let is_new = state.errors.get(peer) != Some(&error);
                if is_new {
                    self.events.warn("join", None, format!("{peer}: {error}"));
                    state.errors.insert(peer.to_owned(), error);
                }
            }
            None => {
                state.errors.remove(peer);
            }
        }
    }

    pub(super) fn errors(&self) -> BTreeMap<String, String> {
        self.lock().errors.clone()
    }

    /// A peer refuses this node.
    pub(super) fn set_refusal(&self, peer: &str, why: &str) {
        self.events.warn("refused", None, format!("{peer}: {why}"));
        self.lock().refusals.insert(peer.to_owned(), why.to_owned());
    }

    pub(super) fn refusals(&self) -> BTreeMap<String, String> {
        self.lock().refusals.clone()
    }

    /// Another node, by turns.
    pub(in crate::consensus) fn other(&self, turn: usize) -> Option<NodeName> {
        let mut peers = self.net()?.peers();
        // One without an address only asks.
        peers.retain(|peer| !peer.addresses.is_empty());
        // Every second time this node itself.
        let at = (turn / 2).checked_rem(peers.len())?;
        (turn % 2 == 1).then(|| peers[at].name.clone())
    }

    /// A leader did not answer this node: other nodes may still reach it.
    pub(in crate::consensus) fn set_unreached(&self, leader: &NodeName) {
        let until = tokio::time::Instant::now() + UNREACHED_TIME;
        self.lock().unreached = Some((leader.clone(), until));
    }

    /// Another node that leads, if one is known.
    pub(in crate::consensus) fn leader(&self) -> Option<NodeName> {
        self.leader.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A node that may reach a leader which this one does not, by turns.
    pub(in crate::consensus) fn relay_to(
        &self,
        leader: &NodeName,
        turn: usize,
    ) -> Option<NodeName> {
        let now = tokio::time::Instant::now();
        let is_unreached = |(name, until): &(NodeName, _)| name == leader && now < *until;
        if !self.lock().unreached.as_ref().is_some_and(is_unreached) {
            return None;
        }
        let peers = self.net()?.peers();
        let others: Vec<_> = peers.into_iter().filter(|peer| peer.name != *leader).collect();
        let at = turn.checked_rem(others.len())?;
        Some(others[at].name.clone())
    }

    /// Asks this node's group.
    pub(in crate::consensus) async fn ask_here(
        &self,
        request: &NodeRequest,
        within: Duration,
    ) -> NodeAnswer {
        let ask = match request {
            NodeRequest::Change(command) => Ask::Change(command.clone()),
            NodeRequest::Get { key } => Ask::Get(vec![key.to_string()]),
            NodeRequest::GetAll { keys } => {
                Ask::Get(keys.iter().map(ToString::to_string).collect())
            }
            NodeRequest::HandOver { to } => Ask::HandOver(to.to_string()),
            NodeRequest::List { prefix, after } => {
                Ask::List { prefix: prefix.to_string(), after: after.to_string() }
            }
            _ => return NodeAnswer::Refused("no request to the metadata".into()),
        };
        let is_change = matches!(ask, Ask::Change(_));
        let Some(driver) = self.lock().driver.clone() else {
            return NodeAnswer::Unavailable("the group begins".into());
        };
        let (reply, answer) = oneshot::channel();
        if driver.send(Event::Ask(ask, reply)).is_err() {
            return NodeAnswer::Unavailable("the group ends".into());
        }
        match tokio::time::timeout(within, answer).await {
            Ok(Ok(answer)) => answer,
            _ if is_change => NodeAnswer::Unknown,
            _ => NodeAnswer::Unavailable("the group does not answer".into()),
        }
    }

    pub(in crate::consensus) async fn ask_peer(
        &self,
        peer: &NodeName,
        request: &NodeRequest,
        within: Duration,
    ) -> Result<NodeAnswer, RequestError> {
        let net = self.net().ok_or(RequestError::Stopped)?;
        let bytes = net.request(peer, request.encode(), within).await?;
        NodeAnswer::decode(bytes).map_err(|error| RequestError::Failed(error.to_string()))
    }

    pub(super) fn send_driver(&self, event: Event) {
        if let Some(driver) = &self.lock().driver {
            let _ = driver.send(event);
        }
    }

    pub(super) fn set_clocks(&self, clocks: Differences) {
        self.lock().clocks = clocks;
    }

    pub(super) fn clocks(&self) -> Differences {
        self.lock().clocks.clone()
    }

    #[cfg(not(test))]
    pub(super) fn clock_ahead_ms(&self) -> i64 {
        0
    }

    #[cfg(test)]
    pub(super) fn clock_ahead_ms(&self) -> i64 {
        self.config.clock_ahead_ms
    }

    pub(super) async fn view(&self) -> Option<DriverView> {
        let driver = self.lock().driver.clone()?;
        let (reply, view) = oneshot::channel();
        driver.send(Event::View(reply)).ok()?;
        tokio::time::timeout(VIEW_WITHIN, view).await.ok()?.ok()
    }

    pub(super) fn stop_driver(&self) {
        self.send_driver(Event::Stop);
    }
}
