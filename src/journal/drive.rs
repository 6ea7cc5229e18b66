//! The future of a handler. It advances the journal between two polls of the handler.
//!
//! Must always hold: the handler is polled until it waits, then one outcome is delivered, and so
//! on; operations that it started in these polls are handed over before the attempt waits.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use bytestring::ByteString;
use forebay_messages::actor::AttemptEnd;

use super::{
    Journal, Slot,
    current::{BranchId, Polled, enter},
    error::MismatchedKind,
    signal::Signal,
    state::Advanced,
};

/// Maximum number of outcomes that are delivered before other tasks of the thread get a turn.
const DELIVERIES_PER_POLL_MAX: usize = 64;

/// Why an attempt ended before its handler returned.
#[derive(Debug)]
pub(crate) enum Ended {
    /// A step failed, and only another attempt retries it.
    Attempt(AttemptEnd),
    /// The code does not match the journal.
    Mismatch(MismatchedKind),
}

/// Maximum number of consecutive polls in which the handler only yields. After that the next
/// outcome is delivered anyway: a step that wakes itself in a loop must not delay the other
/// branches.
const TURNS_MAX: u32 = 256;

type Delay = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The attempt of a journal.
pub(crate) trait Owner {
    /// The slot of its journal.
    fn slot(&self) -> &Slot;

    /// Whether the handler has seen the request to stop: then it may be cleaning up.
    fn saw_cancel(&self) -> bool;
}

/// A wait only for calls, promises and sleeps.
struct Wait {
    /// Ready when it is time to request a suspension.
    suspend_timer: Option<Delay>,
    /// Ready when the handler should stop; `None` after that.
    canceled: Option<Delay>,
}

/// The future of a handler that may use a journal.
pub(crate) struct Driven<S, F> {
    attempt: Arc<S>,
    handler: F,
    /// Present once the handler has a journal. Boxed, because most handlers never have one.
    driving: Option<Box<Driving>>,
}

/// The state of a future whose handler has a journal.
#[derive(Default)]
struct Driving {
    /// The version of the state in which it waits, and the wait if it may be suspended in it.
    wait: Option<(u64, Option<Wait>)>,
    /// The handler's waker.
    signal: Arc<Signal>,
    /// Number of consecutive polls in which the handler only yielded.
    turns: u32,
}

impl<S: Owner, F> Driven<S, F> {
    pub(crate) fn new(attempt: Arc<S>, handler: F) -> Self {
        Self { attempt, handler, driving: None }
    }

    /// The result of a poll that began without a journal.
    fn first_end<T>(&self, polled: Poll<T>) -> Poll<Result<T, Ended>> {
        match self.attempt.slot().get().and_then(|journal| journal.state().take_end()) {
            Some(end) => Poll::Ready(Err(end)),
            None => polled.map(Ok),
        }
    }

    /// The attempt waits: requests a suspension when it is time. Ends the attempt if it should stop
    /// and its handler does not check for that: the operations that it waits for may never finish.
    fn wait(
        &self,
        wait: &mut Option<(u64, Option<Wait>)>,
        journal: &Journal,
        context: &mut Context<'_>,
    ) -> Option<Ended> {
        let version = journal.state().version();
        if wait.as_ref().is_none_or(|(of, _)| *of != version) {
            *wait = Some((version, journal.begin_wait()));
        }
        let Some((_, Some(wait))) = wait else { return None };
        if is_over(&mut wait.canceled, context) && !self.attempt.saw_cancel() {
            let message = ByteString::from_static("canceled while it waited");
            return Some(Ended::Attempt(AttemptEnd::Canceled { message, detail: Bytes::new() }));
        }
        if is_over(&mut wait.suspend_timer, context) {
            journal.ask_to_be_suspended();
        }
        journal.port.rest(true);
        None
    }
}

/// Whether a delay has ended; it is dropped then.
fn is_over(delay: &mut Option<Delay>, context: &mut Context<'_>) -> bool {
    let is_over = delay.as_mut().is_some_and(|delay| delay.as_mut().poll(context).is_ready());
    if is_over {
        *delay = None;
    }
    is_over
}

