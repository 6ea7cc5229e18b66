//! A handle to a stored entry.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use forebay_actors::{
    access::{Access, ActReport, EntryTarget},
    node::Node,
};
use forebay_api::{EntryDetails, EntryView};
use forebay_engine::partition::apply::Enqueued;
use forebay_messages::{EntryId, Outcome, Timestamp, command::EntryAction};
use serde::de::DeserializeOwned;

use crate::error::{ActError, NodeError, ResultError};

/// A stored entry. Cheap to clone; dropping it changes nothing, and it does not keep the runtime
/// alive.
#[derive(Clone)]
pub struct EntryHandle {
    /// Weak: a handle keeps neither the runtime alive nor its directory locked. The handles of a
    /// batch share it, so that cloning one does not contend on a global count.
    node: Arc<Weak<Node>>,
    id: EntryId,
    existing: bool,
    payload_differs: Option<bool>,
}

impl EntryHandle {
    /// A handle to an entry stored before; details are unknown.
    pub(crate) fn attached(node: &Arc<Node>, id: EntryId) -> Self {
        Self { node: Arc::new(Arc::downgrade(node)), id, existing: true, payload_differs: None }
    }

    pub(crate) fn of(node: Arc<Weak<Node>>, stored: Enqueued) -> Self {
        let Enqueued { entry, existing, payload_differs } = stored;
        Self { node, id: entry, existing, payload_differs }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> EntryId {
        self.id
    }

    /// Whether it was stored before: the same id or idempotency key was already enqueued.
    #[must_use]
    pub fn was_existing(&self) -> bool {
        self.existing
    }

    /// Whether a different payload was stored under the same idempotency key before: `Some(true)`
    /// if so, `Some(false)` when the payloads are equal, `None` when it is unknown (the entry was
    /// found by its id, was attached to, or was stored by a version that kept no hash of the
    /// payload).
    #[must_use]
    pub fn payload_differs(&self) -> Option<bool> {
        self.payload_differs
    }

    /// Waits until the entry ends; returns its outcome. Cancel-safe: the entry continues, and the
    /// wait can be repeated. Waiting does not keep the runtime alive.
    ///
    /// # Errors
    /// [`ResultError::Unknown`] when it was purged meanwhile, [`ResultError::Node`] when the
    /// runtime shuts down.
    pub async fn outcome(&self) -> Result<Outcome, ResultError> {
        Access::attach_while_up(&self.node, self.id).await?.ok_or(ResultError::Unknown(self.id))
    }

    /// The current state of the entry, without waiting for its end: stage, attempts, times, and the
    /// outcome if it has ended. Cancel-safe.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use forebay::{Drain, Entry, Runtime, Stage};
    ///
    /// let runtime = Runtime::builder().in_memory().start().await?;
    /// let later = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    /// let entry = runtime.enqueue(Entry::to("mail").run_at(later)).await?;
    /// let status = entry.status().await?;
    /// assert_eq!((status.stage, status.outcome), (Stage::Inbox, None));
    /// # runtime.shutdown(Drain::now()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ResultError::Unknown`] when there is no such entry (any more), and errors of
    /// reading.
    pub async fn status(&self) -> Result<EntryView, ResultError> {
        let node = self.node.upgrade().ok_or_else(NodeError::shut_down)?;
        node.inspect().look(self.id).await?.ok_or(ResultError::Unknown(self.id))
    }

    /// Everything known about it: its payload (while it is stored), its last failed attempts, its
    /// result; at most `bytes_max` bytes of payload and result (never more than 4 MiB).
    /// Cancel-safe.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use forebay::{Drain, Entry, Runtime};
    ///
    /// let runtime = Runtime::builder().in_memory().start().await?;
    /// let later = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    /// let entry = runtime.enqueue(Entry::to("mail").payload("hello").run_at(later)).await?;
    /// let details = entry.details(1_000).await?;
    /// assert_eq!(details.entry.payload.expect("it is stored").head, "hello");
    /// assert!(details.failed_attempts.is_empty());
    /// # runtime.shutdown(Drain::now()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`EntryHandle::status`].
    pub async fn details(&self, bytes_max: usize) -> Result<EntryDetails, ResultError> {
        let node = self.node.upgrade().ok_or_else(NodeError::shut_down)?;
        let details = node.inspect().entry_details(self.id, bytes_max).await?;
        details.ok_or(ResultError::Unknown(self.id))
    }

    /// Waits for the result as bytes. Cancel-safe.
    ///
    /// # Errors
    /// [`ResultError::Failed`] when the entry failed permanently; see also
    /// [`EntryHandle::outcome`].
    pub async fn result_bytes(&self) -> Result<Bytes, ResultError> {
        match self.outcome().await? {
            Outcome::Success(bytes) => Ok(bytes),
            Outcome::Failure(failure) => Err(ResultError::Failed {
                kind: failure.kind,
                message: failure.message.to_string(),
                detail: failure.detail,
            }),
        }
    }

    /// Waits for the result, written as JSON. Cancel-safe.
    ///
    /// # Errors
    /// As [`EntryHandle::result_bytes`], and [`ResultError::Decode`].
    pub async fn result<T: DeserializeOwned>(&self) -> Result<T, ResultError> {
        Ok(serde_json::from_slice(&self.result_bytes().await?)?)
    }

    /// Requests it to stop. A waiting entry ends at once; a running handler sees
    /// [`Context::canceled`](crate::Context::canceled) and ends by itself, and there are no further
    /// attempts. Callers waiting for the result get [`ResultError::Failed`] with
    /// [`FailureKind::Canceled`](crate::FailureKind), unless the handler succeeds anyway.
    ///
    /// Durable when this returns. Not cancel-safe: a dropped call may have canceled it.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use forebay::{ActError, Context, Drain, Entry, FailureKind, HandlerError, ResultError};
    /// use forebay::{Runtime, Skip};
    ///
    /// let runtime = Runtime::builder()
    ///     .in_memory()
    ///     .handler("wait", |context: Context, (): ()| async move {
    ///         context.canceled().await;
    ///         Err::<(), _>(HandlerError::canceled("cleaned up"))
    ///     })
    ///     .start()
    ///     .await?;
    /// let entry = runtime.enqueue(Entry::to("wait")).await?;
    /// entry.cancel().await?;
    /// let ended = entry.result_bytes().await;
    /// assert!(matches!(ended, Err(ResultError::Failed { kind: FailureKind::Canceled, .. })));
    /// let again = entry.cancel().await;
    /// assert!(matches!(again, Err(ActError::NotChanged(Skip::Finished))));
    /// # runtime.shutdown(Drain::now()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ActError::NotChanged`] when it has ended, was asked already, or is unknown.
    pub async fn cancel(&self) -> Result<(), ActError> {
        self.act(EntryAction::Cancel).await
    }

    /// Ends it as killed, in any stage; a running handler is dropped. Durable when this returns.
    /// Not cancel-safe: a dropped call may have killed it.
    ///
    /// # Errors
    /// [`ActError::NotChanged`] when it has ended or is unknown.
    pub async fn kill(&self) -> Result<(), ActError> {
        self.act(EntryAction::Kill).await
    }

    /// Pauses it until it is resumed; it keeps its position in the queue and, after a retry, its
    /// lock. A suspended entry keeps what it waits for, and answers are stored meanwhile. Durable
    /// when this returns. Not cancel-safe.
    ///
    /// # Errors
    /// [`ActError::NotChanged`] when it runs, is paused, or has ended.
    pub async fn pause(&self) -> Result<(), ActError> {
        self.act(EntryAction::Pause).await
    }

    /// Resumes it at its position. Durable when this returns. Not cancel-safe.
    ///
    /// # Errors
    /// [`ActError::NotChanged`] when it is not paused.
    pub async fn resume(&self) -> Result<(), ActError> {
        self.act(EntryAction::Resume).await
    }

    /// Gives it a new start time, which is also its position in the queue: earlier times go first.
    /// Durable when this returns. Not cancel-safe.
    ///
    /// # Errors
    /// [`ActError::NotChanged`] when it neither waits nor is paused.
    pub async fn reschedule(&self, time: impl Into<Timestamp>) -> Result<(), ActError> {
        self.act(EntryAction::Reschedule { run_at: time.into() }).await
    }

    /// Runs it again, from attempt one, after it failed permanently (or was canceled or killed).
    /// Durable when this returns. Not cancel-safe.
    ///
    /// # Errors
    /// [`ActError::NotChanged`] when it succeeded, has not ended, or was purged.
    pub async fn redrive(&self) -> Result<(), ActError> {
        self.act(EntryAction::Redrive).await
    }

    /// Starts it again with an empty journal, in any stage: a running handler is dropped, calls
    /// without an answer are canceled, and finished steps run again. An entry that has ended can be
    /// restarted only if it did not succeed. Durable when this returns. Not cancel-safe.
    ///
    /// # Errors
    /// [`ActError::NotChanged`] when it succeeded, its payload was not kept, or it is unknown.
    pub async fn restart(&self) -> Result<(), ActError> {
        self.act(EntryAction::Restart).await
    }

    /// As [`EntryHandle::restart`], but keeps the operations that finished before a given operation
    /// of its journal, named as `forebay tree` and errors print it: `charge`, `charge.1` for the
    /// second one of that name, `join.0[1]/charge` for one in a branch.
    ///
    /// # Errors
    /// As [`EntryHandle::restart`], and when its journal has no such operation.
    pub async fn restart_from(&self, operation: &str) -> Result<(), ActError> {
        let node = self.node.upgrade().ok_or_else(NodeError::shut_down)?;
        changed(&node.access().restart_from(self.id, operation).await?)
    }

    /// Removes it after its end, with its result and idempotency key. Durable when this returns.
    /// Not cancel-safe.
    ///
    /// # Errors
    /// [`ActError::NotChanged`] when it has not ended, or was purged already.
    pub async fn purge(&self) -> Result<(), ActError> {
        self.act(EntryAction::Purge).await
    }

    /// Applies an action to it. The methods above are shortcuts, one per action. Durable when this
    /// returns. Not cancel-safe.
    ///
    /// # Errors
    /// [`ActError::NotChanged`] when the action does not apply to it.
    pub async fn act(&self, action: EntryAction) -> Result<(), ActError> {
        let node = self.node.upgrade().ok_or_else(NodeError::shut_down)?;
        let target = EntryTarget::Named(vec![self.id]);
        changed(&node.access().act(action, &target, false).await?)
    }
}

/// Whether the one entry of a report was changed.
fn changed(report: &ActReport) -> Result<(), ActError> {
    match report.skipped_named.first() {
        None => Ok(()),
        Some((_, why)) => Err(ActError::NotChanged(*why)),
    }
}

impl std::fmt::Debug for EntryHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EntryHandle({})", self.id)
    }
}
