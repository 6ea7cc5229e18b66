//! Access to a data directory: through the socket of the process that uses it, or directly.

use std::{
    collections::HashMap,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

#[cfg(feature = "cluster")]
use forebay_actors::consensus::{ClusterError, RemoteNode};
use forebay_actors::{
    LookCopy,
    error::NodeError,
    executor::Executor,
    log_writer::TrimLog,
    node::{Candidacy, DataPlace, Node, NodeConfig},
    shell::WallClock,
};
use forebay_messages::journal::OUTBOX_PER_TARGET_MAX;
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixStream, unix::OwnedReadHalf},
    time::timeout,
};

use super::{
    IN_USE_WAIT, MESSAGE_LEN_MAX, REQUEST_LEN_MAX, Request, Response, SILENCE_MAX, SOCKET_NAME,
    parts::{Parts, joined},
    socket::SocketPath,
};

/// Interval of attempts to open a directory that is in use by a process without a socket.
const IN_USE_TRIED_EVERY: Duration = Duration::from_millis(10);

/// Why a data directory cannot be accessed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ControlError {
    /// It does not exist.
    #[error("there is no data directory at {}: run `forebay exec` first, or name another one with --data-dir", .0.display())]
    Missing(PathBuf),
    /// No node of a cluster runs with it.
    #[error(
        "no `forebay node` runs with the data directory {}: start one, or name its directory with \
         --data-dir", .0.display()
    )]
    NoNode(PathBuf),
    /// It cannot be opened directly.
    #[error(transparent)]
    Node(#[from] crate::error::NodeError),
    /// The node on another machine is not reached, or refuses.
    #[cfg(feature = "cluster")]
    #[error(transparent)]
    Remote(#[from] ClusterError),
    /// The process that uses it does not answer.
    #[error("the process that uses {} does not answer on its control socket: {source}; stop it, or try again", path.display())]
    Silent {
        /// The directory.
        path: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// The process that uses it sent nothing for a long time.
    #[error(
        "the process that uses {} has not answered for {waited:?}: it may be stopped, or its disk \
         stuck; it may still carry out the request, so look before you repeat it", path.display()
    )]
    NoAnswer {
        /// The directory.
        path: PathBuf,
        /// How long it sent nothing.
        waited: Duration,
    },
    /// The request is too long.
    #[error(
        "the request has {len} bytes, at most {REQUEST_LEN_MAX} can be sent: name fewer entries \
         at a time, or filter them"
    )]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// The process answered something that this version does not understand.
    #[error(
        "the process that uses the data directory answered something unknown (another version of forebay?): {0}"
    )]
    Strange(#[from] serde_json::Error),
}

impl From<NodeError> for ControlError {
    fn from(error: NodeError) -> Self {
        Self::Node(error.into())
    }
}

/// A data directory that requests can be sent to.
pub enum Control {
    /// Through the socket of the process that uses it.
    Running(PathBuf),
    /// Directly: no other process uses it.
    Direct(Arc<Node>),
    /// A copy of it, because it cannot be written and no process uses it. Changes would be lost:
    /// only [`Control::look`] makes one.
    Copied(Arc<Node>, LookCopy),
    /// A node of a cluster, over the network.
    #[cfg(feature = "cluster")]
    Remote(RemoteNode),
}

