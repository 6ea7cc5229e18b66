//! One queue of timers per thread (or per simulation).
//!
//! Must always hold: a timer fires at or after its time, once, unless canceled; an
//! empty queue costs nothing.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use forebay_messages::Timestamp;

/// What happens when a timer fires.
type Action = Box<dyn FnOnce()>;

/// Names a timer that is set, so that it can be canceled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimerKey {
    at: Timestamp,
    serial: u64,
}

#[derive(Default)]
struct Queue {
    actions: BTreeMap<TimerKey, Action>,
    serial: u64,
    /// Wakes whoever waits for the first timer, when an earlier one was set.
    wake: Option<Box<dyn Fn()>>,
}

/// A handle to the queue of timers of this thread.
#[derive(Clone, Default)]
pub struct Timers(Rc<RefCell<Queue>>);

impl Timers {
    /// Has `action` called at a time (or soon, if it is past).
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

    /// Forgets a timer; one that has fired is forgotten already.
    pub fn cancel(&self, key: TimerKey) {
        self.0.borrow_mut().actions.remove(&key);
    }

    /// When the first one is due.
    #[must_use]
    pub fn first(&self) -> Option<Timestamp> {
        self.0.borrow().actions.first_key_value().map(|(key, _)| key.at)
    }

    /// Calls what is due.
    pub fn fire(&self, now: Timestamp) {
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

    /// Forgets every timer.
    pub(crate) fn clear(&self) {
        // Dropped outside of the borrow: an action may hold what cancels a timer.
        let actions = std::mem::take(&mut self.0.borrow_mut().actions);
        drop(actions);
    }

    pub(super) fn on_earlier(&self, wake: impl Fn() + 'static) {
        self.0.borrow_mut().wake = Some(Box::new(wake));
    }
}
