//! Asking partitions: proposals with credits, and waiting for results.
//!
//! Must always hold: what is in flight per partition is bounded, in records and in
//! bytes, whether or not callers wait for it; every question is answered or its future
//! dropped.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use forebay_engine::{
    limiter::Limiter,
    partition::machine::{Answer, PartitionInput},
};
use forebay_messages::{
    EntryId, Outcome, PartitionId, PartitionKey, ReplyId, Timestamp, command::Command,
};
use futures_util::future::try_join_all;
use tokio::sync::{TryAcquireError, oneshot};
use tokio::time::Instant;

use crate::{
    error::{NodeError, refusal},
    host::Arbiter,
    log_writer::LogHandle,
    node::Node,
    registry::{NodeServices, PartitionEntry},
    shell::{Ref, World},
};

use super::replies::{ANSWERS_MAX, Credit, Pending};

/// Credits of a partition. A proposal takes one, and one more per [`CREDIT_BYTES`].
pub const CREDITS_PER_PARTITION: usize = 16_384;
/// Payload bytes that cost a further credit.
pub const CREDIT_BYTES: usize = 8 << 10;
/// Where a log is shared: how long a command waits for somebody to lead.
pub(crate) const LEADER_WAIT: Duration = Duration::from_secs(5);
/// How often it looks.
const LEADER_LOOK: Duration = Duration::from_millis(20);

/// How often [`Node::drained`] looks.
const DRAIN_LOOK: Duration = Duration::from_millis(2);

/// Gives the wait for results up when its future is dropped.
struct Detach {
    waits: Vec<(EntryId, ReplyId)>,
    partition: Ref<PartitionInput>,
}

impl Drop for Detach {
    fn drop(&mut self) {
        let waits = std::mem::take(&mut self.waits);
        if !waits.is_empty() {
            self.partition.send(PartitionInput::Detach { waits });
        }
    }
}

/// The end of an entry, as a partition was asked for it.
struct Asked {
    pending: Pending,
    detach: Detach,
}

impl Asked {
    async fn answer(self) -> Result<Option<Outcome>, NodeError> {
        let Self { pending, mut detach } = self;
        let answer = pending.await;
        detach.waits.clear();
        outcome(answer)
    }
}

impl Node {
    pub(crate) fn entry_of(&self, partition: PartitionId) -> Result<PartitionEntry, NodeError> {
        self.check_up()?;
        let found = self.services.partitions.get(&partition).map(|entry| entry.clone());
        found.ok_or(NodeError::UnknownPartition(partition))
    }

    /// The replica to read from: that of the leader, which has applied whatever was
    /// acknowledged; without a leader that is known, the one here.
    pub(crate) fn newest_of(&self, partition: PartitionId) -> Result<PartitionEntry, NodeError> {
        let own = self.entry_of(partition)?;
        let leader = self.services.shared().and_then(|shared| shared.leader(partition));
        let found =
            leader.and_then(|leader| leader.partitions.get(&partition).map(|entry| entry.clone()));
        Ok(found.unwrap_or(own))
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
        let partition = self.route(key)?;
        let credit = self.credit(partition, weight).await?;
        self.propose_under(credit, partition, command).await
    }

