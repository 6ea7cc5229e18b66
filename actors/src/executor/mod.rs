//! Running handlers, on the application's tokio runtime, never on a partition's thread.
//!
//! Owns: calling handlers, their cancellation and deadlines. Must always hold: whoever
//! asked for an attempt is told once that its handler is gone, and how it ended if it did;
//! a panic in a handler is a failed attempt. Must not know: limits, vqueues, the log.

mod attempt;
mod cancel;
mod handlers;
mod heartbeat;
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
    partition::machine::{KnownAttempt, PartitionInput, RunAttempt},
};
use forebay_messages::{AttemptToken, EntryId, PartitionKey, VQueueName, actor::AttemptEnd};

use crate::{host::Spawner, shell::Ref};

use attempt::Prepared;
use handlers::Handlers;
use running::{Running, Shared};
use starter::Batch;

pub(crate) use handlers::Changed;

pub use cancel::Cancel;
pub use heartbeat::Pulse;

/// Interruptions (deaths of the process that ran an attempt) after which an entry is a dead
/// letter, unless its handler says otherwise.
pub const INTERRUPTIONS_MAX: u32 = 5;
/// How long an entry waits whose service lost its handler while the entry was on its way
/// to it. Others of the service do not start at all.
const NO_HANDLER_SNOOZE: Duration = Duration::from_secs(5);

/// The shortest snooze: a handler that asks for less is called again after this time, so
/// that one that always snoozes leaves the log and the other handlers their turn.
pub const SNOOZE_MIN: Duration = Duration::from_millis(10);

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
    pub cancel: Cancel,
    /// When the attempt is given up.
    pub deadline: Option<std::time::Instant>,
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

    /// After how many deaths of its process an entry is a dead letter, at least 1.
    fn interruptions_max(&self) -> u32 {
        INTERRUPTIONS_MAX
    }
}

/// Where a partition sends attempts to.
pub trait Execute: Send + Sync {
    /// Runs an attempt; that its handler is gone is told to `reply_to`, once: as `Ended`,
    /// or as `Stopped` when it did not end by itself.
    fn run(&self, run: RunAttempt, payload: Bytes, reply_to: Ref<PartitionInput>);
    /// Runs several, in no order; as [`Execute::run`] for each.
    fn run_many(&self, runs: Vec<(RunAttempt, Bytes)>, reply_to: &Ref<PartitionInput>);
    /// Asks a handler to stop.
    fn cancel(&self, entry: EntryId, token: AttemptToken);
    /// Drops a handler, as soon as it gives its thread back; what is told is `Stopped`.
    fn abort(&self, entry: EntryId, token: AttemptToken);
    /// Whether there is a handler for a service: entries of others wait.
    fn has_handler(&self, service: &str) -> bool;
    /// Of which vqueue an attempt is; `None` when its handler is gone.
    fn name_of(&self, entry: EntryId, token: AttemptToken) -> Option<Arc<VQueueName>>;
    /// After how many deaths of its process an entry of a service is a dead letter.
    fn interruptions_max(&self, service: &str) -> u32;
}

/// Draws the jitter of retries; only when one is due, for it asks the system.
type Random = Box<dyn Fn() -> u32 + Send + Sync>;

/// Runs handlers, on a tokio runtime or in a simulation.
pub struct Executor {
    shared: Arc<Shared>,
}

/// What attempts are made with.
struct Means {
    handlers: Handlers,
    /// Injected so that tests can fix it.
    random: Random,
}

impl Executor {
    /// An executor for these services.
    pub fn new(
        runtime: impl Into<Spawner>,
        handlers: HashMap<String, Arc<dyn Handler>>,
        random: impl Fn() -> u32 + Send + Sync + 'static,
    ) -> Self {
        let handlers = Handlers::new(handlers);
        let means = Means { handlers, random: Box::new(random) };
        Self { shared: Arc::new(Shared::new(runtime.into(), means)) }
    }

    /// What its futures run on.
    pub(crate) fn spawner(&self) -> &Spawner {
        &self.shared.spawner
    }

    /// Whether this node can run entries of a service.
    #[must_use]
    pub fn has_handler(&self, service: &str) -> bool {
        self.shared.means.handlers.has(service)
    }

