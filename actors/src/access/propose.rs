//! Proposing commands to partitions, under credits.
//!
//! Must always hold: what is in flight per partition is bounded, in records and in
//! bytes, whether or not callers wait for it; every question is answered or its future
//! dropped.

use std::{sync::Arc, time::Duration};

use forebay_engine::partition::machine::{Answer, PartitionInput};
use forebay_messages::{PartitionId, PartitionKey, ReplyId, command::Command};
use tokio::{
    sync::{Semaphore, TryAcquireError},
    time::Instant,
};

use crate::{
    error::{NodeError, refusal},
    registry::Registry,
    shell::Ref,
};

use super::{Access, replies::Credit};

/// Credits of a partition. A proposal takes one, and one more per [`CREDIT_BYTES`].
pub const CREDITS_PER_PARTITION: usize = 16_384;
/// Payload bytes that cost a further credit.
pub const CREDIT_BYTES: usize = 8 << 10;
/// Where a log is shared: how long a command waits for somebody to lead.
pub(crate) const LEADER_WAIT: Duration = Duration::from_secs(5);
/// How often it looks.
pub(crate) const LEADER_LOOK: Duration = Duration::from_millis(20);

impl Access {
    /// Lets commands for a partition in. One that is started again knows what of it is
    /// still in flight.
    pub(crate) fn open_credits(&self, partition: PartitionId) {
        let credits = || Arc::new(Semaphore::new(CREDITS_PER_PARTITION));
        self.credits.entry(partition).or_insert_with(credits);
    }

    /// Lets no further command for a partition in.
    pub(crate) fn close_credits(&self, partition: PartitionId) {
        if let Some((_, credits)) = self.credits.remove(&partition) {
            credits.close();
        }
    }

    /// Lets no further command in.
    pub(crate) fn close_all_credits(&self) {
        self.credits.iter().for_each(|credits| credits.close());
    }

    /// Which partition owns a key.
    ///
    /// # Errors
    /// [`NodeError::NoPartition`].
    pub fn route(&self, key: PartitionKey) -> Result<PartitionId, NodeError> {
        self.registry.route(key)
    }

    /// As [`Access::route`] for many keys, in their order.
    ///
    /// # Errors
    /// [`NodeError::NoPartition`].
    pub fn route_all(
        &self,
        keys: impl IntoIterator<Item = PartitionKey>,
    ) -> Result<Vec<PartitionId>, NodeError> {
        self.registry.route_all(keys)
    }

    /// Proposes a command to the partition of a key, waiting while too much is in
    /// flight; the answer, once it is applied. `weight`: bytes it carries.
    ///
    /// A dropped call may or may not have stored the command. What was proposed counts as
    /// in flight until it is answered, although nobody waits for it.
    ///
    /// # Errors
    /// [`NodeError`]. After `LostLeadership` and `StorageFailed` the outcome is unknown.
    pub async fn propose(
        &self,
        key: PartitionKey,
        command: Command,
        weight: usize,
    ) -> Result<Answer, NodeError> {
        let partition = self.registry.route(key)?;
        let credit = self.credit(partition, weight).await?;
        self.propose_under(credit, partition, command).await
    }

