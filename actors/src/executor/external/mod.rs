//! Attempts that executors beside the handlers of this process run: in this process through a
//! handle, or elsewhere through a server that holds one.
//!
//! Must always hold: the partition of an attempt is notified once when the attempt is over; an
//! attempt that was stopped keeps its place until its executor has ended it or was lost; a lock is
//! never held while an attempt is dropped. Must not know: limits, the log, how an executor is
//! reached.

mod handle;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use forebay_engine::{
    executors::{Assigned, Executors, Left},
    partition::machine::RunAttempt,
};
use forebay_messages::{actor::AttemptEnd, command::ExecutorId};
use tokio::{sync::Notify, time::Instant};

use crate::table::KeyRange;

use super::{
    Cancel, INTERRUPTIONS_MAX, NO_HANDLER_SNOOZE,
    attempt::Prepared,
    running::{AttemptKey, Guard},
};

pub use handle::{Assignment, AttemptGone, ExternalExecutor, ExternalOptions};

/// An attempt in the table.
struct Held {
    guard: Guard,
    cancel: Cancel,
    /// Until its executor takes it.
    input: Option<Input>,
}

/// What an executor is handed.
struct Input {
    run: RunAttempt,
    payload: Bytes,
}

impl Held {
    /// It is over. Reports to its partition, so no lock may be held.
    fn end(mut self, ended: AttemptEnd) {
        self.guard.ended = Some(ended);
    }
}

/// An executor's own state.
struct Known {
    /// Notified when there is an attempt to take, and when the executor is removed.
    wake: Arc<Notify>,
    /// When it was last alive.
    heard: Instant,
}

#[derive(Default)]
struct State {
    table: Executors<Held>,
    known: HashMap<ExecutorId, Known>,
    /// The node shuts down: nothing is taken or announced any more.
    is_closed: bool,
}

impl State {
    fn wake(&self, id: ExecutorId) {
        if let Some(known) = self.known.get(&id) {
            known.wake.notify_waiters();
        }
    }
}

/// How an executor was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// It stopped in order.
    Planned,
    /// It died, or was silent for its lease.
    Unplanned,
}

impl Loss {
    fn end(self, is_taken: bool) -> AttemptEnd {
        let is_counted = self == Self::Unplanned && is_taken;
        AttemptEnd::GivenBack { interrupted: if is_counted { INTERRUPTIONS_MAX } else { 0 } }
    }
}

/// The executors beside the handlers, and their attempts.
#[derive(Default)]
pub(super) struct External {
    /// An executor was announced since the start. While there was none, `state` is not locked.
    is_used: AtomicBool,
    state: Mutex<State>,
}

impl External {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Acquire)
    }

    /// Whether an executor announced a service.
    pub(super) fn serves(&self, service: &str) -> bool {
        self.is_used() && self.state().table.serves(service)
    }

    /// Number of attempts of a service that all executors together run at once.
    pub(super) fn slots(&self, service: &str) -> u32 {
        if self.is_used() { self.state().table.slots(service).max } else { 0 }
    }

    /// Hands an attempt to an executor, or keeps it until one has a free slot.
    pub(super) fn assign(&self, prepared: Prepared) {
        let key = prepared.key();
        let Prepared { run, payload, cancel, guard, .. } = prepared;
        let name = Arc::clone(&run.name);
        let held = Held { guard, cancel, input: Some(Input { run, payload }) };
        let not_served = {
            let mut state = self.state();
            if state.is_closed {
                drop(state);
                return drop(held);
            }
            match state.table.assign(&name.service, key, held) {
                Assigned::To(id) => {
                    state.wake(id);
                    None
                }
                Assigned::Waits => None,
                Assigned::NotServed(held) => Some(held),
            }
        };
        if let Some(held) = not_served {
            held.end(AttemptEnd::Snooze { wait: NO_HANDLER_SNOOZE });
        }
    }

    /// An attempt should stop: one that no executor has taken is over. The others were asked to
    /// stop through their `Cancel`.
    pub(super) fn stop(&self, key: AttemptKey) {
        if !self.is_used() {
            return;
        }
        let stopped = {
            let mut state = self.state();
            let stopped = state.table.stop(key);
            if let Some((_, Some(id))) = stopped {
                state.wake(id);
            }
            stopped
        };
        if let Some((held, _)) = stopped {
            let (message, detail) = ("canceled before it started".into(), Bytes::new());
            held.end(AttemptEnd::Canceled { message, detail });
        }
    }

    /// The partition of a range, or of all, stops here: its attempts are over, although their
    /// executors may still run them.
    pub(super) fn drop_range(&self, range: Option<KeyRange>) {
        if !self.is_used() {
            return;
        }
        let is_meant =
            |(entry, _): &AttemptKey| range.is_none_or(|range| range.contains(entry.partition_key));
        let dropped = {
            let mut state = self.state();
            let (dropped, wake) = state.table.drop_attempts(is_meant);
            wake.into_iter().for_each(|id| state.wake(id));
            dropped
        };
        drop(dropped);
    }

    /// The node is down: executors learn it.
    pub(super) fn close(&self) {
        let known = {
            let mut state = self.state();
            state.is_closed = true;
            std::mem::take(&mut state.known)
        };
        known.into_values().for_each(|known| known.wake.notify_waiters());
    }

    fn remove(&self, id: ExecutorId, loss: Loss) {
        let removed = {
            let mut state = self.state();
            let known = state.known.remove(&id);
            state.table.remove(id).map(|removed| (removed, known))
        };
        let Some(((left, unserved), known)) = removed else { return };
        for Left { attempt, is_taken } in left {
            attempt.end(loss.end(is_taken));
        }
        give_back(unserved);
        if let Some(known) = known {
            known.wake.notify_waiters();
        }
    }
}

/// Attempts that waited for a service that no executor serves any more.
fn give_back(unserved: Vec<Held>) {
    for held in unserved {
        held.end(AttemptEnd::GivenBack { interrupted: 0 });
    }
}
