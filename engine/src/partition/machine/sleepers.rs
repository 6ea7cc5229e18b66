//! Cold vqueues with a future head: one timer for all of them, and bounded memory, however many
//! there are.
//!
//! Must always hold: a vqueue sleeps at most once; each cold vqueue with a future head is listed
//! here, or its time is not before `dropped_from`, or a walk over all vqueues that will find it is
//! in progress. Must not know: what is in an inbox.

use std::collections::BTreeSet;

use forebay_messages::{Timestamp, VQueueId};

use crate::machine::Map;

/// The cold vqueues with a future head.
#[derive(Debug)]
pub(super) struct Sleepers {
    max: usize,
    until: Map<VQueueId, Timestamp>,
    order: BTreeSet<(Timestamp, VQueueId)>,
    /// Some were dropped because there were too many: the earliest of their times.
    dropped_from: Option<Timestamp>,
}

impl Sleepers {
    pub(super) fn new(max: usize) -> Self {
        assert!(max > 0, "at least one sleeper");
        Self { max, until: Map::default(), order: BTreeSet::new(), dropped_from: None }
    }

    /// Sleeps until then, or until an earlier time that was noted before.
    pub(super) fn put(&mut self, vqueue: VQueueId, until: Timestamp) {
        let until = self.until.get(&vqueue).map_or(until, |noted| until.min(*noted));
        self.remove(vqueue);
        self.until.insert(vqueue, until);
        self.order.insert((until, vqueue));
        if self.order.len() > self.max
            && let Some((last, vqueue)) = self.order.pop_last()
        {
            self.until.remove(&vqueue);
            self.dropped_from = Some(self.dropped_from.map_or(last, |from| from.min(last)));
        }
    }

    pub(super) fn remove(&mut self, vqueue: VQueueId) {
        if let Some(until) = self.until.remove(&vqueue) {
            self.order.remove(&(until, vqueue));
        }
    }

    pub(super) fn pop_due(&mut self, now: Timestamp) -> Option<VQueueId> {
        let (until, vqueue) = *self.order.first()?;
        if until > now {
            return None;
        }
        self.remove(vqueue);
        Some(vqueue)
    }

    /// The next wake-up.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        let first = self.order.first().map(|(until, _)| *until);
        [first, self.dropped_from].into_iter().flatten().min()
    }

    /// Whether dropped sleepers must be found again: their time has come, or there is room for many
    /// of them. Half of the maximum, so that each walk serves as many wake-ups.
    pub(super) fn wants_walk(&self, now: Timestamp) -> bool {
        self.dropped_from.is_some_and(|from| from <= now || self.order.len() <= self.max / 2)
    }

    /// A walk over all vqueues begins: it finds every sleeper dropped so far.
    pub(super) fn walk_begins(&mut self) {
        self.dropped_from = None;
    }

    pub(super) fn clear(&mut self) {
        self.until.clear();
        self.order.clear();
        self.dropped_from = None;
    }

    pub(super) fn check(&self) {
        assert_eq!(self.until.len(), self.order.len(), "a vqueue sleeps at most once");
        assert!(self.order.len() <= self.max, "more sleepers than the maximum");
    }
}

#[cfg(test)]
mod tests {
    use forebay_messages::PartitionKey;

    use super::*;

    fn vqueue(n: u64) -> VQueueId {
        VQueueId { partition_key: PartitionKey(n), hash: [0; 16] }
    }

    #[test]
    fn dropped_sleepers_are_found_again_before_they_are_due() {
        let mut sleepers = Sleepers::new(4);
        for n in 1..=10 {
            sleepers.put(vqueue(n), Timestamp(n * 10));
            sleepers.check();
        }
        assert_eq!(sleepers.next_due(), Some(Timestamp(10)));
        assert!(!sleepers.wants_walk(Timestamp(10)), "the nearest are known");
        for n in 1..=2 {
            assert_eq!(sleepers.pop_due(Timestamp(20)), Some(vqueue(n)));
        }
        assert_eq!(sleepers.pop_due(Timestamp(20)), None);
        assert!(sleepers.wants_walk(Timestamp(20)), "there is room for two more");
        sleepers.walk_begins();
        for n in 3..=10 {
            sleepers.put(vqueue(n), Timestamp(n * 10));
        }
        assert!(!sleepers.wants_walk(Timestamp(30)), "it is full again");
        assert!(sleepers.wants_walk(Timestamp(70)), "7 was dropped and is due");
        assert_eq!(sleepers.next_due(), Some(Timestamp(30)));
    }

    #[test]
    fn an_older_walk_does_not_postpone_a_wake_up() {
        let mut sleepers = Sleepers::new(4);
        sleepers.put(vqueue(1), Timestamp(50));
        sleepers.put(vqueue(1), Timestamp(100));
        assert_eq!(sleepers.next_due(), Some(Timestamp(50)));
        sleepers.put(vqueue(1), Timestamp(20));
        assert_eq!(sleepers.next_due(), Some(Timestamp(20)));
        sleepers.check();
    }
}
