//! One attempt, from the call of its handler to however it ends.
//!
//! Must always hold: a panic, a timeout and a silent handler are failed attempts, and a
//! destructor that panics when a handler is dropped does not change that; time counts from
//! the start of the first poll. Must not know: who else runs, who is told.

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
    AttemptContext, Cancel, Handler, HandlerFuture, Means, Pulse, SNOOZE_MIN,
    running::{Guard, Key},
};

/// An attempt that is registered and was not polled yet.
pub(super) struct Prepared {
    pub(super) run: RunAttempt,
    pub(super) payload: Bytes,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) cancel: Cancel,
    pub(super) guard: Guard,
}

/// The future of an attempt, however it ends.
pub(super) type Begun = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Prepared {
    pub(super) fn key(&self) -> Key {
        (self.run.entry, self.run.token)
    }

    /// Made by the thread that polls it: its memory is near.
    pub(super) fn begin(self) -> Begun {
        let Self { run, payload, handler, cancel, guard } = self;
        Box::pin(async move {
            // Dropped last, when nothing of the handler is left.
            let mut guard = guard;
            let (who, span) = (Who::of(&run), span(&run));
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

/// The span of an attempt. `None` when nobody listens, which costs one load: a disabled span
/// still costs 600 instructions an attempt, for actix turns on tracing's `log` feature.
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

/// Which attempt it is, for the log. What else is known of it is told by its span.
#[derive(Clone, Copy)]
struct Who {
    entry: EntryId,
    attempt: u32,
    attempts_max: u32,
}

impl Who {
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
                tracing::info!(%entry, attempt, error = %message, "an entry failed for good");
            }
            _ => {}
        }
    }
}

/// How long a handler may take, and go without a heartbeat; `None` means for ever.
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

/// What the handler of an attempt that starts now is given.
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
            // A time that cannot be told is one that never comes.
            .and_then(|timeout| Instant::now().checked_add(timeout))
            .map(Instant::into_std),
        pulse: limits.heartbeat.map_or_else(Pulse::unheard, |_| Pulse::default()),
    }
}

/// A handler that runs. Its future is the application's, and so are the destructors of
/// what the future holds: a panic in one of them ends at this point.
struct Course(Option<HandlerFuture>);

impl Course {
    /// Calls a handler; what a panic said if there was one.
    fn begin(
        handler: &dyn Handler,
        context: AttemptContext,
        payload: Bytes,
    ) -> Result<Self, String> {
        let called = catch_unwind(AssertUnwindSafe(|| handler.call(context, payload)));
        called.map(|future| Self(Some(future))).map_err(text_of)
    }

    /// Drops the handler where it is; what a panic said if there was one.
    fn stop(&mut self) -> Option<String> {
        let future = self.0.take();
        catch_unwind(AssertUnwindSafe(|| drop(future))).map_err(text_of).err()
    }
}

impl Future for Course {
    type Output = Result<AttemptEnd, String>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(future) = &mut self.0 else { return Poll::Pending };
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
        let ended = ready!(polled.map_or_else(|panic| Poll::Ready(Err(panic)), |it| it.map(Ok)));
        let ended = ended.map_err(text_of);
        // An attempt that has ended well has, whatever its remains do.
        if let Some(panic) = self.stop()
            && ended.is_ok()
        {
            tracing::error!(%panic, "a handler that had ended panicked when it was dropped");
        }
        Poll::Ready(ended)
    }
}

impl Drop for Course {
    fn drop(&mut self) {
        // It was killed, or its node goes down: nobody waits for its end.
        if let Some(panic) = self.stop() {
            tracing::error!(%panic, "a handler that was stopped panicked when it was dropped");
        }
    }
}

/// What a panic said. The destructor of what was thrown is the application's as well.
fn text_of(panic: Box<dyn Any + Send>) -> String {
    let text = crate::shell::panic_text(panic.as_ref());
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        // It is left in memory: it cannot be trusted.
        std::mem::forget(again);
    }
    text
}

/// Waits until a deadline. Without a deadline it never returns.
async fn at(time: Option<std::time::Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// Waits until a handler has sent no heartbeat for this long. Without a duration it never
/// returns.
async fn silence(pulse: &Pulse, within: Option<Duration>) {
    match within {
        Some(within) => pulse.silence(within).await,
        None => std::future::pending().await,
    }
}

/// Runs one attempt to its end, however it ends.
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
    // Calling the handler may panic as well as polling its future.
    let mut course = match Course::begin(handler, context, payload) {
        Ok(course) => course,
        Err(text) => return panicked(&text),
    };
    let given_up = tokio::select! {
        // What has ended in time has ended, however late that is seen.
        biased;
        ended = &mut course => match ended {
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
    failed(match course.stop() {
        None => given_up,
        Some(text) => format!("{given_up}; when it was dropped the handler panicked: {text}"),
    })
}
