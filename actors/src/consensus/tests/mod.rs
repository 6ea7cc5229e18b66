//! Whole nodes in one process: over TCP with mutual TLS, and over the network in memory.
//!
//! Must always hold: no test depends on how fast the machine is; they wait until something is so.

mod faults;
mod histories;
mod life;
mod lin;
#[path = "../../../../engine/tests/linearizable/mod.rs"]
mod linearizable;
mod operate;
mod port;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay_api::ClusterView;
use forebay_net::MemoryNet;

use super::{ClusterError, ClusterNode, ClusterNodeConfig, Expected, MetadataCallError, init_tls};

/// How long a test waits for an expected event.
const PATIENCE: Duration = Duration::from_secs(60);
const CALL: Duration = Duration::from_secs(30);

/// Nodes with a data directory each.
struct Nodes {
    place: tempfile::TempDir,
    memory: Option<MemoryNet>,
    names: Vec<String>,
    addresses: Vec<String>,
    nodes: Vec<Option<Arc<ClusterNode>>>,
    /// How far their clocks are ahead; none for the others.
    clocks_ahead_ms: Vec<i64>,
}

fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

impl Nodes {
    /// Nodes over TCP with mutual TLS.
    fn over_tls(names: &[&str]) -> Self {
        let place = tempfile::tempdir().unwrap();
        let parsed: Vec<_> = names.iter().map(|name| name.parse().unwrap()).collect();
        init_tls(&place.path().join("tls"), &parsed, 30).unwrap();
        let addresses = names.iter().map(|_| free_address()).collect();
        Self::of(place, None, names, addresses)
    }

    /// Nodes over a network in memory; an address is a name there.
    fn in_memory(seed: u64, names: &[&str]) -> Self {
        let addresses = names.iter().map(|name| (*name).to_owned()).collect();
        Self::of(tempfile::tempdir().unwrap(), Some(MemoryNet::new(seed)), names, addresses)
    }

    fn of(
        place: tempfile::TempDir,
        memory: Option<MemoryNet>,
        names: &[&str],
        addresses: Vec<String>,
    ) -> Self {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let nodes = names.iter().map(|_| None).collect();
        Self { place, memory, names, addresses, nodes, clocks_ahead_ms: Vec::new() }
    }

    fn path(&self, at: usize) -> std::path::PathBuf {
        self.place.path().join(&self.names[at])
    }

    fn config(&self, at: usize) -> ClusterNodeConfig {
        let others = (0..self.names.len()).filter(|other| *other != at);
        let tls = self.place.path().join("tls").join(&self.names[at]);
        ClusterNodeConfig {
            name: self.names[at].clone(),
            data_dir: self.path(at),
            listen: self.addresses[at].clone(),
            advertise: None,
            peers: others.map(|at| (self.names[at].clone(), self.addresses[at].clone())).collect(),
            tls: self.memory.is_none().then_some(tls),
            memory: self.memory.clone(),
            clock_ahead_ms: self.clocks_ahead_ms.get(at).copied().unwrap_or_default(),
            ..ClusterNodeConfig::default()
        }
    }

    async fn try_start(&mut self, at: usize) -> Result<(), ClusterError> {
        self.nodes[at] = Some(Arc::new(ClusterNode::start(self.config(at)).await?));
        Ok(())
    }

    async fn start(&mut self, at: usize) {
        self.try_start(at).await.unwrap();
    }

    async fn start_all(&mut self) {
        for at in 0..self.names.len() {
            self.start(at).await;
        }
    }

    fn node(&self, at: usize) -> &Arc<ClusterNode> {
        self.nodes[at].as_ref().unwrap()
    }

    async fn stop(&mut self, at: usize) {
        let node = self.nodes[at].take().unwrap();
        node.shutdown().await.unwrap();
        drop(node);
    }

    /// Waits until the status of a node is so.
    async fn until(
        &self,
        what: &str,
        at: usize,
        is_so: impl Fn(&ClusterView) -> bool,
    ) -> ClusterView {
        let began = Instant::now();
        loop {
            let status = self.node(at).status().await;
            if is_so(&status) {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "never: {what}: {status:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Provisions node 0 and waits until all see that all are members.
    async fn provisioned(self) -> Self {
        let nodes = self.provisioned_unchecked().await;
        nodes.all_healthy().await;
        nodes
    }

    /// Provisions node 0.
    async fn provisioned_unchecked(mut self) -> Self {
        self.start_all().await;
        self.node(0).provision(Vec::new()).await.unwrap();
        self
    }

    async fn all_healthy(&self) {
        for at in 0..self.names.len() {
            if self.nodes[at].is_some() {
                self.until("a healthy cluster", at, |status| status.is_healthy).await;
            }
        }
    }

    async fn leader(&self) -> usize {
        let live = (0..self.names.len()).find(|at| self.nodes[*at].is_some()).unwrap();
        let led = |status: &ClusterView| {
            let leader = status.group.as_ref().and_then(|group| group.leader.clone())?;
            let at = self.names.iter().position(|name| *name == leader)?;
            self.nodes[at].is_some().then_some(at)
        };
        led(&self.until("a leader", live, |status| led(status).is_some()).await).unwrap()
    }

    async fn put(&self, at: usize, key: &str, value: &str) -> Result<u64, MetadataCallError> {
        let value = Bytes::from(value.to_owned());
        self.node(at).metadata().put(key, value, Expected::Anything, CALL).await
    }

    async fn get(&self, at: usize, key: &str) -> Option<String> {
        let row = self.node(at).metadata().get(key, CALL).await.unwrap();
        row.and_then(|row| row.value).map(|value| String::from_utf8(value.to_vec()).unwrap())
    }

    async fn end(mut self) {
        for at in 0..self.names.len() {
            if self.nodes[at].is_some() {
                self.stop(at).await;
            }
        }
    }
}

/// The state of a node, according to a status.
fn state_of(status: &ClusterView, name: &str) -> Option<forebay_api::NodeStateView> {
    status.nodes.iter().find(|node| node.name == name).map(|node| node.state)
}
