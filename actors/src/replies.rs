//! Who waits for an answer: reply ids on one side, futures on the other.
//!
//! Must always hold: a reply id is answered at most once; a future that is dropped
//! leaves nothing behind.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use dashmap::DashMap;
use forebay_engine::partition::machine::Answer;
use forebay_messages::{PartitionId, ReplyId};
use tokio::sync::oneshot;

/// The waiting ones of a node.
#[derive(Debug, Default)]
pub struct Replies {
    next: AtomicU64,
    waiting: DashMap<u64, (PartitionId, oneshot::Sender<Answer>)>,
}

impl Replies {
    /// A new reply id and the future of its answer, which a partition will give.
    #[must_use]
    pub fn open(self: &Arc<Self>, partition: PartitionId) -> Pending {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.waiting.insert(id, (partition, sender));
        Pending { id, receiver, replies: Arc::clone(self) }
    }

    /// Answers whoever waits; nobody may any more.
    pub fn answer(&self, to: ReplyId, answer: Answer) {
        if let Some((_, (_, sender))) = self.waiting.remove(&to.0) {
            // Whoever waited may have gone between the look-up and now.
            let _ = sender.send(answer);
        }
    }

    /// How many wait.
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
        let mut ids: Vec<u64> = self
            .waiting
            .iter()
            .filter(|entry| entry.value().0 == partition)
            .map(|entry| *entry.key())
            .collect();
        // In the order of the questions, whatever the order of the map.
        ids.sort_unstable();
        for id in ids {
            self.answer(ReplyId(id), answer.clone());
        }
    }
}

/// The future of an answer. Dropping it gives the wait up, not what was asked for.
#[derive(Debug)]
pub struct Pending {
    id: u64,
    receiver: oneshot::Receiver<Answer>,
    replies: Arc<Replies>,
}

impl Pending {
    /// The id to be answered.
    #[must_use]
    pub fn id(&self) -> ReplyId {
        ReplyId(self.id)
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
        self.replies.waiting.remove(&self.id);
    }
}
