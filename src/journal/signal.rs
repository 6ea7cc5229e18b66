//! Tells a handler that waits from one that only gave others a turn.
//!
//! A future may return `Pending` although it could continue: `FuturesUnordered` does so after
//! some polls, and so does every tokio resource when a task's budget is used up. Both wake
//! themselves first. To deliver something at that point would be too early: in a replay the
//! same point may come elsewhere.
//!
//! Must always hold: a wake that comes while the attempt is polled is passed on at the
//! latest when that poll ends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// What the futures of a handler wake.
#[derive(Default)]
pub(super) struct Signal {
    is_woken: AtomicBool,
    is_polling: AtomicBool,
    task: AtomicWaker,
}

impl Signal {
    /// The attempt's task is being polled.
    pub(super) fn begin(&self, task: &Waker) {
        self.task.register(task);
        self.is_polling.store(true, SeqCst);
    }

    /// The handler is polled next.
    pub(super) fn clear(&self) {
        self.is_woken.store(false, SeqCst);
    }

    /// Whether the handler wants to be polled again.
    pub(super) fn is_woken(&self) -> bool {
        self.is_woken.load(SeqCst)
    }

    /// The poll of the task ends.
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
