//! Requests about the cluster, on the control socket of a node: one JSON request per connection,
//! answered by one line.
//!
//! Owns: the answers. The socket is the one that other processes of the data directory use for
//! requests about entries, see `server.rs`.

use std::{io::ErrorKind, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use forebay_actors::consensus::{Change, ClusterNode, Expected, Metadata, MetadataCallError, Row};
use forebay_api::{ClusterRequest, ClusterResponse};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use crate::Runtime;

use super::{
    MESSAGE_LEN_MAX, REQUEST_LEN_MAX, Response, SOCKET_NAME,
    client::{ControlError, connect},
    server::{Backend, Server},
};

pub use forebay_api::{
    ClusterNodeView, ClusterRequest as Request, ClusterResponse as Answer, ClusterView, GroupView,
    KeyView, NodeStateView, RefusedView,
};

/// Longest wait for an answer, in addition to the time that the request itself allows.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// The control socket of a node of a cluster. Serves requests until it is dropped.
pub struct ClusterServer {
    backend: Backend,
    _server: Server,
}

impl ClusterServer {
    /// Listens in the data directory of a node, on the caller's runtime.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(node: &Arc<ClusterNode>) -> std::io::Result<Self> {
        let backend = Backend::of_cluster(node);
        let server = Server::start(&node.data_dir().join(SOCKET_NAME), backend.clone())?;
        Ok(Self { backend, _server: server })
    }

    /// From here on requests about entries are answered, too.
    pub fn attach(&self, runtime: &Runtime) {
        self.backend.set_node(runtime.node());
    }
}

/// Whether a line is a request about the cluster.
pub(super) fn is_request(line: &[u8]) -> bool {
    serde_json::from_slice::<ClusterRequest>(line).is_ok()
}

/// The line that answers a line.
pub(super) async fn answer_line(
    node: Option<&ClusterNode>,
    line: &[u8],
) -> std::io::Result<Vec<u8>> {
    let response = match (node, serde_json::from_slice(line)) {
        (None, _) => usage("this process takes part in no cluster".to_owned()),
        (Some(_), Err(error)) => usage(error.to_string()),
        (Some(node), Ok(request)) => answer(node, request).await,
    };
    let mut bytes = serde_json::to_vec(&response)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn usage(message: String) -> ClusterResponse {
    ClusterResponse::Error { message, usage: true }
}

async fn answer(node: &ClusterNode, request: ClusterRequest) -> ClusterResponse {
    let metadata = node.metadata();
    match request {
        ClusterRequest::Status => {
            ClusterResponse::ClusterStatus { status: Box::new(node.status().await) }
        }
        ClusterRequest::Provision { absent } => match node.provision(absent).await {
            Ok(cluster) => ClusterResponse::Provisioned { cluster: format!("{cluster:032x}") },
            Err(error) => usage(error.to_string()),
        },
        ClusterRequest::Remove { node: name, within_ms } => {
            let within = Duration::from_millis(within_ms);
            match node.remove(&name, within).await {
                Ok(()) => ClusterResponse::Done,
                Err(error) => usage(error.to_string()),
            }
        }
        ClusterRequest::Get { key, within_ms } => {
            let found = metadata.get(&key, Duration::from_millis(within_ms)).await;
            let view = |row| view(key, row);
            let found = found.map(|row| ClusterResponse::Key { key: row.map(view) });
            found.unwrap_or_else(failed)
        }
        ClusterRequest::List { prefix, after, within_ms } => {
            let within = Duration::from_millis(within_ms);
            let listed = metadata.list(&prefix, after.as_deref(), within).await;
            let listed = listed.map(|listed| ClusterResponse::Keys {
                keys: listed.rows.into_iter().map(|(key, row)| view(key, row)).collect(),
                more: listed.more,
            });
            listed.unwrap_or_else(failed)
        }
        ClusterRequest::Put { key, value, if_version, within_ms } => {
            let within = Duration::from_millis(within_ms);
            put(&metadata, key, value, if_version, within).await.unwrap_or_else(failed)
        }
    }
}

async fn put(
    metadata: &Metadata,
    key: String,
    value: Option<String>,
    if_version: Option<u64>,
    within: Duration,
) -> Result<ClusterResponse, MetadataCallError> {
    let expected = match if_version {
        None => Expected::Anything,
        Some(0) => Expected::Absent,
        Some(version) => Expected::Version(version),
    };
    let value = value.map(Bytes::from);
    let change = Change { key: key.into(), value, expected };
    let versions = metadata.put_all(vec![change], within).await?;
    Ok(ClusterResponse::Written { version: versions.first().copied().unwrap_or_default() })
}

fn view(key: String, row: Row) -> KeyView {
    let bytes = row.value.as_ref().map(|value| value.len() as u64);
    let value = row.value.and_then(|value| String::from_utf8(value.to_vec()).ok());
    KeyView { key, version: row.version, value, bytes }
}

fn failed(error: MetadataCallError) -> ClusterResponse {
    ClusterResponse::Error { message: error.to_string(), usage: false }
}

/// Time that the request itself allows the node to take.
fn takes_at_least(request: &ClusterRequest) -> Duration {
    match request {
        ClusterRequest::Remove { within_ms, .. }
        | ClusterRequest::Get { within_ms, .. }
        | ClusterRequest::List { within_ms, .. }
        | ClusterRequest::Put { within_ms, .. } => Duration::from_millis(*within_ms),
        ClusterRequest::Status | ClusterRequest::Provision { .. } => Duration::ZERO,
    }
}

/// Asks the process of `forebay node` that uses a data directory.
///
/// # Errors
/// [`ControlError`]; a refusal is a [`ClusterResponse::Error`].
pub async fn ask(
    data_dir: &Path,
    request: &ClusterRequest,
) -> Result<ClusterResponse, ControlError> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    if line.len() as u64 > REQUEST_LEN_MAX {
        return Err(ControlError::TooLong { len: line.len() });
    }
    let waited = ANSWER_WITHIN.saturating_add(takes_at_least(request));
    let path = data_dir.to_owned();
    let failed = |source: std::io::Error| match source.kind() {
        ErrorKind::TimedOut => ControlError::NoAnswer { path: path.clone(), waited },
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => ControlError::NoNode(path.clone()),
        _ => ControlError::Silent { path: path.clone(), source },
    };
    let exchange = async {
        let stream = connect(&data_dir.join(SOCKET_NAME)).await?;
        let (mut reader, mut writer) = stream.into_split();
        writer.write_all(&line).await?;
        let mut answer = Vec::new();
        (&mut reader).take(MESSAGE_LEN_MAX).read_to_end(&mut answer).await?;
        Ok(answer)
    };
    let answer = timeout(waited, exchange).await.map_err(|_| failed(ErrorKind::TimedOut.into()))?;
    let answer = answer.map_err(failed)?;
    if answer.is_empty() {
        return Err(failed(ErrorKind::UnexpectedEof.into()));
    }
    serde_json::from_slice(&answer).map_err(|error| match serde_json::from_slice(&answer) {
        // A process that runs entries answers in its own words.
        Ok(Response::Error { .. }) => ControlError::NoNode(data_dir.to_owned()),
        _ => error.into(),
    })
}
