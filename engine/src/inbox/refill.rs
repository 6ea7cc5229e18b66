//! Refills: the range to scan, and how the rows join the cache.
//!
//! Owns: the refill in flight and the merge. Must always hold: the anchor never passes a stored key
//! that is neither cached nor handed out; `complete` is set only by a scan that reached the end,
//! kept everything and set no horizon. Must not know: which thread scans, or when a failed scan is
//! retried.
//! kept everything and set no horizon. Must not know: who scans, or when a failed scan is retried.

use forebay_messages::{
    EntryKey, VQueueId,
    actor::{CancelRefill, RefillDone, RefillId, RefillRequest},
};

use super::{
    Inbox,
    overlay::{Change, Overlay},
};

/// Whether a scan is running.
#[derive(Debug)]
pub(super) enum Refill {
    /// No scan.
    Standby,
    /// A scan is running. Boxed: most vqueues never scan twice.
    InFlight(Box<InFlight>),
}

/// A scan that is running.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) id: RefillId,
    /// Where the scan began. The anchor does not move until the scan ends.
    pub(super) start_anchor: Option<EntryKey>,
    pub(super) overlay: Overlay,
    cancel: CancelRefill,
}

impl Inbox {
    /// Begins a refill: rows after the anchor, as many as the cache has room for plus the ones that
    /// will be skipped. Each refill needs its own reader (a fresh snapshot), opened at any time
    /// after this call.
    ///
    /// # Panics
    /// When one is in flight, or nothing is undiscovered.
    #[must_use]
    pub fn start_refill(&mut self, vqueue: VQueueId) -> RefillRequest {
        assert!(!self.is_refill_in_flight(), "one refill at a time");
        assert!(!self.complete, "a complete inbox has nothing to discover");
        self.refill_last = RefillId(self.refill_last.0 + 1);
        let request = RefillRequest {
            id: self.refill_last,
            vqueue,
            after: self.anchor,
            limit: (self.capacity - self.items.len() + self.dispatched_undiscovered()).max(1),
            cancel: CancelRefill::default(),
        };
        self.refill = Refill::InFlight(Box::new(InFlight {
            id: request.id,
            start_anchor: self.anchor,
            overlay: Overlay::new(self.capacity),
            cancel: request.cancel.clone(),
        }));
        request
    }

    /// How many handed-out keys are above the anchor: a scan returns them again.
    fn dispatched_undiscovered(&self) -> usize {
        let covered =
            self.anchor.map_or(0, |anchor| self.dispatched.partition_point(|key| *key <= anchor));
        self.dispatched.len() - covered
    }

    /// Merges the rows of a scan. Returns whether it was the refill in flight; any other answer (of
    /// a canceled refill) changes nothing.
    ///
    /// # Panics
    /// When the rows are not in strictly ascending order above where the scan began.
    pub fn refill_done(&mut self, done: &RefillDone) -> bool {
        let Some(flight) = self.land(done.id) else {
            return false;
        };
        let mut after = flight.start_anchor;
        for row in &done.rows {
            assert!(after.is_none_or(|after| *row > after), "rows out of order at {row:?}");
            after = Some(*row);
        }
        self.merge(&flight, &done.rows, done.reached_end);
        true
    }

    /// The scan failed: back to standby, nothing is lost. Returns whether it was the refill in
    /// flight.
    pub fn refill_failed(&mut self, id: RefillId) -> bool {
        self.land(id).is_some()
    }

    /// Abandons the refill in flight, if any: its worker is asked to stop and its answer is
    /// ignored. The next refill finds the rows reported meanwhile.
    pub fn cancel_refill(&mut self) {
        if let Refill::InFlight(flight) = std::mem::replace(&mut self.refill, Refill::Standby) {
            flight.cancel.cancel();
        }
    }

    /// Ends the refill in flight if it is `id`.
    fn land(&mut self, id: RefillId) -> Option<Box<InFlight>> {
        match std::mem::replace(&mut self.refill, Refill::Standby) {
            Refill::InFlight(flight) if flight.id == id => Some(flight),
            other => {
                self.refill = other;
                None
            }
        }
    }

    /// Joins rows and overlay in key order; the overlay wins. Stops where the cache is full, at the
    /// horizon and, unless the scan reached the end, after the last scanned row: rows beyond it are
    /// unknown, so an overlay key beyond it must not move the anchor past them.
    fn merge(&mut self, flight: &InFlight, rows: &[EntryKey], reached_end: bool) {
        let horizon = flight.overlay.horizon();
        let scanned_to = rows.last().copied();
        let back_before = self.items.back().copied();
        for (key, is_there) in Joined::new(rows, flight.overlay.changes()) {
            let is_beyond_scan = !reached_end && scanned_to.is_none_or(|last| key > last);
            let is_beyond_horizon = horizon.is_some_and(|horizon| key >= horizon);
            if self.is_full() || is_beyond_horizon || is_beyond_scan {
                break;
            }
            if is_there && !self.is_dispatched(key) {
                assert!(
                    self.items.back().is_none_or(|back| *back < key),
                    "{key:?} was found after {back_before:?} but does not sort there"
                );
                self.make_room();
                self.items.push_back(key);
            }
            self.anchor = Some(key);
        }
        self.complete = reached_end && horizon.is_none() && !self.is_full();
    }
}

/// The keys of rows and overlay in order, each once, and whether the row is stored.
struct Joined<'a> {
    rows: &'a [EntryKey],
    changes: &'a [(EntryKey, Change)],
}

impl<'a> Joined<'a> {
    fn new(rows: &'a [EntryKey], changes: &'a [(EntryKey, Change)]) -> Self {
        Self { rows, changes }
    }
}

impl Iterator for Joined<'_> {
    type Item = (EntryKey, bool);

    fn next(&mut self) -> Option<Self::Item> {
        let (row, change) = (self.rows.first().copied(), self.changes.first().copied());
        let key = match (row, change) {
            (None, None) => return None,
            (Some(row), None) => row,
            (None, Some((changed, _))) => changed,
            (Some(row), Some((changed, _))) => row.min(changed),
        };
        let mut is_there = false;
        if row == Some(key) {
            self.rows = &self.rows[1..];
            is_there = true;
        }
        if let Some((changed, change)) = change
            && changed == key
        {
            self.changes = &self.changes[1..];
            is_there = change == Change::Add;
        }
        Some((key, is_there))
    }
}
