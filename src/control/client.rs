//! Reaching a data directory: through the socket of the process that has it, or else
//! directly.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use forebay_actors::{
    executor::Executor,
    log_writer::TrimLog,
    node::{Candidacy, Node, NodeConfig, NodeError, Place},
    shell::WallClock,
};
use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
};

use super::{
    IN_USE_WAIT, MESSAGE_LEN_MAX, Request, Response, SOCKET_NAME, answer, socket::SocketPath,
};

/// How often a directory is tried that a process without a socket has.
const IN_USE_TRIED_EVERY: Duration = Duration::from_millis(10);

/// Why a data directory cannot be reached.
#[derive(Debug, Error)]
pub enum ControlError {
    /// There is none.
    #[error("there is no data directory at {}: run `forebay exec` first, or name another one with --data-dir", .0.display())]
    Missing(PathBuf),
    /// It cannot be opened directly.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The process that has it does not answer.
    #[error("the process that uses {} does not answer on its control socket: {source}; stop it, or try again", path.display())]
    Silent {
        /// The directory.
        path: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// It answered something that this version does not understand.
    #[error(
        "the process that uses the data directory answered something unknown (another version of forebay?): {0}"
    )]
    Strange(#[from] serde_json::Error),
}

/// A data directory that can be asked.
pub enum Control {
    /// Through the socket of the process that has it.
    Running(PathBuf),
    /// Directly: nobody else has it.
    Direct(Arc<Node>),
}

impl Control {
    /// Reaches a data directory that exists.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn open(data_dir: &Path) -> Result<Self, ControlError> {
        if !data_dir.exists() {
            return Err(ControlError::Missing(data_dir.to_owned()));
        }
        let until = Instant::now() + IN_USE_WAIT;
        loop {
            if connect(&data_dir.join(SOCKET_NAME)).await.is_ok() {
                return Ok(Self::Running(data_dir.to_owned()));
            }
            // In use without a socket: a process that starts or ends, or another look.
            match Self::direct(data_dir).await {
                Err(error) if error.is_in_use() && Instant::now() < until => {
                    tokio::time::sleep(IN_USE_TRIED_EVERY).await;
                }
                opened => return Ok(Self::Direct(opened?)),
            }
        }
    }

    async fn direct(data_dir: &Path) -> Result<Arc<Node>, NodeError> {
        let clock = Arc::new(WallClock);
        let tokio = tokio::runtime::Handle::current();
        let executor = Executor::new(tokio, HashMap::new(), clock.clone(), || 0);
        let config = NodeConfig {
            place: Place::Directory(data_dir.to_owned()),
            in_use_wait: Duration::ZERO,
            partitions: None,
            threads: Some(1),
            running_max: None,
            dispatches: false,
            vqueues: Default::default(),
            faults: Default::default(),
            shared: None,
            // Whoever only asks drops nothing that a later snapshot may need.
            trim_log: TrimLog::Never,
            candidacy: Candidacy::default(),
        };
        let node = Node::start(config, executor, clock).await?;
        // Nothing runs here: whoever looks sees no entry as running.
        node.drained().await;
        Ok(node)
    }

    /// Asks.
    ///
    /// # Errors
    /// [`ControlError`]; what the other side refuses is a [`Response::Error`].
    pub async fn ask(&self, request: Request) -> Result<Response, ControlError> {
        match self {
            Self::Direct(_)
                if matches!(request, Request::Lead { .. } | Request::StepDown { .. }) =>
            {
                let message = "no process has the data directory open, so nobody leads: start \
                               one, which leads by itself";
                Ok(Response::Error { message: message.to_owned(), usage: true })
            }
            Self::Direct(node) => Ok(answer(node, request).await),
            Self::Running(path) => {
                let line = serde_json::to_vec(&request)?;
                let answered = exchange(&path.join(SOCKET_NAME), line).await;
                let line = answered
                    .map_err(|source| ControlError::Silent { path: path.clone(), source })?;
                Ok(serde_json::from_str(&line)?)
            }
        }
    }

    /// Gives the directory free.
    ///
    /// # Errors
    /// When what was changed directly cannot be flushed (it is in the log, and safe).
    pub async fn close(self) -> Result<(), ControlError> {
        match self {
            Self::Running(_) => Ok(()),
            Self::Direct(node) => Ok(node.shutdown(Duration::ZERO).await?),
        }
    }
}

async fn connect(socket: &Path) -> std::io::Result<UnixStream> {
    let socket = SocketPath::of(socket)?;
    UnixStream::connect(socket.path()).await
}

async fn exchange(socket: &Path, mut line: Vec<u8>) -> std::io::Result<String> {
    let stream = connect(socket).await?;
    let (reader, mut writer) = stream.into_split();
    line.push(b'\n');
    writer.write_all(&line).await?;
    let mut answer = String::new();
    BufReader::new(reader.take(MESSAGE_LEN_MAX)).read_line(&mut answer).await?;
    if answer.is_empty() {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(answer)
}
