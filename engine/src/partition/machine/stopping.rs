//! Handlers that were told to stop and may not have done so: what they stand in the way of
//! until they are gone.
//!
//! Must always hold:
//! - a permit goes back when the attempt is over *and* its handler is gone, whichever is
//!   later (P2);
//! - a limiter that takes over counts every handler that has not stopped here, under
//!   whichever leader it started;
//! - without a limiter, the node's capacity is told of each of them, and when it is gone.
//!
//! Must not know: how handlers are stopped, how long that takes.

use std::collections::BTreeMap;

use forebay_messages::{AttemptToken, EntryId, PermitId, VQueueId, actor::Release};

use super::{Partition, effect::PartitionEffect};

/// An attempt, as limiters and rows know it.
pub type KnownAttempt = (VQueueId, EntryId, AttemptToken);

/// What goes back once the handler is gone.
#[derive(Clone, Copy, Debug)]
struct Over {
    /// Absent while no limiter has answered for it.
    permit: Option<PermitId>,
    /// Who has the vqueue's lock from then on.
    keep_lock: Option<EntryId>,
}

#[derive(Debug)]
struct Handler {
    vqueue: VQueueId,
    entry: EntryId,
    /// Its attempt is over. Else its rows, or the log, still have it.
    over: Option<Over>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Stopping {
    handlers: BTreeMap<AttemptToken, Handler>,
    /// The node's capacity was told of all of them, for there is no limiter.
    pub(super) is_told: bool,
}

impl Stopping {
    /// Handlers that an earlier actor of this replica has left.
    pub(super) fn new(left: Vec<KnownAttempt>) -> Self {
        let handler = |(vqueue, entry, token)| (token, Handler { vqueue, entry, over: None });
        Self { handlers: left.into_iter().map(handler).collect(), is_told: true }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.handlers.is_empty()
    }

    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.handlers.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn all(&self) -> Vec<KnownAttempt> {
        let known = |(token, of): (&AttemptToken, &Handler)| (of.vqueue, of.entry, *token);
        self.handlers.iter().map(known).collect()
    }

    pub(super) fn insert(&mut self, (vqueue, entry, token): KnownAttempt) {
        let before = self.handlers.insert(token, Handler { vqueue, entry, over: None });
        assert!(before.is_none(), "{token} is told to stop once");
    }

    /// An attempt is over. False when its handler is gone: then its permit goes back now.
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

    /// Whoever kept a lock ended: it is not kept when a permit goes back later.
    pub(super) fn lock_freed(&mut self, entry: EntryId) {
        let over = self.handlers.values_mut().filter_map(|handler| handler.over.as_mut());
        over.filter(|over| over.keep_lock == Some(entry)).for_each(|over| over.keep_lock = None);
    }

    /// The limiter is gone, and all permits with it. The next one is told of these, which
    /// no row has, and who has their vqueues' locks.
    pub(super) fn forget_permits(&mut self, over: &[(KnownAttempt, Option<EntryId>)]) {
        for handler in self.handlers.values_mut() {
            handler.over = None;
        }
        for ((_, _, token), keep_lock) in over {
            self.over(*token, None, *keep_lock);
        }
    }

    /// The limiter answers for an attempt; true if that waits here for its handler.
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
    /// Tells the handler of an attempt to stop, if it may run.
    pub(super) fn stop_handler(&mut self, token: AttemptToken, effects: &mut Vec<PartitionEffect>) {
        if let Some(known) = self.attempts.take_handler(token) {
            self.stopping.insert(known);
            effects.push(PartitionEffect::Abort { entry: known.1, token });
        }
    }

    /// Another leader is in charge, or none: all handlers stop, and the node's capacity
    /// hears how many there are still.
    pub(super) fn stop_all_handlers(&mut self, effects: &mut Vec<PartitionEffect>) {
        for known in self.attempts.clear() {
            self.stopping.insert(known);
            effects.push(PartitionEffect::Abort { entry: known.1, token: known.2 });
        }
        self.stopping.forget_permits(&[]);
        if !std::mem::replace(&mut self.stopping.is_told, true) {
            let running = self.stopping.count();
            effects.push(PartitionEffect::LeaveCapacity { running });
        }
    }

    /// The node's capacity was made anew. A leader is told to join it again; others say
    /// what they have.
    pub(super) fn on_tell_capacity(&self, effects: &mut Vec<PartitionEffect>) {
        if self.stopping.is_told {
            let running = self.stopping.count();
            effects.push(PartitionEffect::LeaveCapacity { running });
        }
    }

    /// A handler is gone. True if it had been told to stop: how it ended is of no interest.
    pub(super) fn on_handler_gone(
        &mut self,
        token: AttemptToken,
        effects: &mut Vec<PartitionEffect>,
    ) -> bool {
        let Some(handler) = self.stopping.handlers.remove(&token) else {
            // Unasked without an end: its runtime or its node goes down, and the rows keep
            // it for the next start.
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
        if self.stopping.is_told {
            effects.push(PartitionEffect::ReturnCapacity);
        }
        self.tell_if_quiet(effects);
        true
    }
}