impl Control {
    /// Opens an existing data directory.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn open(data_dir: &Path) -> Result<Self, ControlError> {
        if !data_dir.exists() {
            return Err(ControlError::Missing(data_dir.to_owned()));
        }
        Self::open_or_create(data_dir).await
    }

    /// As [`Control::open`], but creates a new data directory if there is none.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn open_or_create(data_dir: &Path) -> Result<Self, ControlError> {
        let until = Instant::now() + IN_USE_WAIT;
        loop {
            if connect(&data_dir.join(SOCKET_NAME)).await.is_ok() {
                return Ok(Self::Running(data_dir.to_owned()));
            }
            // In use without a socket: by a process that starts or ends, or by another reader.
            match Self::direct(data_dir).await {
                Err(error)
                    if error.kind() == forebay_actors::error::ErrorKind::InUse
                        && Instant::now() < until =>
                {
                    tokio::time::sleep(IN_USE_TRIED_EVERY).await;
                }
                opened => return Ok(Self::Direct(opened?)),
            }
        }
    }

    /// As [`Control::open`], for requests that change nothing. A directory that no process uses and
    /// that cannot be written (a full disk, another user's) is copied to a temporary directory, as
    /// far as necessary.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn look(data_dir: &Path) -> Result<Self, ControlError> {
        if !data_dir.exists() {
            return Err(ControlError::Missing(data_dir.to_owned()));
        }
        let until = Instant::now() + IN_USE_WAIT;
        let mut may_write = true;
        loop {
            if connect(&data_dir.join(SOCKET_NAME)).await.is_ok() {
                return Ok(Self::Running(data_dir.to_owned()));
            }
            let opened = match may_write {
                true => Self::direct(data_dir).await.map(Self::Direct),
                false => Self::copied(data_dir).await,
            };
            match opened {
                Err(error)
                    if error.kind() == forebay_actors::error::ErrorKind::InUse
                        && Instant::now() < until =>
                {
                    tokio::time::sleep(IN_USE_TRIED_EVERY).await;
                }
                Err(error) if may_write && error.is_unwritable() => may_write = false,
                opened => return Ok(opened?),
            }
        }
    }

    async fn copied(data_dir: &Path) -> Result<Self, NodeError> {
        let original = data_dir.to_owned();
        let copying = tokio::task::spawn_blocking(move || LookCopy::of(&original));
        let copy = copying.await.map_err(|_| NodeError::ShutDown)??;
        let node = Self::direct(copy.path()).await?;
        Ok(Self::Copied(node, copy))
    }

    async fn direct(data_dir: &Path) -> Result<Arc<Node>, NodeError> {
        let clock = Arc::new(WallClock);
        let tokio = tokio::runtime::Handle::current();
        let executor = Executor::new(tokio, HashMap::new(), || 0);
        let config = NodeConfig {
            place: DataPlace::Directory(data_dir.to_owned()),
            in_use_wait: Duration::ZERO,
            small_buffers: true,
            partitions: None,
            threads: Some(1),
            running_max: None,
            dispatches: false,
            vqueues: Default::default(),
            outbox_per_target_max: OUTBOX_PER_TARGET_MAX,
            faults: Default::default(),
            shared: None,
            // Reading trims nothing that a later snapshot may need.
            trim_log: TrimLog::Never,
            candidacy: Candidacy::default(),
        };
        let node = Node::start(config, executor, clock).await?;
        // Nothing runs here: entries must not be shown as running.
        node.partitions().drained().await;
        Ok(node)
    }

    /// Sends a request. Gives up a process that sends nothing for [`SILENCE_MAX`].
    ///
    /// # Errors
    /// [`ControlError`]; a refusal by the other side is a [`Response::Error`].
    pub async fn ask(&self, request: Request) -> Result<Response, ControlError> {
        self.ask_within(request, SILENCE_MAX).await
    }

    /// As [`Control::ask`], with another maximum time without a sign of life.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn ask_within(
        &self,
        request: Request,
        silence_max: Duration,
    ) -> Result<Response, ControlError> {
        let mut line = serde_json::to_vec(&request)?;
        line.push(b'\n');
        if line.len() as u64 > REQUEST_LEN_MAX {
            return Err(ControlError::TooLong { len: line.len() });
        }
        match self {
            Self::Direct(_) | Self::Copied(..)
                if matches!(request, Request::Lead { .. } | Request::StepDown { .. }) =>
            {
                let message = "no process has the data directory open, so no partition is led: \
                               start one, which leads by itself";
                Ok(Response::Error { message: message.to_owned(), usage: true })
            }
            Self::Direct(_) | Self::Copied(..) if matches!(request, Request::Jobs { .. }) => {
                let message = "no process has the data directory open, so nothing runs: give \
                               --jobs to `forebay exec` when you start it";
                Ok(Response::Error { message: message.to_owned(), usage: true })
            }
            Self::Copied(..) if !request.only_looks() => {
                let message = "the data directory cannot be written, so nothing can be changed";
                Ok(Response::Error { message: message.to_owned(), usage: true })
            }
            Self::Direct(node) | Self::Copied(node, _) => Ok(Parts::of(request).whole(node).await),
            #[cfg(feature = "cluster")]
            Self::Remote(node) => {
                let (is_read, waited) = (request.only_looks(), takes_at_least(&request));
                let waited = silence_max.saturating_add(waited);
                Ok(serde_json::from_slice(&node.ask_json(line.into(), is_read, waited).await?)?)
            }
            Self::Running(path) => {
                let waited = silence_max.saturating_add(takes_at_least(&request));
                exchange(path, &line, waited).await
            }
        }
    }

    /// Releases the directory.
    ///
    /// # Errors
    /// When direct changes cannot be flushed (they are in the log, and safe).
    pub async fn close(self) -> Result<(), ControlError> {
        match self {
            Self::Running(_) => Ok(()),
            #[cfg(feature = "cluster")]
            Self::Remote(node) => {
                node.close().await;
                Ok(())
            }
            Self::Direct(node) => Ok(node.shutdown(Duration::ZERO).await?),
            Self::Copied(node, copy) => {
                let closed = node.shutdown(Duration::ZERO).await;
                drop((node, copy));
                Ok(closed?)
            }
        }
    }
}

