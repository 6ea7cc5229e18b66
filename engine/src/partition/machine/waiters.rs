//! Who waits for which entry's result.
//!
//! Must always hold: the number of waiters is bounded; each is answered at most once.

use forebay_messages::{EntryId, ReplyId};

use crate::machine::{Map, MapEntry};

/// Most waiters on results in one partition.
pub const WAITERS_MAX: usize = 1_000_000;

/// Those who wait for one entry: mostly one.
#[derive(Debug)]
enum Waiting {
    One(ReplyId),
    Several(Vec<ReplyId>),
}

impl Waiting {
    fn into_vec(self) -> Vec<ReplyId> {
        match self {
            Self::One(reply) => vec![reply],
            Self::Several(replies) => replies,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    of: Map<EntryId, Waiting>,
    count: usize,
}

impl Waiters {
    /// False when there is no room: it does not wait.
    pub(super) fn add(&mut self, entry: EntryId, reply: ReplyId) -> bool {
        if self.count >= WAITERS_MAX {
            return false;
        }
        self.count += 1;
        match self.of.entry(entry) {
            MapEntry::Vacant(place) => {
                place.insert(Waiting::One(reply));
            }
            MapEntry::Occupied(mut place) => match place.get_mut() {
                Waiting::One(first) => *place.get_mut() = Waiting::Several(vec![*first, reply]),
                Waiting::Several(replies) => replies.push(reply),
            },
        }
        true
    }

    /// Everybody who waits for an entry, in the order in which they came; they wait no
    /// more.
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

    /// One of them waits no more.
    pub(super) fn remove(&mut self, entry: EntryId, reply: ReplyId) {
        let Some(waiting) = self.of.remove(&entry) else { return };
        let mut replies = waiting.into_vec();
        let before = replies.len();
        replies.retain(|waiter| *waiter != reply);
        self.count -= before - replies.len();
        match replies[..] {
            [] => {}
            [one] => {
                self.of.insert(entry, Waiting::One(one));
            }
            _ => {
                self.of.insert(entry, Waiting::Several(replies));
            }
        }
    }

    pub(super) fn check(&self) {
        let len = |waiting: &Waiting| match waiting {
            Waiting::One(_) => 1,
            Waiting::Several(replies) => replies.len(),
        };
        assert_eq!(self.of.values().map(len).sum::<usize>(), self.count, "the count of waiters");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiters_come_and_go_in_order() {
        let (mut waiters, entry) = (Waiters::default(), EntryId::default());
        for number in 0..4 {
            assert!(waiters.add(entry, ReplyId(number)));
            waiters.check();
        }
        waiters.remove(entry, ReplyId(1));
        waiters.remove(entry, ReplyId(9));
        waiters.check();
        let mut told = Vec::new();
        waiters.take(entry, |reply| told.push(reply.0));
        assert_eq!(told, [0, 2, 3]);
        waiters.add(entry, ReplyId(5));
        waiters.remove(entry, ReplyId(5));
        waiters.take(entry, |_| panic!("nobody waits"));
        waiters.check();
        assert_eq!(waiters.count, 0);
    }
}
