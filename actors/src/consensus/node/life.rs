//! The lives of a node: part of no cluster, then part of one.
//!
//! Part of no cluster: the network knows no cluster id; the node asks its peers until one that is
//! part of a cluster lets it join, or is provisioned itself. Part of one: the group runs. Each
//! life has a network of its own, because the cluster's id is part of every handshake.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use forebay_engine::cluster::Base;
use forebay_engine::metadata::Snapshot;
use forebay_net::{Config, Identity, Limits, Net, StartError};
use tokio::sync::{mpsc, oneshot};

use crate::consensus::driver::{self, Ended, Parts};
use crate::consensus::{ClusterError, METADATA_GROUP};

use super::service::Front;
use super::shared::Shared;
use super::{DEAD_AFTER, clock, copy, join, provision, tls_files, upkeep};

/// Pause before a snapshot that could not be copied is asked for again.
const COPY_PAUSE: Duration = Duration::from_millis(200);

/// Time for an answer to leave before the network ends.
const ANSWER_TIME: Duration = Duration::from_millis(100);

/// Commands of the application to a node.
pub(super) enum Command {
    Provision { absent: Vec<String>, reply: oneshot::Sender<Result<u128, ClusterError>> },
    Stop,
}

/// Runs a node.
pub(super) struct Life {
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
}

/// How a life ended.
enum Next {
    /// The node is part of a cluster now.
    Member,
    Stop,
}

impl Life {
    pub(super) fn new(shared: Arc<Shared>, commands: mpsc::Receiver<Command>) -> Self {
        Self { shared, commands }
    }

    /// Runs until the node is stopped. `begun` is answered by the first network; it is dropped when
    /// there is none.
    pub(super) async fn run(mut self, begun: oneshot::Sender<()>) -> Result<(), ClusterError> {
        let mut begun = Some(begun);
        let ended = loop {
            let snapshot = self.snapshot().await?;
            let next = match snapshot {
                None => self.outside(&mut begun).await,
                Some((snapshot, bytes)) => self.inside(snapshot, bytes, &mut begun).await,
            };
            self.end_network().await;
            match next {
                Ok(Next::Member) => {}
                Ok(Next::Stop) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if let Err(error) = &ended {
            tracing::error!(node = %self.shared.name(), %error, "the node stops");
        }
        ended
    }

    /// The snapshot on disk, and its length. Rows without one are damage.
    async fn snapshot(&self) -> Result<Option<(Snapshot, u64)>, ClusterError> {
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            let has_rows = shared.disk.groups.groups().contains(&METADATA_GROUP);
            match shared.disk.bases.newest()? {
                None if has_rows => {
                    Err(ClusterError::NoBase { path: shared.config.data_dir.clone() })
                }
                newest => Ok(newest),
            }
        })
        .await
    }

    async fn start_network(&self, cluster: u128) -> Result<Net, ClusterError> {
        let shared = &self.shared;
        let node = shared.disk.groups.node();
        let identity = Identity {
            cluster,
            name: shared.name().clone(),
            storage: node.storage.0,
            boot: node.boot,
            nonce: node.nonce,
            address: shared.config.advertise.clone(),
        };
        // A port that the system chose stays the same.
        let listen = shared.address().filter(|_| shared.config.advertise.is_none());
        let config = Config {
            identity,
            listen: Some(listen.unwrap_or_else(|| shared.config.listen.clone())),
            tls: tls_files(&shared.config),
            limits: Limits::default(),
            service: Arc::new(Front::new(shared)),
            seed: None,
        };
        let net = self.start_over(config).await?;
        shared.set_net(Some(net.clone()));
        Ok(net)
    }

    #[cfg(not(test))]
    async fn start_over(&self, config: Config) -> Result<Net, StartError> {
        Net::start(config).await
    }

    #[cfg(test)]
    async fn start_over(&self, config: Config) -> Result<Net, StartError> {
        match &self.shared.config.memory {
            Some(memory) => memory.start(config).await,
            None => Net::start(config).await,
        }
    }

    async fn end_network(&self) {
        let net = self.shared.net();
        self.shared.set_net(None);
        if let Some(net) = net {
            net.stop().await;
        }
    }

    /// Part of no cluster.
    async fn outside(
        &mut self,
        begun: &mut Option<oneshot::Sender<()>>,
    ) -> Result<Next, ClusterError> {
        let net = self.start_network(0).await?;
        begun.take().map(|begun| begun.send(()));
        for (peer, address) in &self.shared.peers {
            let added = net.add_peer(peer, Some(address));
            added.map_err(|error| ClusterError::Refused(error.to_string()))?;
        }
        let shared = Arc::clone(&self.shared);
        let joining = join::join(&shared);
        tokio::pin!(joining);
        loop {
            tokio::select! {
                joined = &mut joining => return joined.map(|()| Next::Member),
                command = self.commands.recv() => match command {
                    Some(Command::Provision { absent, reply }) => {
                        let made = provision::provision(&shared, &absent).await;
                        let is_made = made.is_ok();
                        let _ = reply.send(made);
                        if is_made {
                            // It may have been asked for over this network, which ends.
                            tokio::time::sleep(ANSWER_TIME).await;
                            return Ok(Next::Member);
                        }
                    }
                    Some(Command::Stop) | None => return Ok(Next::Stop),
                },
            }
        }
    }

