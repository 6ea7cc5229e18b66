//! Running handlers, on the application's tokio runtime, never on a partition's thread.
//!
//! Owns: calling handlers, their cancellation and deadlines. Must always hold: the requester of an
//! attempt is notified once when its handler is gone, with the result if there is one; a panic in a
//! handler is a failed attempt. Must not know: limits, vqueues, the log.

mod attempt;
mod cancel;
mod external;
mod handlers;
mod heartbeat;
mod journals;
mod running;
mod starter;
#[cfg(test)]
mod tests;
mod wakeup_timer;

use std::{collections::HashMap, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use bytestring::ByteString;
use forebay_engine::{
    aliases::Aliases,
    partition::{
        apply::interrupted_text,
        machine::{AttemptNews, KnownAttempt, PartitionInput, RunAttempt},
        read::JournalRead,
    },
};
use forebay_messages::{AttemptToken, EntryId, Timestamp, VQueueName, actor::AttemptEnd};

use crate::{host::Host, shell::Ref, table::KeyRange};

use attempt::{Prepared, Runner};
use handlers::Handlers;
use running::{Running, Shared};
use starter::Batch;

pub(crate) use handlers::Changed;

pub use cancel::Cancel;
pub use external::{Assignment, AttemptGone, ExternalExecutor, ExternalOptions};
pub use heartbeat::Pulse;
pub use journals::{Journals, Listen};

/// Interruptions (the process died during an attempt) after which an entry is a dead letter, unless
/// its handler sets another number.
pub const INTERRUPTIONS_MAX: u32 = 5;
/// Delay of an entry whose service lost its handler between the decision and the start. Other
/// entries of the service do not start at all.
const NO_HANDLER_SNOOZE: Duration = Duration::from_secs(5);

/// Minimum snooze: a handler that asks for less is called again after this time, so that one that
/// always snoozes leaves room in the log and for other handlers.
pub const SNOOZE_MIN: Duration = Duration::from_millis(10);

/// The input of a handler in addition to the payload.
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
    /// Maximum number of attempts; 0 means no limit.
    pub attempts_max: u32,
    /// Message of the last failed attempt.
    pub last_failure: ByteString,
    /// Raised when the handler should stop.
    pub cancel: Cancel,
    /// When the attempt times out.
    pub deadline: Option<std::time::Instant>,
    /// The handler's heartbeat.
    pub pulse: Pulse,
    /// Time of the record that decided the attempt.
    pub decided_at: Timestamp,
    /// The stored journal of the entry; absent when it has none. Later changes are notifications,
    /// see [`Journals`].
    pub journal: Option<Box<JournalRead>>,
}

/// The future of a handler.
pub type HandlerFuture = Pin<Box<dyn Future<Output = AttemptEnd> + Send>>;

/// Runs the entries of one service.
pub trait Handler: Send + Sync {
    /// Starts an attempt. Dropping the future ends it.
    fn call(&self, context: AttemptContext, payload: Bytes) -> HandlerFuture;

    /// Timeout of an attempt; `None` means no limit.
    fn timeout(&self) -> Option<Duration> {
        None
    }

    /// Timeout of the heartbeat; `None` means none is needed.
    fn heartbeat(&self) -> Option<Duration> {
        None
    }

    /// Number of process deaths during attempts after which an entry is a dead letter, at least 1.
    fn interruptions_max(&self) -> u32 {
        INTERRUPTIONS_MAX
    }
}

