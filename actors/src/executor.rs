//! Running handlers, on the application's tokio runtime, never on a partition's thread.
//!
//! Owns: which attempts run here, their cancellation and deadlines. Must always hold:
//! the end of an attempt is reported once, unless it was aborted; a panic in a handler
//! is a failed attempt. Must not know: limits, vqueues, the log.

mod starter;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use bytestring::ByteString;
use dashmap::{DashMap, mapref::entry::Entry};
use forebay_engine::partition::machine::{PartitionInput, RunAttempt};
use forebay_messages::{
    AttemptToken, EntryId, PartitionKey, Timestamp, VQueueName, actor::AttemptEnd,
};
use futures_util::FutureExt;
use rustc_hash::FxBuildHasher;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    host::{Spawned, Spawner},
    shell::{Clock, Ref},
};

use starter::Batch;

pub use crate::pulse::Pulse;

/// How long an entry waits whose service has no handler here.
const NO_HANDLER_SNOOZE: Duration = Duration::from_secs(5);

/// What a handler is given besides the payload.
#[derive(Clone, Debug)]
pub struct AttemptContext {
    /// The entry.
    pub entry: EntryId,
    /// Its vqueue.
    pub name: Arc<VQueueName>,
    /// The attempt's token.
    pub token: AttemptToken,
    /// The attempt's number, from 1.
    pub attempt: u32,
    /// How many attempts there are in all; 0 means no limit.
    pub attempts_max: u32,
    /// What the last failed attempt said.
    pub last_failure: ByteString,
    /// Raised when the handler should stop.
    pub cancel: CancellationToken,
    /// When the attempt is given up.
    pub deadline: Option<std::time::Instant>,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Beats while the handler says that it is alive.
    pub pulse: Pulse,
}

/// The future of a handler.
pub type HandlerFuture = Pin<Box<dyn Future<Output = AttemptEnd> + Send>>;

/// Runs the entries of one service.
pub trait Handler: Send + Sync {
    /// Starts an attempt. Dropping the future ends it.
    fn call(&self, context: AttemptContext, payload: Bytes) -> HandlerFuture;

    /// How long an attempt may take; `None` means for ever.
    fn timeout(&self) -> Option<Duration> {
        None
    }

    /// How long an attempt may go without a heartbeat; `None` means for ever.
    fn heartbeat(&self) -> Option<Duration> {
        None
    }
}

/// Where a partition sends attempts to.
pub trait Execute: Send + Sync {
    /// Runs an attempt; its end is sent to `reply_to`.
    fn run(&self, run: RunAttempt, payload: Bytes, reply_to: Ref<PartitionInput>);
    /// Runs several, in no order; as [`Execute::run`] for each.
    fn run_many(&self, runs: Vec<(RunAttempt, Bytes)>, reply_to: &Ref<PartitionInput>);
    /// Asks a handler to stop.
    fn cancel(&self, entry: EntryId, token: AttemptToken);
    /// Drops a handler; its end is not reported.
    fn abort(&self, entry: EntryId, token: AttemptToken);
}

struct Running {
    token: AttemptToken,
    cancel: CancellationToken,
    /// It was its entry that somebody canceled, not only this node that goes down.
    is_canceled: bool,
    abort: Option<Spawned>,
}

struct Shared {
    running: DashMap<EntryId, Running, FxBuildHasher>,
    /// Attempts that were forgotten and whose ends are not told yet.
    ending: AtomicUsize,
    idle: Notify,
}

/// Draws the jitter of retries; only when one is due, for it asks the system.
type Random = Arc<dyn Fn() -> u32 + Send + Sync>;

/// Runs handlers, on a tokio runtime or in a simulation.
pub struct Executor {
    runtime: Spawner,
    handlers: HashMap<String, Arc<dyn Handler>>,
    clock: Arc<dyn Clock>,
    /// Draws the jitter of retries; injected so that tests can fix it.
    random: Random,
    shared: Arc<Shared>,
}

