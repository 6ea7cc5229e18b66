//! The local socket of a running process.
//!
//! Owns: the connections. Must always hold: a connection keeps the node alive only while its
//! request is answered; there are at most [`CONNECTIONS_MAX`] of them, each with a bounded request
//! and time limits; all of them end with the [`Server`].

use std::{
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

#[cfg(feature = "cluster")]
use forebay_actors::consensus::ClusterNode;
use forebay_actors::node::Node;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    ALIVE_EVERY, CONNECTIONS_MAX, IDLE_MAX, MESSAGE_LEN_MAX, REQUEST_LEN_MAX, Request, Response,
    SOCKET_NAME, parts::Parts, socket::SocketPath,
};

/// Time for answers in progress to finish when the server closes.
const CLOSE_GRACE: Duration = Duration::from_secs(1);
/// Pause before the next accept after the system has refused one.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Serves requests until it is dropped.
pub(crate) struct Server {
    path: PathBuf,
    /// Dropping it ends all connections.
    _open: watch::Sender<()>,
}

/// What answers requests. It keeps nothing alive.
#[derive(Clone, Default)]
pub(crate) struct Backend {
    /// Runs the entries; set when it has started.
    node: Arc<OnceLock<Weak<Node>>>,
    /// Takes part in a cluster.
    #[cfg(feature = "cluster")]
    cluster: Option<Weak<ClusterNode>>,
}

impl Backend {
    /// A node that has started.
    pub(crate) fn of(node: &Arc<Node>) -> Self {
        let backend = Self::default();
        backend.set_node(node);
        backend
    }

    /// A node of a cluster, which runs no entries yet.
    #[cfg(feature = "cluster")]
    pub(crate) fn of_cluster(cluster: &Arc<ClusterNode>) -> Self {
        Self { cluster: Some(Arc::downgrade(cluster)), ..Self::default() }
    }

    /// From here on requests about entries are answered.
    pub(crate) fn set_node(&self, node: &Arc<Node>) {
        // Set once, when it has started.
        let _ = self.node.set(Arc::downgrade(node));
        #[cfg(feature = "cluster")]
        if let Some(cluster) = self.cluster.as_ref().and_then(Weak::upgrade) {
            cluster.answer_entries(super::cluster::front(node));
        }
    }
}

impl Server {
    /// Listens at a path. A socket left there by a dead process is replaced: the caller holds the
    /// directory's lock.
    pub(crate) fn start(path: &Path, backend: Backend) -> std::io::Result<Self> {
        let listener = bind(path)?;
        let (open, closing) = watch::channel(());
        tokio::spawn(accept(listener, backend, closing));
        Ok(Self { path: path.to_owned(), _open: open })
    }
}

/// Binds a socket that no other user can connect to, whatever the umask: a connection has full
/// access. It is bound in a separate directory with access for this user only, and moved to its
/// place once its mode is set.
pub(super) fn bind(path: &Path) -> std::io::Result<UnixListener> {
    let fresh = path.with_extension("new");
    let bound = fresh.join(SOCKET_NAME);
    let absent = |removed: std::io::Result<()>| match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    // Left by a process that died here.
    absent(std::fs::remove_file(&bound))?;
    absent(std::fs::remove_dir(&fresh))?;
    std::fs::DirBuilder::new().mode(0o700).create(&fresh)?;
    let socket = SocketPath::of(&bound)?;
    let listener = UnixListener::bind(socket.path())?;
    std::fs::set_permissions(socket.path(), std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&bound, path)?;
    std::fs::remove_dir(&fresh)?;
    Ok(listener)
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone with its directory.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn accept(listener: UnixListener, backend: Backend, mut closing: watch::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = closing.changed() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) if connections.len() < CONNECTIONS_MAX => {
                let (backend, closing) = (backend.clone(), closing.clone());
                connections.spawn(async move {
                    if let Err(error) = serve(stream, &backend, closing).await {
                        tracing::debug!(%error, "a control connection ended");
                    }
                });
            }
            Ok((stream, _)) => refuse(&stream),
            Err(error) => {
                tracing::warn!(%error, "the control socket cannot accept");
                tokio::select! {
                    _ = closing.changed() => break,
                    () = sleep(ACCEPT_AGAIN_AFTER) => {}
                }
            }
        }
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    // Unfinished answers are dropped with the set.
    let _ = timeout(CLOSE_GRACE, ended).await;
}

fn refused(message: String) -> Response {
    Response::Error { message, usage: true }
}

/// Too many connections: sends a refusal if that does not block.
fn refuse(stream: &UnixStream) {
    tracing::warn!("{CONNECTIONS_MAX} control connections are open: one more is refused");
    let response = refused(format!(
        "{CONNECTIONS_MAX} connections to the control socket are open, which is the maximum: \
         close some, or try again later"
    ));
    if let Ok((bytes, _)) = encoded(&response) {
        let _ = stream.try_write(&bytes);
    }
}

