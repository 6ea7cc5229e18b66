//! Pending answers: reply ids on one side, futures on the other.
//!
//! Must always hold: a reply id is answered at most once; a dropped future leaves nothing behind
//! but the credit of its command, which is held until the command is answered; a future of many
//! answers is woken once, by the last one.

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
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// Bits of a reply id for the index among many answers.
const PLACE_BITS: u32 = 16;
/// Maximum number of answers for one future.
pub const ANSWERS_MAX: usize = 1 << PLACE_BITS;

/// The pending questions of a node.
#[derive(Debug, Default)]
pub struct Replies {
    next: AtomicU64,
    /// By the upper bits of their reply ids.
    waiting: DashMap<u64, Waiting, FxBuildHasher>,
}

/// A question without an answer yet.
#[derive(Debug)]
struct Waiting {
    partition: PartitionId,
    waiter: Waiter,
    credit: Credit,
}

/// The credits of a command in flight. They are returned with the answer, not when the caller gives
/// up: until then the command is still in memory.
#[derive(Debug, Default)]
pub enum Credit {
    /// The question needs no credits.
    #[default]
    None,
    /// Only this question holds it.
    Own(OwnedSemaphorePermit),
    /// Also held while the command is proposed again elsewhere.
    Shared(Arc<OwnedSemaphorePermit>),
}

#[derive(Debug)]
enum Waiter {
    One(oneshot::Sender<Answer>),
    Many(Box<Many>),
}

/// The answers received so far of a future of many.
#[derive(Debug)]
struct Many {
    answers: Vec<Option<Answer>>,
    missing: usize,
    sender: oneshot::Sender<Vec<Answer>>,
}

impl Many {
    /// Stores an answer; true for the last one.
    fn take(&mut self, place: usize, answer: Answer) -> bool {
        let Some(free) = self.answers.get_mut(place).filter(|known| known.is_none()) else {
            return false;
        };
        *free = Some(answer);
        self.missing -= 1;
        self.missing == 0
    }

    fn tell(self) {
        // The caller may be gone.
        let _ = self.sender.send(self.answers.into_iter().flatten().collect());
    }
}

impl Replies {
    fn insert(&self, partition: PartitionId, waiter: Waiter, credit: Credit) -> u64 {
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        self.waiting.insert(key, Waiting { partition, waiter, credit });
        key
    }

    /// A new reply id and the future of its answer. A partition answers it.
    #[must_use]
    pub fn open(self: &Arc<Self>, partition: PartitionId) -> Pending {
        self.open_with(partition, Credit::None)
    }

    /// The same for a command that holds credits until it is answered. The command must be sent, or
    /// the question withdrawn with [`Pending::withdraw`].
    #[must_use]
    pub fn open_with(self: &Arc<Self>, partition: PartitionId, credit: Credit) -> Pending {
        let (sender, receiver) = oneshot::channel();
        let key = self.insert(partition, Waiter::One(sender), credit);
        Pending { key, receiver, replies: Arc::clone(self) }
    }

    /// New reply ids, 1 to [`ANSWERS_MAX`], and one future for all their answers.
    ///
    /// # Panics
    /// When the number is zero or too large.
    #[must_use]
    pub fn open_many(self: &Arc<Self>, partition: PartitionId, count: usize) -> PendingMany {
        assert!((1..=ANSWERS_MAX).contains(&count), "{count} answers in one future");
        let (sender, receiver) = oneshot::channel();
        let answers = (0..count).map(|_| None).collect();
        let many = Many { answers, missing: count, sender };
        let key = self.insert(partition, Waiter::Many(Box::new(many)), Credit::None);
        PendingMany { key, count, receiver, replies: Arc::clone(self) }
    }

