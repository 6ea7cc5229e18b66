//! Reading what a new leadership starts from.

use std::{collections::HashMap, sync::Arc};

use forebay_engine::partition::{
    machine::{ACTIVATIONS_PER_STEP_MAX, PartitionInput},
    rows::VQueueMeta,
};
use forebay_messages::{
    AttemptToken, EntryId, EntryKey, VQueueId, VQueueName,
    actor::{LimiterMessage, Seed, SeedRunning},
};
use forebay_storage::partition::{Head, StoreError};

use super::{PartitionPerformer, PartitionScope};

/// Rows read at a time.
const PAGE_LEN: usize = 1_024;

/// An attempt that runs or may run.
type Attempt = (VQueueId, EntryId, AttemptToken);

impl PartitionPerformer {
    /// Seeds the limiter from the rule book (the persisted one, or a newer one that was
    /// set while nobody led here), the lock rows, the running rows and the decisions that are proposed and not applied.
    pub(super) fn seed_limiter(&mut self, proposed: Vec<Attempt>, scope: &mut PartitionScope<'_>) {
        let Some(limiter) = self.links.place_limiter() else {
            return;
        };
        match self.read_seed(proposed) {
            Ok((seed, running)) => {
                // Those of earlier epochs do not run here and are about to be taken back.
                let epoch = self.state.leader_epoch;
                let here = running.iter().filter(|(_, _, token)| token.epoch == epoch).count();
                let here = u32::try_from(here).unwrap_or(u32::MAX);
                scope.feed_back(PartitionInput::SeedSent { running });
                limiter.send(LimiterMessage::Seed(Box::new(seed)));
                self.services.join_capacity(self.id, &limiter, here);
            }
            Err(error) => self.fail(error.to_string(), scope),
        }
    }

    fn read_seed(&self, proposed: Vec<Attempt>) -> Result<(Seed, Vec<Attempt>), StoreError> {
        let tables = &self.store;
        let mut running = proposed;
        let mut after = None;
        loop {
            let page = tables.running_after(after, PAGE_LEN)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            running
                .extend(page.into_iter().map(|((vqueue, entry), row)| (vqueue, entry, row.token)));
        }
        let mut locks = Vec::new();
        let mut after = None;
        loop {
            let page = tables.locks_after(after, PAGE_LEN)?;
            let Some((vqueue, _)) = page.last() else { break };
            after = Some(*vqueue);
            locks.extend(page);
        }
        let mut names: HashMap<VQueueId, Arc<VQueueName>> = HashMap::new();
        let mut seeds = Vec::with_capacity(running.len());
        for (vqueue, entry, _) in &running {
            let name = match names.get(vqueue) {
                Some(name) => Arc::clone(name),
                None => {
                    let meta = tables.vqueue(*vqueue)?.unwrap_or_default();
                    let name = meta.name;
                    names.insert(*vqueue, Arc::clone(&name));
                    name
                }
            };
            seeds.push(SeedRunning { entry: *entry, vqueue: *vqueue, name });
        }
        let persisted = self.state.rule_book();
        let newer = self.services.newer_rule_book(self.id, persisted.version());
        let rules = newer.as_ref().unwrap_or(persisted).diff_from_empty();
        Ok((Seed { rules, locks, running: seeds }, running))
    }

    /// Finds a page of vqueues with work. The answer goes through the timers, so that
    /// everybody who is active already gets a turn in between: through the mailbox alone
    /// the partition would walk over many pages before it gives its thread back.
    pub(super) fn find_vqueues(&mut self, after: Option<VQueueId>, scope: &mut PartitionScope<'_>) {
        match self.store.vqueues_after(after, ACTIVATIONS_PER_STEP_MAX) {
            Ok(page) => {
                let next = page.last().map(|(vqueue, _)| *vqueue);
                let with_work = |(_, meta): &(_, VQueueMeta)| meta.inbox > 0 && !meta.is_paused;
                let ids: Vec<_> = page.into_iter().filter(with_work).map(|(id, _)| id).collect();
                match self.store.inbox_heads(&ids) {
                    Ok(heads) => {
                        let found = ids.into_iter().zip(heads.into_iter().map(known)).collect();
                        let me = scope.me.clone();
                        self.world.timers().set(scope.now, move || {
                            me.send(PartitionInput::VQueuesFound { found, next });
                        });
                    }
                    Err(error) => self.fail(error.to_string(), scope),
                }
            }
            Err(error) => self.fail(error.to_string(), scope),
        }
    }
}

fn known(head: Head) -> Option<EntryKey> {
    match head {
        Head::Row(place) => Some(place),
        Head::Empty | Head::Unknown => None,
    }
}
