//! One attempt, from the call of its handler to its end.
//!
//! Must always hold: a panic, a timeout and a missed heartbeat are failed attempts, and a
//! destructor that panics when a handler is dropped does not change that; time counts from the
//! start of the first poll. Must not know: other attempts, the receiver of the result.

use std::{
    any::Any,
    fmt::Display,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use bytestring::ByteString;
use forebay_engine::partition::machine::RunAttempt;
use forebay_messages::{EntryId, actor::AttemptEnd};
use tokio::time::Instant;
use tracing::{Instrument, Span, level_filters::LevelFilter};

use super::{
    AttemptContext, Cancel, Handler, HandlerFuture, INTERRUPTIONS_MAX, Means, Pulse, SNOOZE_MIN,
    running::{AttemptKey, Guard},
};

/// An attempt that is registered and not polled yet.
pub(super) struct Prepared {
    pub(super) run: RunAttempt,
    pub(super) payload: Bytes,
    pub(super) runner: Runner,
    pub(super) cancel: Cancel,
    pub(super) guard: Guard,
}

/// The executor of an attempt.
pub(super) enum Runner {
    /// A handler of this process.
    Handler(Arc<dyn Handler>),
    /// An executor that announced its service.
    External,
}

impl Runner {
    /// Number of interruptions after which an entry is a dead letter.
    pub(super) fn interruptions_max(&self) -> u32 {
        match self {
            Self::Handler(handler) => handler.interruptions_max().max(1),
            Self::External => INTERRUPTIONS_MAX,
        }
    }
}

/// The future of an attempt; it completes for any kind of end.
pub(super) type AttemptFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Prepared {
    pub(super) fn key(&self) -> AttemptKey {
        (self.run.entry, self.run.token)
    }

    /// Built by the thread that polls it, so that its memory is close to that thread.
    pub(super) fn begin(self) -> AttemptFuture {
        let Self { run, payload, runner, cancel, guard } = self;
        let Runner::Handler(handler) = runner else {
            unreachable!("attempts of other executors are not polled here");
        };
        Box::pin(async move {
            // Dropped last, after everything of the handler.
            let mut guard = guard;
            let (who, span) = (LoggedAttempt::of(&run), span(&run));
            let ended = {
                let running = pin!(attempt(run, payload, &*handler, cancel, guard.means()));
                match &span {
                    None => running.await,
                    Some(span) => running.instrument(span.clone()).await,
                }
            };
            who.tell(&ended, span);
            guard.ended = Some(ended);
        })
    }
}

/// The span of an attempt. `None` when nothing subscribes, which costs one load: a disabled span
/// still costs 600 instructions per attempt, because actix enables tracing's `log` feature.
fn span(run: &RunAttempt) -> Option<Span> {
    (LevelFilter::current() >= LevelFilter::INFO).then(|| {
        tracing::info_span!(
            "attempt",
            entry = %run.entry,
            service = %run.name.service,
            attempt = run.attempt,
        )
    })
}

/// The attempt in log lines. Everything else is in its span.
#[derive(Clone, Copy)]
struct LoggedAttempt {
    entry: EntryId,
    attempt: u32,
    attempts_max: u32,
}

impl LoggedAttempt {
    fn of(run: &RunAttempt) -> Self {
        let RunAttempt { entry, attempt, attempts_max, .. } = *run;
        Self { entry, attempt, attempts_max }
    }

    /// Logs an attempt that failed.
    fn tell(self, ended: &AttemptEnd, span: Option<Span>) {
        if !matches!(ended, AttemptEnd::Retry { .. } | AttemptEnd::Terminal { .. }) {
            return;
        }
        let _entered = span.map(Span::entered);
        let Self { entry, attempt, attempts_max } = self;
        match ended {
            AttemptEnd::Retry { message, .. } if attempts_max != 0 && attempt >= attempts_max => {
                tracing::info!(
                    %entry, attempt, error = %message,
                    "the last attempt failed: the entry is a dead letter"
                );
            }
            AttemptEnd::Retry { message, .. } => {
                tracing::info!(%entry, attempt, error = %message, "an attempt failed");
            }
            AttemptEnd::Terminal { message, .. } => {
                tracing::info!(%entry, attempt, error = %message, "an entry failed permanently");
            }
            _ => {}
        }
    }
}

/// Timeout of a handler, and of its heartbeat; `None` means no limit.
#[derive(Clone, Copy)]
struct Limits {
    timeout: Option<Duration>,
    heartbeat: Option<Duration>,
}

impl Limits {
    fn of(handler: &dyn Handler) -> Self {
        Self { timeout: handler.timeout(), heartbeat: handler.heartbeat() }
    }
}

/// The context for the handler of an attempt that starts now.
fn context(run: RunAttempt, cancel: Cancel, limits: Limits) -> AttemptContext {
    AttemptContext {
        entry: run.entry,
        name: run.name,
        token: run.token,
        attempt: run.attempt,
        attempts_max: run.attempts_max,
        last_failure: run.last_failure,
        cancel,
        deadline: limits
            .timeout
            // A time beyond the range of `Instant` counts as no deadline.
            .and_then(|timeout| Instant::now().checked_add(timeout))
            .map(Instant::into_std),
        pulse: limits.heartbeat.map_or_else(Pulse::without_timeout, |_| Pulse::default()),
        decided_at: run.decided_at,
        journal: run.journal,
    }
}

/// A running handler. Its future and the destructors of what the future holds belong to the
/// application: panics in them are caught here.
struct HandlerCall(Option<HandlerFuture>);

impl HandlerCall {
    /// Calls a handler; the message of a panic, if it panicked.
    fn begin(
        handler: &dyn Handler,
        context: AttemptContext,
        payload: Bytes,
    ) -> Result<Self, String> {
        let called = catch_unwind(AssertUnwindSafe(|| handler.call(context, payload)));
        called.map(|future| Self(Some(future))).map_err(text_of)
    }

    /// Drops the handler in place; the message of a panic, if it panicked.
    fn stop(&mut self) -> Option<String> {
        let future = self.0.take();
        catch_unwind(AssertUnwindSafe(|| drop(future))).map_err(text_of).err()
    }
}

impl Future for HandlerCall {
    type Output = Result<AttemptEnd, String>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(future) = &mut self.0 else { return Poll::Pending };
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
        let ended = ready!(polled.map_or_else(|panic| Poll::Ready(Err(panic)), |it| it.map(Ok)));
        let ended = ended.map_err(text_of);
        // An attempt that succeeded stays successful, even if dropping its future panics.
        if let Some(panic) = self.stop()
            && ended.is_ok()
        {
            tracing::error!(%panic, "a handler that had ended panicked when it was dropped");
        }
        Poll::Ready(ended)
    }
}

