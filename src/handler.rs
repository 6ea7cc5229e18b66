//! Handlers: async closures over typed payloads.

use std::{
    any::TypeId,
    error::Error,
    fmt::Display,
    future::Future,
    marker::PhantomData,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use bytestring::ByteString;
use forebay_actors::executor::{AttemptContext, Handler, HandlerFuture, INTERRUPTIONS_MAX};
use forebay_messages::{
    AttemptToken, EntryId, VQueueName,
    actor::AttemptEnd,
    command::{AfterRun, RetryPolicy},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    WeakRuntime,
    attempt::Attempt,
    environment::Environment,
    journal::{Driven, Ended, MismatchedKind, OperationError},
};

/// The current attempt, for its handler. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    pub(crate) attempt: Arc<Attempt>,
    pub(crate) shared: Arc<Shared>,
}

/// Shared by all handlers of a runtime.
pub(crate) struct Shared {
    pub(crate) environment: Arc<Environment>,
    pub(crate) runtime: WeakRuntime,
}

impl Context {
    /// The entry.
    #[must_use]
    pub fn entry(&self) -> EntryId {
        self.attempt.context.entry
    }

    /// Its vqueue: service, scope, limit key, object key.
    #[must_use]
    pub fn vqueue(&self) -> &VQueueName {
        &self.attempt.context.name
    }

    /// The attempt's number, from 1. Attempts cut short by a crash, a change of leader
    /// or a snooze are not counted.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt.context.attempt
    }

    /// Whether a failure of this attempt is final.
    #[must_use]
    pub fn is_last_attempt(&self) -> bool {
        self.attempt.context.attempts_max != 0
            && self.attempt.context.attempt >= self.attempt.context.attempts_max
    }

    /// A fencing token for effects of this attempt elsewhere: a later attempt of the same entry has
    /// a greater token.
    #[must_use]
    pub fn token(&self) -> AttemptToken {
        self.attempt.context.token
    }

    /// Message of the last failed attempt; empty on the first.
    #[must_use]
    pub fn last_failure(&self) -> &str {
        &self.attempt.context.last_failure
    }

    /// Waits until the handler should stop: its entry was canceled, or the runtime shuts down and
    /// the drain's time is over. A handler that stops for this reason returns
    /// [`HandlerError::canceled`]: a canceled entry then ends as canceled, and an entry that was
    /// interrupted by a shutdown runs again after the next start. Cancel-safe.
    pub async fn canceled(&self) {
        self.attempt.context.cancel.cancelled().await;
        self.attempt.check_cancel();
    }

    /// Whether the handler should stop.
    #[must_use]
    pub fn is_canceled(&self) -> bool {
        self.attempt.check_cancel()
    }

    /// Reports that the attempt is alive, and checks whether it should stop. Handlers that take
    /// long call it more often than [`HandlerOptions::heartbeat`] requires. Cheap enough for an
    /// inner loop.
    ///
    /// # Errors
    /// When the handler should stop (see [`Context::is_canceled`]); with `?` it ends as canceled.
    ///
    /// ```
    /// # use forebay::{Context, HandlerError};
    /// async fn copy(context: Context, pages: Vec<u32>) -> Result<(), HandlerError> {
    ///     for page in pages {
    ///         context.heartbeat()?;
    ///         // … copies the page …
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn heartbeat(&self) -> Result<(), HandlerError> {
        self.attempt.context.pulse.beat();
        match self.is_canceled() {
            true => Err(HandlerError::canceled("stopped at a heartbeat, as requested")),
            false => Ok(()),
        }
    }

    /// When the attempt times out, if its handler has a timeout.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.attempt.context.deadline
    }

    /// A value that the application passed to [`Builder::state`](crate::Builder::state), by its
    /// type.
    ///
    /// ```
    /// # use forebay::{Context, HandlerError};
    /// struct Mailer;
    /// struct Templates;
    /// async fn send(context: Context, (): ()) -> Result<(), HandlerError> {
    ///     let mailer = context.state::<Mailer>();
    ///     let templates = context.state::<Templates>();
    /// // Both exist after `.state(Mailer).state(Templates)`.
    /// # let _ = (mailer, templates);
    ///     Ok(())
    /// }
    /// ```
    #[must_use]
    pub fn state<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        let state = self.shared.environment.states.get(&TypeId::of::<T>())?;
        Arc::clone(state).downcast().ok()
    }

    /// The runtime of this handler, for enqueueing other work. It does not keep the runtime alive.
    /// See [`WeakRuntime`] for an example.
    #[must_use]
    pub fn runtime(&self) -> &WeakRuntime {
        &self.shared.runtime
    }
}

