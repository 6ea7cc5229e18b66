//! Vqueues in the order of their last use: idle ones are kept for a while so that new entries are
//! served without a read; the least recently used are passivated first.
//! Must always hold: at most `max` of them are kept; a listed vqueue was idle when it was added,
//! and may have work now: it is asked, not ordered, to passivate. Must not know: why a vqueue is
//! idle.

use std::collections::VecDeque;

use forebay_messages::{Timestamp, VQueueHandle};

/// Maximum time that a vqueue stays idle, in milliseconds.
pub const IDLE_MS_MAX: u64 = 30_000;
/// Number of void positions in the queue that are tolerated.
const VOID_MAX: usize = 64;

/// A position in the queue; void if its stamp is no longer the slot's.
#[derive(Clone, Copy, Debug)]
struct Position {
    handle: VQueueHandle,
    stamp: u64,
    since: Timestamp,
}

/// The idle vqueues.
#[derive(Debug)]
pub(super) struct LruVQueues {
    max: usize,
    /// In the order in which they became idle.
    queue: VecDeque<Position>,
    /// By slot; 0: not idle.
    stamps: Vec<u64>,
    len: usize,
    last_stamp: u64,
}

impl LruVQueues {
    pub(super) fn new(max: usize) -> Self {
        Self { max, queue: VecDeque::new(), stamps: Vec::new(), len: 0, last_stamp: 0 }
    }

    /// It became idle (again) and is the last to be passivated.
    pub(super) fn put(&mut self, handle: VQueueHandle, since: Timestamp) {
        self.remove(handle);
        let slot = handle.slot as usize;
        if self.stamps.len() <= slot {
            self.stamps.resize(slot + 1, 0);
        }
        self.last_stamp += 1;
        self.stamps[slot] = self.last_stamp;
        self.len += 1;
        if self.queue.len() > 2 * self.len + VOID_MAX {
            let stamps = &self.stamps;
            self.queue.retain(|place| stamps[place.handle.slot as usize] == place.stamp);
        }
        self.queue.push_back(Position { handle, stamp: self.last_stamp, since });
    }

    /// It has work, or is gone.
    pub(super) fn remove(&mut self, handle: VQueueHandle) {
        if let Some(stamp) = self.stamps.get_mut(handle.slot as usize)
            && std::mem::take(stamp) != 0
        {
            self.len -= 1;
        }
    }

    /// The one to passivate: too many are idle, or it has been for too long.
    pub(super) fn pop(&mut self, now: Timestamp) -> Option<VQueueHandle> {
        let first = self.first()?;
        let is_old = now.0 >= first.since.0.saturating_add(IDLE_MS_MAX);
        if self.len <= self.max && !is_old {
            return None;
        }
        self.remove(first.handle);
        Some(first.handle)
    }

    /// When the first one has been idle for too long.
    pub(super) fn next_due(&mut self) -> Option<Timestamp> {
        self.first().map(|first| Timestamp(first.since.0.saturating_add(IDLE_MS_MAX)))
    }

    fn first(&mut self) -> Option<Position> {
        loop {
            let first = *self.queue.front()?;
            if self.stamps[first.handle.slot as usize] == first.stamp {
                return Some(first);
            }
            self.queue.pop_front();
        }
    }

    pub(super) fn clear(&mut self) {
        self.queue.clear();
        self.stamps.fill(0);
        self.len = 0;
    }

    /// No more than the maximum are kept.
    pub(super) fn check_bound(&self) {
        assert!(self.len <= self.max, "more than the maximum are kept");
    }

    pub(super) fn check(&self) {
        let listed = self.stamps.iter().filter(|stamp| **stamp != 0).count();
        assert_eq!(listed, self.len, "count of idle vqueues");
        let is_valid = |place: &&Position| self.stamps[place.handle.slot as usize] == place.stamp;
        assert_eq!(self.queue.iter().filter(is_valid).count(), self.len, "each has one position");
    }
}

#[cfg(test)]
mod tests {
    use forebay_messages::Generation;

    use super::*;

    fn handle(slot: u32) -> VQueueHandle {
        VQueueHandle { slot, generation: Generation(1) }
    }

    fn pop(idle: &mut LruVQueues, now: u64) -> Option<u32> {
        let popped = idle.pop(Timestamp(now));
        idle.check();
        idle.check_bound();
        popped.map(|handle| handle.slot)
    }

    #[test]
    fn above_the_maximum_the_least_recently_used_goes_first() {
        let mut idle = LruVQueues::new(2);
        for slot in [5, 6, 5, 7] {
            idle.put(handle(slot), Timestamp(1));
        }
        assert_eq!(pop(&mut idle, 1), Some(6), "5 was used after 6");
        assert_eq!(pop(&mut idle, 1), None, "two may stay");
        idle.remove(handle(5));
        idle.put(handle(8), Timestamp(2));
        assert_eq!(pop(&mut idle, 2), None, "5 has work and does not count");
    }

    #[test]
    fn a_long_idle_vqueue_goes_too() {
        let mut idle = LruVQueues::new(10);
        idle.put(handle(1), Timestamp(100));
        idle.put(handle(2), Timestamp(200));
        idle.remove(handle(1));
        assert_eq!(idle.next_due(), Some(Timestamp(200 + IDLE_MS_MAX)));
        assert_eq!(pop(&mut idle, 199 + IDLE_MS_MAX), None);
        assert_eq!(pop(&mut idle, 200 + IDLE_MS_MAX), Some(2));
        assert_eq!(idle.next_due(), None);
    }

    #[test]
    fn alternating_rest_and_work_does_not_use_memory() {
        let mut idle = LruVQueues::new(10);
        idle.put(handle(9), Timestamp(0));
        for turn in 0..10_000 {
            idle.put(handle(1), Timestamp(turn));
            idle.remove(handle(1));
        }
        assert!(idle.queue.len() <= 2 + VOID_MAX + 1, "{} places", idle.queue.len());
        idle.check();
    }
}
