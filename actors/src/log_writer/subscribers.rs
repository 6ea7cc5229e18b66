//! The subscribers of committed records, the position of each, and which records may be trimmed.
//!
//! Must always hold: a subscriber gets every record of its partition after its start position, in
//! order, once; at most [`LAG_RECORDS_MAX`] records (and one batch) wait for it: a slower
//! subscriber is fed from the log.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use forebay_engine::partition::machine::PartitionInput;
use forebay_messages::{Lsn, NodeId, PartitionId, Record};
use forebay_storage::log::{LogError, LogStore};

use crate::shell::Ref;

use super::Done;

/// Maximum number of records sent to a subscriber and not applied by it; beyond this it is fed from
/// the log, as it applies.
pub const LAG_RECORDS_MAX: u64 = 16_384;
/// Records read at a time for a subscriber that is behind.
const CATCH_UP_RECORDS: usize = 1_024;
/// Bytes read at a time for it.
const CATCH_UP_BYTES: usize = 8 << 20;
/// First wait before checking again whether a subscriber that is behind has applied records;
/// doubles while none has, up to the longest.
const WAIT_FIRST: Duration = Duration::from_micros(500);
const WAIT_MAX: Duration = Duration::from_millis(50);

/// The request of a replica for a partition's records.
pub struct Subscription {
    /// The partition.
    pub partition: PartitionId,
    /// The replica's node.
    pub node: NodeId,
    /// The last position that the replica already has.
    pub after: Lsn,
    /// The position that it has applied, updated by the replica.
    pub applied: Arc<AtomicU64>,
    /// Receives the records.
    pub to: Ref<PartitionInput>,
    /// Called once: when all existing records were sent, or with the error.
    pub done: Done<()>,
    /// Called at most once, after `done`: the log cannot be read any more.
    pub lost: Box<dyn FnOnce(LogError) + Send>,
}

struct Subscriber {
    subscription: Subscription,
    /// `None` after the call.
    done: Option<Done<()>>,
    /// The last position sent.
    sent: Lsn,
    /// The last position that it has in files.
    durable: Lsn,
    /// It gets its records from the log.
    is_behind: bool,
}

/// The result of feeding a subscriber.
enum Fed {
    /// It has everything.
    All,
    /// There are more records, but it must apply first.
    Waits,
    /// It got records.
    Some,
    /// It is gone, or the log cannot be read.
    Gone,
}

/// The subscribers of a log.
#[derive(Default)]
pub(super) struct Subscribers {
    by_partition: BTreeMap<PartitionId, Vec<Subscriber>>,
    behind: usize,
    wait: Duration,
}

impl Subscriber {
    fn lag(&self) -> u64 {
        self.sent.0.saturating_sub(self.subscription.applied.load(Ordering::Acquire))
    }

    fn send(&mut self, first: Lsn, records: Vec<Arc<Record>>) -> bool {
        assert_eq!(first, self.sent.next(), "records are sent without a gap");
        self.sent = Lsn(self.sent.0 + records.len() as u64);
        self.subscription.to.send(PartitionInput::Committed { first, records })
    }

    /// Reads the next batch for it, if it has applied the last one.
    fn feed(&mut self, store: &dyn LogStore) -> Fed {
        if self.lag() >= CATCH_UP_RECORDS as u64 {
            return Fed::Waits;
        }
        let partition = self.subscription.partition;
        match store.read(partition, self.sent.next(), CATCH_UP_RECORDS, CATCH_UP_BYTES) {
            Ok(batch) if batch.is_empty() => {
                self.is_behind = false;
                if let Some(done) = self.done.take() {
                    done(Ok(()));
                }
                Fed::All
            }
            Ok(batch) => {
                let records = batch.into_iter().map(|(_, record)| record).collect();
                if self.send(self.sent.next(), records) { Fed::Some } else { Fed::Gone }
            }
            Err(error) => {
                self.tell_lost(error);
                Fed::Gone
            }
        }
    }

    /// Reports why it gets no more records.
    fn tell_lost(&mut self, error: LogError) {
        match self.done.take() {
            Some(done) => done(Err(error)),
            None => {
                let lost = std::mem::replace(&mut self.subscription.lost, Box::new(|_| {}));
                lost(error);
            }
        }
    }
}