    /// Sends the answer to the waiting future, if there still is one.
    pub fn answer(&self, to: ReplyId, answer: Answer) {
        let (key, place) = (to.0 >> PLACE_BITS, to.0 & (ANSWERS_MAX as u64 - 1));
        let MapEntry::Occupied(mut found) = self.waiting.entry(key) else { return };
        if let Waiter::Many(many) = &mut found.get_mut().waiter {
            if many.take(usize::try_from(place).unwrap_or(usize::MAX), answer)
                && let Waiter::Many(many) = found.remove().waiter
            {
                many.tell();
            }
            return;
        }
        let Waiting { waiter, credit, .. } = found.remove();
        // The credits are free before the caller gets the answer: the caller may rely on it.
        drop(credit);
        if let Waiter::One(sender) = waiter {
            // The caller may have given up.
            let _ = sender.send(answer);
        }
    }

    /// Number of waiting futures.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Answers all questions to a partition that is gone.
    pub fn answer_all_of(&self, partition: PartitionId, answer: &Answer) {
        let mut keys: Vec<u64> = self
            .waiting
            .iter()
            .filter(|entry| entry.value().partition == partition)
            .map(|entry| *entry.key())
            .collect();
        // In the order of the questions, not of the map.
        keys.sort_unstable();
        for key in keys {
            let Some((_, Waiting { waiter, credit, .. })) = self.waiting.remove(&key) else {
                continue;
            };
            drop(credit);
            match waiter {
                Waiter::One(sender) => {
                    let _ = sender.send(answer.clone());
                }
                Waiter::Many(mut many) => {
                    for place in 0..many.answers.len() {
                        many.take(place, answer.clone());
                    }
                    many.tell();
                }
            }
        }
    }
}

/// The future of an answer. Dropping it ends the wait, not the command.
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

    /// The question was never sent: it gets no answer, and its credits are free.
    pub fn withdraw(self) {
        self.replies.waiting.remove(&self.key);
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
        // Closed without a value: the question is still pending. One that holds credits stays until
        // its command is answered.
        if !self.receiver.is_terminated() {
            let is_free = |_: &u64, waiting: &Waiting| matches!(waiting.credit, Credit::None);
            self.replies.waiting.remove_if(&self.key, is_free);
        }
    }
}

/// The future of many answers, in the order of their ids. Dropping it ends the wait, not the
/// commands.
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
            assert_eq!(now(&mut pending), None, "one is missing, although another came twice");
        }
        replies.answer(ids[1], Answer::UnknownEntry);
        let all = vec![Answer::NotLeading, Answer::UnknownEntry, Answer::Busy];
        assert_eq!(now(&mut pending), Some(all));
        assert_eq!(now(&mut other), None);
        drop((pending, other));
        assert!(replies.is_empty());
    }

    #[test]
    fn waits_for_a_partition_that_is_gone_are_answered() {
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
    fn a_dropped_wait_leaves_nothing() {
        let replies = Arc::new(Replies::default());
        let many = replies.open_many(PartitionId(4), 2);
        let id = many.ids().next().unwrap();
        drop((many, replies.open(PartitionId(4))));
        assert!(replies.is_empty());
        replies.answer(id, Answer::Busy);
    }

    #[test]
    fn a_credit_is_returned_with_the_answer_and_not_before() {
        let replies = Arc::new(Replies::default());
        let room = Arc::new(tokio::sync::Semaphore::new(4));
        let credit = || Credit::Own(Arc::clone(&room).try_acquire_owned().unwrap());
        let (given_up, waits) = (replies.open_with(PartitionId(1), credit()), credit());
        let (answered, waits) = (given_up.id(), replies.open_with(PartitionId(1), waits));
        let other = replies.open_with(PartitionId(2), credit());
        drop((given_up, waits, other));
        assert_eq!((room.available_permits(), replies.len()), (1, 3), "they are in flight");
        replies.answer(answered, Answer::Busy);
        assert_eq!(room.available_permits(), 2);
        replies.answer_all_of(PartitionId(1), &Answer::LostLeadership);
        assert_eq!(room.available_permits(), 3);
        replies.open_with(PartitionId(2), credit()).withdraw();
        replies.answer_all_of(PartitionId(2), &Answer::LostLeadership);
        assert_eq!((room.available_permits(), replies.len()), (4, 0));
    }
}
