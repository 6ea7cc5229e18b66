//! A node of a cluster: its parts, and the calls of the application.
//!
//! Owns: the data directory and its lock, the network, the metadata group, their thread, and the
//! phase that the node is in (`life.rs`). Must always hold: one phase at a time; a node that is
//! part of no cluster refuses requests with that reason.

mod alone;
mod clock;
mod copy;
mod join;
mod life;
mod provision;
mod requests;
mod service;
mod shared;
mod status;
mod thread;
mod upkeep;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use forebay_api::{ClusterRequest, ClusterResponse, ClusterView};
use forebay_net::{NodeName, TlsFiles};
use forebay_storage::consensus::{Bases, Groups, Start};
use forebay_storage::log::LocalLog;
use forebay_storage::{DataDir, Medium};
use tokio::sync::oneshot;

use crate::node::{DataPlace, OpenedDir};

use super::ClusterError;
use super::client::Metadata;
use super::store::ClusterStore;

pub use shared::EntriesFront;
pub(super) use shared::Shared;

use life::Command;

/// After this time without a connection a member is replaced by a standby.
pub const DEAD_AFTER: Duration = Duration::from_secs(60);

/// How a node takes part in a cluster.
#[derive(Clone, Default)]
pub struct ClusterNodeConfig {
    /// Its name: a DNS label, and the name in its certificate.
    pub name: String,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Host and port to listen on.
    pub listen: String,
    /// The address at which other nodes reach it, if it differs.
    pub advertise: Option<String>,
    /// Other nodes: name and address. Needed until the node has joined, and when addresses change.
    pub peers: Vec<(String, String)>,
    /// The directory with `ca.pem`, `cert.pem` and `key.pem`. `None`: loopback only.
    pub tls: Option<PathBuf>,
    /// Partitions of a new cluster; absent means one per core. A directory that ran alone keeps
    /// its partitions.
    pub partitions: Option<u32>,
    /// A member that was not reached for this time is replaced by a standby, if there is one.
    /// Absent means [`DEAD_AFTER`].
    pub dead_after: Option<Duration>,
    /// Whether an eighth of the usual memory is used for records that are not in files yet.
    pub small_buffers: bool,
    /// Replaces TCP in tests.
    #[cfg(test)]
    pub memory: Option<forebay_net::MemoryNet>,
    /// How far this node's clock is ahead, in tests.
    #[cfg(test)]
    pub clock_ahead_ms: i64,
}

/// A running node. Its threads end with [`Self::shutdown`], or soon after it is dropped.
pub struct ClusterNode {
    shared: Arc<Shared>,
    life: tokio::sync::Mutex<Option<oneshot::Receiver<Result<(), ClusterError>>>>,
}

pub(super) fn random() -> u128 {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system has random bytes");
    u128::from_be_bytes(bytes)
}

/// Checks a configuration before anything is opened.
fn checked(
    config: &ClusterNodeConfig,
) -> Result<(NodeName, Vec<(NodeName, String)>), ClusterError> {
    let name: NodeName = config.name.parse()?;
    let mut peers = Vec::new();
    for (peer, address) in &config.peers {
        let peer: NodeName = peer.parse()?;
        if peer == name {
            let text = format!("the peer {peer} has this node's own name: name the other nodes");
            return Err(ClusterError::Refused(text));
        }
        peers.push((peer, address.clone()));
    }
    Ok((name, peers))
}

impl ClusterNode {
    /// Opens the data directory, counts the start and begins to run on a thread of its own.
    ///
    /// # Errors
    /// [`ClusterError`]; nothing is left running.
    pub async fn start(config: ClusterNodeConfig) -> Result<Self, ClusterError> {
        let (name, peers) = checked(&config)?;
        let (dir, node_name) = (config.data_dir.clone(), name.to_string());
        let small_buffers = config.small_buffers;
        let opening = tokio::task::spawn_blocking(move || open(&dir, &node_name, small_buffers));
        let stopped = |error: tokio::task::JoinError| ClusterError::Stopped(error.to_string());
        let opened = opening.await.map_err(stopped)??;
        let shared = Arc::new(Shared::new(config, name, peers, opened));
        let (commands, received) = tokio::sync::mpsc::channel(16);
        shared.set_commands(commands);
        let (begun, began) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let life = life::Life::new(Arc::clone(&shared), received);
        thread::spawn(Arc::clone(&shared), life.run(begun), end)?;
        match began.await {
            Ok(()) => Ok(Self { shared, life: tokio::sync::Mutex::new(Some(ended)) }),
            Err(_) => Err(match ended.await {
                Ok(Err(error)) => error,
                _ => ClusterError::ShutDown,
            }),
        }
    }

    /// The metadata of the cluster.
    #[must_use]
    pub fn metadata(&self) -> Metadata {
        Metadata::new(Arc::clone(&self.shared))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.shared.name().as_str()
    }