impl Subscribers {
    pub(super) fn add(&mut self, mut subscription: Subscription) {
        let (partition, node) = (subscription.partition, subscription.node);
        self.remove(partition, node);
        let done = std::mem::replace(&mut subscription.done, Box::new(|_| {}));
        let sent = subscription.after;
        let subscriber = Subscriber {
            subscription,
            done: Some(done),
            sent,
            durable: Lsn::default(),
            is_behind: true,
        };
        self.by_partition.entry(partition).or_default().push(subscriber);
        self.wait = WAIT_FIRST;
        self.behind += 1;
    }

    pub(super) fn remove(&mut self, partition: PartitionId, node: NodeId) {
        if let Some(subscribers) = self.by_partition.get_mut(&partition) {
            subscribers.retain(|subscriber| subscriber.subscription.node != node);
        }
        self.count_behind();
    }

    fn count_behind(&mut self) {
        let all = self.by_partition.values().flatten();
        self.behind = all.filter(|subscriber| subscriber.is_behind).count();
    }

    /// Records the position that a subscriber has in files; returns the lowest of the partition's
    /// subscribers.
    pub(super) fn durable(&mut self, partition: PartitionId, node: NodeId, through: Lsn) -> Lsn {
        let all = self.by_partition.entry(partition).or_default();
        for own in all.iter_mut().filter(|other| other.subscription.node == node) {
            own.durable = own.durable.max(through);
        }
        all.iter().map(|subscriber| subscriber.durable).min().unwrap_or_default()
    }

    /// Records were committed: subscribers that keep up get them from memory.
    pub(super) fn committed(
        &mut self,
        partition: PartitionId,
        first: Lsn,
        records: &[Arc<Record>],
    ) {
        let Some(all) = self.by_partition.get_mut(&partition) else { return };
        let mut changed = false;
        all.retain_mut(|subscriber| {
            if subscriber.is_behind || subscriber.sent.next() < first {
                // May be new to it: a write that was reported as failed may have succeeded.
                changed |= !subscriber.is_behind;
                subscriber.is_behind = true;
                return true;
            }
            if subscriber.lag() >= LAG_RECORDS_MAX {
                subscriber.is_behind = true;
                changed = true;
                return true;
            }
            let is_there = subscriber.send(first, records.to_vec());
            changed |= !is_there;
            is_there
        });
        if changed {
            self.wait = WAIT_FIRST;
            self.count_behind();
        }
    }

    /// Sends a message to all replicas of a partition; it concerns at most one of them, which
    /// recognizes it.
    pub(super) fn tell(&self, partition: PartitionId, input: &PartitionInput) {
        for subscriber in self.by_partition.get(&partition).into_iter().flatten() {
            subscriber.subscription.to.send(input.clone());
        }
    }

    /// Maximum wait before the next call of [`Self::feed`]; `None`: no subscriber is behind.
    pub(super) fn wait(&self) -> Option<Duration> {
        (self.behind > 0).then_some(self.wait)
    }

    /// Tells all subscribers that they get no more records, and removes them.
    pub(super) fn lost(&mut self, reason: &str) {
        for mut subscriber in std::mem::take(&mut self.by_partition).into_values().flatten() {
            subscriber.tell_lost(LogError::Gone { reason: reason.to_owned() });
        }
        self.behind = 0;
    }

    /// Feeds all subscribers that are behind; whether any still is.
    pub(super) fn feed(&mut self, store: &dyn LogStore) -> bool {
        if self.behind == 0 {
            return false;
        }
        let mut went_on = false;
        for all in self.by_partition.values_mut() {
            all.retain_mut(|subscriber| {
                while subscriber.is_behind {
                    match subscriber.feed(store) {
                        Fed::Some => went_on = true,
                        Fed::All | Fed::Waits => break,
                        Fed::Gone => return false,
                    }
                }
                true
            });
        }
        self.wait = if went_on { WAIT_FIRST } else { (self.wait * 2).min(WAIT_MAX) };
        self.count_behind();
        self.behind > 0
    }
}
