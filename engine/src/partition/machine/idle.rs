//! Active vqueues that have nothing to do: kept warm for a while, for whoever enqueues
//! to them again is served without a read; the least recently used go first.
//!
//! Must always hold: at most `max` of them; what is listed here was idle when it was
//! put, and may have work by now: it is asked, not told, to go. Must not know: why a
//! vqueue is idle.

use std::collections::VecDeque;

use forebay_messages::{Timestamp, VQueueHandle};

/// For how long a vqueue may be idle and stay, in milliseconds.
pub const IDLE_MS_MAX: u64 = 30_000;
/// Void places in the queue that are let be.
const VOID_MAX: usize = 64;

/// A place in the queue; void when its stamp is not the slot's any more.
#[derive(Clone, Copy, Debug)]
struct Place {
    handle: VQueueHandle,
    stamp: u64,
    since: Timestamp,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct IdleVQueues {
    max: usize,
    /// In the order in which they became idle.
    queue: VecDeque<Place>,
    /// By slot; 0: not idle.
    stamps: Vec<u64>,
    len: usize,
    last_stamp: u64,
}

impl IdleVQueues {
    pub(super) fn new(max: usize) -> Self {
        Self { max, queue: VecDeque::new(), stamps: Vec::new(), len: 0, last_stamp: 0 }
    }

    /// It became idle (again): it is the one that goes last.
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
        self.queue.push_back(Place { handle, stamp: self.last_stamp, since });
    }

    /// It has something to do, or is gone.
    pub(super) fn remove(&mut self, handle: VQueueHandle) {
        if let Some(stamp) = self.stamps.get_mut(handle.slot as usize)
            && std::mem::take(stamp) != 0
        {
            self.len -= 1;
        }
    }

    /// The one that is to go: too many are idle, or it has been for too long.
    pub(super) fn pop(&mut self, now: Timestamp) -> Option<VQueueHandle> {
        let first = self.first()?;
        let is_old = now.0 >= first.since.0.saturating_add(IDLE_MS_MAX);
        if self.len <= self.max && !is_old {
            return None;
        }
        self.remove(first.handle);
        Some(first.handle)
    }

    /// When the first has been idle for too long.
    pub(super) fn next_due(&mut self) -> Option<Timestamp> {
        self.first().map(|first| Timestamp(first.since.0.saturating_add(IDLE_MS_MAX)))
    }

    fn first(&mut self) -> Option<Place> {
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

    /// Those that may stay do.
    pub(super) fn check_bound(&self) {
        assert!(self.len <= self.max, "more vqueues are kept idle than may be");
    }

    pub(super) fn check(&self) {
        let listed = self.stamps.iter().filter(|stamp| **stamp != 0).count();
        assert_eq!(listed, self.len, "the count of idle vqueues is right");
        let is_valid = |place: &&Place| self.stamps[place.handle.slot as usize] == place.stamp;
        assert_eq!(self.queue.iter().filter(is_valid).count(), self.len, "each has one place");
    }
}

#[cfg(test)]
mod tests {
    use forebay_messages::Generation;

    use super::*;

    fn handle(slot: u32) -> VQueueHandle {
        VQueueHandle { slot, generation: Generation(1) }
    }

    fn pop(idle: &mut IdleVQueues, now: u64) -> Option<u32> {
        let popped = idle.pop(Timestamp(now));
        idle.check();
        idle.check_bound();
        popped.map(|handle| handle.slot)
    }

    #[test]
    fn the_least_recently_used_goes_first_and_only_above_the_maximum() {
        let mut idle = IdleVQueues::new(2);
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
    fn who_is_idle_for_long_goes_too() {
        let mut idle = IdleVQueues::new(10);
        idle.put(handle(1), Timestamp(100));
        idle.put(handle(2), Timestamp(200));
        idle.remove(handle(1));
        assert_eq!(idle.next_due(), Some(Timestamp(200 + IDLE_MS_MAX)));
        assert_eq!(pop(&mut idle, 199 + IDLE_MS_MAX), None);
        assert_eq!(pop(&mut idle, 200 + IDLE_MS_MAX), Some(2));
        assert_eq!(idle.next_due(), None);
    }

    #[test]
    fn a_vqueue_that_rests_and_works_in_turns_takes_no_memory() {
        let mut idle = IdleVQueues::new(10);
        idle.put(handle(9), Timestamp(0));
        for turn in 0..10_000 {
            idle.put(handle(1), Timestamp(turn));
            idle.remove(handle(1));
        }
        assert!(idle.queue.len() <= 2 + VOID_MAX + 1, "{} places", idle.queue.len());
        idle.check();
    }
}
