//! Operations of a handler whose results its journal stores: steps, calls, sends, sleeps, promises.
//!
//! Must always hold: an operation starts when it is first polled, in the handler's own future. Must
//! not know: how it is written and replayed ([`crate::journal`]).

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use bytestring::ByteString;
use forebay_messages::{
    EntryId, Timestamp,
    command::{NewChild, RetryPolicy},
    journal::StepId,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Context, Entry, HandlerError,
    handler::IntoPayload,
    journal::{Branch, Join, Journal, OperationError, Select, Together},
};

/// Operations whose results the entry's journal stores. An attempt that runs after another one
/// (after a failure, a crash, a change of leader or a suspension) runs the handler from the start:
/// operations with stored results return them at once. `docs/calls.md` is the guide.
///
/// Each has a name. The place of an operation in the journal consists of its branch (see
/// [`Context::join`]), its name, and the number of earlier operations of that name in its branch.
impl Context {
    fn journal(&self) -> Arc<Journal> {
        self.attempt.journal(&self.shared.environment)
    }

    /// Computes something once: a stored result is never computed again. `compute` is called with
    /// an id that is the same in every attempt, as an idempotency key for other systems: it may run
    /// more than once, if the process dies after it ended and before its result was stored.
    ///
    /// A failure ends the attempt, which the entry's retry policy repeats;
    /// [`HandlerError::terminal`] is stored as the step's failure and returned. The result is
    /// stored as JSON, at most [`Builder::payload_max`](crate::Builder::payload_max) bytes. Within
    /// a step no other operation can start.
    ///
    /// # Errors
    /// [`OperationError`].
    ///
    /// ```
    /// # use forebay::{Context, HandlerError, Json};
    /// # async fn charge_card(cents: u64, key: String) -> Result<String, std::io::Error> {
    /// #     Ok(format!("{cents} {key}"))
    /// # }
    /// async fn order(context: Context, Json(cents): Json<u64>) -> Result<Json<String>, HandlerError> {
    ///     let charge = context.step("charge", |id| charge_card(cents, id.to_string())).await?;
    ///     Ok(Json(charge))
    /// }
    /// ```
    pub fn step<T, F, Fut, E>(
        &self,
        name: &str,
        compute: F,
    ) -> impl Future<Output = Result<T, OperationError>> + use<T, F, Fut, E>
    where
        T: Serialize + DeserializeOwned,
        F: FnMut(StepId) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: Into<HandlerError>,
    {
        self.journal().step(ByteString::from(name), None, compute)
    }

