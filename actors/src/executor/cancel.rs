//! The wish that a handler stops.
//!
//! Must always hold: once it was raised it stays so, and whoever waits for it or will is
//! woken. Of most handlers nobody wishes it: it costs one allocation, and no lock.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

/// Shared by a handler and whoever may want it to stop.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<Wish>);

#[derive(Debug, Default)]
struct Wish {
    is_raised: AtomicBool,
    raised: Notify,
}

impl Cancel {
    /// From now on the handler should stop.
    pub fn cancel(&self) {
        self.0.is_raised.store(true, Ordering::SeqCst);
        self.0.raised.notify_waiters();
    }

    /// Whether it should.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.is_raised.load(Ordering::SeqCst)
    }

    /// Waits until it should. Cancel-safe.
    pub async fn cancelled(&self) {
        let raised = self.0.raised.notified();
        tokio::pin!(raised);
        // Before it looks: what is raised in between wakes it.
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
    async fn everybody_who_waits_or_will_is_woken() {
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
    fn whoever_comes_in_the_moment_in_which_it_is_raised_is_woken() {
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
