//! The async end: asks the spawner to run commands.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs,
    io::{self, Write as _},
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream as StdUnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot, watch},
};

use super::{
    lifeline::{Owner, create_file},
    link::{NotRun, Reply, Request, Start, Stop},
    serve::SPAWNER_ARGUMENT,
};
use crate::exec::report::Report;

/// Number of attempts to lock a directory that is in use, and the pause between them.
const OWN_TRIES: u32 = 25;
const OWN_EVERY: Duration = Duration::from_millis(20);

/// Why commands cannot be run.
#[derive(Debug, Error)]
pub(crate) enum SpawnerError {
    /// The directory cannot be used.
    #[error("cannot use {}: {source}; check its permissions and free space", .path.display())]
    Directory {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another `forebay exec` uses the data directory.
    #[error(
        "{} is in use by another `forebay exec`; wait until it ends, or take another --data-dir",
        .path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The spawner could not be started.
    #[error("cannot start the process that starts commands: {0}")]
    Start(#[source] io::Error),
    /// The spawner refused.
    #[error("{0}")]
    Refused(String),
    /// The spawner has died, and its commands with it.
    #[error(
        "the process that starts commands has ended; running commands were stopped: \
         run the same command line again"
    )]
    Gone,
    /// Forebay itself lacks something.
    #[error("{0}; running commands were stopped: run the same command line again")]
    Lacks(String),
}

/// A command to run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Order {
    /// The program and its arguments.
    pub(crate) argv: Vec<Bytes>,
    /// Its working directory; empty is the spawner's.
    pub(crate) directory: Bytes,
    /// Additions to this process's environment, each `NAME=VALUE`.
    pub(crate) environment: Vec<Bytes>,
    /// Time limit; after it the command is stopped, and its report says so.
    pub(crate) timeout: Option<Duration>,
    /// Time between SIGTERM and SIGKILL, for any reason to stop it.
    pub(crate) grace: Duration,
}

/// Runs commands in a small separate process. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Spawner {
    requests: mpsc::UnboundedSender<Request>,
    waiting: Arc<Waiting>,
    next: Arc<AtomicU64>,
    orphans_killed: u64,
    process: Arc<Mutex<Option<Process>>>,
    status: watch::Receiver<Status>,
}

/// State of the spawner, from its messages other than reports.
#[derive(Clone, Debug, Default)]
struct Status {
    /// Commands wait to be started: the reason.
    waits: Option<String>,
    is_paused: bool,
}

/// The process, the connection to it and the lock that belongs to it.
#[derive(Debug)]
struct Process {
    child: Child,
    writer: tokio::task::AbortHandle,
    _owner: Owner,
}

/// Receives the result of a command: its report, or why it was not run.
type ResultSender = oneshot::Sender<Result<Report, String>>;

/// Pending reports. `None` once the spawner is gone.
#[derive(Debug)]
struct Waiting(Mutex<Option<HashMap<u64, ResultSender>>>);

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Option<HashMap<u64, ResultSender>>> {
        // The map is consistent even after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes one.
    fn take(&self, serial: u64) -> Option<ResultSender> {
        self.lock().as_mut()?.remove(&serial)
    }

    fn clear(&self) {
        *self.lock() = None;
    }
}

impl Spawner {
    /// Starts the spawner, which kills the rest of an earlier run and waits until it is gone. Must
    /// be called before anything large is opened, because that is forked once. `dir` is the
    /// directory of `forebay exec` inside the data directory.
    ///
    /// # Errors
    /// [`SpawnerError`]; nothing is left running.
    pub(crate) async fn start(dir: &Path) -> Result<Self, SpawnerError> {
        let own = std::env::current_exe().map_err(SpawnerError::Start)?;
        let mut command = Command::new(own);
        command.arg(OsString::from(SPAWNER_ARGUMENT)).arg(dir);
        Self::start_with(command, dir).await
    }

