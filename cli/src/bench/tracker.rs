//! Tracks the entries of the bench: their numbers, the times at which they pass each point, and
//! whether every result is correct.
//!
//! Owns: the check of the bench's own work. Must always hold:
//! - every entry runs once, and ends before its slot is reused;
//! - entries of one key never overlap, and none starts before another one of its key that was
//!   acknowledged before it was enqueued (within a batch: that is before it);
//! - counted entries have run. Any violation is a finding, and the bench fails.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Instant,
};

use super::{Shape, histogram::Histogram};

/// Minimum length of a payload: it contains the number of its entry and its slot.
pub(crate) const PAYLOAD_LEN_MIN: usize = 16;
/// Maximum number of keys whose order is tracked; with more, each entry has its own key.
pub(crate) const KEYS_MAX: u64 = 4_000_000;
/// Maximum number of findings that are kept as text.
const FINDINGS_MAX: usize = 5;
/// A time in the future.
const NOT_YET: u64 = u64::MAX;

/// One entry in flight.
struct Slot {
    number: AtomicU64,
    key: AtomicU64,
    called: AtomicU64,
    acknowledged: AtomicU64,
    started: AtomicU64,
    runs: AtomicU32,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            number: AtomicU64::new(0),
            key: AtomicU64::new(0),
            called: AtomicU64::new(NOT_YET),
            acknowledged: AtomicU64::new(NOT_YET),
            started: AtomicU64::new(NOT_YET),
            runs: AtomicU32::new(0),
        }
    }
}

/// The last run of a key.
#[derive(Default)]
struct KeyTrack {
    /// The latest call among those whose entry has started, and that entry.
    called: u64,
    number: u64,
    is_running: bool,
}

/// The findings.
#[derive(Default)]
struct Findings {
    count: u64,
    first: Vec<String>,
}

/// The latencies of the phases of an entry.
#[derive(Default)]
pub(super) struct Phases {
    /// From the call to the acknowledgement.
    pub(super) enqueue: Histogram,
    /// From the call to the start of the handler.
    pub(super) dispatch: Histogram,
    /// From the call to the durable end.
    pub(super) life: Histogram,
}

/// The state of all entries of the bench.
pub(super) struct Tracker {
    pub(super) shape: Shape,
    origin: Instant,
    slots: Vec<Slot>,
    keys: Vec<Mutex<KeyTrack>>,
    next: AtomicU64,
    findings: Mutex<Findings>,
    /// Entries that ended, including the warm-up.
    ended: AtomicU64,
    /// Entries that ended within windows.
    counted: AtomicU64,
    is_window: AtomicBool,
    is_over: AtomicBool,
    pub(super) phases: Phases,
}

