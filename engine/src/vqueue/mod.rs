//! The machine of one active vqueue: when to ask for permits, and which entry each
//! permit is for.
//!
//! Owns: the inbox cache, the one outstanding `Acquire`, the one timer. Each message
//! is noted first; then `settle` compares what is with what should be and
//! emits the difference. No message has a path of its own to an effect, so none can
//! forget one.
//!
//! Guarantees, shown by the model in `tests/vqueue`:
//! 1. A permit is good for whichever entry is the head when it arrives. It ends in
//!    exactly one `Decide` or `ReturnPermit`, within the step that brought it; one that
//!    it was started with, as soon as the inbox was read or cannot be.
//! 2. No entry is decided before its `run_at`, nor while paused or draining, nor
//!    again before its decision is answered.
//! 3. With a lock, one decision at a time: nothing is asked for before the last
//!    decision is answered, and then the limiter's lock takes over.
//! 4. While a stored entry may run, an `Acquire`, a refill, a timer or an unanswered
//!    decision is outstanding: a vqueue is never stuck.
//! 5. A row whose removal was told while a scan ran is not taken from that scan.
//!
//! Relies on the limiter for the lock: a permit of a vqueue with a lock always holds
//! that lock. `Take` waits until it is free; `Held(entry)` until it is free or kept
//! by that entry. Only this vqueue ever asks for its lock, so an entry that kept it
//! loses nothing when a permit goes back unused and frees it.
//!
//! Must not know: limits, other vqueues, storage, what a decision leads to.

mod check;
mod effect;
mod gone;
mod settle;

use std::time::Duration;

use forebay_messages::{
    EntryKey, Timestamp, VQueueId,
    actor::{InboxChange, LockWish, Permits, RefillDone, RefillFailed, VQueueMessage},
};

use crate::{Machine, inbox::Inbox};

pub use effect::{Rest, VQueueEffect};
use gone::Gone;

/// How many decisions may be unanswered before a vqueue stops asking for permits.
pub const DISPATCHED_MAX: usize = 1_024;
/// Wait after a first failed scan.
pub const REFILL_BACKOFF_FIRST: Duration = Duration::from_millis(10);
/// Longest wait after a failed scan; the wait doubles up to it.
pub const REFILL_BACKOFF_MAX: Duration = Duration::from_secs(5);

/// What a vqueue is, and how it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VQueueConfig {
    /// Whose inbox it reads.
    pub id: VQueueId,
    /// Its entries exclude each other (it has an object key).
    pub has_lock: bool,
    /// How many permits it may ask for at once; at least 1.
    pub quantum: u32,
    /// It starts nothing until resumed.
    pub paused: bool,
    /// Rows of an earlier leadership are still running: no decision is taken until
    /// `Drained`. The partition drains them itself (it proposes their retries).
    pub draining: bool,
}

/// What a vqueue wishes of its lock for an entry at its head.
#[must_use]
pub fn wish(has_lock: bool, head: EntryKey) -> LockWish {
    match (has_lock, head.has_lock) {
        (false, _) => LockWish::None,
        (true, false) => LockWish::Take,
        (true, true) => LockWish::Held(head.entry),
    }
}

/// Where a vqueue is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Running rows of an earlier leadership are put back first.
    Running,
    /// The inbox is worked off.
    Inbox,
    /// Nothing is left but decisions that are not answered yet.
    Empty,
}

/// The machine of one active vqueue; see the module's guarantees.
#[derive(Debug)]
pub struct VQueue {
    config: VQueueConfig,
    inbox: Inbox,
    /// Permits that it was started with, until the inbox is known; rare, so boxed.
    early: Option<Box<Permits>>,
    /// The wish of the outstanding `Acquire`.
    asked: Option<LockWish>,
    /// An `Acquire` was replaced, perhaps after it was granted: the replacing one may
    /// stand at the limiter although `asked` says that it was answered.
    may_stand: bool,
    /// For when the timer is armed.
    armed: Option<Timestamp>,
    /// A scan failed: none before this time.
    retry_at: Option<Timestamp>,
    /// Failed scans since the last good one.
    failures: u32,
    /// The rest that was last told with `Idle`, while it lasts.
    hinted: Option<Rest>,
    /// Guarantee 5, where assertions are on.
    gone: Gone,
}

impl VQueue {
    /// A new incarnation. Nothing happens before [`Self::start`].
    ///
    /// `dispatched` are the keys whose decisions the partition still owns. Each must be
    /// answered to this incarnation, by its removal (told again if it was told before)
    /// or by a `DecisionVoid`; else it counts as handed out for ever.
    ///
    /// # Panics
    /// When the quantum is zero.
    #[must_use]
    pub fn new(config: VQueueConfig, dispatched: Vec<EntryKey>) -> Self {
        Self::with_inbox(config, Inbox::new(dispatched))
    }

    /// The same over an inbox of another capacity (for tests). The inbox must be new.
    ///
    /// # Panics
    /// When the quantum is zero.
    #[must_use]
    pub fn with_inbox(config: VQueueConfig, inbox: Inbox) -> Self {
        assert!(config.quantum > 0, "a vqueue asks for at least one permit");
        Self {
            config,
            inbox,
            early: None,
            asked: None,
            may_stand: false,
            armed: None,
            retry_at: None,
            failures: 0,
            hinted: None,
            gone: Gone::default(),
        }
    }

