//! Handlers that were asked to stop and may still run: the resources they occupy until they have
//! stopped.
//!
//! Must always hold:
//! - a permit is returned when the attempt is over *and* its handler has stopped, whichever is
//!   later (P2);
//! - a new limiter counts every handler that has not stopped here, whichever leader started it;
//! - without a limiter, each of them is reported to the node's capacity, and again when it stopped.
//!
//! Must not know: how handlers are stopped, how long that takes.

use std::collections::BTreeMap;

use forebay_messages::{AttemptToken, EntryId, PermitId, VQueueId, actor::Release};

use super::{Partition, effect::PartitionEffect};

/// An attempt, as known to limiters and rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KnownAttempt {
    /// The vqueue of its entry.
    pub vqueue: VQueueId,
    /// Its entry.
    pub entry: EntryId,
    /// The attempt.
    pub token: AttemptToken,
}

/// Returned once the handler has stopped.
#[derive(Clone, Copy, Debug)]
struct Over {
    /// `None` until a limiter has assigned it.
    permit: Option<PermitId>,
    /// The holder of the vqueue's lock from then on.
    keep_lock: Option<EntryId>,
}

#[derive(Debug)]
struct Handler {
    vqueue: VQueueId,
    entry: EntryId,
    /// Its attempt is over. Otherwise it is still in the rows or the log.
    over: Option<Over>,
}

/// The handlers that are stopping.
#[derive(Debug, Default)]
pub(super) struct Stopping {
    handlers: BTreeMap<AttemptToken, Handler>,
    /// All of them are reported to the node's capacity, because there is no limiter.
    pub(super) is_reported: bool,
}

impl Stopping {
    /// The handlers that a former actor of this replica left.
    pub(super) fn new(left: Vec<KnownAttempt>) -> Self {
        let handler =
            |KnownAttempt { vqueue, entry, token }| (token, Handler { vqueue, entry, over: None });
        Self { handlers: left.into_iter().map(handler).collect(), is_reported: true }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.handlers.is_empty()
    }

    /// Their number.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.handlers.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn all(&self) -> Vec<KnownAttempt> {
        let known = |(token, of): (&AttemptToken, &Handler)| KnownAttempt {
            vqueue: of.vqueue,
            entry: of.entry,
            token: *token,
        };
        self.handlers.iter().map(known).collect()
    }

    pub(super) fn insert(&mut self, KnownAttempt { vqueue, entry, token }: KnownAttempt) {
        let before = self.handlers.insert(token, Handler { vqueue, entry, over: None });
        assert!(before.is_none(), "{token} is asked to stop once");
    }

    /// An attempt is over. Returns `false` if its handler has stopped: then its permit is returned
    /// now.
    pub(super) fn over(
        &mut self,
        token: AttemptToken,
        permit: Option<PermitId>,
        keep_lock: Option<EntryId>,
    ) -> bool {
        let Some(handler) = self.handlers.get_mut(&token) else { return false };
        handler.over = Some(Over { permit, keep_lock });
        true
    }

    /// An entry that kept a lock ended: the lock is not kept when a permit returns later.
    pub(super) fn lock_freed(&mut self, entry: EntryId) {
        let over = self.handlers.values_mut().filter_map(|handler| handler.over.as_mut());
        over.filter(|over| over.keep_lock == Some(entry)).for_each(|over| over.keep_lock = None);
    }

    /// The limiter is gone, and all permits with it. The next one is seeded with these, which have
    /// no rows, and with the holders of their vqueues' locks.
    pub(super) fn forget_permits(&mut self, over: &[(KnownAttempt, Option<EntryId>)]) {
        for handler in self.handlers.values_mut() {
            handler.over = None;
        }
        for (known, keep_lock) in over {
            self.over(known.token, None, *keep_lock);
        }
    }

    /// The limiter assigned a permit to an attempt; returns `true` if the attempt waits here for
    /// its handler.
    pub(super) fn set_permit(&mut self, token: AttemptToken, permit: PermitId) -> bool {
        let over = self.handlers.get_mut(&token).and_then(|handler| handler.over.as_mut());
        over.map(|over| over.permit = Some(permit)).is_some()
    }

    /// `knows`: whether the machine has an attempt that is not over.
    pub(super) fn check(&self, are_permitted: bool, knows: impl Fn(AttemptToken) -> bool) {
        for (token, handler) in &self.handlers {
            match handler.over {
                Some(over) => {
                    assert!(!knows(*token), "P2: {token} is over");
                    let is_permitted = over.permit.is_some();
                    assert!(is_permitted || !are_permitted, "P2: {token} has no permit");
                }
                None => assert!(!are_permitted || knows(*token), "P2: {token} is not over"),
            }
        }
    }
}

impl Partition {
    /// Asks the handler of an attempt to stop, if it may run.
    pub(super) fn stop_handler(&mut self, token: AttemptToken, effects: &mut Vec<PartitionEffect>) {
        if let Some(known) = self.attempts.take_handler(token) {
            self.stopping.insert(known);
            effects.push(PartitionEffect::Abort { entry: known.entry, token });
        }
    }

    /// Another leader is in charge, or none: all handlers stop, and the number of handlers still
    /// running is reported to the node's capacity.
    pub(super) fn stop_all_handlers(&mut self, effects: &mut Vec<PartitionEffect>) {
        for known in self.attempts.clear() {
            self.stopping.insert(known);
            effects.push(PartitionEffect::Abort { entry: known.entry, token: known.token });
        }
        self.stopping.forget_permits(&[]);
        if !std::mem::replace(&mut self.stopping.is_reported, true) {
            let running = self.stopping.count();
            effects.push(PartitionEffect::LeaveCapacity { running });
        }
    }

    /// The node's capacity was restarted. The limiter of a leader joins it again; others report
    /// their handlers.
    pub(super) fn on_tell_capacity(&self, effects: &mut Vec<PartitionEffect>) {
        if self.stopping.is_reported {
            let running = self.stopping.count();
            effects.push(PartitionEffect::LeaveCapacity { running });
        }
    }

    /// A handler has stopped. Returns `true` if it was asked to: then its result is ignored.
    pub(super) fn on_handler_gone(
        &mut self,
        token: AttemptToken,
        effects: &mut Vec<PartitionEffect>,
    ) -> bool {
        let Some(handler) = self.stopping.handlers.remove(&token) else {
            // Stopped without being asked to and without an end: its runtime or its node shuts
            // down, and the rows keep it for the next start.
            self.attempts.forget_handler(token);
            return false;
        };
        match handler.over {
            Some(Over { permit: Some(permit), keep_lock }) => {
                let release = Release { permit, keep_lock };
                self.released.push(release);
            }
            Some(Over { permit: None, keep_lock }) => self.seeding.over(token, keep_lock),
            None => {}
        }
        if self.stopping.is_reported {
            effects.push(PartitionEffect::ReturnCapacity);
        }
        self.tell_if_quiet(effects);
        true
    }
}