    /// Like [`Self::start`], with another command line for [`super::serve()`].
    pub(super) async fn start_with(mut command: Command, dir: &Path) -> Result<Self, SpawnerError> {
        let unusable = |source| SpawnerError::Directory { path: dir.to_owned(), source };
        let owner = own(dir).await.map_err(unusable)?;
        let Some(owner) = owner else {
            return Err(SpawnerError::InUse { path: dir.to_owned() });
        };
        writable(dir).map_err(unusable)?;
        let (ours, theirs) = StdUnixStream::pair().map_err(SpawnerError::Start)?;
        // A separate group: Ctrl-C on the terminal is handled by this process.
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).process_group(0);
        let child = command.spawn().map_err(SpawnerError::Start)?;
        drop(command);
        ours.set_nonblocking(true).map_err(SpawnerError::Start)?;
        let (reader, writer) =
            UnixStream::from_std(ours).map_err(SpawnerError::Start)?.into_split();
        let mut link = Link { reader, received: BytesMut::new() };
        let orphans_killed = match link.next().await {
            Some(Reply::Ready(killed)) => killed,
            Some(Reply::Refused(reason)) => return Err(SpawnerError::Refused(reason.to_string())),
            Some(_) | None => return Err(SpawnerError::Gone),
        };
        let waiting = Arc::new(Waiting(Mutex::new(Some(HashMap::new()))));
        let (status_sender, status) = watch::channel(Status::default());
        // Unbounded, but never longer than two requests per command.
        let (requests, queue) = mpsc::unbounded_channel();
        let writer = tokio::spawn(write_requests(queue, writer)).abort_handle();
        tokio::spawn(read_replies(link, Arc::clone(&waiting), status_sender));
        let process = Arc::new(Mutex::new(Some(Process { child, writer, _owner: owner })));
        Ok(Self { requests, waiting, next: Arc::default(), orphans_killed, process, status })
    }

    /// Number of processes of an earlier run that were killed at the start.
    #[must_use]
    pub(crate) fn orphans_killed(&self) -> u64 {
        self.orphans_killed
    }

    /// Runs a command until it ends. When `cancel` completes, its group gets SIGTERM, and SIGKILL
    /// after its grace period; the report then says that it was asked to stop.
    ///
    /// Cancel safety: dropping the future kills the command's group.
    ///
    /// # Errors
    /// [`SpawnerError::Gone`] when the spawner dies; the command has died with it.
    /// [`SpawnerError::Lacks`] when the command was not started because forebay itself lacks
    /// something.
    pub(crate) async fn run(
        &self,
        order: Order,
        cancel: impl Future<Output = ()>,
    ) -> Result<Report, SpawnerError> {
        let serial = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, mut ended) = oneshot::channel();
        match self.waiting.lock().as_mut() {
            Some(waiting) => waiting.insert(serial, sender),
            None => return Err(SpawnerError::Gone),
        };
        let mut guard = Guard { spawner: self, serial, armed: true };
        let grace_ms = millis(order.grace);
        let Order { argv, directory, environment, timeout, .. } = order;
        // 0 is no limit.
        let timeout_ms = timeout.map_or(0, |timeout| millis(timeout).max(1));
        let start = Start { serial, argv, directory, environment, timeout_ms, grace_ms };
        self.send(Request::Start(start));
        let report = tokio::select! {
            report = &mut ended => report,
            () = cancel => {
                self.send(Request::Stop(Stop { serial, grace_ms }));
                ended.await
            }
        };
        guard.armed = false;
        report.map_err(|_| SpawnerError::Gone)?.map_err(SpawnerError::Lacks)
    }

    /// Stops all commands, including later ones: SIGTERM, and SIGKILL after `grace`, at once if
    /// that is zero. Their reports say that they were asked to stop.
    pub(crate) fn stop_all(&self, grace: Duration) {
        self.send(Request::StopAll(millis(grace)));
    }

    /// Pauses all commands as SIGSTOP does, or continues them; returns when that is done (or the
    /// spawner is gone).
    pub(crate) async fn pause(&self, pause: bool) {
        self.send(Request::Pause(pause));
        // An error: there is nothing left to pause.
        let _ = self.status.clone().wait_for(|status| status.is_paused == pause).await;
    }

    /// Waits until commands have to wait because forebay itself lacks something; returns the
    /// reason. `None` when the spawner ends before.
    pub(crate) async fn waits(&self) -> Option<String> {
        let mut status = self.status.clone();
        let status = status.wait_for(|status| status.waits.is_some()).await;
        status.ok()?.waits.clone()
    }

    /// Ends the spawner, which kills running commands, and waits for it. Pending calls get
    /// [`SpawnerError::Gone`].
    pub(crate) async fn close(self) {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut process) = process else { return };
        self.waiting.clear();
        // The end of the socket is the signal to stop; clones may still hold senders.
        process.writer.abort();
        let waited = tokio::task::spawn_blocking(move || process.child.wait());
        let _ = waited.await;
    }

    /// The spawner's process id, until it is closed.
    #[cfg(test)]
    pub(super) fn process_id(&self) -> Option<u32> {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        process.as_ref().map(|process| process.child.id())
    }

    fn send(&self, request: Request) {
        // A closed channel is noticed by the caller that waits for the report.
        let _ = self.requests.send(request);
    }
}

