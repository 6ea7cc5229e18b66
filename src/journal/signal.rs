//! Distinguishes a handler that waits from one that only yields.
//!
//! A future may return `Pending` although it could continue: `FuturesUnordered` does so after some
//! polls, and so does every tokio resource when a task's budget is used up. Both wake themselves
//! first. A delivery at that point would be too early: a replay may yield at another point.
//!
//! Must always hold: a wake during a poll of the attempt is passed on at the latest when that poll
//! ends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// The waker of a handler's futures.
#[derive(Default)]
pub(super) struct Signal {
    is_woken: AtomicBool,
    is_polling: AtomicBool,
    task: AtomicWaker,
}

impl Signal {
    /// Called before the attempt's task is polled.
    pub(super) fn begin(&self, task: &Waker) {
        self.task.register(task);
        self.is_polling.store(true, SeqCst);
    }

    /// Called before the handler is polled.
    pub(super) fn clear(&self) {
        self.is_woken.store(false, SeqCst);
    }

    /// Whether the handler wants to be polled again.
    pub(super) fn is_woken(&self) -> bool {
        self.is_woken.load(SeqCst)
    }

    /// Called after the attempt's task was polled.
    pub(super) fn end(&self) {
        self.is_polling.store(false, SeqCst);
        if self.is_woken() {
            self.task.wake();
        }
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_woken.store(true, SeqCst);
        if !self.is_polling.load(SeqCst) {
            self.task.wake();
        }
    }
}