pub(super) async fn connect(socket: &Path) -> std::io::Result<UnixStream> {
    let socket = SocketPath::of(socket)?;
    UnixStream::connect(socket.path()).await
}

/// The time that the request itself allows for the answer.
fn takes_at_least(request: &Request) -> Duration {
    match request {
        Request::StepDown { within_ms, .. } => Duration::from_millis(*within_ms),
        _ => Duration::ZERO,
    }
}

/// Sends a request and reads all parts of the answer.
async fn exchange(dir: &Path, line: &[u8], waited: Duration) -> Result<Response, ControlError> {
    let failed = |source: std::io::Error| {
        let path = dir.to_owned();
        match source.kind() {
            ErrorKind::TimedOut => ControlError::NoAnswer { path, waited },
            _ => ControlError::Silent { path, source },
        }
    };
    let connecting = async {
        let stream = timeout(waited, connect(&dir.join(SOCKET_NAME))).await??;
        let (reader, mut writer) = stream.into_split();
        let sent = timeout(waited, writer.write_all(line)).await?;
        Ok((reader, writer, sent))
    };
    let (reader, _writer, sent) = connecting.await.map_err(failed)?;
    let mut lines = Lines { reader, read: Vec::new(), silence_max: waited };
    // The other side may refuse the request and close before it has read everything: its answer
    // takes precedence.
    let first = match lines.next().await {
        Ok(first) if !first.is_empty() => first,
        answered => {
            sent.map_err(failed)?;
            answered.map_err(failed)?;
            return Err(failed(ErrorKind::UnexpectedEof.into()));
        }
    };
    let mut whole: Response = serde_json::from_slice(&first)?;
    while whole.has_more() {
        let part = lines.next().await.map_err(failed)?;
        if part.is_empty() {
            return Err(failed(ErrorKind::UnexpectedEof.into()));
        }
        whole = joined(whole, serde_json::from_slice(&part)?);
    }
    Ok(whole)
}

/// Reads the lines of the other side.
struct Lines {
    reader: OwnedReadHalf,
    /// Bytes read that are not a whole line yet.
    read: Vec<u8>,
    silence_max: Duration,
}

impl Lines {
    /// The next line, without its end; empty when there is none. Each piece of it counts as a sign
    /// of life.
    async fn next(&mut self) -> std::io::Result<Vec<u8>> {
        let mut looked_at = 0;
        loop {
            if let Some(end) = self.read[looked_at..].iter().position(|byte| *byte == b'\n') {
                let rest = self.read.split_off(looked_at + end + 1);
                self.read.pop();
                return Ok(std::mem::replace(&mut self.read, rest));
            }
            looked_at = self.read.len();
            if looked_at as u64 >= MESSAGE_LEN_MAX {
                return Err(ErrorKind::FileTooLarge.into());
            }
            let reading = self.reader.read_buf(&mut self.read);
            if timeout(self.silence_max, reading).await?? == 0 {
                return Ok(std::mem::take(&mut self.read));
            }
        }
    }
}
