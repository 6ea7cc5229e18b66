//! Proposing commands to partitions, with credits.
//!
//! Must always hold: commands in flight per partition are bounded, in number and in bytes, even if
//! their callers have stopped waiting; every question is answered or its future dropped.

use std::{sync::Arc, time::Duration};

use forebay_engine::partition::machine::{Answer, PartitionInput};
use forebay_messages::{NodeId, PartitionId, PartitionKey, ReplyId, command::Command};
use forebay_storage::partition::PartitionStore;
use tokio::{
    sync::{Semaphore, TryAcquireError},
    time::Instant,
};

use crate::{
    error::{NodeError, refusal},
    peers::{Peer, Proposing, ReplicaRows},
    registry::{Registry, RoutingTable},
    shell::Ref,
};

use super::{Access, replies::Credit};

/// Credits of a partition. A proposal takes one, plus one per [`CREDIT_BYTES`].
pub const CREDITS_PER_PARTITION: usize = 16_384;
/// Payload bytes that cost one more credit.
pub const CREDIT_BYTES: usize = 8 << 10;
/// With a shared log: how long a command waits for a leader.
pub(crate) const LEADER_WAIT: Duration = Duration::from_secs(5);
/// Interval of checks for a leader.
pub(crate) const LEADER_LOOK: Duration = Duration::from_millis(20);

impl Access {
    /// Accepts commands for a partition. A restarted partition keeps the credits of commands in
    /// flight.
    pub(crate) fn open_credits(&self, partition: PartitionId) {
        let credits = || Arc::new(Semaphore::new(CREDITS_PER_PARTITION));
        self.credits.entry(partition).or_insert_with(credits);
    }

    /// Accepts no further commands for a partition.
    pub(crate) fn close_credits(&self, partition: PartitionId) {
        if let Some((_, credits)) = self.credits.remove(&partition) {
            credits.close();
        }
    }

    /// Accepts no further commands.
    pub(crate) fn close_all_credits(&self) {
        self.credits.iter().for_each(|credits| credits.close());
    }

    /// The partition that owns a key.
    ///
    /// # Errors
    /// [`NodeError::NoPartition`].
    pub fn route(&self, key: PartitionKey) -> Result<PartitionId, NodeError> {
        self.registry.route(key)
    }

    /// The routing table, for many keys.
    #[must_use]
    pub fn routing_table(&self) -> RoutingTable<'_> {
        self.registry.routing_table()
    }

    /// Proposes a command to the partition of a key; waits while too much is in flight. Returns the
    /// answer once the command is applied. `weight`: bytes of its payload.
    ///
    /// A dropped call may or may not have stored the command. A proposed command counts as in
    /// flight until it is answered, even if nothing waits for it.
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

    /// Proposes a command to a partition, without credits. With a shared log the command goes to
    /// the leader, and waits for a while if there is none.
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

    /// The same with a credit, which is returned when the command is answered.
    pub(crate) async fn propose_under(
        &self,
        credit: Credit,
        partition: PartitionId,
        command: Command,
    ) -> Result<Answer, NodeError> {
        propose_by(&self.registry, credit, partition, command).await
    }

    /// Waits for the credits that this many bytes cost.
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

    /// Why a partition gives no more credits.
    fn closed(&self, partition: PartitionId) -> NodeError {
        self.registry.check_up().err().unwrap_or(NodeError::UnknownPartition(partition))
    }

    /// Credits of a partition held by commands in flight, including commands whose callers have
    /// stopped waiting: one each, plus one per [`CREDIT_BYTES`] of payload; at most
    /// [`CREDITS_PER_PARTITION`]. `None` when there is no such partition here.
    #[must_use]
    pub fn credits_in_use(&self, partition: PartitionId) -> Option<usize> {
        let free = self.credits.get(&partition)?.available_permits();
        Some(CREDITS_PER_PARTITION.saturating_sub(free))
    }
}

/// Proposes a command to a partition, wherever it is led; the credit is returned when the command
/// is answered.
pub(crate) async fn propose_by(
    registry: &Registry,
    credit: Credit,
    partition: PartitionId,
    command: Command,
) -> Result<Answer, NodeError> {
    let Some(shared) = registry.shared() else {
        registry.check_up()?;
        return ask(registry, partition, command, credit).await;
    };
    let credit = match credit {
        Credit::Own(credit) => Some(Arc::new(credit)),
        Credit::Shared(credit) => Some(credit),
        Credit::None => None,
    };
    let begun = Instant::now();
    loop {
        registry.check_up()?;
        let leader = shared.leader(partition);
        let credit = credit.clone().map_or(Credit::None, Credit::Shared);
        let command = command.clone();
        let answered = match leader {
            Some(leader) if leader.node() != registry.node => {
                leader.propose(partition, command, credit).await
            }
            _ => ask(registry, partition, command, credit).await,
        };
        match answered {
            // Nothing was stored: it may be proposed again.
            Err(NodeError::NotLeading) if begun.elapsed() < LEADER_WAIT => {
                tokio::time::sleep(LEADER_LOOK).await;
            }
            answered => return answered,
        }
    }
}

/// Returns only the address: cloning the whole entry would clone its store, which costs more.
pub(super) fn address_of(
    registry: &Registry,
    partition: PartitionId,
) -> Result<Ref<PartitionInput>, NodeError> {
    let found = registry.replicas.get(&partition).map(|replica| replica.partition.address.clone());
    found.ok_or(NodeError::UnknownPartition(partition))
}

/// Proposes to the replica on a node; returns its answer.
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

/// The partition's actor is gone: permanently, or until it is rebuilt.
pub(super) fn gone(registry: &Registry, partition: PartitionId) -> NodeError {
    match registry.status(partition).and_then(|status| status.stopped) {
        Some(reason) => NodeError::PartitionStopped { partition, reason },
        None => NodeError::LostLeadership,
    }
}

/// Answers a question that was asked while the partition's actor ended, whose mailbox is gone. It
/// answers only this question: other callers answer their own, and a scan of all pending questions
/// for each new one would take longer and longer.
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

/// Credits of a proposal with this many bytes.
fn cost(weight: usize) -> u32 {
    u32::try_from((1 + weight / CREDIT_BYTES).min(CREDITS_PER_PARTITION)).unwrap_or(1)
}

impl Peer for Registry {
    fn node(&self) -> NodeId {
        self.node
    }

    fn propose(self: Arc<Self>, to: PartitionId, command: Command, credit: Credit) -> Proposing {
        Box::pin(async move { ask(&self, to, command, credit).await })
    }

    fn read(&self, partition: PartitionId) -> Option<ReplicaRows> {
        self.replicas.get(&partition).map(|replica| replica.rows.clone())
    }

    fn copy_rows(&self, partition: PartitionId) -> Option<PartitionStore> {
        let runs = self.status(partition).is_some_and(|status| status.stopped.is_none());
        self.read(partition).filter(|_| runs).map(|rows| rows.store)
    }
}
