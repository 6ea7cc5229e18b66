//! Who waits for an answer: reply ids on one side, futures on the other.
//!
//! Must always hold: a reply id is answered at most once; a future that is dropped
//! leaves nothing behind; the future of many is woken once, by the last answer.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use dashmap::{DashMap, Entry as MapEntry};
use forebay_engine::partition::machine::Answer;
use forebay_messages::{PartitionId, ReplyId};
use rustc_hash::FxBuildHasher;
use tokio::sync::oneshot;

/// Bits of a reply id that say which of many it is.
const PLACE_BITS: u32 = 16;
/// Most answers that one future waits for.
pub const ANSWERS_MAX: usize = 1 << PLACE_BITS;

/// The waiting ones of a node.
#[derive(Debug, Default)]
pub struct Replies {
    next: AtomicU64,
    /// By the upper bits of their reply ids.
    waiting: DashMap<u64, (PartitionId, Waiter), FxBuildHasher>,
}

#[derive(Debug)]
enum Waiter {
    One(oneshot::Sender<Answer>),
    Many(Box<Many>),
}

/// Answers that came, until all have.
#[derive(Debug)]
struct Many {
    answers: Vec<Option<Answer>>,
    missing: usize,
    sender: oneshot::Sender<Vec<Answer>>,
}

impl Many {
    /// Takes an answer; true with the last one.
    fn take(&mut self, place: usize, answer: Answer) -> bool {
        let Some(free) = self.answers.get_mut(place).filter(|known| known.is_none()) else {
            return false;
        };
        *free = Some(answer);
        self.missing -= 1;
        self.missing == 0
    }

    fn tell(self) {
        // Whoever waited may have gone.
        let _ = self.sender.send(self.answers.into_iter().flatten().collect());
    }
}

impl Replies {
    fn insert(&self, partition: PartitionId, waiter: Waiter) -> u64 {
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        self.waiting.insert(key, (partition, waiter));
        key
    }

    /// A new reply id and the future of its answer, which a partition will give.
    #[must_use]
    pub fn open(self: &Arc<Self>, partition: PartitionId) -> Pending {
        let (sender, receiver) = oneshot::channel();
        let key = self.insert(partition, Waiter::One(sender));
        Pending { key, receiver, replies: Arc::clone(self) }
    }

    /// New reply ids, 1 to [`ANSWERS_MAX`], and the one future of all their answers.
    ///
    /// # Panics
    /// When it is none or too many.
    #[must_use]
    pub fn open_many(self: &Arc<Self>, partition: PartitionId, count: usize) -> PendingMany {
        assert!((1..=ANSWERS_MAX).contains(&count), "{count} answers in one future");
        let (sender, receiver) = oneshot::channel();
        let answers = (0..count).map(|_| None).collect();
        let many = Many { answers, missing: count, sender };
        let key = self.insert(partition, Waiter::Many(Box::new(many)));
        PendingMany { key, count, receiver, replies: Arc::clone(self) }
    }

    /// Answers whoever waits; nobody may any more.
    pub fn answer(&self, to: ReplyId, answer: Answer) {
        let (key, place) = (to.0 >> PLACE_BITS, to.0 & (ANSWERS_MAX as u64 - 1));
        let MapEntry::Occupied(mut found) = self.waiting.entry(key) else { return };
        if let (_, Waiter::Many(many)) = found.get_mut() {
            if many.take(usize::try_from(place).unwrap_or(usize::MAX), answer)
                && let (_, Waiter::Many(many)) = found.remove()
            {
                many.tell();
            }
        } else if let (_, Waiter::One(sender)) = found.remove() {
            // Whoever waited may have gone between the look-up and now.
            let _ = sender.send(answer);
        }
    }

