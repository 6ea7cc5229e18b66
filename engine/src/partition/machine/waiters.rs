//! Requests that wait for entries' results.
//!
//! Must always hold: the number of waiters is bounded; each is answered at most once; adding and
//! removing one takes logarithmic time, however many wait for the same entry.

use std::collections::BTreeSet;

use forebay_messages::{EntryId, ReplyId};

use crate::machine::{Map, MapEntry};

/// Maximum number of waiters for results in one partition.
pub const WAITERS_MAX: usize = 1_000_000;

/// The waiters of one entry: usually one.
#[derive(Debug)]
enum Waiting {
    One(ReplyId),
    Several(BTreeSet<ReplyId>),
}

/// All waiters of a partition.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    of: Map<EntryId, Waiting>,
    count: usize,
}

impl Waiters {
    /// Returns `false` if there is no room: it does not wait.
    pub(super) fn add(&mut self, entry: EntryId, reply: ReplyId) -> bool {
        if self.count >= WAITERS_MAX {
            return false;
        }
        let is_new = match self.of.entry(entry) {
            MapEntry::Vacant(place) => {
                place.insert(Waiting::One(reply));
                true
            }
            MapEntry::Occupied(mut place) => match place.get_mut() {
                Waiting::One(first) if *first == reply => false,
                Waiting::One(first) => {
                    *place.get_mut() = Waiting::Several(BTreeSet::from([*first, reply]));
                    true
                }
                Waiting::Several(replies) => replies.insert(reply),
            },
        };
        self.count += usize::from(is_new);
        true
    }

    /// Removes all waiters of an entry and calls `each` for them, in the order of their reply ids,
    /// which is the order of the requests.
    pub(super) fn take(&mut self, entry: EntryId, mut each: impl FnMut(ReplyId)) {
        match self.of.remove(&entry) {
            None => {}
            Some(Waiting::One(reply)) => {
                self.count -= 1;
                each(reply);
            }
            Some(Waiting::Several(replies)) => {
                self.count -= replies.len();
                replies.into_iter().for_each(each);
            }
        }
    }

    /// Removes one of them.
    pub(super) fn remove(&mut self, entry: EntryId, reply: ReplyId) {
        let MapEntry::Occupied(mut place) = self.of.entry(entry) else { return };
        let (was_there, is_empty) = match place.get_mut() {
            Waiting::One(one) => (*one == reply, *one == reply),
            Waiting::Several(replies) => (replies.remove(&reply), replies.is_empty()),
        };
        self.count -= usize::from(was_there);
        if is_empty {
            place.remove();
        }
    }

    pub(super) fn check(&self) {
        let len = |waiting: &Waiting| match waiting {
            Waiting::One(_) => 1,
            Waiting::Several(replies) => replies.len(),
        };
        assert_eq!(self.of.values().map(len).sum::<usize>(), self.count, "count of waiters");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiters_are_answered_in_order() {
        let (mut waiters, entry) = (Waiters::default(), EntryId::default());
        for number in 0..4 {
            assert!(waiters.add(entry, ReplyId(number)));
            waiters.check();
        }
        waiters.remove(entry, ReplyId(1));
        waiters.remove(entry, ReplyId(9));
        waiters.check();
        let mut answered = Vec::new();
        waiters.take(entry, |reply| answered.push(reply.0));
        assert_eq!(answered, [0, 2, 3]);
        waiters.add(entry, ReplyId(5));
        waiters.remove(entry, ReplyId(5));
        waiters.take(entry, |_| panic!("no waiters"));
        waiters.check();
        assert_eq!(waiters.count, 0);
    }
    /// Regression: each removal visited all waiters of the same entry: 80,000 that gave up blocked
    /// the partition's thread for two seconds. The number used here would take minutes.
    #[test]
    fn removing_one_of_many_waiters_is_fast() {
        let (mut waiters, entry) = (Waiters::default(), EntryId::default());
        let all = 0..300_000;
        for number in all.clone() {
            assert!(waiters.add(entry, ReplyId(number)));
        }
        // The last first, so that nothing is found at the front.
        for number in all.rev() {
            waiters.remove(entry, ReplyId(number));
        }
        waiters.check();
        assert_eq!((waiters.count, waiters.of.len()), (0, 0));
    }
}
