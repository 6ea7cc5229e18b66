//! Reading the initial state of a new leadership.

use std::collections::HashSet;

use forebay_engine::partition::{
    machine::{ACTIVATIONS_PER_STEP_MAX, KnownAttempt, PartitionInput},
    read::{self, SeedRead},
    rows::VQueueMeta,
};
use forebay_messages::{AttemptToken, EntryKey, VQueueId, actor::Seed, rule::RuleUpdate};
use forebay_storage::partition::Head;

use super::{PartitionCx, PartitionPerformer};

impl PartitionPerformer {
    /// Seeds the limiter from the rule book and from the result of [`read::seed`].
    pub(super) fn seed_limiter(
        &mut self,
        proposed: Vec<KnownAttempt>,
        stopping: &[KnownAttempt],
        cx: &mut PartitionCx<'_>,
    ) {
        let Some(limiter) = self.links.place_limiter() else {
            return;
        };
        let name_of = |entry, token| self.executor.name_of(entry, token);
        let locks_max = self.registry.host.locks_seeded_max();
        match read::seed(&self.store, proposed, stopping, locks_max, name_of) {
            Ok(SeedRead { locks, are_locks_partial, running, stopping: left, holders }) => {
                self.links.set_looks_up_locks(are_locks_partial);
                let seed = Seed { rules: self.rules(), locks, running: holders, ..Seed::default() };
                let interrupted = self.interrupted(&seed, &running);
                let last_seq = self.state.inbox_seq();
                // Attempts of earlier epochs do not run here and are about to be returned.
                let epoch = self.state.leader_epoch;
                let stops: HashSet<_> = stopping.iter().map(|known| known.token).collect();
                let is_here = |token: &AttemptToken| token.epoch == epoch || stops.contains(token);
                let here = running.iter().filter(|known| is_here(&known.token)).count();
                let here = u32::try_from(here + left.len()).unwrap_or(u32::MAX);
                cx.feed_back(PartitionInput::SeedSent {
                    running,
                    stopping: left,
                    interrupted,
                    last_seq,
                });
                self.registry.slots.seed(self.id, &limiter, seed);
                self.registry.join_capacity(self.id, &limiter, here);
            }
            Err(error) => self.fail(error.to_string(), cx),
        }
    }

    /// Attempts whose process died without returning them, each with the number of interruptions
    /// after which its entry is a dead letter. A process that stops in order returns its attempts,
    /// and attempts of this process continue or were given up by it.
    fn interrupted(&self, seed: &Seed, running: &[KnownAttempt]) -> Vec<(AttemptToken, u32)> {
        let attempts = running.iter().zip(&seed.running);
        let lost = attempts.filter(|(known, _)| known.token.epoch <= self.lost_through);
        lost.map(|(known, seeded)| {
            (known.token, self.executor.interruptions_max(&seeded.name.service))
        })
        .collect()
    }

    /// The rule book is the stored one, or a newer one that was set while there was no leader here.
    fn rules(&self) -> Vec<RuleUpdate> {
        let persisted = self.state.rule_book();
        let newer = self.registry.newer_rule_book(persisted.version());
        newer.as_deref().unwrap_or(persisted).diff_from_empty()
    }

    /// Finds a page of vqueues with work. The answer goes through the timers, so that active
    /// vqueues get a turn in between: through the mailbox alone the partition would read many pages
    /// before it yields its thread.
    pub(super) fn find_vqueues(&mut self, after: Option<VQueueId>, cx: &mut PartitionCx<'_>) {
        match self.store.vqueues_after(after, ACTIVATIONS_PER_STEP_MAX) {
            Ok(page) => {
                let next = page.last().map(|(vqueue, _)| *vqueue);
                let with_work = |(_, meta): &(_, VQueueMeta)| meta.inbox > 0 && !meta.is_paused;
                let ids: Vec<_> = page.into_iter().filter(with_work).map(|(id, _)| id).collect();
                match self.store.inbox_heads(&ids) {
                    Ok(heads) => {
                        let found = ids.into_iter().zip(heads.into_iter().map(known)).collect();
                        let me = cx.me.clone();
                        self.world.timers().set(cx.now, move || {
                            me.send(PartitionInput::VQueuesFound { found, next });
                        });
                    }
                    Err(error) => self.fail(error.to_string(), cx),
                }
            }
            Err(error) => self.fail(error.to_string(), cx),
        }
    }
}

fn known(head: Head) -> Option<EntryKey> {
    match head {
        Head::Row(place) => Some(place),
        Head::Empty | Head::Unknown => None,
    }
}