    /// As [`Node::propose`], but refuses with `Busy` instead of waiting.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn try_propose(
        &self,
        key: PartitionKey,
        command: Command,
        weight: usize,
    ) -> Result<Answer, NodeError> {
        let partition = self.route(key)?;
        let credits = self.credits.get(&partition).map(|credits| Arc::clone(&credits));
        let credits = credits.ok_or(NodeError::UnknownPartition(partition))?;
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
        let Some(shared) = self.services.shared() else {
            self.check_up()?;
            return ask(&self.services, partition, command, credit).await;
        };
        let credit = match credit {
            Credit::Own(credit) => Some(Arc::new(credit)),
            Credit::Shared(credit) => Some(credit),
            Credit::None => None,
        };
        let begun = Instant::now();
        loop {
            self.check_up()?;
            let leader = shared.leader(partition);
            let leader = leader.unwrap_or_else(|| Arc::clone(&self.services));
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

    /// Waits for the end of an entry; `None` when there is no such entry. Cancel-safe.
    /// Any replica knows, and a change of leaders does not end the wait.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn attach(&self, entry: EntryId) -> Result<Option<Outcome>, NodeError> {
        loop {
            match self.attach_once(entry).await {
                Err(NodeError::LostLeadership) => self.check_up()?,
                answered => return answered,
            }
            // The replica is being built anew.
            tokio::time::sleep(LEADER_LOOK).await;
        }
    }

    /// As [`Node::attach`] for a caller that does not keep the node up: when the last
    /// handle is dropped meanwhile, the wait ends with [`NodeError::ShutDown`].
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn attach_to(
        node: &Weak<Self>,
        entry: EntryId,
    ) -> Result<Option<Outcome>, NodeError> {
        let up = || node.upgrade().ok_or(NodeError::ShutDown);
        let mut has_caught_up = false;
        loop {
            let asked = up()?.ask_here(entry)?;
            match asked.answer().await {
                // As in `attach_once`.
                Ok(None) if !has_caught_up => {
                    let node = up()?;
                    let partition = node.route(entry.partition_key)?;
                    if !node.catch_up(partition).await? {
                        return Ok(None);
                    }
                    has_caught_up = true;
                    continue;
                }
                Err(NodeError::LostLeadership) => up()?.check_up()?,
                answered => return answered,
            }
            // The replica is being built anew.
            tokio::time::sleep(LEADER_LOOK).await;
        }
    }

    /// As [`Node::attach`] for many entries at once, in their order: one message to each
    /// partition, one wake-up for the whole. Cancel-safe.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn attach_all(&self, entries: &[EntryId]) -> Result<Vec<Option<Outcome>>, NodeError> {
        if let [entry] = entries {
            return Ok(vec![self.attach(*entry).await?]);
        }
        let mut shares: BTreeMap<PartitionId, Vec<usize>> = BTreeMap::new();
        let partitions = self.route_all(entries.iter().map(|entry| entry.partition_key))?;
        for (index, partition) in partitions.into_iter().enumerate() {
            shares.entry(partition).or_default().push(index);
        }
        let mut outcomes = vec![None; entries.len()];
        let shares = shares.iter().flat_map(|(partition, share)| {
            share.chunks(ANSWERS_MAX).map(|share| (*partition, share))
        });
        let waits = shares.map(|(partition, share)| async move {
            let share_of = share.iter().map(|index| entries[*index]).collect();
            Ok::<_, NodeError>((share, self.attach_share(partition, share_of).await?))
        });
        // A few whose number is known are joined in place.
        let waits: Vec<_> = waits.collect();
        for (share, found) in try_join_all(waits).await? {
            share.iter().zip(found).for_each(|(index, outcome)| outcomes[*index] = outcome);
        }
        Ok(outcomes)
    }

    /// Asks the replica here. Where a log is shared, it may lag behind the one that
    /// acknowledged the entry: "no such entry" counts only once it has caught up.
    async fn attach_once(&self, entry: EntryId) -> Result<Option<Outcome>, NodeError> {
        let partition = self.route(entry.partition_key)?;
        match self.ask_here(entry)?.answer().await? {
            None if self.catch_up(partition).await? => self.ask_here(entry)?.answer().await,
            answered => Ok(answered),
        }
    }

    /// Waits, for a while, until the replica here has applied what the leader's has now;
    /// false when it need not.
    async fn catch_up(&self, partition: PartitionId) -> Result<bool, NodeError> {
        let leader = self.services.shared().and_then(|shared| shared.leader(partition));
        if leader.is_none_or(|leader| leader.node == self.services.node) {
            return Ok(false);
        }
        let (own, begun) = (self.entry_of(partition)?, Instant::now());
        let through = self.newest_of(partition)?.store.applied_lsn()?;
        while own.store.applied_lsn()? < through && begun.elapsed() < LEADER_WAIT {
            tokio::time::sleep(LEADER_LOOK).await;
        }
        Ok(true)
    }

    /// Asks the replica here for the end of an entry.
    fn ask_here(&self, entry: EntryId) -> Result<Asked, NodeError> {
        self.check_up()?;
        let partition = self.route(entry.partition_key)?;
        let to = address_of(&self.services, partition)?;
        let pending = self.services.replies.open(partition);
        let waits = vec![(entry, pending.id())];
        if !to.send(PartitionInput::Attach { waits: waits.clone() }) {
            return Err(gone(&self.services, partition));
        }
        answer_if_gone(&self.services, partition, [pending.id()]);
        Ok(Asked { pending, detach: Detach { waits, partition: to } })
    }

    /// Attaches to entries of one partition; again those whose replica went meanwhile.
    async fn attach_share(
        &self,
        partition: PartitionId,
        entries: Vec<EntryId>,
    ) -> Result<Vec<Option<Outcome>>, NodeError> {
        self.check_up()?;
        let to = address_of(&self.services, partition)?;
        let pending = self.services.replies.open_many(partition, entries.len());
        let waits: Vec<_> = entries.iter().copied().zip(pending.ids()).collect();
        let mut detach = Detach { waits: waits.clone(), partition: to.clone() };
        let answers = if to.send(PartitionInput::Attach { waits }) {
            answer_if_gone(&self.services, partition, pending.ids());
            pending.await
        } else {
            vec![Answer::LostLeadership; entries.len()]
        };
        detach.waits.clear();
        let mut outcomes = Vec::with_capacity(entries.len());
        for (entry, answer) in entries.into_iter().zip(answers) {
            outcomes.push(match outcome(answer) {
                // The replica is being built anew, or is gone for good and says so.
                Err(NodeError::LostLeadership) => self.attach(entry).await?,
                // The replica may lag behind.
                Ok(None) if self.services.shared().is_some() => self.attach(entry).await?,
                known => known?,
            });
        }
        Ok(outcomes)
    }

    /// Waits until nothing that ran under earlier leaders counts as running any more, in
    /// the partitions that this node leads and that go on. Cancel-safe.
    pub async fn drained(&self) {
        let is_draining = |partition: &PartitionId| {
            let status = self.services.status(*partition);
            let goes_on = status.is_some_and(|status| status.stopped.is_none());
            goes_on && self.services.gauges(*partition).is_draining
        };
        while self.partitions().iter().any(is_draining) {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    }

    /// Looks at the limiter of a partition; `None` when this node does not lead it (or
    /// its limiter is not seeded yet).
    pub(crate) async fn look_at_limiter<T: Send + 'static>(
        &self,
        partition: PartitionId,
        look: impl FnOnce(&Limiter, Timestamp) -> T + Send + 'static,
    ) -> Option<T> {
        let limiter = self.services.limiter(partition)?;
        let (tell, told) = oneshot::channel();
        let sent = limiter.send(Box::new(move |limiter, now| {
            if limiter.is_seeded() {
                // Whoever asked may have gone.
                let _ = tell.send(look(limiter, now));
            }
        }));
        // A limiter that goes drops the question, and with it the sender.
        if sent { told.await.ok() } else { None }
    }

    /// Waits for the room that so many bytes take up.
    pub(crate) async fn credit(
        &self,
        partition: PartitionId,
        weight: usize,
    ) -> Result<Credit, NodeError> {
        let credits = self.credits.get(&partition).map(|credits| Arc::clone(&credits));
        let credits = credits.ok_or(NodeError::UnknownPartition(partition))?;
        let credit = credits.acquire_many_owned(cost(weight)).await;
        credit.map(Credit::Own).map_err(|_| self.closed(partition))
    }

    /// Why a partition gives no credits any more.
    fn closed(&self, partition: PartitionId) -> NodeError {
        self.check_up().err().unwrap_or(NodeError::UnknownPartition(partition))
    }

    /// Credits of a partition that commands in flight hold, those included that nobody
    /// waits for any more: one for each, and one more per [`CREDIT_BYTES`] that it carries;
    /// at most [`CREDITS_PER_PARTITION`]. `None` when there is no such partition here.
    #[must_use]
    pub fn credits_in_use(&self, partition: PartitionId) -> Option<usize> {
        let free = self.credits.get(&partition)?.available_permits();
        Some(CREDITS_PER_PARTITION.saturating_sub(free))
    }

    pub(crate) fn log_handle(&self) -> Result<LogHandle, NodeError> {
        let machinery = self.machinery();
        machinery.as_ref().map(|m| m.log.clone()).ok_or(NodeError::ShutDown)
    }

    pub(crate) fn on_arbiter(
        &self,
        index: usize,
        job: impl FnOnce(&World) + Send + 'static,
    ) -> Result<(), NodeError> {
        let machinery = self.machinery();
        let arbiters: &[Arbiter] =
            machinery.as_ref().map(|m| m.arbiters.as_slice()).ok_or(NodeError::ShutDown)?;
        match arbiters[index % arbiters.len()].run(job) {
            true => Ok(()),
            false => Err(NodeError::ShutDown),
        }
    }
}

