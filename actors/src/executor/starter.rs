//! Handlers of the same batch of decisions start together: each is polled once, and only handlers
//! that wait become their own tasks.
//!
//! Must always hold: an attempt is polled by one task at a time; while a thread of the runtime is
//! free, no handler waits for its first poll behind one that blocks its thread. A handler that
//! blocks cannot start another starter, so a second one is ready before the handler is polled: the
//! rest of a batch is in a list shared by all its starters, and a batch begins with two starters.
//! Must not know: what handlers do, how results are used.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use super::{attempt::Prepared, running::Shared, wakeup_timer::Waiting};

/// Attempts that one task polls before it yields.
const STARTED_TOGETHER: usize = 32;
/// A handler that keeps its thread no longer than this does not delay others.
const SLOW_POLL: Duration = Duration::from_micros(200);

/// Attempts that are not polled yet, and their starters.
pub(super) struct Batch {
    shared: Arc<Shared>,
    rest: Mutex<Rest>,
    starters: AtomicUsize,
    /// Maximum number of starters: one per thread.
    starters_max: usize,
}

struct Rest {
    attempts: std::vec::IntoIter<Prepared>,
    /// Held while attempts are left.
    waiting: Option<Waiting>,
}

impl Batch {
    /// Starts attempts.
    pub(super) fn start(shared: Arc<Shared>, attempts: Vec<Prepared>) {
        let count = attempts.len();
        let starters_max = shared.threads.min(count);
        let starters = count.div_ceil(STARTED_TOGETHER).max(2).min(starters_max);
        let waiting = Some(shared.expect_start());
        let rest = Mutex::new(Rest { attempts: attempts.into_iter(), waiting });
        let batch =
            Arc::new(Self { shared, rest, starters: AtomicUsize::new(starters), starters_max });
        for _ in 0..starters {
            batch.shared.host.spawn(Arc::clone(&batch).begin());
        }
    }

    fn rest(&self) -> std::sync::MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.rest().attempts.as_slice().is_empty()
    }

    fn next(&self) -> Option<Prepared> {
        let mut rest = self.rest();
        let next = rest.attempts.next();
        if rest.attempts.as_slice().is_empty() {
            rest.waiting = None;
        }
        next
    }

    /// Starts the attempts that the other starters have left, once there is a thread for it. If
    /// attempts and threads are left by then, it spawns one more starter.
    fn begin(self: Arc<Self>) -> BoxFuture {
        Box::pin(async move {
            if self.is_over() {
                return;
            }
            let is_one_more = |starters| (starters < self.starters_max).then_some(starters + 1);
            let (set, fetch) = (Ordering::AcqRel, Ordering::Acquire);
            if self.starters.fetch_update(set, fetch, is_one_more).is_ok() {
                self.shared.host.spawn(Arc::clone(&self).begin());
                yield_thread().await;
            }
            self.work().await;
        })
    }

    /// Polls attempts one after the other until none is left.
    async fn work(self: Arc<Self>) {
        let mut begun = tokio::time::Instant::now();
        for turn in 1_usize.. {
            let Some(prepared) = self.next() else { return };
            let key = prepared.key();
            if !self.shared.is_wanted(key) {
                continue; // Aborted.
            }
            let mut attempt = prepared.begin();
            let mut poll = |context: &mut Context<'_>| attempt.as_mut().poll(context).is_ready();
            let is_over = poll_fn(|context| Poll::Ready(poll(context))).await;
            let ended = tokio::time::Instant::now();
            let is_slow = ended - begun > SLOW_POLL;
            begun = ended;
            if !is_over {
                self.shared.spawn_begun(key, attempt);
            }
            if is_slow {
                return self.spawn_rest();
            }
            let is_alone = self.starters_max == 1;
            if turn.is_multiple_of(STARTED_TOGETHER) || !is_over && !is_alone {
                yield_thread().await;
                begun = tokio::time::Instant::now();
            }
        }
    }

    /// Spawns all remaining attempts as their own tasks.
    fn spawn_rest(&self) {
        loop {
            let Some(prepared) = self.next() else { return };
            self.shared.spawn(prepared);
        }
    }
}

/// Yields the thread. The last task that a task spawns is in a slot that only its own thread reads,
/// and would wait for the next poll if that blocks: yielding runs it first.
async fn yield_thread() {
    let mut has_waited = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Boxed because it spawns itself.
type BoxFuture = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;
