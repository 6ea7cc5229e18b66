//! The socket of `forebay node`: one JSON request per connection, answered by one line.
//!
//! Owns: the connections and the answers. The socket has the same name as that of a runtime, so
//! `forebay status` and others get an answer that says what kind of process this is.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use forebay_actors::consensus::{Change, ClusterNode, Expected, Metadata, MetadataCallError, Row};
use forebay_api::{ClusterRequest, ClusterResponse};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinHandle,
    time::timeout,
};

use super::{
    CONNECTIONS_MAX, IDLE_MAX, MESSAGE_LEN_MAX, REQUEST_LEN_MAX, Response, SOCKET_NAME,
    client::{ControlError, connect},
    server::{Line, bind, read_line, write_all},
};

pub use forebay_api::{
    ClusterNodeView, ClusterRequest as Request, ClusterResponse as Answer, ClusterView, GroupView,
    KeyView, NodeStateView, RefusedView,
};

/// Pause of accepting after the system refused it.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Longest wait for an answer, in addition to the time that the request itself allows.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Serves requests until it is dropped.
pub struct ClusterServer {
    path: PathBuf,
    accepting: JoinHandle<()>,
}

impl ClusterServer {
    /// Listens in the data directory of a node, on the caller's runtime.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(data_dir: &Path, node: &Arc<ClusterNode>) -> std::io::Result<Self> {
        let path = data_dir.join(SOCKET_NAME);
        let listener = bind(&path)?;
        let accepting = tokio::spawn(accept(listener, Arc::clone(node)));
        Ok(Self { path, accepting })
    }
}

impl Drop for ClusterServer {
    fn drop(&mut self) {
        self.accepting.abort();
        // It may be gone with its directory.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn accept(listener: UnixListener, node: Arc<ClusterNode>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let node = Arc::clone(&node);
                tokio::spawn(async move {
                    if let Err(error) = serve(stream, &node).await {
                        tracing::debug!(%error, "a control connection ended");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the control socket cannot accept");
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
            }
        }
    }
}

async fn serve(stream: UnixStream, node: &ClusterNode) -> std::io::Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    let line = match timeout(IDLE_MAX, read_line(&mut reader)).await {
        Err(_) => return Ok(()),
        Ok(line) => line?,
    };
    let mut bytes = match line {
        Line::Nothing => return Ok(()),
        Line::TooLong => serde_json::to_vec(&usage(format!(
            "the request is longer than {REQUEST_LEN_MAX} bytes, which is the most"
        )))?,
        Line::Whole(line) => match serde_json::from_slice::<ClusterRequest>(&line) {
            Ok(request) => serde_json::to_vec(&answer(node, request).await)?,
            // A request about entries.
            Err(_) => {
                let message = "the data directory is used by `forebay node`, which runs no \
                               entries: ask it with `forebay cluster`, or stop it";
                let message = message.to_owned();
                serde_json::to_vec(&Response::Error { message, usage: true })?
            }
        },
    };
    bytes.push(b'\n');
    write_all(&mut writer, &bytes).await?;
    writer.shutdown().await
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