/// The address alone: an entry has a store, which is not as cheap to clone.
fn address_of(
    services: &NodeServices,
    partition: PartitionId,
) -> Result<Ref<PartitionInput>, NodeError> {
    let found = services.partitions.get(&partition).map(|entry| entry.address.clone());
    found.ok_or(NodeError::UnknownPartition(partition))
}

/// Proposes to the replica of a node; what it answers.
async fn ask(
    services: &NodeServices,
    partition: PartitionId,
    command: Command,
    credit: Credit,
) -> Result<Answer, NodeError> {
    let to = address_of(services, partition)?;
    let pending = services.replies.open_with(partition, credit);
    let input = PartitionInput::Propose { command: Box::new(command), reply: pending.id() };
    if !to.send(input) {
        pending.withdraw();
        return Err(gone(services, partition));
    }
    answer_if_gone(services, partition, [pending.id()]);
    refusal(pending.await)
}

/// What whoever attached is told.
fn outcome(answer: Answer) -> Result<Option<Outcome>, NodeError> {
    match refusal(answer)? {
        Answer::Outcome(outcome) => Ok(Some(outcome)),
        Answer::UnknownEntry => Ok(None),
        other => Err(NodeError::unexpected(other)),
    }
}

/// The partition's actor is not there: for good, or until it is built anew.
fn gone(services: &NodeServices, partition: PartitionId) -> NodeError {
    match services.status(partition).and_then(|status| status.stopped) {
        Some(reason) => NodeError::PartitionStopped { partition, reason },
        None => NodeError::LostLeadership,
    }
}

/// A question that was put while the partition's actor ended is answered here: its
/// mailbox is gone. Only this question is answered: other callers answer their own, and
/// scanning all of them for each new question would take longer and longer.
pub(crate) fn answer_if_gone(
    services: &NodeServices,
    partition: PartitionId,
    questions: impl IntoIterator<Item = ReplyId>,
) {
    let stopped = services.status(partition).and_then(|status| status.stopped);
    if let Some(reason) = stopped {
        let answer = Answer::StorageFailed(reason);
        questions.into_iter().for_each(|to| services.replies.answer(to, answer.clone()));
    }
}

/// Credits that a proposal with so many bytes takes.
fn cost(weight: usize) -> u32 {
    u32::try_from((1 + weight / CREDIT_BYTES).min(CREDITS_PER_PARTITION)).unwrap_or(1)
}
