//! Waiting for the ends of entries.
//!
//! Must always hold: a wait survives a change of leader and a rebuilt replica; a dropped wait
//! leaves nothing behind.

use std::{collections::BTreeMap, sync::Weak};

use forebay_engine::partition::machine::{Answer, PartitionInput};
use forebay_messages::{EntryId, Outcome, PartitionId, ReplyId};
use futures_util::future::try_join_all;
use tokio::time::Instant;

use crate::{
    error::{NodeError, refusal},
    shell::Ref,
};

use super::{
    Access,
    propose::{LEADER_LOOK, LEADER_WAIT, address_of, answer_if_gone, gone},
    replies::{ANSWERS_MAX, Pending},
};

/// Cancels the wait for results when its future is dropped.
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

/// A question to a partition for the outcome of an entry.
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

impl Access {
    /// Waits for the end of an entry; `None` when there is no such entry. Cancel-safe. Any replica
    /// can answer, and a change of leader does not end the wait.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn attach(&self, entry: EntryId) -> Result<Option<Outcome>, NodeError> {
        loop {
            match self.attach_once(entry).await {
                Err(NodeError::LostLeadership) => self.registry.check_up()?,
                answered => return answered,
            }
            // The replica is being rebuilt.
            tokio::time::sleep(LEADER_LOOK).await;
        }
    }

    /// As [`Access::attach`], for a caller that does not keep the node alive: when the last handle
    /// is dropped during the wait, it ends with [`NodeError::ShutDown`].
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn attach_while_up<N: AsRef<Self>>(
        node: &Weak<N>,
        entry: EntryId,
    ) -> Result<Option<Outcome>, NodeError> {
        let up = || node.upgrade().ok_or(NodeError::ShutDown);
        let mut has_caught_up = false;
        loop {
            let asked = up()?.as_ref().as_ref().ask_here(entry)?;
            match asked.answer().await {
                // As in `attach_once`.
                Ok(None) if !has_caught_up => {
                    let node = up()?;
                    let access: &Self = node.as_ref().as_ref();
                    let partition = access.registry.route(entry.partition_key)?;
                    if !access.catch_up(partition).await? {
                        return Ok(None);
                    }
                    has_caught_up = true;
                    continue;
                }
                Err(NodeError::LostLeadership) => up()?.as_ref().as_ref().registry.check_up()?,
                answered => return answered,
            }
            // The replica is being rebuilt.
            tokio::time::sleep(LEADER_LOOK).await;
        }
    }

    /// As [`Access::attach`] for many entries, in their order: one message per partition and one
    /// wake-up in total. Cancel-safe.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn attach_all(&self, entries: &[EntryId]) -> Result<Vec<Option<Outcome>>, NodeError> {
        if let [entry] = entries {
            return Ok(vec![self.attach(*entry).await?]);
        }
        let mut shares: BTreeMap<PartitionId, Vec<usize>> = BTreeMap::new();
        {
            let table = self.registry.routing_table();
            for (index, entry) in entries.iter().enumerate() {
                let partition = table.owner(entry.partition_key)?;
                shares.entry(partition).or_default().push(index);
            }
        }
        let mut outcomes = vec![None; entries.len()];
        let shares = shares.iter().flat_map(|(partition, share)| {
            share.chunks(ANSWERS_MAX).map(|share| (*partition, share))
        });
        let waits = shares.map(|(partition, share)| async move {
            let share_of = share.iter().map(|index| entries[*index]).collect();
            Ok::<_, NodeError>((share, self.attach_share(partition, share_of).await?))
        });
        // Small fixed numbers of waits are joined in place.
        let waits: Vec<_> = waits.collect();
        for (share, found) in try_join_all(waits).await? {
            share.iter().zip(found).for_each(|(index, outcome)| outcomes[*index] = outcome);
        }
        Ok(outcomes)
    }

    /// Asks the local replica. With a shared log it may lag behind the replica that acknowledged
    /// the entry: "no such entry" counts only once it has caught up.
    async fn attach_once(&self, entry: EntryId) -> Result<Option<Outcome>, NodeError> {
        let partition = self.registry.route(entry.partition_key)?;
        match self.ask_here(entry)?.answer().await? {
            None if self.catch_up(partition).await? => self.ask_here(entry)?.answer().await,
            answered => Ok(answered),
        }
    }

    /// Waits, for a limited time, until the local replica has applied what the leader has applied
    /// now; false if there is no need to wait.
    async fn catch_up(&self, partition: PartitionId) -> Result<bool, NodeError> {
        let leader = self.registry.shared().and_then(|shared| shared.leader(partition));
        if leader.is_none_or(|leader| leader.node() == self.registry.node) {
            return Ok(false);
        }
        let (own, begun) = (self.registry.replica(partition)?, Instant::now());
        let through = self.registry.newest_rows(partition)?.store.applied_lsn()?;
        while own.rows.store.applied_lsn()? < through && begun.elapsed() < LEADER_WAIT {
            tokio::time::sleep(LEADER_LOOK).await;
        }
        Ok(true)
    }

    /// Asks the local replica for the outcome of an entry.
    fn ask_here(&self, entry: EntryId) -> Result<Asked, NodeError> {
        self.registry.check_up()?;
        let partition = self.registry.route(entry.partition_key)?;
        let to = address_of(&self.registry, partition)?;
        let pending = self.registry.replies.open(partition);
        let waits = vec![(entry, pending.id())];
        if !to.send(PartitionInput::Attach { waits: waits.clone() }) {
            return Err(gone(&self.registry, partition));
        }
        answer_if_gone(&self.registry, partition, [pending.id()]);
        Ok(Asked { pending, detach: Detach { waits, partition: to } })
    }

    /// Attaches to entries of one partition, and again to entries whose replica went away
    /// meanwhile.
    async fn attach_share(
        &self,
        partition: PartitionId,
        entries: Vec<EntryId>,
    ) -> Result<Vec<Option<Outcome>>, NodeError> {
        self.registry.check_up()?;
        let to = address_of(&self.registry, partition)?;
        let pending = self.registry.replies.open_many(partition, entries.len());
        let waits: Vec<_> = entries.iter().copied().zip(pending.ids()).collect();
        let mut detach = Detach { waits: waits.clone(), partition: to.clone() };
        let answers = if to.send(PartitionInput::Attach { waits }) {
            answer_if_gone(&self.registry, partition, pending.ids());
            pending.await
        } else {
            vec![Answer::LostLeadership; entries.len()]
        };
        detach.waits.clear();
        let mut outcomes = Vec::with_capacity(entries.len());
        for (entry, answer) in entries.into_iter().zip(answers) {
            outcomes.push(match outcome(answer) {
                // The replica is being rebuilt, or is gone permanently and returns that error.
                Err(NodeError::LostLeadership) => self.attach(entry).await?,
                // The replica may lag behind.
                Ok(None) if self.registry.shared().is_some() => self.attach(entry).await?,
                known => known?,
            });
        }
        Ok(outcomes)
    }
}

/// The result for a caller that attached.
fn outcome(answer: Answer) -> Result<Option<Outcome>, NodeError> {
    match refusal(answer)? {
        Answer::Outcome(outcome) => Ok(Some(outcome)),
        Answer::UnknownEntry => Ok(None),
        other => Err(NodeError::unexpected(other)),
    }
}
