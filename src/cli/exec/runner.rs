//! The handler of `forebay exec`: runs one item's command.
//!
//! Must always hold: no command starts before the spawner of this run is there, and
//! with it the orphans of an earlier run are gone; an item whose command could not be
//! followed to its end is not ended.

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
use tokio::sync::{mpsc, watch};

use super::{
    item::Job, process::Spawner, progress::Progress, report::Report, results::keep_outputs,
};

/// How long a command that was asked to stop gets before it is killed.
const CANCEL_GRACE: Duration = Duration::from_secs(10);

/// What the handlers of a run share.
pub(crate) struct Runner {
    started: Instant,
    spawner: watch::Sender<Option<Spawner>>,
    progress: Mutex<Progress>,
    /// Where long outputs go before an item ends.
    results: Option<PathBuf>,
    /// Told what must end the whole run.
    broken: mpsc::UnboundedSender<String>,
}

impl Runner {
    /// A runner that waits for its spawner; and where it tells what must end the run.
    pub(crate) fn new(
        results: Option<PathBuf>,
        started: Instant,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<String>) {
        let (broken, told) = mpsc::unbounded_channel();
        let runner = Self {
            started,
            spawner: watch::Sender::new(None),
            progress: Mutex::new(Progress::default()),
            results,
            broken,
        };
        (Arc::new(runner), told)
    }

    /// Lets the commands begin.
    pub(crate) fn begin(&self, spawner: Spawner) {
        self.spawner.send_replace(Some(spawner));
    }

    /// Takes the spawner back, to be closed.
    pub(crate) fn end(&self) -> Option<Spawner> {
        self.spawner.send_replace(None)
    }

    /// The counts.
    pub(crate) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the run has taken so far.
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
        // Never reached while the runner lives: it owns the sender.
        std::future::pending().await
    }

    /// Runs the command of one item. A panic on the way is a fault of this program and
    /// says nothing about the item: it ends the run, and leaves the item to the next.
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
        let _running = Started::new(self);
        let ran = spawner.run(&job, context.canceled(), CANCEL_GRACE).await;
        let mut report = match ran {
            Ok(report) => report,
            Err(error) => return self.break_off(&error).await,
        };
        if let Some(dir) = &self.results
            && let Err(error) = keep_outputs(dir, context.entry(), &mut report)
        {
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

    /// Something is wrong with the run, not with the item: the item stays as it is.
    async fn break_off<T>(&self, error: &(dyn std::error::Error + Sync)) -> T {
        // Nobody listens once the run is over.
        let _ = self.broken.send(error.to_string());
        std::future::pending().await
    }
}

/// An attempt that runs, however it ends: its handler may be dropped at any time.
struct Started<'a> {
    runner: &'a Runner,
    /// When, since the start of the run.
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
    }
}

/// Something that must not happen.
#[derive(Debug, Error)]
#[error(
    "forebay panicked while it ran a command (see above; this is a bug in forebay): the item is \
     left, and the same command line goes on with it"
)]
struct Panicked;

/// The report that a result carries; an empty one for results of another kind.
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
        let (runner, mut broken) = Runner::new(None, Instant::now());
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