impl Tracker {
    pub(super) fn new(shape: Shape) -> Self {
        let keys = if shape.tracks_keys() { shape.keys } else { 0 };
        Self {
            origin: Instant::now(),
            slots: (0..shape.in_flight).map(|_| Slot::default()).collect(),
            keys: (0..keys).map(|_| Mutex::default()).collect(),
            next: AtomicU64::new(1),
            findings: Mutex::default(),
            ended: AtomicU64::new(0),
            counted: AtomicU64::new(0),
            is_window: AtomicBool::new(false),
            is_over: AtomicBool::new(true),
            phases: Phases::default(),
            shape,
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(NOT_YET - 1)
    }

    /// Producers may start, until [`Tracker::stop`].
    pub(super) fn go(&self) {
        self.is_over.store(false, Ordering::Release);
    }

    /// Producers stop once their entries in flight have ended.
    pub(super) fn stop(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Whether entries that end from now on are counted.
    pub(super) fn set_window(&self, is_open: bool) {
        self.is_window.store(is_open, Ordering::Release);
    }

    /// Entries that ended within windows.
    pub(super) fn counted(&self) -> u64 {
        self.counted.load(Ordering::Acquire)
    }

    /// Entries that ended.
    pub(super) fn ended(&self) -> u64 {
        self.ended.load(Ordering::Acquire)
    }

    /// Numbers for a batch, ascending.
    pub(super) fn numbers(&self, count: u64) -> u64 {
        self.next.fetch_add(count, Ordering::Relaxed)
    }

    /// An entry is about to be enqueued in this slot. `key`: its key, if it has one.
    pub(super) fn prepare(&self, slot: usize, number: u64, key: Option<u64>) {
        let slot = &self.slots[slot];
        slot.runs.store(0, Ordering::Relaxed);
        slot.key.store(key.map_or(0, |key| key + 1), Ordering::Relaxed);
        slot.acknowledged.store(NOT_YET, Ordering::Relaxed);
        slot.started.store(NOT_YET, Ordering::Relaxed);
        slot.number.store(number, Ordering::Release);
    }

    /// The call that enqueues these slots begins now.
    pub(super) fn called(&self, slots: std::ops::Range<usize>) {
        let now = self.now();
        for slot in &self.slots[slots] {
            slot.called.store(now, Ordering::Release);
        }
    }

    /// The call has returned: these slots are acknowledged.
    pub(super) fn acknowledged(&self, slots: std::ops::Range<usize>) {
        let now = self.now();
        let is_window = self.is_window.load(Ordering::Acquire);
        for slot in &self.slots[slots] {
            slot.acknowledged.store(now, Ordering::Release);
            if is_window {
                self.phases.enqueue.record(now - slot.called.load(Ordering::Acquire));
            }
        }
    }

    /// The payload of an entry: its number, its slot, then padding.
    pub(super) fn payload(&self, slot: usize, number: u64) -> Vec<u8> {
        let mut payload = vec![0x5a; self.shape.payload];
        payload[..8].copy_from_slice(&number.to_be_bytes());
        payload[8..16].copy_from_slice(&(slot as u64).to_be_bytes());
        payload
    }

    /// The handler of an entry begins.
    pub(super) fn started(&self, payload: &[u8]) -> Option<usize> {
        let at = |range| payload.get(range).and_then(|bytes: &[u8]| bytes.try_into().ok());
        let number = at(0..8).map(u64::from_be_bytes);
        let index = at(8..16).map(u64::from_be_bytes).and_then(|slot| usize::try_from(slot).ok());
        let (Some(number), Some(index)) = (number, index) else {
            self.wrong(|| "a handler got a payload that was never written".to_owned());
            return None;
        };
        let (Some(slot), true) = (self.slots.get(index), payload.len() == self.shape.payload)
        else {
            self.wrong(|| format!("entry {number} has a payload that was never written"));
            return None;
        };
        if slot.number.load(Ordering::Acquire) != number {
            self.wrong(|| format!("entry {number} ran again after its end"));
            return None;
        }
        if slot.runs.fetch_add(1, Ordering::AcqRel) > 0 {
            self.wrong(|| format!("entry {number} ran twice"));
        }
        let called = slot.called.load(Ordering::Acquire);
        slot.started.store(self.now(), Ordering::Release);
        if let Some(key) = slot.key.load(Ordering::Relaxed).checked_sub(1) {
            self.key_started(key, slot, number, called);
        }
        Some(index)
    }

    fn key_started(&self, key: u64, slot: &Slot, number: u64, called: u64) {
        let Some(track) = usize::try_from(key).ok().and_then(|key| self.keys.get(key)) else {
            return;
        };
        let mut track = track.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut track.is_running, true) {
            self.wrong(|| format!("two entries of key {key} ran at the same time"));
        }
        let is_overtaken = slot.acknowledged.load(Ordering::Acquire) < track.called;
        let batch = self.shape.batch as u64;
        // Numbers are assigned batch by batch, from 1.
        let is_same_batch = (number - 1) / batch == (track.number.max(1) - 1) / batch;
        if is_overtaken || (is_same_batch && number < track.number) {
            let other = track.number;
            self.wrong(|| format!("key {key}: entry {other} overtook entry {number}"));
        }
        if called >= track.called {
            (track.called, track.number) = (called, number);
        }
    }

    /// The handler of an entry ends.
    pub(super) fn handled(&self, slot: usize) {
        let key = self.slots[slot].key.load(Ordering::Relaxed).checked_sub(1);
        if let Some(track) = key.and_then(|key| self.keys.get(usize::try_from(key).ok()?)) {
            track.lock().unwrap_or_else(PoisonError::into_inner).is_running = false;
        }
    }

    /// The durable ends of these entries were just reported.
    pub(super) fn ended_durably(&self, slots: impl Iterator<Item = usize>) {
        let now = self.now();
        slots.for_each(|slot| self.one_ended(slot, now));
    }

    fn one_ended(&self, index: usize, now: u64) {
        let slot = &self.slots[index];
        let (runs, number) =
            (slot.runs.load(Ordering::Acquire), slot.number.load(Ordering::Acquire));
        if runs != 1 {
            self.wrong(|| format!("entry {number} ended after {runs} runs"));
        }
        self.ended.fetch_add(1, Ordering::AcqRel);
        if self.is_window.load(Ordering::Acquire) {
            self.counted.fetch_add(1, Ordering::AcqRel);
            let called = slot.called.load(Ordering::Acquire);
            self.phases.life.record(now.saturating_sub(called));
            let started = slot.started.load(Ordering::Acquire);
            self.phases.dispatch.record(started.saturating_sub(called));
        }
    }

    /// Reports that something is wrong.
    pub(super) fn wrong(&self, what: impl FnOnce() -> String) {
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        findings.count += 1;
        if findings.first.len() < FINDINGS_MAX {
            findings.first.push(what());
        }
    }

    /// The number of findings, and the first of them.
    pub(super) fn findings(&self) -> (u64, Vec<String>) {
        let findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        (findings.count, findings.first.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracker(batch: usize) -> Tracker {
        Tracker::new(Shape { in_flight: 4, batch, keys: 2, scopes: 0, rules: 0, payload: 16 })
    }

    fn enqueue(tracker: &Tracker, slot: usize, number: u64) {
        tracker.prepare(slot, number, Some(0));
        tracker.called(slot..slot + 1);
    }

    fn run(tracker: &Tracker, slot: usize, number: u64) {
        let payload = tracker.payload(slot, number);
        assert_eq!(tracker.started(&payload), Some(slot));
        tracker.handled(slot);
        tracker.ended_durably(std::iter::once(slot));
    }

    #[test]
    fn an_orderly_run_has_no_findings() {
        let tracker = tracker(1);
        for number in 1..10 {
            enqueue(&tracker, 0, number);
            tracker.acknowledged(0..1);
            run(&tracker, 0, number);
        }
        assert_eq!((tracker.findings(), tracker.ended()), ((0, Vec::new()), 9));
    }

    #[test]
    fn overtaking_is_found() {
        let tracker = tracker(1);
        enqueue(&tracker, 0, 1);
        tracker.acknowledged(0..1);
        std::thread::sleep(std::time::Duration::from_millis(1));
        enqueue(&tracker, 1, 2);
        run(&tracker, 1, 2);
        run(&tracker, 0, 1);
        assert_eq!(tracker.findings().1, ["key 0: entry 2 overtook entry 1"]);
    }

    #[test]
    fn entries_that_were_enqueued_at_the_same_time_have_no_order() {
        let tracker = tracker(1);
        enqueue(&tracker, 0, 1);
        enqueue(&tracker, 1, 2);
        tracker.acknowledged(0..2);
        run(&tracker, 1, 2);
        run(&tracker, 0, 1);
        assert_eq!(tracker.findings().0, 0);
    }

    #[test]
    fn a_batch_has_an_order() {
        let tracker = tracker(2);
        tracker.prepare(0, 1, Some(0));
        tracker.prepare(1, 2, Some(0));
        tracker.called(0..2);
        run(&tracker, 1, 2);
        run(&tracker, 0, 1);
        assert_eq!(tracker.findings().0, 1);
    }

    #[test]
    fn a_second_run_an_overlap_and_an_end_without_a_run_are_found() {
        let tracker = tracker(1);
        enqueue(&tracker, 0, 1);
        let payload = tracker.payload(0, 1);
        tracker.started(&payload);
        tracker.handled(0);
        tracker.started(&payload);
        assert_eq!(tracker.findings().1, ["entry 1 ran twice"]);
        enqueue(&tracker, 1, 2);
        tracker.started(&tracker.payload(1, 2));
        assert_eq!(tracker.findings().0, 2, "{:?}", tracker.findings());
        enqueue(&tracker, 2, 3);
        tracker.ended_durably(std::iter::once(2));
        assert_eq!(tracker.findings().1[2], "entry 3 ended after 0 runs");
        enqueue(&tracker, 0, 4);
        tracker.started(&payload);
        assert_eq!(tracker.findings().1[3], "entry 1 ran again after its end");
    }
}