    /// Part of a cluster.
    async fn inside(
        &mut self,
        snapshot: Snapshot,
        bytes: u64,
        begun: &mut Option<oneshot::Sender<()>>,
    ) -> Result<Next, ClusterError> {
        let shared = Arc::clone(&self.shared);
        let (cluster, incarnation) = (snapshot.cluster, snapshot.incarnation);
        shared.set_cluster(cluster, incarnation);
        let net = self.start_network(network_id(cluster, incarnation)).await?;
        begun.take().map(|begun| begun.send(()));
        for (peer, address) in &shared.peers {
            // A peer that is not part of the cluster is shown and does no harm.
            let _ = net.add_peer(peer, Some(address));
        }
        let upkeep = tokio::spawn(upkeep::run(Arc::clone(&shared)));
        let clocks = tokio::spawn(clock::run(Arc::clone(&shared)));
        let mut next = Some((snapshot, bytes));
        let result = loop {
            let Some((snapshot, bytes)) = next.take() else { break Ok(Next::Stop) };
            match self.run_group(&net, snapshot, bytes).await {
                Ok(Ended::Stopped) => break Ok(Next::Stop),
                Ok(Ended::Failed(error)) | Err(error) => break Err(error),
                Ok(Ended::CopyState(from)) => {
                    if let Err(why) = copy::copy_newer(&shared, &from).await {
                        shared.set_error(from.as_str(), Some(why));
                        tokio::time::sleep(COPY_PAUSE).await;
                    }
                    next = self.snapshot().await?;
                }
            }
        };
        upkeep.abort();
        clocks.abort();
        result
    }

    /// Runs the thread of the group until it ends.
    async fn run_group(
        &mut self,
        net: &Net,
        snapshot: Snapshot,
        bytes: u64,
    ) -> Result<Ended, ClusterError> {
        let shared = Arc::clone(&self.shared);
        let segment = snapshot.segment.number;
        *shared.base.lock().unwrap_or_else(PoisonError::into_inner) = Base { segment, bytes };
        let groups = Arc::clone(&shared.disk.groups);
        let opened = blocking(move || driver::open(&groups, snapshot)).await?;
        let configured: BTreeMap<_, _> = shared.peers.iter().cloned().collect();
        let parts = Parts {
            me: shared.disk.groups.node().member(),
            groups: Arc::clone(&shared.disk.groups),
            bases: shared.disk.bases.clone(),
            net: net.clone(),
            watches: shared.watches.clone(),
            base: Arc::clone(&shared.base),
            leader: Arc::clone(&shared.leader),
            configured,
            tick: driver::TICK,
            dead_after: shared.config.dead_after.unwrap_or(DEAD_AFTER),
            events: shared.events.clone(),
        };
        shared.begin_client(opened.applied());
        let running = driver::spawn(parts, opened)?;
        shared.set_driver(Some(running.events));
        let mut ended = running.ended;
        let result = loop {
            tokio::select! {
                ended = &mut ended => {
                    break ended.map_err(|_| ClusterError::Stopped("its task panicked".to_owned()));
                }
                command = self.commands.recv() => match command {
                    Some(Command::Provision { reply, .. }) => {
                        let (cluster, _) = shared.cluster().unwrap_or_default();
                        let text = format!(
                            "the node is part of the cluster {cluster:032x} already: a cluster is \
                             provisioned once"
                        );
                        let _ = reply.send(Err(ClusterError::Refused(text)));
                    }
                    Some(Command::Stop) | None => {
                        shared.stop_driver();
                        let stopped = (&mut ended).await;
                        break Ok(match stopped {
                            Ok(Ended::Failed(error)) => Ended::Failed(error),
                            _ => Ended::Stopped,
                        });
                    }
                },
            }
        };
        shared.set_driver(None);
        result
    }
}

/// Nodes of an earlier incarnation are refused in the handshake, as ones of another cluster.
pub(super) fn network_id(cluster: u128, incarnation: u32) -> u128 {
    cluster.wrapping_add(u128::from(incarnation.saturating_sub(1)))
}

/// Runs blocking work on a thread for it.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ClusterError> + Send + 'static,
) -> Result<T, ClusterError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ClusterError::Stopped(error.to_string()))?
}
