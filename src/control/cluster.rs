//! Requests about the cluster, on the control socket of a node: one JSON request per connection,
//! answered by one line.
//!
//! Owns: the answers. The socket is the one that other processes of the data directory use for
//! requests about entries, see `server.rs`.

use std::{io::ErrorKind, path::Path, sync::Arc, time::Duration};

use forebay_actors::{
    consensus::{ClusterNode, EntriesFront},
    node::Node,
};
use forebay_api::{ClusterRequest, ClusterResponse};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::{
    MESSAGE_LEN_MAX, REQUEST_LEN_MAX, Request as EntriesRequest, Response, SOCKET_NAME,
    client::{ControlError, connect},
    parts::Parts,
    server::{Backend, Server},
};

pub use forebay_api::{
    ClusterEventView, ClusterNodeView, ClusterRequest as Request, ClusterResponse as Answer,
    ClusterView, GroupView, KeyView, MemberView, NodeStateView, RefusedView,
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

    /// From here on requests about entries are answered, too, by the node of a runtime.
    pub fn attach(&self, node: &Arc<Node>) {
        self.backend.set_node(node);
    }
}

/// Answers requests about entries that come from other machines, on the caller's runtime.
pub(super) fn front(node: &Arc<Node>) -> EntriesFront {
    let (node, runtime) = (Arc::downgrade(node), tokio::runtime::Handle::current());
    Arc::new(move |json| {
        let node = node.clone();
        // The node's thread must not wait for rows.
        let answering = runtime.spawn(async move {
            let response = match (node.upgrade(), serde_json::from_slice::<EntriesRequest>(&json)) {
                (Some(node), Ok(request)) => Parts::of(request).whole(&node).await,
                (None, _) => refused("the node stops".to_owned()),
                (_, Err(error)) => {
                    refused(format!("the node does not understand the request: {error}"))
                }
            };
            serde_json::to_vec(&response).unwrap_or_else(|error| error.to_string().into_bytes())
        });
        Box::pin(async move { answering.await.unwrap_or_default().into() })
    })
}

fn refused(message: String) -> Response {
    Response::Error { message, usage: true }
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
        (Some(node), Ok(request)) => node.answer(request).await,
    };
    let mut bytes = serde_json::to_vec(&response)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn usage(message: String) -> ClusterResponse {
    ClusterResponse::Error { message, usage: true }
}

/// Longest time that a node takes for a request.
#[must_use]
pub fn answers_within(request: &ClusterRequest) -> Duration {
    let own = match request {
        ClusterRequest::Remove { within_ms, .. }
        | ClusterRequest::Events { within_ms, .. }
        | ClusterRequest::Transfer { within_ms, .. }
        | ClusterRequest::Drain { within_ms, .. }
        | ClusterRequest::Finalize { within_ms }
        | ClusterRequest::Watch { within_ms, .. }
        | ClusterRequest::Get { within_ms, .. }
        | ClusterRequest::List { within_ms, .. }
        | ClusterRequest::Put { within_ms, .. } => Duration::from_millis(*within_ms),
        ClusterRequest::Status | ClusterRequest::Provision { .. } => Duration::ZERO,
    };
    ANSWER_WITHIN.saturating_add(own)
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
    let waited = answers_within(request);
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
