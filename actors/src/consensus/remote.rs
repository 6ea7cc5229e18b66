//! Asking a node from a machine that is none of the cluster's.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_api::{ClusterRequest, ClusterResponse};
use forebay_engine::cluster::{NodeAnswer, NodeRequest};
use forebay_net::{
    Answer, Config, Identity, Limits, Net, NodeName, RequestError, Service, TlsFiles,
};
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_128;

use super::ClusterError;
use super::events::unix_ms;
use super::node::random;

/// Pause before a node that is not reached is tried again.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a node is tried to be reached.
const REACH_WITHIN: Duration = Duration::from_secs(5);

/// A node, and how it is reached.
#[derive(Clone, Debug)]
pub struct RemoteConfig {
    /// The node's name.
    pub node: String,
    /// Its address: host and port.
    pub address: String,
    /// A directory with `ca.pem`, `cert.pem` and `key.pem`, of the cluster's authority and with a
    /// name of its own. `None`: loopback only.
    pub tls: Option<PathBuf>,
}

/// A connection to a node of a cluster. It takes part in nothing.
pub struct RemoteNode {
    net: Net,
    node: NodeName,
}

/// Answers nothing.
struct Silent;

impl Service for Silent {
    fn request(&self, _: Arc<Identity>, _: Bytes) -> Answer {
        Box::pin(async { Err("this is no node".to_owned()) })
    }

    fn read(&self, _: Arc<Identity>, _: Bytes, _: u64, _: usize) -> Answer {
        Box::pin(async { Err("this is no node".to_owned()) })
    }
}

/// The name in the certificate, or a random one.
fn own_name(tls: Option<&TlsFiles>) -> Result<NodeName, ClusterError> {
    match tls {
        Some(files) => files.name().map_err(|error| ClusterError::Refused(error.to_string())),
        None => Ok(format!("client-{:08x}", random() as u32).parse()?),
    }
}

impl RemoteNode {
    /// Prepares the connection; it is made with the first request.
    ///
    /// # Errors
    /// [`ClusterError`] when the certificate cannot be used, or a name is invalid.
    pub async fn new(config: &RemoteConfig) -> Result<Self, ClusterError> {
        let tls = config.tls.as_deref().map(TlsFiles::in_directory);
        let (node, name): (NodeName, _) = (config.node.parse()?, own_name(tls.as_ref())?);
        if name == node {
            return Err(ClusterError::Refused(format!(
                "the certificate is the one of the node {node} itself: make another one with \
                 `forebay cluster init-tls DIR --node NAME`"
            )));
        }
        // A later connection of the same name replaces an earlier one, as a restarted node does.
        let storage = xxh3_128(name.as_str().as_bytes());
        let identity = Identity {
            cluster: 0,
            name,
            storage,
            boot: unix_ms(),
            nonce: random() as u64,
            address: None,
        };
        let service = Arc::new(Silent);
        let limits = Limits::default();
        let config_of_net = Config { identity, listen: None, tls, limits, service, seed: None };
        let net = Net::start(config_of_net).await?;
        let added = net.add_peer(&node, Some(&config.address));
        added.map_err(|error| ClusterError::Refused(error.to_string()))?;
        Ok(Self { net, node })
    }

    /// Asks the node.
    ///
    /// # Errors
    /// [`ClusterError::Refused`] says whether something may have been done.
    pub async fn ask(
        &self,
        request: &ClusterRequest,
        within: Duration,
    ) -> Result<ClusterResponse, ClusterError> {
        let is_read = matches!(
            request,
            ClusterRequest::Status
                | ClusterRequest::Events { .. }
                | ClusterRequest::Watch { .. }
                | ClusterRequest::Get { .. }
                | ClusterRequest::List { .. }
        );
        let json = serde_json::to_vec(request);
        let json = json.map_err(|error| ClusterError::Refused(error.to_string()))?;
        let answer = self.ask_json(json.into(), is_read, within).await?;
        serde_json::from_slice(&answer).map_err(|error| self.unknown(&error.to_string()))
    }

    /// Sends a request of the control socket, as JSON, and returns its answer. A read is sent again
    /// when the connection was lost.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn ask_json(
        &self,
        json: Bytes,
        is_read: bool,
        within: Duration,
    ) -> Result<Bytes, ClusterError> {
        let request = NodeRequest::Control(json).encode();
        let (node, reach_until) = (&self.node, Instant::now() + REACH_WITHIN);
        let bytes = loop {
            match self.net.request(node, request.clone(), within).await {
                Ok(bytes) => break bytes,
                Err(RequestError::Unreachable(_)) if Instant::now() < reach_until => {
                    tokio::time::sleep(PAUSE).await;
                }
                // The node's network begins again when it becomes part of a cluster.
                Err(RequestError::Lost) if is_read && Instant::now() < reach_until => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(ClusterError::Refused(format!("{node}: {error}"))),
            }
        };
        match NodeAnswer::decode(bytes).map_err(|error| self.unknown(&error.to_string()))? {
            NodeAnswer::Control(json) => Ok(json),
            other => Err(self.unknown(&format!("{other:?}"))),
        }
    }

    fn unknown(&self, what: &str) -> ClusterError {
        ClusterError::Refused(format!("{} answered something unknown: {what}", self.node))
    }

    /// Ends the connection.
    pub async fn close(self) {
        self.net.stop().await;
    }
}