impl<S: Owner, F: Future + Unpin> Driven<S, F> {
    /// Polls the handler as the root branch of its attempt.
    fn poll_handler(&mut self, waker: &Waker) -> Poll<F::Output> {
        let polled = Polled::Branch { slot: self.attempt.slot().address(), branch: BranchId::ROOT };
        let _entered = enter(polled);
        Pin::new(&mut self.handler).poll(&mut Context::from_waker(waker))
    }

    /// Polls a handler that uses its journal, and advances the journal in between.
    fn poll_in_turns(
        &mut self,
        journal: &Journal,
        Driving { wait, signal, turns }: &mut Driving,
        context: &mut Context<'_>,
    ) -> Poll<Result<F::Output, Ended>> {
        let waker = Waker::from(Arc::clone(signal));
        for _ in 0..DELIVERIES_PER_POLL_MAX {
            signal.clear();
            let polled = self.poll_handler(&waker);
            if let Some(end) = journal.state().take_end() {
                return Poll::Ready(Err(end));
            }
            if let Poll::Ready(output) = polled {
                return Poll::Ready(Ok(output));
            }
            if signal.is_woken() && *turns < TURNS_MAX {
                *turns += 1;
                return Poll::Pending;
            }
            *turns = 0;
            match journal.advance(context) {
                Advanced::Again => {}
                Advanced::Ended(end) => return Poll::Ready(Err(end)),
                Advanced::Waits(writes) => {
                    if !writes.is_empty() {
                        journal.port.write(writes);
                    }
                    return match self.wait(wait, journal, context) {
                        Some(end) => Poll::Ready(Err(end)),
                        None => Poll::Pending,
                    };
                }
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: Owner, F: Future + Unpin> Future for Driven<S, F> {
    type Output = Result<F::Output, Ended>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if this.driving.is_none() {
            let polled = this.poll_handler(context.waker());
            match this.attempt.slot().get() {
                // The handler ended: operations that it started and did not await are dropped with
                // it.
                _ if polled.is_ready() => return this.first_end(polled),
                None => return Poll::Pending,
                // Polled again, so that it wakes the signal from now on.
                Some(_) => this.driving = Some(Box::default()),
            }
        }
        let journal = this.attempt.slot().get().cloned();
        let (Some(journal), Some(mut driving)) = (journal, this.driving.take()) else {
            return Poll::Pending;
        };
        // The attempt continues: it needs heartbeats again.
        if matches!(driving.wait, Some((_, Some(_)))) {
            journal.port.rest(false);
        }
        driving.signal.begin(context.waker());
        let polled = this.poll_in_turns(&journal, &mut driving, context);
        driving.signal.end();
        this.driving = Some(driving);
        polled
    }
}

impl Journal {
    /// A wait, if the attempt waits only for calls, promises and sleeps.
    fn begin_wait(&self) -> Option<Wait> {
        let may_ask = {
            let state = self.state();
            state.waits()?;
            state.may_ask()
        };
        let after = if may_ask { self.port.suspend_after() } else { None };
        let suspend_timer = after.map(|after| self.port.delay(after));
        Some(Wait { suspend_timer, canceled: Some(self.port.canceled()) })
    }

    fn ask_to_be_suspended(&self) {
        let mut state = self.state();
        if let Some(waits) = state.waits().filter(|_| state.may_ask()) {
            state.suspend_requested();
            let releases_key = state.releases_key;
            drop(state);
            self.port.suspend(waits, releases_key);
        }
    }

    /// Takes the notifications and delivers the next outcome to the handler. If the handler waits,
    /// the next notification wakes it.
    fn advance(&self, context: &mut Context<'_>) -> Advanced {
        loop {
            let notifications = self.mailbox.take();
            let mut state = self.state();
            state.apply(notifications);
            let advanced = state.advance();
            match advanced {
                Advanced::Waits(writes) if !self.mailbox.wake_by(context.waker()) => {
                    state.give_back(writes);
                }
                advanced => return advanced,
            }
        }
    }
}