/// Runs the attempts of a partition.
pub trait Execute: Send + Sync {
    /// Runs an attempt. `reply_to` is notified once when its handler is gone: with `Ended`, or with
    /// `Stopped` if it did not end by itself.
    fn run(&self, run: RunAttempt, payload: Bytes, reply_to: Ref<PartitionInput>);
    /// Runs several attempts, in any order; as [`Execute::run`] for each.
    fn run_many(&self, runs: Vec<(RunAttempt, Bytes)>, reply_to: &Ref<PartitionInput>);
    /// Asks a handler to stop.
    fn cancel(&self, entry: EntryId, token: AttemptToken);
    /// Drops a handler as soon as it returns to its thread; reported as `Stopped`.
    fn abort(&self, entry: EntryId, token: AttemptToken);
    /// Notifies an attempt about its journal, in order. The notification is lost if its handler is
    /// gone.
    fn tell(&self, entry: EntryId, token: AttemptToken, news: AttemptNews);
    /// Whether there is a handler for a service: entries without one wait.
    fn has_handler(&self, service: &str) -> bool;
    /// The vqueue of an attempt; `None` when its handler is gone.
    fn name_of(&self, entry: EntryId, token: AttemptToken) -> Option<Arc<VQueueName>>;
    /// Number of process deaths after which an entry of a service is a dead letter. `u32::MAX` for
    /// a service without a handler: the deaths are counted, and compared with the handler's limit
    /// once a handler is registered and about to run the entry.
    fn interruptions_max(&self, service: &str) -> u32;
}

/// Random numbers for the jitter of retries; drawn only when needed, as each is a system call.
type Random = Box<dyn Fn() -> u32 + Send + Sync>;

/// Runs handlers, on a tokio runtime or in a simulation.
pub struct Executor {
    shared: Arc<Shared>,
}

/// The parts that all attempts use.
struct Means {
    handlers: Handlers,
    /// Injected so that tests can fix it.
    random: Random,
}

impl Executor {
    /// An executor for these services.
    pub fn new(
        host: impl Into<Host>,
        handlers: HashMap<String, Arc<dyn Handler>>,
        random: impl Fn() -> u32 + Send + Sync + 'static,
    ) -> Self {
        let handlers = Handlers::new(handlers);
        let means = Means { handlers, random: Box::new(random) };
        Self { shared: Arc::new(Shared::new(host.into(), means)) }
    }

    /// Connects its attempts to their journals.
    #[must_use]
    pub fn journals(&self) -> Journals {
        Journals::new(&self.shared)
    }

    /// The environment that runs its futures.
    pub(crate) fn host(&self) -> &Host {
        &self.shared.host
    }

    /// Whether this node can run entries of a service.
    #[must_use]
    pub fn has_handler(&self, service: &str) -> bool {
        self.shared.means.handlers.has(service) || self.shared.external.serves(service)
    }

    /// Number of attempts of a service that executors beside the handlers run at once; not limited
    /// if this process has a handler for it.
    pub(crate) fn slots(&self, service: &str) -> u32 {
        if self.shared.means.handlers.has(service) {
            return u32::MAX;
        }
        self.shared.external.slots(service)
    }

    /// Adds the handler of a service; `None` if the service has a handler of its own name.
    pub(crate) fn add_handler(&self, service: &str, handler: Arc<dyn Handler>) -> Option<Changed> {
        self.shared.means.handlers.add(service, handler)
    }

    /// Puts these aliases into force.
    pub(crate) fn set_aliases(&self, aliases: Aliases) -> Changed {
        self.shared.means.handlers.set_aliases(aliases)
    }

    /// Number of running attempts, including aborted ones that have not stopped.
    #[must_use]
    pub fn running(&self) -> usize {
        self.shared.len()
    }

    /// Waits until nothing runs and every end was reported. Cancel-safe.
    pub async fn idle(&self) {
        self.shared.idle().await;
    }

    /// Asks every handler to stop.
    pub fn cancel_all(&self) {
        self.shared.cancel_all();
    }

    /// Drops the handlers of a partition's entries; returns their number.
    pub(crate) fn abort_range(&self, range: KeyRange) -> u32 {
        self.shared.abort_range(Some(range));
        u32::try_from(self.shared.count(range)).unwrap_or(u32::MAX)
    }

