//! A log's writer without a thread: on its turn it writes some of the waiting commands.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use forebay_messages::{PartitionId, Producer, Timestamp};
use forebay_storage::log::{LogError, LogStore};
use futures_util::task::AtomicWaker;

use super::site::delayed;
use crate::{
    log_writer::{LogCommand, LogHandle, WriterCore},
    shell::{Ref, sim::SeededRandom},
};

/// Maximum time between two feedings of a subscriber that is behind, in milliseconds.
const FEED_EVERY_MS: u64 = 5;

/// Records read at a time.
const PAGE_RECORDS: usize = 64;

/// Commands that wait for the writer; `None` when it is gone.
type Queue = Arc<Mutex<Option<VecDeque<LogCommand>>>>;

/// The writer of one log, for one node or for all that share it.
pub(super) struct Writer {
    queue: Queue,
    store: Arc<dyn LogStore>,
    core: WriterCore,
    /// When waiting commands are written; `None` if there are none.
    due: Option<Timestamp>,
    /// When subscribers that are behind are fed; `None` if there are none.
    feed: Option<Timestamp>,
    pub(super) delay_ms_max: u64,
    /// Percentage of appends that are written twice.
    pub(super) twice_percent: usize,
}

fn lock(queue: &Queue) -> MutexGuard<'_, Option<VecDeque<LogCommand>>> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Writer {
    pub(super) fn new(store: Arc<dyn LogStore>) -> Self {
        let queue = Arc::new(Mutex::new(Some(VecDeque::new())));
        Self {
            queue,
            core: WriterCore::new(Arc::clone(&store)),
            store,
            due: None,
            feed: None,
            delay_ms_max: 0,
            twice_percent: 0,
        }
    }

    pub(super) fn handle(&self, sleeper: &Arc<AtomicWaker>) -> LogHandle {
        let (queue, sleeper) = (Arc::clone(&self.queue), Arc::clone(sleeper));
        Ref::new(move |command| {
            let taken = match &mut *lock(&queue) {
                Some(waiting) => {
                    waiting.push_back(command);
                    true
                }
                None => false,
            };
            sleeper.wake();
            taken
        })
    }

    /// Appends everything again that leaders of earlier epochs wrote, with their epochs; returns
    /// the number of records.
    pub(super) fn repeat_stale(&self, partition: PartitionId) -> Result<usize, LogError> {
        let fence = self.store.fenced(partition);
        let mut stale = VecDeque::new();
        let mut next = self.store.trimmed(partition).next();
        loop {
            let batch = self.store.read(partition, next, PAGE_RECORDS, usize::MAX)?;
            let Some((last, _)) = batch.last() else { break };
            next = last.next();
            for (_, record) in batch {
                if let Some(Producer::Leader(own)) = record.producer
                    && own.epoch < fence
                {
                    let epoch = own.epoch;
                    stale.push_back(LogCommand::Append {
                        partition,
                        epoch,
                        record,
                        may_wait: false,
                    });
                }
            }
        }
        let count = stale.len();
        if let Some(waiting) = &mut *lock(&self.queue) {
            waiting.append(&mut stale);
        }
        Ok(count)
    }

    fn is_empty(&self) -> bool {
        lock(&self.queue).as_ref().is_none_or(VecDeque::is_empty)
    }

    pub(super) fn has_news(&self) -> bool {
        self.due.is_none() && !self.is_empty()
    }

    /// When the writer next has work.
    pub(super) fn first_due(&self) -> Option<Timestamp> {
        [self.due, self.feed].into_iter().flatten().min()
    }

    /// Whether the writer has work now.
    pub(super) fn is_ready(&mut self, now: Timestamp, random: &mut SeededRandom) -> bool {
        if self.has_news() {
            self.due = Some(delayed(now, self.delay_ms_max, random));
        }
        self.first_due().is_some_and(|due| due <= now)
    }

    /// Repeats some appends, like a network between a node and its log that repeats messages
    /// without an acknowledgment.
    fn some_twice(&self, batch: Vec<LogCommand>, random: &mut SeededRandom) -> Vec<LogCommand> {
        if self.twice_percent == 0 {
            return batch;
        }
        let mut all = Vec::with_capacity(batch.len());
        for command in batch {
            let again = match &command {
                LogCommand::Append { partition, epoch, record, may_wait }
                    if random.below(100) < self.twice_percent =>
                {
                    let record = Arc::clone(record);
                    Some(LogCommand::Append {
                        partition: *partition,
                        epoch: *epoch,
                        record,
                        may_wait: *may_wait,
                    })
                }
                _ => None,
            };
            all.push(command);
            all.extend(again);
        }
        all
    }

    /// Writes some of the waiting commands, in order; returns their number.
    pub(super) fn write(&mut self, now: Timestamp, random: &mut SeededRandom) -> u64 {
        let batch: Vec<_> = match (self.due.take_if(|due| *due <= now), &mut *lock(&self.queue)) {
            (Some(_), Some(waiting)) if !waiting.is_empty() => {
                let count = 1 + random.below(waiting.len());
                waiting.drain(..count).collect()
            }
            _ => Vec::new(),
        };
        let count = batch.len() as u64;
        let batch = self.some_twice(batch, random);
        self.core.handle(batch.into_iter());
        // Not in `handle` above, which checks once: a subscriber that is behind must apply first.
        self.feed = self.core.feed().then(|| Timestamp(now.0 + FEED_EVERY_MS));
        count
    }
}

impl Writer {
    /// Ends the writer as a panic would: waiting commands are lost, and subscribers are notified.
    pub(super) fn die(mut self) {
        let lost = lock(&self.queue).take();
        drop(lost);
        self.core.died("as planned");
    }
}

impl Drop for Writer {
    /// A crash: waiting commands are lost.
    fn drop(&mut self) {
        let lost = lock(&self.queue).take();
        drop(lost);
    }
}
