//! One attempt, from the call of its handler to however it ends.
//!
//! Must always hold: a panic, a timeout and a silent handler are failed attempts; time
//! counts from the start on. Must not know: who else runs, who is told.

use std::{future::Future, panic::AssertUnwindSafe, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use bytestring::ByteString;
use forebay_engine::partition::machine::RunAttempt;
use forebay_messages::{EntryId, actor::AttemptEnd};
use futures_util::FutureExt;
use tracing::Instrument;

use super::{
    AttemptContext, Cancel, Handler, Means, Pulse,
    running::{Guard, Key},
};

/// An attempt that is registered and was not polled yet.
pub(super) struct Prepared {
    pub(super) run: RunAttempt,
    pub(super) payload: Bytes,
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
        let Self { run, payload, cancel, guard } = self;
        Box::pin(async move {
            // Dropped last, when nothing of the handler is left.
            let mut guard = guard;
            let who = Who::of(&run);
            let span = tracing::info_span!(
                "attempt",
                entry = %run.entry,
                service = %run.name.service,
                attempt = run.attempt,
            );
            let ended = attempt(run, payload, cancel, guard.means()).instrument(span.clone()).await;
            span.in_scope(|| who.tell(&ended));
            guard.ended = Some(ended);
        })
    }
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
    fn tell(self, ended: &AttemptEnd) {
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
fn context(run: RunAttempt, cancel: Cancel, limits: Limits, means: &Means) -> AttemptContext {
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
            .and_then(|timeout| tokio::time::Instant::now().checked_add(timeout))
            .map(tokio::time::Instant::into_std),
        clock: Arc::clone(&means.clock),
        pulse: limits.heartbeat.map_or_else(Pulse::unheard, |_| Pulse::default()),
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
async fn attempt(run: RunAttempt, payload: Bytes, cancel: Cancel, means: &Means) -> AttemptEnd {
    let handler = &*means.handlers[&*run.name.service];
    let limits @ Limits { timeout, heartbeat } = Limits::of(handler);
    let context = context(run, cancel, limits, means);
    let pulse = context.pulse.clone();
    // Calling the handler may panic as well as polling its future.
    let run = AssertUnwindSafe(async move { handler.call(context, payload).await }).catch_unwind();
    let failed = |message: String| AttemptEnd::Retry {
        message: ByteString::from(message),
        detail: Bytes::new(),
        random: (means.random)(),
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
            AttemptEnd::Retry { message, detail, random: (means.random)() }
        }
        Ok(AttemptEnd::Snooze { until }) => {
            AttemptEnd::Snooze { until: until.max(means.clock.now()) }
        }
        Ok(ended) => ended,
        Err(panic) => {
            let text = crate::shell::panic_text(panic.as_ref());
            failed(format!("the handler panicked: {text}"))
        }
    }
}