impl Drop for HandlerCall {
    fn drop(&mut self) {
        // It was killed, or its node shuts down: its end is not reported.
        if let Some(panic) = self.stop() {
            tracing::error!(%panic, "a handler that was stopped panicked when it was dropped");
        }
    }
}

/// The message of a panic. The destructor of its payload belongs to the application, too.
fn text_of(panic: Box<dyn Any + Send>) -> String {
    let text = crate::shell::panic_text(panic.as_ref());
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        // Leaked on purpose: it cannot be trusted.
        std::mem::forget(again);
    }
    text
}

/// Waits until a deadline. Never returns without one.
async fn at(time: Option<std::time::Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// Waits until a handler has sent no heartbeat for this long. Never returns without a duration.
async fn silence(pulse: &Pulse, within: Option<Duration>) {
    match within {
        Some(within) => pulse.silence(within).await,
        None => std::future::pending().await,
    }
}

/// Runs one attempt to any kind of end.
async fn attempt(
    run: RunAttempt,
    payload: Bytes,
    handler: &dyn Handler,
    cancel: Cancel,
    means: &Means,
) -> AttemptEnd {
    let limits @ Limits { timeout, heartbeat } = Limits::of(handler);
    let context = context(run, cancel, limits);
    let (pulse, deadline) = (context.pulse.clone(), context.deadline);
    let failed = |message: String| AttemptEnd::Retry {
        message: ByteString::from(message),
        detail: Bytes::new(),
        random: (means.random)(),
    };
    let panicked = |text: &dyn Display| failed(format!("the handler panicked: {text}"));
    // Both calling the handler and polling its future may panic.
    let mut call = match HandlerCall::begin(handler, context, payload) {
        Ok(call) => call,
        Err(text) => return panicked(&text),
    };
    let given_up = tokio::select! {
        // A handler that ended in time has ended, even if this is noticed late.
        biased;
        ended = &mut call => match ended {
            Ok(AttemptEnd::Retry { message, detail, .. }) => {
                return AttemptEnd::Retry { message, detail, random: (means.random)() };
            }
            Ok(AttemptEnd::Snooze { wait }) => {
                return AttemptEnd::Snooze { wait: wait.max(SNOOZE_MIN) };
            }
            Ok(ended) => return ended,
            Err(text) => return panicked(&text),
        },
        () = at(deadline) => format!("timed out after {:?}", timeout.unwrap_or_default()),
        () = silence(&pulse, heartbeat) => {
            format!("no heartbeat for {:?}", heartbeat.unwrap_or_default())
        }
    };
    failed(match call.stop() {
        None => given_up,
        Some(text) => format!("{given_up}; when it was dropped the handler panicked: {text}"),
    })
}
