//! Executors: they take attempts of services that this process has no handler for, run them
//! elsewhere, and report their ends. A server for workers in other processes is built on this.
//!
//! ```
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use forebay::{Drain, Entry, ExecutorOptions, Runtime};
//!
//! let runtime = Runtime::builder().in_memory().start().await?;
//! let worker = runtime.executor(ExecutorOptions::default())?;
//! worker.set_slots("mail", 2)?;
//!
//! let mail = runtime.enqueue(Entry::to("mail").payload("hello")).await?;
//! let attempt = worker.next().await.expect("the runtime is up");
//! assert_eq!((attempt.service(), &attempt.payload[..]), ("mail", &b"hello"[..]));
//! worker.complete(attempt.entry, attempt.token, "sent").await?;
//! assert!(mail.outcome().await?.is_success());
//! # runtime.shutdown(Drain::now()).await?;
//! # Ok(())
//! # }
//! ```

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use forebay_actors::executor::{Assignment, Cancel, ExternalExecutor, ExternalOptions};
use forebay_messages::{
    AttemptToken, EntryId, VQueueName,
    actor::AttemptEnd,
    vqueue::{Part, check_component},
};
use thiserror::Error;

pub use forebay_messages::command::ExecutorId;

use crate::{Runtime, error::RuntimeError, handler::HandlerError};

/// The options of an executor.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct ExecutorOptions {
    /// Identifies the executor; two at once cannot have the same. Absent: a random number.
    pub lease_id: Option<u64>,
    /// How long it may be silent (see [`Executor::heartbeat`]) before it is lost. Absent: it lives
    /// as long as its handle.
    pub lease: Option<Duration>,
}

/// The executor does not run this attempt, or not any more: the attempt has ended or was given
/// back, or the executor was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the attempt is not run by this executor (any more)")]
pub struct AttemptGone;

/// The executor was lost: it was silent for its lease, was closed, or its runtime is down. Announce
/// a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the executor was lost: it was silent for its lease, or its runtime is down")]
pub struct ExecutorLost;

/// An attempt that an executor has taken.
#[derive(Clone, Debug)]
pub struct ExecutorAttempt {
    /// The entry.
    pub entry: EntryId,
    /// Identifies the attempt; fences its end.
    pub token: AttemptToken,
    /// The attempt's number, from 1.
    pub attempt: u32,
    /// Maximum number of attempts; 0 means no limit.
    pub attempts_max: u32,
    /// Message of the last failed attempt; empty if there was none.
    pub last_failure: String,
    /// The payload of the entry.
    pub payload: Bytes,
    name: Arc<VQueueName>,
    cancel: Cancel,
}

impl ExecutorAttempt {
    fn new(assignment: Assignment) -> Self {
        let Assignment { entry, token, name, attempt, attempts_max, payload, cancel, .. } =
            assignment;
        let last_failure = assignment.last_failure.to_string();
        Self { entry, token, attempt, attempts_max, last_failure, payload, name, cancel }
    }

    /// The vqueue: service, scope, limit key and object key.
    #[must_use]
    pub fn vqueue(&self) -> &VQueueName {
        &self.name
    }

    /// The service.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.name.service
    }

    /// Whether the attempt should stop: its entry was canceled, or is led elsewhere. It keeps its
    /// slot, its permits and the lock of its key until its end is reported; the end of an attempt
    /// that was stopped because its entry ended is ignored.
    #[must_use]
    pub fn is_canceled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Waits until the attempt should stop. Cancel-safe.
    pub async fn canceled(&self) {
        self.cancel.cancelled().await;
    }
}

/// Takes attempts and reports their ends. See the [module](self).
///
/// An executor with a lease is lost when it was silent for that long: every call but
/// [`Executor::next`] counts as a sign of life, as [`Executor::heartbeat`] does. When it is lost,
/// or its handle is dropped, its attempts return to their queues; that counts as an interruption
/// of the ones that it had taken, and after five interruptions an entry is a dead letter.
pub struct Executor {
    inner: ExternalExecutor,
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executor").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl Runtime {
    /// Announces an executor, at first without services. Does not keep the runtime alive.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`](crate::ErrorKind::Conflict) when its id is in use, and
    /// [`ErrorKind::Stopped`](crate::ErrorKind::Stopped).
    pub fn executor(&self, options: ExecutorOptions) -> Result<Executor, RuntimeError> {
        let ExecutorOptions { lease_id, lease } = options;
        let inner = self.node().handlers().announce(ExternalOptions { lease_id, lease })?;
        Ok(Executor { inner })
    }
}

impl ExecutorOptions {
    /// With this id.
    #[must_use]
    pub fn lease_id(self, id: u64) -> Self {
        Self { lease_id: Some(id), ..self }
    }

    /// With a lease of this duration.
    #[must_use]
    pub fn lease(self, lease: Duration) -> Self {
        Self { lease: Some(lease), ..self }
    }
}

