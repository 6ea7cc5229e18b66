//! Ensures that a free thread finds attempts that have not started.
//!
//! A runtime thread that runs out of work may go to sleep in the very moment in which another one
//! takes several tasks and wakes nothing, because no thread sleeps yet (tokio relies on tasks that
//! yield). If the first of these tasks then blocks, the others are stuck behind it although a
//! thread is free. So while attempts wait for their first poll there is a timer: a sleeping thread
//! wakes for it, and looks for work.
//!
//! Must always hold: the timer runs only while an attempt waits for its first poll. Must not know:
//! which attempts wait.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::host::Host;

/// Maximum time that a thread may sleep while an attempt could use it.
const SLEEP_MAX: Duration = Duration::from_millis(10);

/// Batches of attempts (and single ones) that wait for their first poll, and whether a task wakes
/// threads for them.
#[derive(Debug, Default)]
pub(super) struct WakeupTimer {
    waiting: AtomicUsize,
    is_manned: AtomicBool,
}

impl WakeupTimer {
    /// Attempts will be spawned; they count as waiting until the guard is dropped.
    pub(super) fn expect(self: &Arc<Self>, host: &Host, threads: usize) -> Waiting {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        // Spawned before the attempts, so that its timer runs by the time they do.
        if threads > 1 && !self.is_manned.swap(true, Ordering::SeqCst) {
            host.spawn_as("wakeup_timer", Arc::clone(self).watch());
        }
        Waiting(Arc::clone(self))
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    async fn watch(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SLEEP_MAX).await;
            if self.waiting.load(Ordering::SeqCst) > 0 {
                continue;
            }
            self.is_manned.store(false, Ordering::SeqCst);
            // Attempts that came in between saw a running timer.
            let is_over = self.waiting.load(Ordering::SeqCst) == 0;
            if is_over || self.is_manned.swap(true, Ordering::SeqCst) {
                return;
            }
        }
    }
}

/// Attempts that are not polled yet.
pub(super) struct Waiting(Arc<WakeupTimer>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_timer_runs_while_something_waits() {
        let (wakeup_timer, host) =
            (Arc::<WakeupTimer>::default(), Host::from(tokio::runtime::Handle::current()));
        let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let idle = tasks();
        for _ in 0..3 {
            let waiting: Vec<_> = (0..3).map(|_| wakeup_timer.expect(&host, 2)).collect();
            tokio::time::sleep(3 * SLEEP_MAX).await;
            assert_eq!(tasks(), idle + 1);
            drop(waiting);
            let started = std::time::Instant::now();
            while tasks() > idle && started.elapsed() < Duration::from_secs(20) {
                tokio::time::sleep(SLEEP_MAX).await;
            }
            assert_eq!(tasks(), idle, "it goes when nothing waits");
        }
    }
}
