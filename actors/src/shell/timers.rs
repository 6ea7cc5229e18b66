//! A queue of timers of one thread, with one clock.
//!
//! Must always hold: a timer fires at or after its time, once, unless canceled; an empty queue
//! costs nothing.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use forebay_messages::Timestamp;

use super::Clock;

/// The action of a timer.
type Action = Box<dyn FnOnce()>;

/// Identifies a timer, so that it can be canceled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimerKey {
    at: Timestamp,
    serial: u64,
}

struct Queue {
    clock: Arc<dyn Clock>,
    actions: BTreeMap<TimerKey, Action>,
    serial: u64,
    /// Called when a timer is set that is earlier than all others.
    wake: Option<Box<dyn Fn()>>,
}

impl Drop for Queue {
    /// Ends the task that waits for the first timer.
    fn drop(&mut self) {
        if let Some(wake) = &self.wake {
            wake();
        }
    }
}

/// A handle to a queue of timers. It stays on its thread.
#[derive(Clone)]
pub struct Timers(Rc<RefCell<Queue>>);

/// A handle that does not keep the queue alive.
#[derive(Clone)]
pub(super) struct WeakTimers(Weak<RefCell<Queue>>);

impl WeakTimers {
    pub(super) fn upgrade(&self) -> Option<Timers> {
        self.0.upgrade().map(Timers)
    }
}

impl Timers {
    /// An empty queue with this clock.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let (actions, serial, wake) = (BTreeMap::new(), 0, None);
        Self(Rc::new(RefCell::new(Queue { clock, actions, serial, wake })))
    }

    pub(super) fn downgrade(&self) -> WeakTimers {
        WeakTimers(Rc::downgrade(&self.0))
    }

    /// Calls `action` at a time (or soon, if it has passed).
    pub fn set(&self, at: Timestamp, action: impl FnOnce() + 'static) -> TimerKey {
        let mut queue = self.0.borrow_mut();
        queue.serial += 1;
        let key = TimerKey { at, serial: queue.serial };
        queue.actions.insert(key, Box::new(action));
        let is_first = queue.actions.first_key_value().is_some_and(|(first, _)| *first == key);
        if is_first && let Some(wake) = &queue.wake {
            wake();
        }
        key
    }

    /// Removes a timer; one that has fired is removed already.
    pub fn cancel(&self, key: TimerKey) {
        self.0.borrow_mut().actions.remove(&key);
    }

    /// Time until the first timer is due; `None` without timers.
    #[must_use]
    pub fn first_in(&self) -> Option<Duration> {
        let queue = self.0.borrow();
        let (first, _) = queue.actions.first_key_value()?;
        Some(first.at.since(queue.clock.now()))
    }

    /// Fires the due timers.
    pub fn fire(&self) {
        let now = self.0.borrow().clock.now();
        loop {
            let action = {
                let mut queue = self.0.borrow_mut();
                match queue.actions.first_entry() {
                    Some(first) if first.key().at <= now => first.remove(),
                    _ => return,
                }
            };
            action();
        }
    }

    /// Removes all timers.
    pub(crate) fn clear(&self) {
        // Dropped outside of the borrow: an action may hold something that cancels a timer.
        let actions = std::mem::take(&mut self.0.borrow_mut().actions);
        drop(actions);
    }

    pub(super) fn on_earlier(&self, wake: impl Fn() + 'static) {
        self.0.borrow_mut().wake = Some(Box::new(wake));
    }
}