    /// How many futures wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Answers everybody who waits for a partition: it is gone.
    pub fn answer_all_of(&self, partition: PartitionId, answer: &Answer) {
        let mut keys: Vec<u64> = self
            .waiting
            .iter()
            .filter(|entry| entry.value().0 == partition)
            .map(|entry| *entry.key())
            .collect();
        // In the order of the questions, whatever the order of the map.
        keys.sort_unstable();
        for key in keys {
            match self.waiting.remove(&key) {
                None => {}
                Some((_, (_, Waiter::One(sender)))) => {
                    let _ = sender.send(answer.clone());
                }
                Some((_, (_, Waiter::Many(mut many)))) => {
                    for place in 0..many.answers.len() {
                        many.take(place, answer.clone());
                    }
                    many.tell();
                }
            }
        }
    }
}

/// The future of an answer. Dropping it gives the wait up, not what was asked for.
#[derive(Debug)]
pub struct Pending {
    key: u64,
    receiver: oneshot::Receiver<Answer>,
    replies: Arc<Replies>,
}

impl Pending {
    /// The id to be answered.
    #[must_use]
    pub fn id(&self) -> ReplyId {
        ReplyId(self.key << PLACE_BITS)
    }
}

impl Future for Pending {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        Pin::new(&mut self.receiver)
            .poll(context)
            .map(|answer| answer.unwrap_or(Answer::LostLeadership))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Closed without a value: it is there yet.
        if !self.receiver.is_terminated() {
            self.replies.waiting.remove(&self.key);
        }
    }
}

/// The future of many answers, in the order of their ids. Dropping it gives the wait up,
/// not what was asked for.
#[derive(Debug)]
pub struct PendingMany {
    key: u64,
    count: usize,
    receiver: oneshot::Receiver<Vec<Answer>>,
    replies: Arc<Replies>,
}

impl PendingMany {
    /// The ids to be answered.
    pub fn ids(&self) -> impl Iterator<Item = ReplyId> + use<> {
        let first = self.key << PLACE_BITS;
        (first..first + self.count as u64).map(ReplyId)
    }
}

impl Future for PendingMany {
    type Output = Vec<Answer>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Vec<Answer>> {
        let count = self.count;
        Pin::new(&mut self.receiver)
            .poll(context)
            .map(|answers| answers.unwrap_or_else(|_| vec![Answer::LostLeadership; count]))
    }
}

impl Drop for PendingMany {
    fn drop(&mut self) {
        if !self.receiver.is_terminated() {
            self.replies.waiting.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        use futures_util::FutureExt;
        future.now_or_never()
    }

    #[test]
    fn many_are_answered_together_and_in_order() {
        let replies = Arc::new(Replies::default());
        let mut pending = replies.open_many(PartitionId(0), 3);
        let mut other = replies.open(PartitionId(1));
        let ids: Vec<_> = pending.ids().collect();
        for (place, answer) in [(2, Answer::Busy), (0, Answer::NotLeading), (2, Answer::NotLeading)]
        {
            replies.answer(ids[place], answer);
            assert_eq!(now(&mut pending), None, "one is missing, whoever is answered twice");
        }
        replies.answer(ids[1], Answer::UnknownEntry);
        let all = vec![Answer::NotLeading, Answer::UnknownEntry, Answer::Busy];
        assert_eq!(now(&mut pending), Some(all));
        assert_eq!(now(&mut other), None);
        drop((pending, other));
        assert!(replies.is_empty());
    }

    #[test]
    fn who_waits_for_a_partition_that_is_gone_is_answered() {
        let replies = Arc::new(Replies::default());
        let mut many = replies.open_many(PartitionId(4), 2);
        let mut one = replies.open(PartitionId(4));
        let first = many.ids().next().unwrap();
        replies.answer(first, Answer::UnknownEntry);
        replies.answer_all_of(PartitionId(4), &Answer::LostLeadership);
        let answers = vec![Answer::UnknownEntry, Answer::LostLeadership];
        assert_eq!(now(&mut many), Some(answers));
        assert_eq!(now(&mut one), Some(Answer::LostLeadership));
        assert!(replies.is_empty());
    }

    #[test]
    fn a_wait_that_is_given_up_leaves_nothing() {
        let replies = Arc::new(Replies::default());
        let many = replies.open_many(PartitionId(4), 2);
        let id = many.ids().next().unwrap();
        drop((many, replies.open(PartitionId(4))));
        assert!(replies.is_empty());
        replies.answer(id, Answer::Busy);
    }
}
