//! The machine of one active vqueue: when to ask for permits, and which entry each permit is for.
//!
//! Owns: the inbox cache, the one outstanding `Acquire`, the one timer. Each message only updates
//! the state; then `reconcile` compares the state with what should be outstanding and emits the
//! difference. No message has its own path to an effect, so none can forget one.
//!
//! Guarantees, shown by the model in `tests/vqueue`:
//! 1. A permit is used for whichever entry is the head when it arrives. It ends in exactly one
//!    `Decide` or `ReturnPermit`, within the step that received it; a permit passed at start, as
//!    soon as the inbox was read or its scan failed.
//! 2. No entry is decided before its `run_at`, while paused or draining, or again before its
//!    decision is answered.
//! 3. With a lock, one decision at a time: nothing is requested before the last decision is
//!    answered, and then the limiter's lock takes over.
//! 4. While a stored entry may run, an `Acquire`, a refill, a timer or an unanswered decision is
//!    outstanding: a vqueue is never stuck.
//! 5. A row whose removal was reported while a scan ran is not taken from that scan.
//!
//! Relies on the limiter for the lock: a permit of a vqueue with a lock always holds that lock.
//! `Take` waits until it is free; `Held(entry)` until it is free or kept by that entry. Only this
//! vqueue asks for its lock, so an entry that kept it loses nothing when a permit is returned
//! unused and frees the lock.
//!
//! Must not know: limits, other vqueues, storage, the result of a decision.

mod check;
mod effect;
mod gone;
mod reconcile;

use std::time::Duration;

use forebay_messages::{
    EntryKey, Timestamp, VQueueId,
    actor::{InboxChange, LockWish, Permits, RefillDone, RefillFailed, VQueueMessage},
};

use crate::{Machine, inbox::Inbox};

pub use effect::{Rest, VQueueEffect};
use gone::Gone;

/// Maximum number of unanswered decisions before a vqueue stops asking for permits.
pub const DISPATCHED_MAX: usize = 1_024;
/// Delay after a first failed scan.
pub const REFILL_BACKOFF_FIRST: Duration = Duration::from_millis(10);
/// Longest delay after a failed scan; the delay doubles up to it.
pub const REFILL_BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Identity and initial state of a vqueue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VQueueConfig {
    /// The vqueue whose inbox it reads.
    pub id: VQueueId,
    /// Its entries exclude each other (it has an object key).
    pub has_lock: bool,
    /// Maximum number of permits it asks for at once; at least 1.
    pub quantum: u32,
    /// It starts nothing until resumed.
    pub paused: bool,
    /// Rows of an earlier leadership are still running: no decision is made until `Drained`. The
    /// partition drains them itself (it proposes their retries).
    pub draining: bool,
}

/// The lock request of a vqueue for the entry at its head.
#[must_use]
pub fn wish(has_lock: bool, head: EntryKey) -> LockWish {
    match (has_lock, head.has_lock) {
        (false, _) => LockWish::None,
        (true, false) => LockWish::Take,
        (true, true) => LockWish::Held(head.entry),
    }
}

/// Phase of a vqueue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Running rows of an earlier leadership are put back first.
    Running,
    /// The inbox is being processed.
    Inbox,
    /// Only unanswered decisions are left.
    Empty,
}

/// The machine of one active vqueue; see the module's guarantees.
#[derive(Debug)]
pub struct VQueue {
    config: VQueueConfig,
    inbox: Inbox,
    /// Permits passed at start, until the inbox is known; rare, so boxed.
    early: Option<Box<Permits>>,
    /// The lock request of the outstanding `Acquire`.
    asked: Option<LockWish>,
    /// An `Acquire` was replaced, perhaps after it was granted: the replacement may still stand at
    /// the limiter although `asked` says it was answered.
    may_stand: bool,
    /// Time for which the timer is armed.
    armed: Option<Timestamp>,
    /// A scan failed: no scan before this time.
    retry_at: Option<Timestamp>,
    /// Failed scans since the last successful one.
    failures: u32,
    /// The rest last reported with `Idle`, while it applies.
    hinted: Option<Rest>,
    /// Checks guarantee 5 where assertions are on.
    gone: Gone,
}

impl VQueue {
    /// A new incarnation. It does nothing before [`Self::start`].
    ///
    /// `dispatched` are the keys whose decisions the partition still owns. Each must be answered to
    /// this incarnation, by its removal (reported again if it was reported before) or by a
    /// `DecisionVoid`; otherwise it counts as handed out indefinitely.
    ///
    /// # Panics
    /// When the quantum is zero.
    #[must_use]
    pub fn new(config: VQueueConfig, dispatched: Vec<EntryKey>) -> Self {
        Self::with_inbox(config, Inbox::new(dispatched))
    }

    /// Like [`Self::new`], over an inbox of another capacity (for tests). The inbox must be new.
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

    /// Adds permits that were granted before this incarnation started.
    #[must_use]
    pub fn with_permits(mut self, permits: Permits) -> Self {
        self.early = Some(Box::new(permits));
        self
    }

    /// The vqueue's id.
    #[must_use]
    pub fn id(&self) -> VQueueId {
        self.config.id
    }

    /// Its inbox cache, read-only.
    #[must_use]
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// Whether it is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.config.paused
    }

    /// The lock request of its outstanding `Acquire`, if there is one.
    #[must_use]
    pub fn asked(&self) -> Option<LockWish> {
        self.asked
    }

    /// Its phase.
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

    /// Each permit goes to a head that may run; the rest are returned. The conditions are those for
    /// asking, so a returned permit is not requested again at once.
    fn on_granted(&mut self, now: Timestamp, permits: Permits, effects: &mut Vec<VQueueEffect>) {
        if self.asked.take().is_none() {
            self.may_stand = false;
        }
        self.use_permits(now, permits, effects);
    }

    /// Permits passed at start are used as soon as a head is known, or returned if there is none.
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
        let keys: Vec<_> = heads.map(|head| head.expect("as many heads as may run")).collect();
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
            // A scan that read nothing makes no progress: back off instead of spinning.
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
            // Hint at the next rest, whatever the last hint was.
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

    /// Starts to read the inbox, unless paused.
    fn start(&mut self, now: Timestamp, effects: &mut Vec<VQueueEffect>) {
        self.reconcile(now, effects);
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
        self.reconcile(now, effects);
    }

    fn check(&self) {
        self.check_invariants();
    }
}