    /// As [`Access::propose`], but refuses with `Busy` instead of waiting.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn try_propose(
        &self,
        key: PartitionKey,
        command: Command,
        weight: usize,
    ) -> Result<Answer, NodeError> {
        let partition = self.registry.route(key)?;
        let credits = self.credits_of(partition)?;
        let credit = match credits.try_acquire_many_owned(cost(weight)) {
            Ok(credit) => Credit::Own(credit),
            Err(TryAcquireError::NoPermits) => return Err(NodeError::Busy),
            Err(TryAcquireError::Closed) => return Err(self.closed(partition)),
        };
        self.propose_under(credit, partition, command).await
    }

    /// Proposes a command to a partition, whatever is in flight. Where a log is shared,
    /// it goes to the leader, and while there is none it waits for a while.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn propose_to(
        &self,
        partition: PartitionId,
        command: Command,
    ) -> Result<Answer, NodeError> {
        self.propose_under(Credit::None, partition, command).await
    }

    /// The same under a credit, which comes back when the command is answered.
    pub(crate) async fn propose_under(
        &self,
        credit: Credit,
        partition: PartitionId,
        command: Command,
    ) -> Result<Answer, NodeError> {
        let Some(shared) = self.registry.shared() else {
            self.registry.check_up()?;
            return ask(&self.registry, partition, command, credit).await;
        };
        let credit = match credit {
            Credit::Own(credit) => Some(Arc::new(credit)),
            Credit::Shared(credit) => Some(credit),
            Credit::None => None,
        };
        let begun = Instant::now();
        loop {
            self.registry.check_up()?;
            let leader = shared.leader(partition);
            let leader = leader.unwrap_or_else(|| Arc::clone(&self.registry));
            let credit = credit.clone().map_or(Credit::None, Credit::Shared);
            match ask(&leader, partition, command.clone(), credit).await {
                // Nothing of it was stored: it may be said again.
                Err(NodeError::NotLeading) if begun.elapsed() < LEADER_WAIT => {
                    tokio::time::sleep(LEADER_LOOK).await;
                }
                answered => return answered,
            }
        }
    }

    /// Waits for the room that so many bytes take up.
    pub(crate) async fn credit(
        &self,
        partition: PartitionId,
        weight: usize,
    ) -> Result<Credit, NodeError> {
        let credits = self.credits_of(partition)?;
        let credit = credits.acquire_many_owned(cost(weight)).await;
        credit.map(Credit::Own).map_err(|_| self.closed(partition))
    }

    fn credits_of(&self, partition: PartitionId) -> Result<Arc<Semaphore>, NodeError> {
        let credits = self.credits.get(&partition).map(|credits| Arc::clone(&credits));
        credits.ok_or(NodeError::UnknownPartition(partition))
    }

    /// Why a partition gives no credits any more.
    fn closed(&self, partition: PartitionId) -> NodeError {
        self.registry.check_up().err().unwrap_or(NodeError::UnknownPartition(partition))
    }

    /// Credits of a partition that commands in flight hold, those included that nobody
    /// waits for any more: one for each, and one more per [`CREDIT_BYTES`] that it carries;
    /// at most [`CREDITS_PER_PARTITION`]. `None` when there is no such partition here.
    #[must_use]
    pub fn credits_in_use(&self, partition: PartitionId) -> Option<usize> {
        let free = self.credits.get(&partition)?.available_permits();
        Some(CREDITS_PER_PARTITION.saturating_sub(free))
    }
}

/// The address alone: an entry has a store, which is not as cheap to clone.
pub(super) fn address_of(
    registry: &Registry,
    partition: PartitionId,
) -> Result<Ref<PartitionInput>, NodeError> {
    let found = registry.replicas.get(&partition).map(|replica| replica.partition.address.clone());
    found.ok_or(NodeError::UnknownPartition(partition))
}

/// Proposes to the replica of a node; what it answers.
async fn ask(
    registry: &Registry,
    partition: PartitionId,
    command: Command,
    credit: Credit,
) -> Result<Answer, NodeError> {
    let to = address_of(registry, partition)?;
    let pending = registry.replies.open_with(partition, credit);
    let input = PartitionInput::Propose { command: Box::new(command), reply: pending.id() };
    if !to.send(input) {
        pending.withdraw();
        return Err(gone(registry, partition));
    }
    answer_if_gone(registry, partition, [pending.id()]);
    refusal(pending.await)
}

/// The partition's actor is not there: for good, or until it is built anew.
pub(super) fn gone(registry: &Registry, partition: PartitionId) -> NodeError {
    match registry.status(partition).and_then(|status| status.stopped) {
        Some(reason) => NodeError::PartitionStopped { partition, reason },
        None => NodeError::LostLeadership,
    }
}

/// A question that was put while the partition's actor ended is answered here: its
/// mailbox is gone. Only this question is answered: other callers answer their own, and
/// scanning all of them for each new question would take longer and longer.
pub(crate) fn answer_if_gone(
    registry: &Registry,
    partition: PartitionId,
    questions: impl IntoIterator<Item = ReplyId>,
) {
    let stopped = registry.status(partition).and_then(|status| status.stopped);
    if let Some(reason) = stopped {
        let answer = Answer::StorageFailed(reason);
        questions.into_iter().for_each(|to| registry.replies.answer(to, answer.clone()));
    }
}

/// Credits that a proposal with so many bytes takes.
fn cost(weight: usize) -> u32 {
    u32::try_from((1 + weight / CREDIT_BYTES).min(CREDITS_PER_PARTITION)).unwrap_or(1)
}
