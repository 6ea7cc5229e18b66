//! Pull workers: they lease attempts, keep them alive with heartbeats, and report their ends.
//!
//! Owns: the lease book of a runtime, its timer, the waiting answers. Must always hold: attempts
//! for a worker that no longer waits go to another worker; every attempt that was taken from the
//! runtime is ended, lost or given back. Must not know: HTTP.

mod hands;
mod report;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use forebay_engine::leases::{
    EndedLease, Granted, LeaseBook, LeaseEffect, LeaseId, LeaseLimits, LeaseState, Millis, Offer,
    Poll, PollId, PollRefusal,
};
use forebay_http::backend::{LeaseEnd, LeaseRequest, LeaseState as State, Leases};
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, oneshot};

use crate::{Runtime, WeakRuntime, error::NodeError, handler::HandlerError, runtime::Closing};

use hands::{Handed, Hands};

/// Longest pause of the timer, so that a change of the clock's speed does no harm.
const TICK_MAX: Duration = Duration::from_secs(60);
/// Longest wait for the outcome of an entry whose end was reported twice.
const AGAIN_WAIT: Duration = Duration::from_secs(10);

/// Why a worker's request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WorkerError {
    #[error("too many workers wait; nothing was done")]
    TooManyPolls,
    #[error("workers ask for too many services; nothing was done")]
    TooManyServices,
    #[error("no leases are given any more: the server stops")]
    Closed,
    #[error(
        "the lease has ended: it ran out, its entry was taken back, or another end was reported; \
         nothing was done"
    )]
    LeaseEnded,
    #[error("the end was reported before; it is not known yet whether it is durable")]
    Unknown,
}

#[derive(Default)]
struct Waiting {
    answers: HashMap<PollId, oneshot::Sender<Vec<Granted>>>,
    last: u64,
}

struct Inner {
    book: LeaseBook,
    /// Leased and offered attempts.
    attempts: HashMap<LeaseId, Handed>,
    waiting: Waiting,
    is_closed: bool,
}

/// The workers of a runtime.
pub(crate) struct Workers {
    inner: Mutex<Inner>,
    hands: Hands,
    runtime: WeakRuntime,
    /// The timer of the book may be due earlier than before.
    earlier: Notify,
    /// A lease ended.
    ended: Notify,
    begun: Instant,
}

/// A poll that waits for its answer. If it is dropped first, its leases go to other workers.
struct Waits<'a> {
    workers: &'a Workers,
    poll: PollId,
    answer: oneshot::Receiver<Vec<Granted>>,
    is_answered: bool,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        let poll = self.poll;
        self.workers.change(|inner, now, effects| {
            inner.waiting.answers.remove(&poll);
            if !inner.book.disconnect(now, poll, effects)
                && let Ok(granted) = self.answer.try_recv()
            {
                inner.book.undelivered(now, &granted, effects);
            }
        });
    }
}

