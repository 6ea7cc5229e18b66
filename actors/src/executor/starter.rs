//! Handlers that were decided for together start together: each is polled once, and only
//! those that wait for something get tasks of their own.
//!
//! Must always hold: an attempt is polled by one task at a time; as long as a thread of the
//! runtime is free, no handler waits for its first poll behind one that blocks its thread.
//! A handler that blocks cannot call for help, so somebody else stands ready before it is
//! polled: what is left of a batch lies where all its starters find it, and a second one is
//! there from the start. Must not know: what handlers do, what comes of their ends.

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

/// Attempts that one task polls before others get their turn.
const STARTED_TOGETHER: usize = 32;
/// A handler that keeps its thread for so long at a time does not hold up others.
const SLOW_POLL: Duration = Duration::from_micros(200);

/// Attempts that nobody has polled yet, and who starts them.
pub(super) struct Batch {
    shared: Arc<Shared>,
    rest: Mutex<Rest>,
    starters: AtomicUsize,
    /// One for each thread.
    starters_max: usize,
}

struct Rest {
    attempts: std::vec::IntoIter<Prepared>,
    /// While there are any.
    waiting: Option<Waiting>,
}

impl Batch {
    /// Has attempts started.
    pub(super) fn start(shared: Arc<Shared>, attempts: Vec<Prepared>) {
        let count = attempts.len();
        let starters_max = shared.threads.min(count);
        let starters = count.div_ceil(STARTED_TOGETHER).max(2).min(starters_max);
        let waiting = Some(shared.look_after());
        let rest = Mutex::new(Rest { attempts: attempts.into_iter(), waiting });
        let batch =
            Arc::new(Self { shared, rest, starters: AtomicUsize::new(starters), starters_max });
        for _ in 0..starters {
            batch.shared.spawner.spawn(Arc::clone(&batch).begin());
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

    /// Starts what the others have left, once there is a thread for it. While something is
    /// left by then, and threads, one more is called for.
    fn begin(self: Arc<Self>) -> BoxFuture {
        Box::pin(async move {
            if self.is_over() {
                return;
            }
            let is_one_more = |starters| (starters < self.starters_max).then_some(starters + 1);
            let (set, fetch) = (Ordering::AcqRel, Ordering::Acquire);
            if self.starters.fetch_update(set, fetch, is_one_more).is_ok() {
                self.shared.spawner.spawn(Arc::clone(&self).begin());
                give_way().await;
            }
            self.work().await;
        })
    }

    /// Polls attempts, one after the other, until none is left.
    async fn work(self: Arc<Self>) {
        let mut begun = tokio::time::Instant::now();
        for turn in 1_usize.. {
            let Some(prepared) = self.next() else { return };
            let key = prepared.key();
            if !self.shared.is_wanted(key) {
                continue; // It was aborted.
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
                give_way().await;
                begun = tokio::time::Instant::now();
            }
        }
    }

    /// All that are left get tasks of their own.
    fn spawn_rest(&self) {
        loop {
            let Some(prepared) = self.next() else { return };
            self.shared.spawn(prepared);
        }
    }
}

/// Lets others have the thread. What a task spawns last lies where only its thread finds
/// it, and would wait for whoever blocks that next: it goes first.
async fn give_way() {
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

/// Boxed, for it spawns itself.
type BoxFuture = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;