/// Kills a command whose future was dropped.
struct Guard<'a> {
    spawner: &'a Spawner,
    serial: u64,
    armed: bool,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.spawner.waiting.take(self.serial);
            self.spawner.send(Request::Stop(Stop { serial: self.serial, grace_ms: 0 }));
        }
    }
}

/// Locks the directory, with some retries: a process that was killed while it started another may
/// leave its lock to that one for a moment.
async fn own(dir: &Path) -> io::Result<Option<Owner>> {
    for _ in 0..OWN_TRIES {
        if let Some(owner) = Owner::take(dir)? {
            return Ok(Some(owner));
        }
        tokio::time::sleep(OWN_EVERY).await;
    }
    Owner::take(dir)
}

/// A full or read-only directory should be detected now and not later.
fn writable(dir: &Path) -> io::Result<()> {
    let path = dir.join("probe");
    create_file(&path)?.write_all(b"probe")?;
    fs::remove_file(&path)
}

async fn write_requests(mut queue: mpsc::UnboundedReceiver<Request>, mut writer: OwnedWriteHalf) {
    while let Some(request) = queue.recv().await {
        let mut frames = request.into_frame();
        // All queued requests go in one write.
        while let Ok(request) = queue.try_recv() {
            frames.extend_from_slice(&request.into_frame());
        }
        if writer.write_all(&frames).await.is_err() {
            return;
        }
    }
    let _ = writer.shutdown().await;
}

async fn read_replies(mut link: Link, waiting: Arc<Waiting>, status_sender: watch::Sender<Status>) {
    while let Some(reply) = link.next().await {
        let (serial, result) = match reply {
            Reply::Ended(ended) => (ended.serial, Ok(ended.report)),
            Reply::NotRun(NotRun { serial, reason }) => (serial, Err(reason.to_string())),
            Reply::Waits(what) => {
                status_sender.send_modify(|status| status.waits = Some(what.to_string()));
                continue;
            }
            Reply::Paused(is_paused) => {
                status_sender.send_modify(|status| status.is_paused = is_paused);
                continue;
            }
            Reply::Ready(_) | Reply::Refused(_) => break,
        };
        if let Some(sender) = waiting.take(serial) {
            let _ = sender.send(result);
        }
    }
    waiting.clear();
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The reading side of the socket.
struct Link {
    reader: OwnedReadHalf,
    received: BytesMut,
}

impl Link {
    /// The next reply; `None` when there will be none.
    async fn next(&mut self) -> Option<Reply> {
        loop {
            match Reply::take(&mut self.received) {
                Ok(Some(reply)) => return Some(reply),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(%error, "the spawner cannot be understood");
                    return None;
                }
            }
            let read = self.reader.read_buf(&mut self.received).await;
            if !read.is_ok_and(|len| len > 0) {
                return None;
            }
        }
    }
}