    /// As [`Context::step`], but a failure is retried within the attempt, with this policy: the
    /// handler continues after a success, or gets the failure when no attempts of the policy are
    /// left. They are counted from the beginning in every attempt of the entry.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn step_with<T, F, Fut, E>(
        &self,
        name: &str,
        retry: RetryPolicy,
        compute: F,
    ) -> impl Future<Output = Result<T, OperationError>> + use<T, F, Fut, E>
    where
        T: Serialize + DeserializeOwned,
        F: FnMut(StepId) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: Into<HandlerError>,
    {
        self.journal().step(ByteString::from(name), Some(retry), compute)
    }

    /// Calls another handler: creates an entry, waits until it has ended, and returns its result.
    /// The child exists once, however often the handler runs, and belongs to its parent: when the
    /// parent is canceled or killed, so is the child.
    ///
    /// # Errors
    /// [`OperationError::Failed`] when the child failed, was canceled, killed or purged, or would
    /// wait for a key that one of its ancestors holds.
    pub fn call<T: DeserializeOwned>(
        &self,
        name: &str,
        entry: Entry,
    ) -> impl Future<Output = Result<T, OperationError>> + use<T> {
        let (journal, child) = (self.journal(), self.child(name, entry, false));
        let name = ByteString::from(name);
        async move { journal.call(name, child?).await }
    }

    /// As [`Context::call`], for a handler whose result is not JSON.
    ///
    /// # Errors
    /// As [`Context::call`].
    pub fn call_bytes(
        &self,
        name: &str,
        entry: Entry,
    ) -> impl Future<Output = Result<Bytes, OperationError>> + use<> {
        let (journal, child) = (self.journal(), self.child(name, entry, false));
        let name = ByteString::from(name);
        async move { journal.call_bytes(name, child?).await }
    }

    /// Creates an independent entry, once, and returns its id when it is certain that it will
    /// exist.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn send(
        &self,
        name: &str,
        entry: Entry,
    ) -> impl Future<Output = Result<EntryId, OperationError>> + use<> {
        self.send_child(name, entry, false)
    }

    /// As [`Context::send`]; the entry is canceled or killed when this one is.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn send_attached(
        &self,
        name: &str,
        entry: Entry,
    ) -> impl Future<Output = Result<EntryId, OperationError>> + use<> {
        self.send_child(name, entry, true)
    }

    fn send_child(
        &self,
        name: &str,
        entry: Entry,
        is_attached: bool,
    ) -> impl Future<Output = Result<EntryId, OperationError>> + use<> {
        let (journal, child) = (self.journal(), self.child(name, entry, is_attached));
        let name = ByteString::from(name);
        async move { journal.send(name, child?).await }
    }

    fn child(
        &self,
        name: &str,
        entry: Entry,
        is_attached: bool,
    ) -> Result<NewChild, OperationError> {
        let environment = &self.shared.environment;
        let defaults = environment.defaults(&entry.vqueue().service);
        let child = entry.into_child(&defaults, environment.payload_len_max, is_attached);
        child.map_err(|message| OperationError::Child { name: name.to_owned(), message })
    }

    /// Waits for this duration, across restarts of the process. If it waits for longer than
    /// [`HandlerOptions::suspend_after`](crate::HandlerOptions::suspend_after), its future is
    /// dropped and it holds no permit.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn sleep(
        &self,
        name: &str,
        wait: Duration,
    ) -> impl Future<Output = Result<(), OperationError>> + use<> {
        self.journal().sleep(ByteString::from(name), wait)
    }

    /// As [`Context::sleep`], until a time.
    ///
    /// # Errors
    /// [`OperationError`].
    pub fn sleep_until(
        &self,
        name: &str,
        until: Timestamp,
    ) -> impl Future<Output = Result<(), OperationError>> + use<> {
        self.journal().sleep_until(ByteString::from(name), until)
    }

    /// Waits for a promise of this entry, identified by its name, and returns the value that it was
    /// resolved with. It may be resolved before this call.
    ///
    /// # Errors
    /// [`OperationError::Failed`] when it was rejected.
    pub fn promise<T: DeserializeOwned>(
        &self,
        name: &str,
    ) -> impl Future<Output = Result<T, OperationError>> + use<T> {
        self.journal().promise(ByteString::from(name))
    }

    /// Runs several futures at the same time and waits for all of them: a tuple of two to four
    /// futures, or a `Vec` of futures of one type. Each is a branch with separate names.
    pub fn join<M: Together>(&self, futures: M) -> Join<M::Members> {
        self.journal().join(futures)
    }

    /// Waits for the first of several futures (a tuple or a `Vec`) and drops the others. A replay
    /// selects the same one, which `tokio::select!` does not guarantee.
    pub fn select<M: Together>(&self, futures: M) -> Select<M::Members> {
        self.journal().select(futures)
    }

    /// Runs a part of the handler as a branch with a key: a replay finds its operations by the key,
    /// whatever else the handler does, in any order.
    pub fn branch<F: Future>(&self, key: &str, future: F) -> Branch<F> {
        self.journal().keyed(key, future)
    }

    /// The time, the same in every attempt: at first the start of the first attempt of this run,
    /// then the end of the last operation that ended.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.attempt.now()
    }

    /// A random number, the same in every attempt of this run.
    ///
    /// # Errors
    /// [`OperationError`], outside of the handler's own future.
    pub fn random(&self) -> Result<u64, OperationError> {
        self.journal().random()
    }

    /// A UUID, the same in every attempt of this run. It has version 8, because it is derived and
    /// not random.
    ///
    /// # Errors
    /// [`OperationError`], outside of the handler's own future.
    pub fn uuid(&self) -> Result<[u8; 16], OperationError> {
        self.journal().uuid()
    }

    /// Ends this run of the entry and starts the next one with an empty journal and this payload:
    /// for entries that continue without an end, whose journal would become full. The next run
    /// waits behind entries that wait already. Called children without an answer are canceled.
    ///
    /// # Errors
    /// Always: the handler returns the error.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use forebay::{Context, HandlerError, Json};
    /// async fn poll(context: Context, Json(round): Json<u64>) -> Result<(), HandlerError> {
    ///     context.step("look", |_| async { Ok::<_, HandlerError>(()) }).await?;
    ///     context.sleep("pause", Duration::from_secs(3_600)).await?;
    ///     context.continue_with(Json(round + 1))
    /// }
    /// ```
    pub fn continue_with<T>(&self, input: impl IntoPayload) -> Result<T, HandlerError> {
        let payload = input.into_payload().map_err(HandlerError::terminal)?;
        let (len, len_max) = (payload.len(), self.shared.environment.payload_len_max);
        if len > len_max {
            return Err(HandlerError::terminal(format!(
                "continue_with: the payload has {len} bytes; at most {len_max} are allowed"
            )));
        }
        Err(HandlerError::continue_with(payload))
    }

    /// From here on the attempt releases its object key when it is suspended: other entries of the
    /// key may run before it continues. Without this call they wait until it has ended.
    pub fn release_key(&self) {
        self.journal().release_key();
    }

    /// From here on the attempt is not suspended: it keeps its permit while it waits. A child that
    /// needs the same permit then never starts.
    pub fn hold_limits(&self) {
        self.journal().hold_limits();
    }
}