    /// Its data directory.
    #[must_use]
    pub fn data_dir(&self) -> &std::path::Path {
        &self.shared.config.data_dir
    }

    /// Waits until the node is part of a cluster and its group runs. Cancel-safe.
    ///
    /// # Errors
    /// [`ClusterError`] when the node ends before.
    pub async fn joined(&self) -> Result<(), ClusterError> {
        match self.shared.joined().await {
            true => Ok(()),
            false => self.ended().await.and(Err(ClusterError::ShutDown)),
        }
    }

    /// Where a runtime keeps its entries on this node, once it has joined: the log and the rows are
    /// those of the data directory, rules and partitions are those of the cluster.
    #[must_use]
    pub fn place(&self) -> DataPlace {
        let disk = &self.shared.disk;
        let metadata = Arc::new(ClusterStore::new(self.metadata()));
        let (dir, log) = (Arc::clone(&disk.dir), Arc::clone(&disk.log));
        DataPlace::Opened(OpenedDir { dir, log, metadata })
    }

    /// The address that the node listens on, with the actual port.
    #[must_use]
    pub fn address(&self) -> Option<String> {
        self.shared.address()
    }

    /// The node and its cluster, as this node sees them.
    pub async fn status(&self) -> ClusterView {
        self.shared.status().await
    }

    /// Makes a cluster of this node and its peers. `absent` names peers that need not be reached.
    /// Returns the cluster's id when it is durable; the peers join by themselves.
    ///
    /// # Errors
    /// [`ClusterError::Refused`] says why nothing was done.
    pub async fn provision(&self, absent: Vec<String>) -> Result<u128, ClusterError> {
        self.command(|reply| Command::Provision { absent, reply }).await?
    }

    /// Removes a node: it stops being a member, and joins again only with an empty data
    /// directory. Returns when it is no longer a member.
    ///
    /// # Errors
    /// [`ClusterError::Refused`].
    pub async fn remove(&self, node: &str, within: Duration) -> Result<(), ClusterError> {
        upkeep::remove(&self.shared, node, within).await
    }

    /// From here on requests about entries from other machines are answered by this.
    pub fn answer_entries(&self, front: EntriesFront) {
        self.shared.set_entries(front);
    }

    /// Answers a request of a person, as the control socket does.
    pub async fn answer(&self, request: ClusterRequest) -> ClusterResponse {
        requests::answer(&self.shared, request).await
    }

    async fn command<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, ClusterError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.shared.send_command(make(reply)).await;
        sent.map_err(|()| ClusterError::ShutDown)?;
        answer.await.map_err(|_| ClusterError::ShutDown)
    }

    /// Hands leadership over, then ends everything.
    ///
    /// # Errors
    /// [`ClusterError`] if the node had stopped because of one.
    pub async fn shutdown(&self) -> Result<(), ClusterError> {
        let _ = self.shared.send_command(Command::Stop).await;
        self.ended().await
    }

    /// Waits until the node ends: after [`Self::shutdown`], or because it cannot continue.
    ///
    /// # Errors
    /// [`ClusterError`], why it cannot.
    pub async fn ended(&self) -> Result<(), ClusterError> {
        let mut life = self.life.lock().await;
        let Some(ended) = &mut *life else { return Ok(()) };
        let result = ended.await.unwrap_or(Err(ClusterError::ShutDown));
        *life = None;
        result
    }
}

impl Drop for ClusterNode {
    fn drop(&mut self) {
        self.shared.try_stop();
    }
}

/// The open files of a node.
pub(super) struct OnDisk {
    pub(super) groups: Arc<Groups>,
    pub(super) bases: Bases,
    /// What the directory has from running alone, if it is part of no cluster.
    alone: Option<alone::Alone>,
    /// Held while the node runs.
    log: Arc<LocalLog>,
    dir: Arc<DataDir>,
}

fn open(path: &std::path::Path, name: &str, small_buffers: bool) -> Result<OnDisk, ClusterError> {
    let dir = DataDir::open(path)?;
    let medium = Medium::disk();
    let medium = if small_buffers { medium.with_small_buffers() } else { medium };
    let log = LocalLog::open(&dir.log(), &medium)?;
    let fresh_storage = forebay_engine::consensus::StorageId(random());
    let nonce = random() as u64;
    let groups = Arc::new(Groups::start(&dir, &log, &Start { name, fresh_storage, nonce })?);
    let bases = Bases::of(&dir);
    let alone = if bases.exist()? { None } else { alone::read(&dir)? };
    Ok(OnDisk { groups, bases, alone, log: Arc::new(log), dir: Arc::new(dir) })
}

fn tls_files(config: &ClusterNodeConfig) -> Option<TlsFiles> {
    config.tls.as_deref().map(TlsFiles::in_directory)
}