    /// One more service can be run here; `None` when it has a handler of its name.
    pub(crate) fn add_handler(&self, service: &str, handler: Arc<dyn Handler>) -> Option<Changed> {
        self.shared.means.handlers.add(service, handler)
    }

    /// These aliases are in force.
    pub(crate) fn set_aliases(&self, aliases: Aliases) -> Changed {
        self.shared.means.handlers.set_aliases(aliases)
    }

    /// How many attempts run, those included that were told to stop and have not.
    #[must_use]
    pub fn running(&self) -> usize {
        self.shared.len()
    }

    /// Waits until nothing runs and every end was told. Cancel-safe.
    pub async fn idle(&self) {
        self.shared.idle().await;
    }

    /// Asks every handler to stop.
    pub fn cancel_all(&self) {
        self.shared.cancel_all();
    }

    /// Drops the handlers of a partition's entries; how many there are.
    pub(crate) fn abort_range(&self, first: PartitionKey, last: PartitionKey) -> u32 {
        self.shared.abort_range(Some((first, last)));
        u32::try_from(self.shared.count((first, last))).unwrap_or(u32::MAX)
    }

    /// Waits until no handler of a partition's entries runs. Cancel-safe.
    pub(crate) fn range_idle(
        &self,
        first: PartitionKey,
        last: PartitionKey,
    ) -> impl Future<Output = ()> + Send + 'static {
        let shared = Arc::clone(&self.shared);
        async move { shared.wait_for(|shared| shared.count((first, last)) == 0).await }
    }

    /// The attempts of a partition's entries that run.
    pub(crate) fn list(&self, first: PartitionKey, last: PartitionKey) -> Vec<KnownAttempt> {
        self.shared.list((first, last))
    }

    /// Another actor of a partition takes the place of one that died: it is told when these
    /// are gone, at once of those that are.
    pub(crate) fn hand_over(&self, attempts: &[KnownAttempt], to: &Ref<PartitionInput>) {
        self.shared.hand_over(attempts, to);
    }

    /// Drops every handler.
    pub fn abort_all(&self) {
        self.shared.abort_range(None);
    }

    /// Registers an attempt. `None` when there is no handler: its end was reported.
    fn prepare(
        &self,
        run: RunAttempt,
        payload: Bytes,
        reply_to: Ref<PartitionInput>,
    ) -> Option<Prepared> {
        let (entry, token) = (run.entry, run.token);
        let Some(handler) = self.shared.means.handlers.get(&run.name.service) else {
            tracing::debug!(service = %run.name.service, %entry, "the service lost its handler");
            let ended = AttemptEnd::Snooze { wait: NO_HANDLER_SNOOZE };
            reply_to.send(PartitionInput::Ended { entry, token, ended });
            return None;
        };
        let (name, cancel) = (Arc::clone(&run.name), Cancel::default());
        let running = Running::new(name, cancel.clone(), reply_to);
        let guard = self.shared.register((entry, token), running);
        Some(Prepared { run, payload, handler, cancel, guard })
    }
}

impl Execute for Executor {
    fn run(&self, run: RunAttempt, payload: Bytes, reply_to: Ref<PartitionInput>) {
        if let Some(prepared) = self.prepare(run, payload, reply_to) {
            self.shared.run(prepared);
        }
    }

    fn run_many(&self, runs: Vec<(RunAttempt, Bytes)>, reply_to: &Ref<PartitionInput>) {
        let attempts: Vec<_> = runs
            .into_iter()
            .filter_map(|(run, payload)| self.prepare(run, payload, reply_to.clone()))
            .filter_map(|prepared| self.shared.admit(prepared))
            .collect();
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

    fn has_handler(&self, service: &str) -> bool {
        Self::has_handler(self, service)
    }

    fn name_of(&self, entry: EntryId, token: AttemptToken) -> Option<Arc<VQueueName>> {
        self.shared.name((entry, token))
    }

    fn interruptions_max(&self, service: &str) -> u32 {
        let handler = self.shared.means.handlers.get(service);
        handler.map_or(INTERRUPTIONS_MAX, |handler| handler.interruptions_max().max(1))
    }
}
