//! The local socket of a running process.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use forebay_actors::node::Node;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    task::JoinHandle,
};

use super::{MESSAGE_LEN_MAX, Request, Response, answer, socket::SocketPath};

/// Serves requests until it is dropped.
pub(crate) struct Server {
    task: JoinHandle<()>,
    path: PathBuf,
}

impl Server {
    /// Listens at a path. A socket that a dead process left there is replaced: the
    /// caller holds the directory's lock.
    pub(crate) fn start(path: &Path, node: &Arc<Node>) -> std::io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = SocketPath::of(path).and_then(|socket| UnixListener::bind(socket.path()))?;
        let node = Arc::downgrade(node);
        let task = tokio::spawn(accept(listener, node));
        Ok(Self { task, path: path.to_owned() })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        // It may be gone with its directory.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn accept(listener: UnixListener, node: Weak<Node>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let Some(node) = node.upgrade() else { return };
                tokio::spawn(async move {
                    if let Err(error) = serve(stream, &node).await {
                        tracing::debug!(%error, "a control connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the control socket cannot accept");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
    }
}

async fn serve(stream: UnixStream, node: &Node) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    BufReader::new(reader.take(MESSAGE_LEN_MAX)).read_line(&mut line).await?;
    let response = match serde_json::from_str::<Request>(&line) {
        Ok(request) => answer(node, request).await,
        Err(error) => Response::Error {
            message: format!("the running process does not understand the request: {error}"),
            usage: true,
        },
    };
    let mut bytes = serde_json::to_vec(&response)?;
    bytes.push(b'\n');
    writer.write_all(&bytes).await?;
    writer.shutdown().await
}