impl Executor {
    /// An executor for these services.
    pub fn new(
        runtime: impl Into<Spawner>,
        handlers: HashMap<String, Arc<dyn Handler>>,
        clock: Arc<dyn Clock>,
        random: impl Fn() -> u32 + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            running: DashMap::default(),
            ending: AtomicUsize::new(0),
            idle: Notify::new(),
        });
        Self { runtime: runtime.into(), handlers, clock, random: Arc::new(random), shared }
    }

    /// What its futures run on.
    pub(crate) fn spawner(&self) -> &Spawner {
        &self.runtime
    }

    /// Whether this node can run entries of a service.
    #[must_use]
    pub fn has_handler(&self, service: &str) -> bool {
        self.handlers.contains_key(service)
    }

    /// How many attempts run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.shared.running.len()
    }

    /// Waits until nothing runs and every end was told. Cancel-safe.
    pub async fn idle(&self) {
        loop {
            let notified = self.shared.idle.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.shared.is_idle() {
                return;
            }
            notified.await;
        }
    }

    /// Asks every handler to stop.
    pub fn cancel_all(&self) {
        for running in &self.shared.running {
            running.cancel.cancel();
        }
    }

    /// Drops the handlers of a partition's entries.
    pub(crate) fn abort_range(&self, first: PartitionKey, last: PartitionKey) {
        self.shared.running.retain(|entry, running| {
            let is_of_range = (first..=last).contains(&entry.partition_key);
            if is_of_range && let Some(abort) = &running.abort {
                abort.abort();
            }
            !is_of_range
        });
        self.shared.idle.notify_waiters();
    }

    /// Drops every handler.
    pub fn abort_all(&self) {
        self.shared.running.retain(|_, running| {
            if let Some(abort) = &running.abort {
                abort.abort();
            }
            false
        });
        self.shared.idle.notify_waiters();
    }
}

impl Shared {
    fn is_idle(&self) -> bool {
        self.running.is_empty() && self.ending.load(Ordering::Acquire) == 0
    }

    fn tell_if_idle(&self) {
        if self.is_idle() {
            self.idle.notify_waiters();
        }
    }

    /// Forgets an attempt; `None` when another one (or none) is known by then.
    fn forget(&self, entry: EntryId, token: AttemptToken) -> Option<Running> {
        let forgotten = self.running.remove_if(&entry, |_, running| running.token == token);
        forgotten.map(|(_, running)| running)
    }
}

impl Running {
    /// A handler that gave in because the node goes down was not canceled: its entry
    /// runs again, and no attempt is used up.
    fn end(&self, ended: AttemptEnd, now: Timestamp) -> AttemptEnd {
        let goes_down = self.cancel.is_cancelled() && !self.is_canceled;
        match ended {
            AttemptEnd::Canceled { .. } if goes_down => AttemptEnd::Snooze { until: now },
            ended => ended,
        }
    }
}

/// A registered attempt, ready to be polled.
struct Prepared {
    entry: EntryId,
    token: AttemptToken,
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Executor {
    /// Registers an attempt, before its future runs, so that its end always finds it.
    /// `None` when there is no handler: its end was reported.
    fn prepare(
        &self,
        run: RunAttempt,
        payload: Bytes,
        reply_to: Ref<PartitionInput>,
    ) -> Option<Prepared> {
        let (entry, token) = (run.entry, run.token);
        let Some(handler) = self.handlers.get(&*run.name.service).map(Arc::clone) else {
            tracing::warn!(service = %run.name.service, %entry, "no handler for this service here");
            let until = self.clock.now().after(NO_HANDLER_SNOOZE);
            let ended = AttemptEnd::Snooze { until };
            reply_to.send(PartitionInput::Ended { entry, token, ended });
            return None;
        };
        let cancel = CancellationToken::new();
        let timeout = handler.timeout();
        let context = AttemptContext {
            entry,
            name: run.name,
            token,
            attempt: run.attempt,
            attempts_max: run.attempts_max,
            last_failure: run.last_failure,
            cancel: cancel.clone(),
            deadline: timeout
                .and_then(|timeout| tokio::time::Instant::now().checked_add(timeout))
                .map(tokio::time::Instant::into_std),
            clock: Arc::clone(&self.clock),
            pulse: Pulse::default(),
        };
        let random = Arc::clone(&self.random);
        let shared = Arc::clone(&self.shared);
        let clock = Arc::clone(&self.clock);
        let now = clock.now();
        let running = Running { token, cancel, is_canceled: false, abort: None };
        self.shared.running.insert(entry, running);
        let future = Box::pin(async move {
            let ended = attempt(handler, context, payload, timeout, &random, now).await;
            shared.ending.fetch_add(1, Ordering::AcqRel);
            if let Some(running) = shared.forget(entry, token) {
                let ended = running.end(ended, clock.now());
                reply_to.send(PartitionInput::Ended { entry, token, ended });
            }
            shared.ending.fetch_sub(1, Ordering::AcqRel);
            shared.tell_if_idle();
        });
        Some(Prepared { entry, token, future })
    }
}

impl Shared {
    /// Gives a registered attempt a task of its own.
    fn spawn(&self, spawner: &Spawner, Prepared { entry, token, future }: Prepared) {
        let task = spawner.spawn(future);
        match self.running.entry(entry) {
            Entry::Occupied(mut known) if known.get().token == token => {
                known.get_mut().abort = Some(task);
            }
            // It has ended, or was aborted before it could be reached.
            _ => task.abort(),
        }
    }

