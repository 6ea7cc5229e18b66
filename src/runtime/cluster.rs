//! Runtimes on a node of a cluster.

use std::{path::Path, sync::Arc};

use forebay_actors::{
    consensus::{ClusterError, ClusterNode, ClusterNodeConfig},
    node::DataPlace,
};

use crate::{
    control::{Backend, SOCKET_NAME, Server},
    error::RuntimeError,
};

use super::{Builder, InCluster, Runtime};

/// Where a runtime's node of a cluster comes from.
pub(super) enum ClusterSource {
    /// It is started with the runtime and ends with it.
    Config(Box<ClusterNodeConfig>),
    /// The application runs it.
    Node(Arc<ClusterNode>),
}

fn refused(text: &str) -> RuntimeError {
    ClusterError::Refused(text.to_owned()).into()
}

impl Builder {
    /// Makes the runtime a node of a cluster: its rule book with its history, its aliases and its
    /// partition table are those of the cluster, and a change on one node is in force on all of
    /// them. Entries and their results stay on the node that they were enqueued at, and each node
    /// enforces limits for the entries that it runs.
    ///
    /// [`Builder::start`] waits until the node is part of a cluster; meanwhile `forebay cluster
    /// status` and `forebay cluster provision` work through the socket in the data directory. The
    /// rules that are known here stay in force while the cluster has no majority; changing them
    /// fails with [`ErrorKind::Retry`](crate::ErrorKind::Retry) then, or with
    /// [`ErrorKind::Unknown`](crate::ErrorKind::Unknown) in the half second before the node knows
    /// it.
    ///
    /// The data directory is the one of `config`, or of [`Builder::data_dir`] if that is empty. A
    /// directory that ran alone keeps its entries, and brings its rules into the cluster that is
    /// provisioned on it.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use forebay::{Limits, Runtime, cluster::ClusterNodeConfig};
    ///
    /// let runtime = Runtime::builder()
    ///     .data_dir("./data-a")
    ///     .cluster(ClusterNodeConfig {
    ///         name: "a".to_owned(),
    ///         listen: "127.0.0.1:7001".to_owned(),
    ///         peers: vec![("b".to_owned(), "127.0.0.1:7002".to_owned())],
    ///         ..ClusterNodeConfig::default()
    ///     })
    ///     .start()
    ///     .await?;
    /// runtime.rules().upsert("tenant-a", Limits::concurrency(5)).await?; // on all nodes
    /// # Ok(()) }
    /// ```
    pub fn cluster(mut self, config: ClusterNodeConfig) -> Self {
        self.cluster = Some(ClusterSource::Config(Box::new(config)));
        self
    }

    /// As [`Builder::cluster`], for a node that the application has started, and which it shuts
    /// down after the runtime.
    pub fn cluster_node(mut self, node: &Arc<ClusterNode>) -> Self {
        self.cluster = Some(ClusterSource::Node(Arc::clone(node)));
        self
    }

    pub(super) async fn start_in_cluster(
        mut self,
        tokio: tokio::runtime::Handle,
    ) -> Result<Runtime, RuntimeError> {
        if self.shared.is_some() {
            return Err(refused("a node of a cluster has its own log: leave out `shared_log`"));
        }
        let given = match self.place.take() {
            None => None,
            Some(DataPlace::Directory(path)) => Some(path),
            Some(_) => return Err(refused("a node of a cluster needs a data directory")),
        };
        match self.cluster.take() {
            None => Err(RuntimeError::NoDataDir),
            Some(ClusterSource::Node(node)) => {
                check_same(given.as_deref(), node.data_dir())?;
                node.joined().await?;
                self.start_beside(node, false, tokio).await
            }
            Some(ClusterSource::Config(mut config)) => {
                if config.data_dir.as_os_str().is_empty() {
                    config.data_dir = given.ok_or(RuntimeError::NoDataDir)?;
                } else {
                    check_same(given.as_deref(), &config.data_dir)?;
                }
                config.partitions = config.partitions.or(self.partitions);
                config.small_buffers |= self.small_buffers;
                let node = Arc::new(ClusterNode::start(*config).await?);
                self.start_owned(node, tokio).await
            }
        }
    }

    async fn start_owned(
        self,
        node: Arc<ClusterNode>,
        tokio: tokio::runtime::Handle,
    ) -> Result<Runtime, RuntimeError> {
        let owner = Arc::clone(&node);
        let starting = async move {
            let backend = Backend::of_cluster(&node);
            let path = node.data_dir().join(SOCKET_NAME);
            let control = self.control_socket.then(|| Server::start(&path, backend.clone()));
            let control = control.transpose();
            let control = control.map_err(|source| RuntimeError::ControlSocket { path, source })?;
            node.joined().await?;
            let runtime = self.start_beside(node, true, tokio).await?;
            backend.set_node(&runtime.node);
            runtime.attached().control = control;
            Ok(runtime)
        };
        let started = starting.await;
        if started.is_err() {
            // The returned error has the reason.
            let _ = owner.shutdown().await;
        }
        started
    }

    async fn start_beside(
        self,
        node: Arc<ClusterNode>,
        is_owned: bool,
        tokio: tokio::runtime::Handle,
    ) -> Result<Runtime, RuntimeError> {
        let runtime = self.start_at(node.place(), tokio).await?;
        runtime.attached().cluster = Some(InCluster { node, is_owned });
        Ok(runtime)
    }
}

/// A second data directory is a mistake.
fn check_same(given: Option<&Path>, of_node: &Path) -> Result<(), RuntimeError> {
    match given {
        Some(given) if given != of_node => Err(refused(
            "the builder and the node of the cluster have different data directories: leave one out",
        )),
        _ => Ok(()),
    }
}
