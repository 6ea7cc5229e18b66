//! The future of a handler, with the journal's turns between its polls.
//!
//! Must always hold: the handler is polled until it waits, then one outcome is delivered,
//! and so on; what it began in these polls is handed over before the attempt waits.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use forebay_messages::actor::AttemptEnd;

use super::{
    Journal, Slot,
    current::{BranchId, Place, enter},
    error::MismatchedKind,
    signal::Signal,
    state::Advanced,
};

/// Most outcomes that are delivered before other tasks of the thread have their turn.
const DELIVERIES_PER_POLL_MAX: usize = 64;

/// How an attempt ended that its handler did not end.
#[derive(Debug)]
pub(crate) enum Ended {
    /// A step failed, and nothing retries it but another attempt.
    Attempt(AttemptEnd),
    /// The code does not fit the journal.
    Mismatch(MismatchedKind),
}

/// Maximum number of polls in a row after which the handler only gave others a turn. Then the
/// next outcome is delivered anyway: a step that wakes itself in a loop must not delay the
/// other branches.
const TURNS_MAX: u32 = 256;

type Delay = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The future of a handler that may use a journal.
pub(crate) struct Driven<F> {
    slot: Arc<Slot>,
    handler: F,
    /// Runs out when the attempt has waited for so long that it asks to be suspended, and
    /// the version of the state that it waits in.
    patience: Option<(u64, Option<Delay>)>,
    /// What the handler wakes once it has a journal.
    signal: Option<Arc<Signal>>,
    /// How often in a row the handler gave others a turn.
    turns: u32,
}

impl<F> Driven<F> {
    pub(crate) fn new(slot: Arc<Slot>, handler: F) -> Self {
        Self { slot, handler, patience: None, signal: None, turns: 0 }
    }

    /// The handler ended in a poll that began without a journal.
    fn first_end<T>(&self, polled: Poll<T>) -> Poll<Result<T, Ended>> {
        match self.slot.get().and_then(|journal| journal.state().take_end()) {
            Some(end) => Poll::Ready(Err(end)),
            None => polled.map(Ok),
        }
    }

    /// Asks to be suspended when it is time.
    fn be_patient(&mut self, journal: &Journal, context: &mut Context<'_>) {
        let Some(after) = journal.port.suspend_after() else { return };
        let (version, waits) = {
            let state = journal.state();
            match &self.patience {
                Some((version, _)) if *version == state.version() => (*version, None),
                _ => (state.version(), Some(state.waits().is_some())),
            }
        };
        if let Some(may_suspend) = waits {
            self.patience = Some((version, may_suspend.then(|| journal.port.delay(after))));
        }
        let Some((_, Some(delay))) = &mut self.patience else { return };
        if delay.as_mut().poll(context).is_ready() {
            self.patience = None;
            let mut state = journal.state();
            if let Some(waits) = state.waits() {
                state.suspend_requested();
                let releases_key = state.releases_key;
                drop(state);
                journal.port.suspend(waits, releases_key);
            }
        }
    }
}

impl<F: Future + Unpin> Driven<F> {
    /// Polls the handler as the root branch of its attempt.
    fn poll_handler(&mut self, waker: &Waker) -> Poll<F::Output> {
        let place = Place::Branch { slot: self.slot.address(), branch: BranchId::ROOT };
        let _entered = enter(place);
        Pin::new(&mut self.handler).poll(&mut Context::from_waker(waker))
    }

    /// Polls a handler that uses its journal, with the journal's turns in between.
    fn poll_in_turns(
        &mut self,
        journal: &Journal,
        signal: &Arc<Signal>,
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
            if signal.is_woken() && self.turns < TURNS_MAX {
                self.turns += 1;
                return Poll::Pending;
            }
            self.turns = 0;
            match journal.advance(context) {
                Advanced::Again => {}
                Advanced::Ended(end) => return Poll::Ready(Err(end)),
                Advanced::Waits(writes) => {
                    if !writes.is_empty() {
                        journal.port.write(writes);
                    }
                    self.be_patient(journal, context);
                    return Poll::Pending;
                }
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<F: Future + Unpin> Future for Driven<F> {
    type Output = Result<F::Output, Ended>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if this.signal.is_none() {
            let polled = this.poll_handler(context.waker());
            match this.slot.get() {
                // It ended, and what it began and did not await is dropped with it.
                _ if polled.is_ready() => return this.first_end(polled),
                None => return Poll::Pending,
                // It is polled again, so that it wakes the signal from now on.
                Some(_) => this.signal = Some(Arc::default()),
            }
        }
        let (Some(journal), Some(signal)) = (this.slot.get().cloned(), this.signal.clone()) else {
            return Poll::Pending;
        };
        signal.begin(context.waker());
        let polled = this.poll_in_turns(&journal, &signal, context);
        signal.end();
        polled
    }
}

impl Journal {
    /// Takes in the news and gives the handler what is next for it. If it waits, the next
    /// news wake it.
    fn advance(&self, context: &mut Context<'_>) -> Advanced {
        loop {
            let news = self.mailbox.take();
            let mut state = self.state();
            state.absorb(news);
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
