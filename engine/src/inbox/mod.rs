//! The inbox cache of one vqueue: which entries are next, without a storage read for each.
//!
//! Owns: at most [`INBOX_CACHE_CAPACITY`] cached keys in key order, how far storage is known (the
//! anchor), the changes reported while a refill runs (the overlay), and the keys that were handed
//! out and whose decisions are not applied yet.
//!
//! Relies on the partition to **write storage before it reports a change**. A scan may therefore
//! return more than was reported, never less.
//!
//! Guarantees, shown by the model in `tests/inbox`:
//! 1. A row whose removal was reported is never handed out.
//! 2. A stored row is never lost: draining hands out exactly the stored rows.
//! 3. The head is the smallest reported row that is not handed out.
//! 4. Neither cache nor overlay ever exceeds the capacity.
//! 5. [`Inbox::is_empty_for_sure`] holds only when all stored rows are handed out.
//!
//! Must not know: permits, limits, locks, time, threads. It returns the range to scan
//! ([`Inbox::start_refill`]); its caller scans.

mod cache;
mod check;
mod overlay;
mod refill;

use std::collections::VecDeque;

use forebay_messages::{EntryKey, actor::RefillId};

use refill::{InFlight, Refill};

/// Maximum number of keys an inbox caches, and of changes its overlay holds.
///
/// Most queues are shorter than this and never read storage again; a longer one needs one scan per
/// this many entries. 24 keys are 1.1 KiB.
pub const INBOX_CACHE_CAPACITY: usize = 24;

/// A refill starts when at most a quarter of the cache is left, so that a blocking scan overlaps
/// with dispatching the cached keys.
const LOW_WATER_DIVISOR: usize = 4;

/// The inbox cache of one vqueue; see the module's guarantees.
///
/// ```
/// use forebay_engine::inbox::Inbox;
/// use forebay_messages::{EntryKey, InboxSeq, VQueueId, actor::RefillDone};
///
/// let key = |seq| EntryKey { seq: InboxSeq(seq), ..EntryKey::default() };
/// let mut inbox = Inbox::new(Vec::new());
/// assert!(!inbox.is_empty_for_sure(), "the inbox is unknown");
///
/// let request = inbox.start_refill(VQueueId::default());
/// inbox.enqueue(key(7)); // reported while the scan runs
/// inbox.refill_done(&RefillDone { id: request.id, rows: vec![key(3)], reached_end: true });
///
/// assert_eq!(inbox.take_head(), Some(key(3)));
/// assert_eq!(inbox.head(), Some(key(7)));
/// ```
#[derive(Debug)]
pub struct Inbox {
    /// The cached keys: sorted, unique, at most `capacity`, none above `anchor`, none
    /// of them in `dispatched`.
    items: VecDeque<EntryKey>,
    /// Every stored key up to this one is accounted for: cached, handed out and
    /// unconfirmed, or gone. Keys above it are undiscovered.
    anchor: Option<EntryKey>,
    /// Keys handed out whose decisions are not applied yet, sorted. A scan may still
    /// show them; they are skipped.
    dispatched: VecDeque<EntryKey>,
    refill: Refill,
    /// Id of the last refill that was started.
    refill_last: RefillId,
    capacity: usize,
    /// Nothing is stored above the anchor: the cache knows the whole queue. Never
    /// while a refill is in flight.
    complete: bool,
}

impl Inbox {
    /// A new incarnation: it knows nothing about storage (no anchor, not complete) except which
    /// keys were `dispatched` by an earlier one.
    #[must_use]
    pub fn new(dispatched: Vec<EntryKey>) -> Self {
        Self::with_capacity(INBOX_CACHE_CAPACITY, dispatched)
    }

    /// Like [`Self::new`] with another capacity: small ones overflow sooner in tests.
    ///
    /// # Panics
    /// When the capacity is zero.
    #[must_use]
    pub fn with_capacity(capacity: usize, mut dispatched: Vec<EntryKey>) -> Self {
        assert!(capacity > 0, "an inbox caches at least its head");
        dispatched.sort_unstable();
        dispatched.dedup();
        Self {
            items: VecDeque::new(),
            anchor: None,
            dispatched: dispatched.into(),
            refill: Refill::Standby,
            refill_last: RefillId(0),
            capacity,
            complete: false,
        }
    }

    /// The next entry; `None` when the queue is empty or not discovered yet.
    #[must_use]
    pub fn head(&self) -> Option<EntryKey> {
        self.items.front().copied()
    }

    /// The cached keys, in order.
    pub fn items(&self) -> impl ExactSizeIterator<Item = &EntryKey> {
        self.items.iter()
    }

    /// The key up to which storage is accounted for.
    #[must_use]
    pub fn anchor(&self) -> Option<EntryKey> {
        self.anchor
    }

    /// Whether nothing is stored above the anchor.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether all stored rows are handed out. Also `false` when that is unknown.
    #[must_use]
    pub fn is_empty_for_sure(&self) -> bool {
        self.complete && self.items.is_empty()
    }

    /// The keys handed out and not confirmed, in order.
    pub fn dispatched(&self) -> impl ExactSizeIterator<Item = &EntryKey> {
        self.dispatched.iter()
    }

    /// Whether a scan is running.
    #[must_use]
    pub fn is_refill_in_flight(&self) -> bool {
        self.in_flight().is_some()
    }

    /// Whether to read more: the cache runs low and storage may hold more.
    #[must_use]
    pub fn wants_refill(&self) -> bool {
        !self.complete
            && !self.is_refill_in_flight()
            && self.items.len() <= self.capacity / LOW_WATER_DIVISOR
    }

    /// Frees memory that a burst left allocated.
    pub fn trim(&mut self) {
        self.items.shrink_to(self.capacity);
        self.dispatched.shrink_to(self.capacity);
    }

    fn in_flight(&self) -> Option<&InFlight> {
        match &self.refill {
            Refill::Standby => None,
            Refill::InFlight(flight) => Some(flight),
        }
    }

    /// Whether `key` is at or below the anchor.
    fn covers(&self, key: EntryKey) -> bool {
        self.anchor.is_some_and(|anchor| key <= anchor)
    }

    fn is_full(&self) -> bool {
        self.items.len() == self.capacity
    }

    fn is_dispatched(&self, key: EntryKey) -> bool {
        // The handed-out keys mostly sort before `key`.
        self.dispatched.back().is_some_and(|last| key <= *last)
            && self.dispatched.binary_search(&key).is_ok()
    }
}