/// Failure of a handler. Everything that converts into a `Box<dyn Error + Send + Sync>` (any
/// [`std::error::Error`], `anyhow::Error`, a text) becomes a failure that is retried, so `?` works.
/// Its message contains the error and its causes, `a: b: c`; at most 16 KiB of it are stored, a
/// longer text is cut and ends with a mark.
///
/// ```
/// # use forebay::{Context, HandlerError, Json};
/// async fn add(_: Context, Json(numbers): Json<Vec<String>>) -> Result<Json<u64>, HandlerError> {
///     let mut sum = 0;
///     for number in numbers {
///         sum += number.parse::<u64>()?;
///     }
///     if sum == 0 {
///         return Err("there is nothing to add".into());
///     }
///     Ok(Json(sum))
/// }
/// ```
#[derive(Clone, Debug)]
pub struct HandlerError(End);

#[derive(Clone, Debug)]
enum End {
    Retry {
        message: String,
        detail: Bytes,
    },
    Terminal {
        message: String,
        detail: Bytes,
    },
    Snooze(Duration),
    Canceled {
        message: String,
        detail: Bytes,
    },
    /// Starts the next run, with this payload.
    Continue(Bytes),
}

impl HandlerError {
    /// The attempt failed; it is retried after a backoff, while attempts are left.
    #[must_use]
    pub fn retry(message: impl Display) -> Self {
        Self(End::Retry { message: message.to_string(), detail: Bytes::new() })
    }

    /// The entry failed; a retry is useless.
    #[must_use]
    pub fn terminal(message: impl Display) -> Self {
        Self(End::Terminal { message: message.to_string(), detail: Bytes::new() })
    }

    /// Call again after `wait`, but not within 10 ms; this does not count as an attempt.
    #[must_use]
    pub fn snooze(wait: Duration) -> Self {
        Self(End::Snooze(wait))
    }

    /// The handler stopped because it was asked to, see [`Context::canceled`].
    #[must_use]
    pub fn canceled(message: impl Display) -> Self {
        Self(End::Canceled { message: message.to_string(), detail: Bytes::new() })
    }

    /// Adds bytes to the message, for readers of the failure. At most 1 MiB is stored; more is
    /// omitted, and the message says so.
    #[must_use]
    pub fn with_detail(mut self, bytes: impl Into<Bytes>) -> Self {
        match &mut self.0 {
            End::Retry { detail, .. }
            | End::Terminal { detail, .. }
            | End::Canceled { detail, .. } => *detail = bytes.into(),
            End::Snooze(_) | End::Continue(_) => {}
        }
        self
    }

    /// Ends the run and starts the next one with this payload.
    pub(crate) fn continue_with(payload: Bytes) -> Self {
        Self(End::Continue(payload))
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        let error: Box<dyn Error + Send + Sync> = error.into();
        match is_remembered(&*error) {
            true => Self::terminal(chain(&*error)),
            false => Self::retry(chain(&*error)),
        }
    }
}