/// The result of reading a request.
pub(super) enum Line {
    Whole(Vec<u8>),
    /// The other side closed without sending anything, like a client that only checks whether a
    /// process is running.
    Nothing,
    TooLong,
}

pub(super) async fn read_line(reader: &mut OwnedReadHalf) -> std::io::Result<Line> {
    let mut line = Vec::new();
    let mut reader = BufReader::new(reader.take(REQUEST_LEN_MAX + 1));
    reader.read_until(b'\n', &mut line).await?;
    Ok(match line.len() as u64 {
        0 => Line::Nothing,
        len if len > REQUEST_LEN_MAX => Line::TooLong,
        _ => Line::Whole(line),
    })
}

async fn serve(
    stream: UnixStream,
    backend: &Backend,
    mut closing: watch::Receiver<()>,
) -> std::io::Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    let line = tokio::select! {
        biased;
        _ = closing.changed() => return Ok(()),
        line = timeout(IDLE_MAX, read_line(&mut reader)) => line,
    };
    let refusal = match line {
        Err(_) => refused(format!("no request came within {IDLE_MAX:?}")),
        Ok(line) => match line? {
            Line::Nothing => return Ok(()),
            Line::TooLong => refused(format!(
                "the request is longer than {REQUEST_LEN_MAX} bytes, which is the maximum: name \
                 fewer entries at a time, or filter them"
            )),
            Line::Whole(line) => match serde_json::from_slice::<Request>(&line) {
                Ok(request) => match backend.node.get() {
                    Some(node) => return answer_all(request, node, &mut writer).await,
                    None => refused(
                        "this node runs no entries: it is part of no cluster yet (ask `forebay \
                         cluster status`), or it is starting"
                            .to_owned(),
                    ),
                },
                #[cfg(feature = "cluster")]
                Err(_) if super::cluster::is_request(&line) => {
                    let cluster = backend.cluster.as_ref().and_then(Weak::upgrade);
                    let bytes = super::cluster::answer_line(cluster.as_deref(), &line).await?;
                    write_all(&mut writer, &bytes).await?;
                    return writer.shutdown().await;
                }
                Err(error) => {
                    refused(format!("the running process does not understand the request: {error}"))
                }
            },
        },
    };
    write_all(&mut writer, &encoded(&refusal)?.0).await?;
    writer.shutdown().await
}

/// Sends the parts of an answer.
async fn answer_all(
    request: Request,
    node: &Weak<Node>,
    writer: &mut OwnedWriteHalf,
) -> std::io::Result<()> {
    let takes_long = request.takes_long();
    let mut parts = Parts::of(request);
    loop {
        // Held only until the part is ready: sending it may take long. If an answer is cut off, the
        // other side knows that the process is gone.
        let Some(node) = node.upgrade() else { return Ok(()) };
        let part = answered(&node, &mut parts, takes_long, writer).await;
        drop(node);
        let (bytes, more) = encoded(&part)?;
        drop(part);
        write_all(writer, &bytes).await?;
        if !more {
            return writer.shutdown().await;
        }
    }
}

/// The next part. Sends signs of life until it is ready, as it may take long.
async fn answered(
    node: &Node,
    parts: &mut Parts,
    takes_long: bool,
    writer: &mut OwnedWriteHalf,
) -> Response {
    let mut answering = std::pin::pin!(parts.next(node));
    loop {
        tokio::select! {
            biased;
            response = &mut answering => return response,
            () = sleep(ALIVE_EVERY), if takes_long => {
                // White space before the answer. A client that is gone is not waited for, and the
                // request is completed anyway.
                let _ = writer.try_write(b" ");
            }
        }
    }
}

/// A response as one line, or an error in its place; and whether more parts follow.
fn encoded(response: &Response) -> std::io::Result<(Vec<u8>, bool)> {
    let mut bytes = serde_json::to_vec(response)?;
    let mut more = response.has_more();
    if bytes.len() as u64 >= MESSAGE_LEN_MAX {
        let len = bytes.len();
        more = false;
        bytes = serde_json::to_vec(&refused(format!(
            "the answer has {len} bytes, at most {MESSAGE_LEN_MAX} can be sent: filter more \
             narrowly, or ask for fewer with --limit"
        )))?;
    }
    bytes.push(b'\n');
    Ok((bytes, more))
}

/// Writes as fast as the other side reads; gives up a client that reads nothing for [`IDLE_MAX`].
pub(super) async fn write_all(
    writer: &mut OwnedWriteHalf,
    mut bytes: &[u8],
) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let written = timeout(IDLE_MAX, writer.write(bytes)).await??;
        if written == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[written..];
    }
    Ok(())
}