impl Workers {
    /// Starts to serve workers. `lease` is the time of a lease without a heartbeat.
    pub(crate) fn start(runtime: &Runtime, lease: Duration) -> Result<Arc<Self>, NodeError> {
        let lease = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX / 4);
        let limits = LeaseLimits { lease, ..LeaseLimits::default() };
        let inner = Inner {
            book: LeaseBook::new(0, limits),
            attempts: HashMap::new(),
            waiting: Waiting::default(),
            is_closed: false,
        };
        let workers = Arc::new(Self {
            inner: Mutex::new(inner),
            hands: Hands::new(runtime)?,
            runtime: runtime.downgrade(),
            earlier: Notify::new(),
            ended: Notify::new(),
            begun: Instant::now(),
        });
        tokio::spawn(tick(Arc::downgrade(&workers)));
        let taking = Arc::downgrade(&workers);
        tokio::spawn(take(taking));
        Ok(workers)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Millis {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Changes the book, and performs the effects.
    fn change<T>(&self, change: impl FnOnce(&mut Inner, Millis, &mut Vec<LeaseEffect>) -> T) -> T {
        let mut effects = Vec::new();
        let mut inner = self.lock();
        let before = inner.book.next_at();
        let changed = change(&mut inner, self.now(), &mut effects);
        let after = inner.book.next_at();
        // Slots are announced in the order of the changes, so under the lock.
        for effect in effects {
            self.perform(&mut inner, effect);
        }
        drop(inner);
        if after.is_some_and(|after| before.is_none_or(|before| after < before)) {
            self.earlier.notify_one();
        }
        changed
    }

    fn perform(&self, inner: &mut Inner, effect: LeaseEffect) {
        match effect {
            LeaseEffect::Answer { poll, leases } => {
                // Without a receiver: `Waits` has seen that it was not answered.
                if let Some(answer) = inner.waiting.answers.remove(&poll) {
                    let _ = answer.send(leases);
                }
            }
            LeaseEffect::GiveBack(id) => {
                inner.attempts.remove(&id);
                self.hands.give_back(id);
            }
            LeaseEffect::CutShort(id) => {
                let attempt = inner.attempts.remove(&id);
                let service = attempt.as_ref().map(|attempt| &*attempt.name.service);
                tracing::info!(lease = %id, service, "the lease of a worker ran out");
                self.hands.lose(id);
                self.ended.notify_waiters();
            }
            LeaseEffect::Slots { service, slots } => self.hands.set_slots(&service, slots),
            LeaseEffect::Close(service) => self.hands.withdraw(&service),
        }
    }

    /// Leases attempts to a worker. Dropped before it returns, it leases nothing.
    pub(crate) async fn lease(&self, request: LeaseRequest) -> Result<Leases, WorkerError> {
        let begun = Instant::now();
        let (sender, answer) = oneshot::channel();
        let wait = u64::try_from(request.wait.as_millis()).unwrap_or(u64::MAX / 4);
        let (poll, asked) = self.change(|inner, now, effects| {
            inner.waiting.last += 1;
            let id = PollId(inner.waiting.last);
            if inner.is_closed {
                return (id, Err(WorkerError::Closed));
            }
            inner.waiting.answers.insert(id, sender);
            let poll = Poll {
                worker: request.worker.into(),
                request: request.request.into(),
                services: request.services.into_iter().map(Into::into).collect(),
                max: request.max,
                until: now + wait,
            };
            let asked = inner.book.poll(now, id, poll, effects).map_err(|refusal| match refusal {
                PollRefusal::TooManyPolls => WorkerError::TooManyPolls,
                PollRefusal::TooManyServices => WorkerError::TooManyServices,
            });
            if asked.is_err() {
                inner.waiting.answers.remove(&id);
            }
            (id, asked)
        });
        asked?;
        let mut waits = Waits { workers: self, poll, answer, is_answered: false };
        let granted = (&mut waits.answer).await.unwrap_or_default();
        waits.is_answered = true;
        let inner = self.lock();
        if granted.is_empty() && inner.is_closed {
            return Err(WorkerError::Closed);
        }
        let now = self.now();
        let leases = granted.iter().filter_map(|granted| {
            let attempt = inner.attempts.get(&granted.lease)?;
            let left = Duration::from_millis(granted.until.saturating_sub(now));
            Some(report::leased(granted.lease, attempt, left))
        });
        let leases = leases.collect();
        Ok(Leases { leases, waited: begun.elapsed() })
    }

    /// Keeps leases alive; the state of each.
    pub(crate) fn heartbeat(&self, leases: &[LeaseId]) -> Vec<State> {
        self.change(|inner, now, effects| {
            for id in leases {
                if inner.attempts.get(id).is_some_and(|attempt| attempt.cancel.is_cancelled()) {
                    inner.book.stop(now, *id, effects);
                }
            }
            let left = |until: Millis| Duration::from_millis(until.saturating_sub(now));
            let states = inner.book.heartbeat(now, leases).into_iter();
            let states = states.map(|state| match state {
                LeaseState::Held(until) => State::Held(left(until)),
                LeaseState::Stop(until) => State::Stop(left(until)),
                LeaseState::Lost => State::Lost,
            });
            states.collect()
        })
    }

    /// A worker reports the end of an attempt. Returns whether it had reported it before.
    pub(crate) async fn end(&self, id: LeaseId, end: &LeaseEnd) -> Result<bool, WorkerError> {
        let digest = report::digest_of(end);
        let ended = self.change(|inner, now, effects| {
            let ended = inner.book.end(now, id, digest, effects);
            if ended == EndedLease::First {
                inner.attempts.remove(&id);
            }
            ended
        });
        self.ended.notify_waiters();
        match ended {
            EndedLease::First => match self.hands.end(id, report::handler_end(end)) {
                true => self.durable(id, end).await.map(|()| false),
                false => Err(WorkerError::LeaseEnded),
            },
            EndedLease::Again => self.durable(id, end).await.map(|()| true),
            EndedLease::Lost => Err(WorkerError::LeaseEnded),
        }
    }

    /// Waits until an end that ends the entry is durable.
    async fn durable(&self, id: LeaseId, end: &LeaseEnd) -> Result<(), WorkerError> {
        if !report::ends_the_entry(end) {
            return Ok(());
        }
        let is_success = matches!(end, LeaseEnd::Success(_));
        let handle = self.runtime.upgrade().ok_or(WorkerError::Closed)?.attach(id.entry);
        match tokio::time::timeout(AGAIN_WAIT, handle.outcome()).await {
            Ok(Ok(outcome)) if outcome.is_success() == is_success => Ok(()),
            Ok(Ok(_)) => Err(WorkerError::LeaseEnded),
            Ok(Err(_)) | Err(_) => Err(WorkerError::Unknown),
        }
    }

    /// Gives no more leases, answers the waiting requests, and waits until the leases have ended,
    /// at most for this long.
    pub(crate) async fn drain(&self, within: Duration) {
        self.change(|inner, now, effects| {
            inner.is_closed = true;
            inner.book.close(now, effects);
        });
        let until = tokio::time::Instant::now() + within;
        loop {
            let ended = self.ended.notified();
            if self.lock().book.leased() == 0
                || tokio::time::timeout_at(until, ended).await.is_err()
            {
                return;
            }
        }
    }
}

impl Closing for Workers {
    /// Gives no more leases. Leased entries run again after the end of their leases.
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.drain(Duration::ZERO).await;
            let left = self.change(|inner, now, _| inner.book.revoke_all(now));
            for (id, left) in left {
                let later = HandlerError::snooze(Duration::from_millis(left));
                self.hands.end(id, Err(later));
            }
        })
    }
}

