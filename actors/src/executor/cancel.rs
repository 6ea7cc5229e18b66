//! The request that a handler stop.
//!
//! Must always hold: once raised it stays raised, and every present and future waiter is woken.
//! Most handlers are never asked to stop: this costs one allocation and no lock.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

/// Shared by a handler and everything that may ask it to stop.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<Request>);

#[derive(Debug, Default)]
struct Request {
    is_raised: AtomicBool,
    raised: Notify,
}

impl Cancel {
    /// Asks the handler to stop.
    pub fn cancel(&self) {
        self.0.is_raised.store(true, Ordering::SeqCst);
        self.0.raised.notify_waiters();
    }

    /// Whether the handler was asked to stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.is_raised.load(Ordering::SeqCst)
    }

    /// Waits until the handler is asked to stop. Cancel-safe.
    pub async fn cancelled(&self) {
        let raised = self.0.raised.notified();
        tokio::pin!(raised);
        // Enabled before the check: a request in between wakes it.
        raised.as_mut().enable();
        if !self.is_cancelled() {
            raised.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn present_and_future_waiters_are_woken() {
        let cancel = Cancel::default();
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let cancel = cancel.clone();
                tokio::spawn(async move { cancel.cancelled().await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(!cancel.is_cancelled() && waiting.iter().all(|task| !task.is_finished()));
        cancel.cancel();
        for task in waiting {
            task.await.unwrap();
        }
        cancel.cancelled().await;
        assert!(cancel.is_cancelled());
    }

    #[test]
    fn a_waiter_that_comes_while_it_is_raised_is_woken() {
        let tokio = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for _ in 0..1_000 {
            let cancel = Cancel::default();
            std::thread::scope(|threads| {
                threads.spawn(|| cancel.cancel());
                tokio.block_on(cancel.cancelled());
            });
        }
    }
}