impl Executor {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> ExecutorId {
        self.inner.id()
    }

    /// Announces how many attempts of a service it runs at once, *including* those it runs now. 0:
    /// it takes none for now, and still serves the service. A handler of this process for the same
    /// service comes first.
    ///
    /// # Errors
    /// [`RuntimeError::Name`] when the service's name is not allowed, and
    /// [`ErrorKind::Stopped`](crate::ErrorKind::Stopped) when it was lost.
    pub fn set_slots(&self, service: &str, slots: u32) -> Result<(), RuntimeError> {
        check_component(Part::Service, service)?;
        self.inner.heartbeat();
        match self.inner.set_slots(service, slots) {
            true => Ok(()),
            false => Err(crate::error::NodeError::shut_down().into()),
        }
    }

    /// It no longer serves a service; attempts that it has taken continue.
    pub fn withdraw(&self, service: &str) {
        self.inner.heartbeat();
        self.inner.withdraw(service);
    }

    /// Takes the next attempt; waits until there is one. `None` when the executor was lost, or its
    /// runtime is down. Cancel-safe: an attempt is taken only if it is returned.
    pub async fn next(&self) -> Option<ExecutorAttempt> {
        self.inner.next().await.map(ExecutorAttempt::new)
    }

    /// Takes the next attempt, if there is one.
    #[must_use]
    pub fn try_next(&self) -> Option<ExecutorAttempt> {
        self.inner.heartbeat();
        self.inner.try_next().map(ExecutorAttempt::new)
    }

    /// An attempt succeeded: its entry ends with this result. The end is accepted when this
    /// returns, and durable soon after: if the process dies in between, the entry runs again. Wait
    /// for the entry's outcome to know that it is durable.
    ///
    /// # Errors
    /// [`AttemptGone`]: the end has no effect.
    pub async fn complete(
        &self,
        entry: EntryId,
        token: AttemptToken,
        result: impl Into<Bytes>,
    ) -> Result<(), AttemptGone> {
        self.end(entry, token, AttemptEnd::Success(result.into())).await
    }

    /// An attempt ended otherwise: it failed (with or without a retry), snoozes, or stopped because
    /// it was asked to.
    ///
    /// # Errors
    /// [`AttemptGone`]: the end has no effect.
    pub async fn fail(
        &self,
        entry: EntryId,
        token: AttemptToken,
        error: HandlerError,
    ) -> Result<(), AttemptGone> {
        self.end(entry, token, error.into_end()).await
    }

    /// An attempt asks to be called again later; it does not count.
    ///
    /// # Errors
    /// [`AttemptGone`]: the end has no effect.
    pub async fn snooze(
        &self,
        entry: EntryId,
        token: AttemptToken,
        wait: Duration,
    ) -> Result<(), AttemptGone> {
        self.end(entry, token, AttemptEnd::Snooze { wait }).await
    }

    #[expect(clippy::unused_async, reason = "will wait until the end is durable")]
    async fn end(
        &self,
        entry: EntryId,
        token: AttemptToken,
        ended: AttemptEnd,
    ) -> Result<(), AttemptGone> {
        self.inner.heartbeat();
        self.inner.end(entry, token, ended).map_err(|_| AttemptGone)
    }

    /// Whatever ran an attempt was lost, for example a worker whose own lease ran out: the entry
    /// returns to its queue, and the attempt counts as an interruption and not as an attempt.
    ///
    /// # Errors
    /// [`AttemptGone`].
    pub fn lose(&self, entry: EntryId, token: AttemptToken) -> Result<(), AttemptGone> {
        self.inner.heartbeat();
        self.inner.lose(entry, token).map_err(|_| AttemptGone)
    }

    /// Returns an attempt that was not begun: its entry returns to its queue, and nothing counts.
    ///
    /// # Errors
    /// [`AttemptGone`].
    pub fn give_back(&self, entry: EntryId, token: AttemptToken) -> Result<(), AttemptGone> {
        self.inner.heartbeat();
        self.inner.give_back(entry, token).map_err(|_| AttemptGone)
    }

    /// The executor lives. Returns the attempts that should stop (see
    /// [`ExecutorAttempt::is_canceled`]).
    ///
    /// # Errors
    /// [`ExecutorLost`]: all its attempts were given back.
    pub fn heartbeat(&self) -> Result<Vec<(EntryId, AttemptToken)>, ExecutorLost> {
        if self.inner.heartbeat() { Ok(self.inner.canceled()) } else { Err(ExecutorLost) }
    }

    /// The attempts that it has taken and whose ends it has not reported.
    #[must_use]
    pub fn running(&self) -> Vec<(EntryId, AttemptToken)> {
        self.inner.running()
    }

    /// Ends the executor in order: attempts that it has taken and not ended return to their queues
    /// without being counted. Dropping it instead counts as an interruption of each.
    pub fn close(self) {
        self.inner.close();
    }
}