    /// Waits until no handler of a partition's entries runs. Cancel-safe.
    pub(crate) fn range_idle(&self, range: KeyRange) -> impl Future<Output = ()> + Send + 'static {
        let shared = Arc::clone(&self.shared);
        async move { shared.wait_for(|shared| shared.count(range) == 0).await }
    }

    /// The running attempts of a partition's entries.
    pub(crate) fn list(&self, range: KeyRange) -> Vec<KnownAttempt> {
        self.shared.list(range)
    }

    /// Another actor of a partition replaces one that died: it is notified when these attempts are
    /// gone, at once if they are gone already.
    pub(crate) fn hand_over(&self, attempts: &[KnownAttempt], to: &Ref<PartitionInput>) {
        self.shared.hand_over(attempts, to);
    }

    /// Drops every handler, and every attempt of another executor.
    pub fn abort_all(&self) {
        self.shared.abort_range(None);
        self.shared.external.close();
    }

    /// Registers an attempt. `None` when there is no handler: its end was reported.
    fn prepare(
        &self,
        run: RunAttempt,
        payload: Bytes,
        reply_to: Ref<PartitionInput>,
    ) -> Option<Prepared> {
        let (entry, token) = (run.entry, run.token);
        // A handler of this process comes first.
        let runner = match self.shared.means.handlers.get(&run.name.service) {
            Some(handler) => Runner::Handler(handler),
            None if self.shared.external.serves(&run.name.service) => Runner::External,
            None => {
                tracing::debug!(service = %run.name.service, %entry, "the service lost its handler");
                let ended = AttemptEnd::Snooze { wait: NO_HANDLER_SNOOZE };
                reply_to.send(PartitionInput::Ended { entry, token, ended });
                return None;
            }
        };
        // The limit was unknown when the deaths were counted if the handler was added later.
        if run.interrupted > 0 && run.interrupted >= runner.interruptions_max() {
            let message = interrupted_text(run.interrupted).into();
            let ended = AttemptEnd::DeadLetter { message };
            reply_to.send(PartitionInput::Ended { entry, token, ended });
            return None;
        }
        let (name, cancel) = (Arc::clone(&run.name), Cancel::default());
        let running = Running::new(name, cancel.clone(), reply_to);
        let guard = self.shared.register((entry, token), running);
        Some(Prepared { run, payload, runner, cancel, guard })
    }
}

impl Execute for Executor {
    fn run(&self, run: RunAttempt, payload: Bytes, reply_to: Ref<PartitionInput>) {
        if let Some(prepared) = self.prepare(run, payload, reply_to) {
            self.shared.run(prepared);
        }
    }

    fn run_many(&self, runs: Vec<(RunAttempt, Bytes)>, reply_to: &Ref<PartitionInput>) {
        let mut attempts = Vec::with_capacity(runs.len());
        for (run, payload) in runs {
            let prepared = self.prepare(run, payload, reply_to.clone());
            match prepared {
                Some(Prepared { runner: Runner::External, .. }) => {
                    prepared.into_iter().for_each(|prepared| self.shared.run(prepared));
                }
                _ => attempts.extend(prepared.and_then(|prepared| self.shared.admit(prepared))),
            }
        }
        if !attempts.is_empty() {
            Batch::start(Arc::clone(&self.shared), attempts);
        }
    }

    fn cancel(&self, entry: EntryId, token: AttemptToken) {
        self.shared.cancel((entry, token));
    }

    fn abort(&self, entry: EntryId, token: AttemptToken) {
        self.shared.abort((entry, token));
    }

    fn tell(&self, entry: EntryId, token: AttemptToken, news: AttemptNews) {
        self.shared.tell((entry, token), news);
    }

    fn has_handler(&self, service: &str) -> bool {
        Self::has_handler(self, service)
    }

    fn name_of(&self, entry: EntryId, token: AttemptToken) -> Option<Arc<VQueueName>> {
        self.shared.name((entry, token))
    }

    fn interruptions_max(&self, service: &str) -> u32 {
        match self.shared.means.handlers.get(service) {
            Some(handler) => handler.interruptions_max().max(1),
            None if self.shared.external.serves(service) => INTERRUPTIONS_MAX,
            None => u32::MAX,
        }
    }
}
