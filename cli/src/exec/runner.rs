//! The handler of `forebay exec`: runs one item's command.
//!
//! Must always hold: no command starts before the spawner of this run is ready, which means that
//! orphans of an earlier run are gone; an item whose command could not be watched to its end has
//! not ended.

use std::{
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bilrost::{Message, OwnedMessage};
use bytes::Bytes;
use forebay::{Context, HandlerError};
use futures_util::FutureExt;
use thiserror::Error;
use tokio::sync::{Notify, mpsc, watch};

use super::{
    item::Job,
    process::{Order, Spawner},
    progress::Progress,
    report::Report,
    results::KeptOutputs,
};

/// Time limits of commands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// For one attempt; absent without a limit.
    pub(crate) timeout: Option<Duration>,
    /// Between SIGTERM and SIGKILL.
    pub(crate) grace: Duration,
}

/// Shared by the handlers of a run.
pub(crate) struct Runner {
    started: Instant,
    limits: Limits,
    spawner: watch::Sender<Option<Spawner>>,
    progress: Mutex<Progress>,
    /// An attempt is over.
    is_over: Notify,
    /// Where long outputs go before an item ends.
    outputs: KeptOutputs,
    /// Receives errors that must end the whole run.
    broken: mpsc::UnboundedSender<String>,
}

impl Runner {
    /// A runner that waits for its spawner; and the receiver of errors that must end the run.
    pub(crate) fn new(
        outputs: PathBuf,
        limits: Limits,
        started: Instant,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<String>) {
        let (broken, receiver) = mpsc::unbounded_channel();
        let runner = Self {
            started,
            limits,
            spawner: watch::Sender::new(None),
            progress: Mutex::new(Progress::default()),
            is_over: Notify::new(),
            outputs: KeptOutputs::new(outputs),
            broken,
        };
        (Arc::new(runner), receiver)
    }

    /// Lets the commands start.
    pub(crate) fn begin(&self, spawner: Spawner) {
        self.spawner.send_replace(Some(spawner));
    }

    /// The spawner, while there is one.
    pub(crate) fn current(&self) -> Option<Spawner> {
        self.spawner.borrow().clone()
    }

    /// Removes the spawner, to be closed.
    pub(crate) fn end(&self) -> Option<Spawner> {
        self.spawner.send_replace(None)
    }

    /// The counts.
    pub(crate) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no attempt runs, except ones whose command was stopped because the run ends.
    /// Cancel-safe.
    pub(crate) async fn idle(&self) {
        loop {
            let over = self.is_over.notified();
            if self.progress().running() == 0 {
                return;
            }
            over.await;
        }
    }

    /// Time since the start of the run.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    async fn spawner(&self) -> Spawner {
        let mut spawner = self.spawner.subscribe();
        match spawner.wait_for(Option::is_some).await {
            Ok(found) => {
                if let Some(spawner) = found.clone() {
                    return spawner;
                }
            }
            Err(_) => tracing::debug!("the run ended before its commands could begin"),
        }
        // Not reached while the runner exists: it owns the sender.
        std::future::pending().await
    }

    /// Runs the command of one item. A panic here is a bug of this program and not a failure of the
    /// item: it ends the run, and leaves the item to the next.
    pub(crate) async fn run(
        self: Arc<Self>,
        context: Context,
        payload: Bytes,
    ) -> Result<Bytes, HandlerError> {
        self.unless_panicked(self.attempt(context, payload)).await
    }

    async fn unless_panicked<T>(&self, attempt: impl Future<Output = T>) -> T {
        match AssertUnwindSafe(attempt).catch_unwind().await {
            Ok(done) => done,
            Err(_) => self.break_off(&Panicked).await,
        }
    }

    async fn attempt(&self, context: Context, payload: Bytes) -> Result<Bytes, HandlerError> {
        let job = Job::decode(payload)
            .map_err(|error| HandlerError::terminal(format!("not an item of exec: {error}")))?;
        let spawner = self.spawner().await;
        let running = Started::new(self);
        let order = self.order(&context, &job);
        let mut report = match spawner.run(order, context.canceled()).await {
            Ok(report) => report,
            Err(error) => return self.break_off(&error).await,
        };
        if let Some(reason) = report.lost() {
            let command = shown(&job);
            return self.break_off(&OutputLost { command, reason: reason.to_owned() }).await;
        }
        if report.canceled && !context.is_canceled() {
            // All commands were stopped because the run ends: the item is left to the next.
            drop(running);
            return std::future::pending().await;
        }
        if let Err(error) = self.outputs.keep(context.entry(), &mut report) {
            return self.break_off(&error).await;
        }
        if report.succeeded() {
            report.job = Some(job);
            return Ok(Bytes::from(report.encode_to_vec()));
        }
        let bytes = report.encode_to_vec();
        if report.canceled {
            return Err(HandlerError::canceled(report.failure()).with_detail(bytes));
        }
        Err(HandlerError::retry(report.failure()).with_detail(bytes))
    }

    fn order(&self, context: &Context, job: &Job) -> Order {
        let variable = |name: &str, value: &dyn std::fmt::Display| {
            Bytes::from(format!("FOREBAY_{name}={value}"))
        };
        let mut environment = vec![
            variable("ENTRY", &context.entry()),
            variable("ATTEMPT", &context.attempt()),
            variable("SEQ", &job.number),
        ];
        let item = job.item();
        // Longer variables are refused by the system, and an object with a NUL cannot be one.
        if item.len() <= ITEM_VARIABLE_BYTES_MAX && !item.contains(&0) {
            environment.push([&b"FOREBAY_ITEM="[..], &item].concat().into());
        }
        Order {
            argv: job.argv.clone(),
            directory: job.directory.clone(),
            environment,
            timeout: self.limits.timeout,
            grace: self.limits.grace,
        }
    }

    /// Something is wrong with the run, not with the item: the item is left unchanged.
    async fn break_off<T>(&self, error: &(dyn std::error::Error + Sync)) -> T {
        // The receiver is gone once the run is over.
        let _ = self.broken.send(error.to_string());
        std::future::pending().await
    }
}