/// Whether an error comes from an operation whose failure is stored: another attempt would only get
/// the same error.
fn is_remembered(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    for _ in 0..CAUSES_MAX {
        let Some(error) = next else { break };
        if error.downcast_ref().is_some_and(OperationError::is_remembered) {
            return true;
        }
        next = error.source();
    }
    false
}

/// Maximum number of causes in a message.
const CAUSES_MAX: usize = 32;

/// An error with its causes: `a: b: c`. A cause is omitted if the preceding text already ends with
/// it, as in many errors.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    for _ in 0..CAUSES_MAX {
        let Some(cause) = next else { break };
        let said = cause.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}

impl HandlerError {
    pub(crate) fn into_end(self) -> AttemptEnd {
        match self.0 {
            End::Retry { message, detail } => {
                // The executor draws the random number for the jitter.
                AttemptEnd::Retry { message: ByteString::from(message), detail, random: 0 }
            }
            End::Terminal { message, detail } => {
                AttemptEnd::Terminal { message: ByteString::from(message), detail }
            }
            End::Snooze(wait) => AttemptEnd::Snooze { wait },
            End::Continue(payload) => AttemptEnd::Run(AfterRun::ContinueWith(payload)),
            End::Canceled { message, detail } => {
                AttemptEnd::Canceled { message: ByteString::from(message), detail }
            }
        }
    }
}

/// A payload or result as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Json<T>(pub T);

/// A type that a handler can receive.
pub trait FromPayload: Sized + Send {
    /// Reads the payload.
    ///
    /// # Errors
    /// A message for display; the attempt fails permanently, because the payload will not change.
    fn from_payload(payload: Bytes) -> Result<Self, String>;
}

/// A type that a handler can return.
pub trait IntoPayload {
    /// Writes the result.
    ///
    /// # Errors
    /// A message for display; the attempt fails permanently.
    fn into_payload(self) -> Result<Bytes, String>;
}

impl FromPayload for Bytes {
    fn from_payload(payload: Bytes) -> Result<Self, String> {
        Ok(payload)
    }
}

impl FromPayload for () {
    fn from_payload(_: Bytes) -> Result<Self, String> {
        Ok(())
    }
}

impl<T: DeserializeOwned + Send> FromPayload for Json<T> {
    fn from_payload(payload: Bytes) -> Result<Self, String> {
        serde_json::from_slice(&payload).map(Json).map_err(|error| {
            format!("the payload does not have the type that the handler takes: {error}")
        })
    }
}

impl IntoPayload for Bytes {
    fn into_payload(self) -> Result<Bytes, String> {
        Ok(self)
    }
}

impl IntoPayload for () {
    fn into_payload(self) -> Result<Bytes, String> {
        Ok(Bytes::new())
    }
}

impl<T: Serialize> IntoPayload for Json<T> {
    fn into_payload(self) -> Result<Bytes, String> {
        serde_json::to_vec(&self.0)
            .map(Bytes::from)
            .map_err(|error| format!("the result cannot be written as JSON: {error}"))
    }
}

/// Defaults for the entries of a handler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandlerOptions {
    /// Retries after failed attempts (default: ten attempts, 100 ms to one minute).
    pub retry: RetryPolicy,
    /// Maximum time of an attempt, counted from the start of its first poll (default: unlimited). A
    /// timeout is a failed attempt.
    pub timeout: Option<Duration>,
    /// Maximum time without [`Context::heartbeat`] (default: unlimited). An attempt without a
    /// heartbeat for longer is dropped: a failed attempt. One that blocks its thread cannot be
    /// dropped before its next await.
    pub heartbeat: Option<Duration>,
    /// How often the process may die while an entry runs (default: 5, at least 1) before the entry
    /// becomes a dead letter instead of running again: it may be the cause. An orderly shutdown and
    /// a change of leader do not count. `u32::MAX` allows any number.
    pub interruptions_max: Option<u32>,
    /// How long results are kept (default: 24 hours). `Duration::MAX` keeps them until they are
    /// purged. Expired results are removed every 30 s, so a result may exist for that much longer.
    pub retention: Option<Duration>,
    /// How long an attempt waits only for calls, promises and sleeps before it is suspended
    /// (default: 5 s, and at most half of the time left before a timeout). Its future is then
    /// dropped, its permit is released, and the handler runs again from the start when one of them
    /// finishes. With `Duration::MAX` it is never suspended, and holds its permit while it waits.
    pub suspend_after: Option<Duration>,
    /// What happens when the code no longer matches the journal of an entry (default:
    /// [`MismatchPolicy::Pause`]).
    pub mismatch: MismatchPolicy,
}