    /// Whether an attempt was not aborted since it was registered.
    fn is_known(&self, prepared: &Prepared) -> bool {
        let known = self.running.get(&prepared.entry);
        known.is_some_and(|known| known.token == prepared.token)
    }
}

impl Execute for Executor {
    fn run(&self, run: RunAttempt, payload: Bytes, reply_to: Ref<PartitionInput>) {
        if let Some(prepared) = self.prepare(run, payload, reply_to) {
            self.shared.spawn(&self.runtime, prepared);
        }
    }

    fn run_many(&self, runs: Vec<(RunAttempt, Bytes)>, reply_to: &Ref<PartitionInput>) {
        let attempts: Vec<_> = runs
            .into_iter()
            .filter_map(|(run, payload)| self.prepare(run, payload, reply_to.clone()))
            .collect();
        if !attempts.is_empty() {
            Batch::start(Arc::clone(&self.shared), self.runtime.clone(), attempts);
        }
    }

    fn cancel(&self, entry: EntryId, token: AttemptToken) {
        if let Some(mut running) = self.shared.running.get_mut(&entry)
            && running.token == token
        {
            running.is_canceled = true;
            running.cancel.cancel();
        }
    }

    fn abort(&self, entry: EntryId, token: AttemptToken) {
        let aborted = self.shared.running.get(&entry).filter(|running| running.token == token);
        if let Some(running) = aborted {
            running.cancel.cancel();
            if let Some(abort) = &running.abort {
                abort.abort();
            }
            drop(running);
            self.shared.forget(entry, token);
            self.shared.tell_if_idle();
        }
    }
}

/// Waits for what a duration brings about, and gives the duration; without one for ever.
async fn or_never<F: Future<Output = ()>>(
    duration: Option<Duration>,
    wait: impl FnOnce(Duration) -> F,
) -> Duration {
    match duration {
        Some(duration) => {
            wait(duration).await;
            duration
        }
        None => std::future::pending().await,
    }
}

/// Runs one attempt to its end, however it ends.
async fn attempt(
    handler: Arc<dyn Handler>,
    context: AttemptContext,
    payload: Bytes,
    timeout: Option<Duration>,
    random: &Random,
    now: Timestamp,
) -> AttemptEnd {
    let (pulse, heartbeat) = (context.pulse.clone(), handler.heartbeat());
    // Calling the handler may panic as well as polling its future.
    let run = AssertUnwindSafe(async move { handler.call(context, payload).await }).catch_unwind();
    let failed = |message: String| AttemptEnd::Retry {
        message: ByteString::from(message),
        detail: Bytes::new(),
        random: random(),
    };
    let ended = tokio::select! {
        // What has ended in time has ended, however late that is seen.
        biased;
        ended = run => ended,
        after = or_never(timeout, tokio::time::sleep) => {
            return failed(format!("timed out after {after:?}"));
        }
        after = or_never(heartbeat, |within| pulse.silence(within)) => {
            return failed(format!("no heartbeat for {after:?}"));
        }
    };
    match ended {
        Ok(AttemptEnd::Retry { message, detail, .. }) => {
            AttemptEnd::Retry { message, detail, random: random() }
        }
        Ok(AttemptEnd::Snooze { until }) => AttemptEnd::Snooze { until: until.max(now) },
        Ok(ended) => ended,
        Err(panic) => {
            let text = crate::shell::panic_text(panic.as_ref());
            failed(format!("the handler panicked: {text}"))
        }
    }
}