/// A running attempt; its handler may be dropped at any time.
struct Started<'a> {
    runner: &'a Runner,
    /// Its start, since the start of the run.
    since: Duration,
}

impl<'a> Started<'a> {
    fn new(runner: &'a Runner) -> Self {
        let since = runner.elapsed();
        runner.progress().started(since);
        Self { runner, since }
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        self.runner.progress().stopped(self.runner.elapsed(), self.since);
        self.runner.is_over.notify_waiters();
    }
}

/// A command's output could not be kept: the command does not count as run.
#[derive(Debug, Error)]
#[error(
    "the output of `{command}` does not fit: {reason}; free some space, then run the same \
     command line again (this item runs again, too)"
)]
struct OutputLost {
    command: String,
    reason: String,
}

/// The beginning of a command line, for display.
fn shown(job: &Job) -> String {
    let words = job.argv.iter().map(|arg| String::from_utf8_lossy(arg));
    let line: String = words.collect::<Vec<_>>().join(" ").chars().take(SHOWN_CHARS_MAX).collect();
    line.chars().filter(|c| !c.is_control()).collect()
}

/// Maximum length of an item in a command's environment, in bytes: the item is already among the
/// arguments, and the system limits both together.
const ITEM_VARIABLE_BYTES_MAX: usize = 64 * 1024;

/// Maximum length of a command line in an error, in characters.
const SHOWN_CHARS_MAX: usize = 80;

/// A bug.
#[derive(Debug, Error)]
#[error(
    "forebay panicked while it ran a command (see above; this is a bug in forebay): the item is \
     left, and the same command line continues with it"
)]
struct Panicked;

/// The report in a result; an empty one for other results.
pub(crate) fn report_of(outcome: &forebay::Outcome) -> Report {
    let bytes = match outcome {
        forebay::Outcome::Success(bytes) => bytes.clone(),
        forebay::Outcome::Failure(failure) => failure.detail.clone(),
    };
    Report::decode(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_panic_ends_the_run_and_not_the_item() {
        let limits = Limits { timeout: None, grace: Duration::ZERO };
        let (runner, mut broken) = Runner::new(PathBuf::new(), limits, Instant::now());
        let attempt = async {
            let _running = Started::new(&runner);
            assert_eq!(runner.progress().view(Duration::ZERO).running, 1);
            panic!("a bug");
        };
        let attempt = runner.unless_panicked::<()>(attempt);
        let ended = tokio::time::timeout(Duration::from_secs(60), attempt).await;
        assert!(ended.is_err(), "the attempt has no end: it is found running by the next run");
        assert!(broken.try_recv().unwrap().contains("bug in forebay"));
        assert_eq!(runner.progress().view(Duration::ZERO).running, 0);
    }
}