/// Advances the lease book when a lease, a poll or a hold is due.
async fn tick(workers: Weak<Workers>) {
    loop {
        let next = {
            let Some(workers) = workers.upgrade() else { return };
            let at = workers.change(|inner, now, effects| {
                inner.book.tick(now, effects);
                inner.book.next_at()
            });
            let wait = at.map(|at| Duration::from_millis(at.saturating_sub(workers.now()).max(1)));
            wait.unwrap_or(TICK_MAX).min(TICK_MAX)
        };
        let Some(workers) = workers.upgrade() else { return };
        let earlier = workers.earlier.notified();
        // A runtime that is dropped ends the tick at its next turn.
        let _ = tokio::time::timeout(next, earlier).await;
    }
}

/// Takes attempts from the runtime and offers them.
async fn take(workers: Weak<Workers>) {
    loop {
        let Some(workers) = workers.upgrade() else { return };
        let handed = workers.hands.next().await;
        if handed.is_empty() {
            return;
        }
        workers.change(|inner, now, effects| {
            let mut offers = Vec::with_capacity(handed.len());
            for attempt in handed {
                offers.push(Offer {
                    id: attempt.id,
                    service: attempt.name.service.clone(),
                    key: attempt.name.object_key.is_some().then(|| Arc::clone(&attempt.name)),
                    is_interrupted: attempt.is_interrupted,
                });
                inner.attempts.insert(attempt.id, attempt);
            }
            inner.book.offer(now, offers, effects);
        });
    }
}