/// What happens to an entry when its handler does something different from what its journal
/// contains: after a change of the code, or because the handler is not deterministic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MismatchPolicy {
    /// The entry is paused; nothing is lost. Deploy code that matches and resume it, or restart it.
    #[default]
    Pause,
    /// The entry fails permanently.
    Fail,
    /// The next run starts with an empty journal: every step runs again, with new ids.
    Restart,
}

impl MismatchPolicy {
    fn end(self, kind: &MismatchedKind) -> AttemptEnd {
        let message = ByteString::from(kind.to_string());
        match self {
            Self::Pause => AttemptEnd::Run(AfterRun::Pause(message)),
            Self::Fail => AttemptEnd::Terminal { message, detail: Bytes::new() },
            Self::Restart => AttemptEnd::Run(AfterRun::Restart(message)),
        }
    }
}

/// A closure as a handler.
pub(crate) struct Typed<F, In, Fut> {
    call: F,
    options: HandlerOptions,
    shared: Arc<Shared>,
    types: PhantomData<fn(In) -> Fut>,
}

impl<F, In, Fut, Out> Typed<F, In, Fut>
where
    F: Fn(Context, In) -> Fut + Send + Sync + 'static,
    In: FromPayload + 'static,
    Fut: Future<Output = Result<Out, HandlerError>> + Send + 'static,
    Out: IntoPayload + Send + 'static,
{
    pub(crate) fn new(call: F, options: HandlerOptions, shared: Arc<Shared>) -> Self {
        Self { call, options, shared, types: PhantomData }
    }
}

impl<F, In, Fut, Out> Handler for Typed<F, In, Fut>
where
    F: Fn(Context, In) -> Fut + Send + Sync + 'static,
    In: FromPayload + 'static,
    Fut: Future<Output = Result<Out, HandlerError>> + Send + 'static,
    Out: IntoPayload + Send + 'static,
{
    fn call(&self, context: AttemptContext, payload: Bytes) -> HandlerFuture {
        let terminal = |message: String| AttemptEnd::Terminal {
            message: ByteString::from(message),
            detail: Bytes::new(),
        };
        let input = match In::from_payload(payload) {
            Ok(input) => input,
            Err(message) => return Box::pin(std::future::ready(terminal(message))),
        };
        let HandlerOptions { suspend_after, mismatch, .. } = self.options;
        let attempt = Attempt::new(context, suspend_after, &self.shared.environment);
        let context = Context { attempt: Arc::clone(&attempt), shared: Arc::clone(&self.shared) };
        let running = (self.call)(context, input);
        Box::pin(async move {
            match Driven::new(attempt, pin!(running)).await {
                Ok(Ok(out)) => out.into_payload().map_or_else(terminal, AttemptEnd::Success),
                Ok(Err(error)) => error.into_end(),
                Err(Ended::Attempt(end)) => end,
                Err(Ended::Mismatch(kind)) => mismatch.end(&kind),
            }
        })
    }

    fn timeout(&self) -> Option<Duration> {
        self.options.timeout
    }

    fn heartbeat(&self) -> Option<Duration> {
        self.options.heartbeat
    }

    fn interruptions_max(&self) -> u32 {
        self.options.interruptions_max.unwrap_or(INTERRUPTIONS_MAX)
    }
}