    /// The same, started with permits that were granted before it was there.
    #[must_use]
    pub fn with_permits(mut self, permits: Permits) -> Self {
        self.early = Some(Box::new(permits));
        self
    }

    /// Which vqueue this is.
    #[must_use]
    pub fn id(&self) -> VQueueId {
        self.config.id
    }

    /// Its inbox cache, to look at.
    #[must_use]
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// Whether it was told to start nothing.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.config.paused
    }

    /// The wish of its outstanding `Acquire`, if there is one.
    #[must_use]
    pub fn asked(&self) -> Option<LockWish> {
        self.asked
    }

    /// Where it is in its life.
    #[must_use]
    pub fn stage(&self) -> Stage {
        if self.config.draining {
            Stage::Running
        } else if self.inbox.is_empty_for_sure() {
            Stage::Empty
        } else {
            Stage::Inbox
        }
    }

    fn on_notify(&mut self, changes: &[InboxChange]) {
        for change in changes {
            match change {
                InboxChange::Enqueued(key) => {
                    self.gone.forget(*key);
                    self.inbox.enqueue(*key);
                }
                InboxChange::Removed(key) => {
                    self.gone.add(*key, &self.inbox);
                    self.inbox.remove(*key);
                }
            }
        }
    }

    /// Each permit is for the head, as long as there is one that may run; the others
    /// go back. The conditions are those under which a permit is asked for, so a
    /// permit that went back is not asked for again at once.
    fn on_granted(&mut self, now: Timestamp, permits: Permits, effects: &mut Vec<VQueueEffect>) {
        if self.asked.take().is_none() {
            self.may_stand = false;
        }
        self.use_permits(now, permits, effects);
    }

    /// What it was started with is good for a head as soon as one is known, or for none.
    fn use_early(&mut self, now: Timestamp, effects: &mut Vec<VQueueEffect>) {
        let is_stopped = self.config.paused || self.config.draining || self.retry_at.is_some();
        let is_known = self.inbox.is_complete() || self.inbox.head().is_some();
        if (is_known || is_stopped)
            && let Some(permits) = self.early.take()
        {
            self.use_permits(now, *permits, effects);
        }
    }

    fn use_permits(&mut self, now: Timestamp, permits: Permits, effects: &mut Vec<VQueueEffect>) {
        let count = self.runnable(now).min(permits.count);
        let heads = (0..count).map(|_| self.inbox.take_head());
        let keys: Vec<_> = heads.map(|head| head.expect("as many may run")).collect();
        if count > 0 {
            effects.push(VQueueEffect::Decide { keys, permits: permits.first(count) });
        }
        effects.extend(permits.iter().skip(count as usize).map(VQueueEffect::ReturnPermit));
    }

    fn on_refill_done(&mut self, now: Timestamp, done: &RefillDone) {
        if !self.inbox.refill_done(done) {
            return;
        }
        self.gone.end_scan(&self.inbox);
        if done.rows.is_empty() && !done.reached_end {
            // A scan that read nothing brings nothing forward: do not spin on it.
            self.back_off(now);
        } else {
            self.failures = 0;
        }
    }

    fn on_refill_failed(&mut self, now: Timestamp, failed: &RefillFailed) {
        if self.inbox.refill_failed(failed.id) {
            self.back_off(now);
        }
    }

    fn back_off(&mut self, now: Timestamp) {
        let doubled = REFILL_BACKOFF_FIRST.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(now.after(doubled.min(REFILL_BACKOFF_MAX)));
    }

    fn on_pause(&mut self) {
        self.config.paused = true;
        self.retry_at = None;
        self.inbox.cancel_refill();
    }

    fn on_passivate(&mut self, now: Timestamp, makes_room: bool, effects: &mut Vec<VQueueEffect>) {
        let waits = || if makes_room { self.waits(now) } else { None };
        let Some(rest) = self.rest(now).or_else(waits) else {
            // The next rest is worth a hint, whatever the last one was.
            self.hinted = None;
            effects.push(VQueueEffect::StillNeeded);
            return;
        };
        effects.push(VQueueEffect::Passivated(rest));
    }
}

impl Machine for VQueue {
    type Input = VQueueMessage;
    type Effect = VQueueEffect;

    /// It begins to read its inbox, unless it is paused.
    fn start(&mut self, now: Timestamp, effects: &mut Vec<VQueueEffect>) {
        self.settle(now, effects);
    }

    fn step(&mut self, now: Timestamp, input: VQueueMessage, effects: &mut Vec<VQueueEffect>) {
        match input {
            VQueueMessage::Notify(changes) => self.on_notify(&changes),
            VQueueMessage::DecisionVoid(key) => {
                self.inbox.yield_back(key);
            }
            VQueueMessage::Granted(permits) => self.on_granted(now, permits, effects),
            VQueueMessage::RefillDone(done) => self.on_refill_done(now, &done),
            VQueueMessage::RefillFailed(failed) => self.on_refill_failed(now, &failed),
            VQueueMessage::Wake => self.armed = None,
            VQueueMessage::Pause => self.on_pause(),
            VQueueMessage::Resume => self.config.paused = false,
            VQueueMessage::Drained => self.config.draining = false,
            VQueueMessage::Passivate => return self.on_passivate(now, false, effects),
            VQueueMessage::MakeRoom => return self.on_passivate(now, true, effects),
        }
        self.settle(now, effects);
    }

    fn check(&self) {
        self.check_invariants();
    }
}
