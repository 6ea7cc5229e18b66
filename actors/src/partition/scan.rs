//! Reading what a new leadership starts from.

use std::{collections::HashMap, sync::Arc};

use forebay_engine::partition::machine::{ACTIVATIONS_PER_STEP_MAX, PartitionInput};
use forebay_messages::{
    AttemptToken, EntryId, VQueueId, VQueueName,
    actor::{LimiterMessage, Seed, SeedRunning},
};
use forebay_storage::partition::StoreError;

use super::{PartitionPerformer, PartitionScope};

/// Rows read at a time.
const PAGE_LEN: usize = 1_024;

/// An attempt that runs or may run.
type Attempt = (VQueueId, EntryId, AttemptToken);

impl PartitionPerformer {
    /// Seeds the limiter from the persisted rule book, the lock rows, the running rows
    /// and the decisions that are proposed and not applied.
    pub(super) fn seed_limiter(&mut self, proposed: Vec<Attempt>, scope: &mut PartitionScope<'_>) {
        let Some(limiter) = self.links.place_limiter() else {
            return;
        };
        match self.read_seed(proposed) {
            Ok((seed, running)) => {
                scope.feed_back(PartitionInput::SeedSent { running });
                limiter.send(LimiterMessage::Seed(Box::new(seed)));
                self.services.join_capacity(self.id, &limiter);
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
                    let name = Arc::new(meta.name);
                    names.insert(*vqueue, Arc::clone(&name));
                    name
                }
            };
            seeds.push(SeedRunning { entry: *entry, vqueue: *vqueue, name });
        }
        let rules = self.state.rule_book().diff_from_empty();
        Ok((Seed { rules, locks, running: seeds }, running))
    }

    /// Finds a page of vqueues with work; the answer goes through the mailbox, so that
    /// what is active already gets its turn in between.
    pub(super) fn find_vqueues(&mut self, after: Option<VQueueId>, scope: &mut PartitionScope<'_>) {
        match self.store.vqueues_after(after, ACTIVATIONS_PER_STEP_MAX) {
            Ok(page) => {
                let next = page.last().map(|(vqueue, _)| *vqueue);
                let found = page
                    .into_iter()
                    .filter(|(_, meta)| meta.inbox > 0 && !meta.is_paused)
                    .map(|(vqueue, _)| vqueue)
                    .collect();
                scope.me.send(PartitionInput::VQueuesFound { found, next });
            }
            Err(error) => self.fail(error.to_string(), scope),
        }
    }
}
