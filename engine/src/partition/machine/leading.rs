//! Becoming leader, step by step as ordered by the supervisor, and stepping down.

use forebay_messages::{
    AttemptToken, EntryId, Epoch, Generation, InboxSeq, Incarnation, PermitId, Timestamp,
    actor::Release,
    command::{AnnounceLeader, BeginIncarnation, Command},
};

use crate::machine::Map;

use super::{Answer, AppendRefusal, KnownAttempt, Partition, effect::PartitionEffect};

/// Phase of a replica's leadership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Applies records and does nothing else.
    Following,
    /// Its announcement is proposed.
    Announcing,
    /// A new limiter is being seeded.
    Seeding,
    /// Attempts of earlier epochs begin to return to their inboxes.
    Draining,
    /// The gate is open.
    Leading,
    /// The gate is closed again: nothing new starts, running attempts may end.
    Closing,
}

impl Phase {
    pub(super) fn has_limiter(self) -> bool {
        matches!(self, Self::Seeding | Self::Draining | Self::Leading | Self::Closing)
    }

    pub(super) fn may_propose(self) -> bool {
        matches!(self, Self::Draining | Self::Leading | Self::Closing)
    }
}

/// The attempts in a limiter's seed, until it answers with permits.
#[derive(Debug, Default)]
pub(super) struct Seeding {
    /// In the order of the seed.
    seeded: Vec<KnownAttempt>,
    /// Attempts among them that are over by now, and the entry that keeps their lock. Their permits
    /// are returned as soon as they arrive.
    over: Map<AttemptToken, Option<EntryId>>,
    /// Whether the answer is outstanding.
    is_open: bool,
    /// The last limiter that answered.
    incarnation: Generation,
}

impl Seeding {
    fn begin(&mut self, seeded: Vec<KnownAttempt>) {
        self.seeded = seeded;
        self.over.clear();
        self.is_open = true;
    }

    pub(super) fn end(&mut self) {
        self.seeded.clear();
        self.over.clear();
        self.is_open = false;
    }

    pub(super) fn over(&mut self, token: AttemptToken, keep_lock: Option<EntryId>) {
        if self.is_open {
            self.over.insert(token, keep_lock);
        }
    }

    /// An entry that kept a lock ended: the limiter must not keep the lock for it.
    pub(super) fn lock_freed(&mut self, entry: EntryId) {
        for keeper in self.over.values_mut().filter(|keeper| **keeper == Some(entry)) {
            *keeper = None;
        }
    }
}

impl Partition {
    pub(super) fn on_announce(
        &mut self,
        now: Timestamp,
        epoch: Epoch,
        effects: &mut Vec<PartitionEffect>,
    ) {
        assert!(epoch > self.epoch, "epochs only grow");
        self.on_stop_leading(effects);
        self.epoch = epoch;
        self.phase = Phase::Announcing;
        self.next_seq = Default::default();
        let command = AnnounceLeader {
            node: self.config.node,
            epoch,
            key_first: self.config.key_first,
            key_last: self.config.key_last,
        };
        self.propose(now, Command::AnnounceLeader(command), None, effects);
    }

    /// A new limiter is ready. After the death of a limiter this is repeated under the same epoch:
    /// its vqueues died with it, the attempts continue.
    pub(super) fn on_begin_seed(&mut self, epoch: Epoch, effects: &mut Vec<PartitionEffect>) {
        if epoch != self.epoch || self.phase == Phase::Following {
            return;
        }
        self.is_closing |= self.phase == Phase::Closing;
        self.forget_vqueues(effects);
        self.phase = Phase::Seeding;
        let (proposed, stopping) = (self.attempts.proposed(), self.stopping.all());
        effects.push(PartitionEffect::SeedLimiter { proposed, stopping });
    }

    /// A limiter has its seed. Only now are the permits of the former one void: a seed request
    /// without a limiter changes nothing.
    pub(super) fn on_seed_sent(
        &mut self,
        mut running: Vec<KnownAttempt>,
        stopping: Vec<(KnownAttempt, Option<EntryId>)>,
    ) {
        if self.phase == Phase::Seeding {
            self.attempts.forget_permits();
            self.stopping.forget_permits(&stopping);
            self.stopping.is_reported = false;
            running.extend(stopping.into_iter().map(|(known, _)| known));
            self.seeding.begin(running);
        }
    }

    /// What the seed says about attempts whose process died, and about entries older than this
    /// leadership.
    pub(super) fn on_seeded_rows(
        &mut self,
        interrupted: Vec<(AttemptToken, u32)>,
        last_seq: InboxSeq,
    ) {
        self.drain.set_interrupted(interrupted);
        if self.waits_under != self.epoch {
            (self.waits_under, self.waits_through) = (self.epoch, last_seq);
        }
    }

    pub(super) fn on_seeded(&mut self, permits: &[PermitId], effects: &mut Vec<PartitionEffect>) {
        let answers_late =
            permits.first().is_some_and(|permit| permit.incarnation <= self.seeding.incarnation);
        if self.phase != Phase::Seeding || !self.seeding.is_open || answers_late {
            self.stale.limiter += 1;
            return;
        }
        let seeded = std::mem::take(&mut self.seeding.seeded);
        assert_eq!(seeded.len(), permits.len(), "the limiter answers for each seeded attempt");
        for (attempt, permit) in seeded.into_iter().zip(permits) {
            self.seeding.incarnation = permit.incarnation;
            if self.stopping.set_permit(attempt.token, *permit) {
                continue;
            }
            match self.seeding.over.remove(&attempt.token) {
                None => self.attempts.set_permit(attempt, *permit),
                Some(keep_lock) => {
                    let release = Release { permit: *permit, keep_lock };
                    self.released.push(release);
                }
            }
        }
        self.seeding.end();
        effects.push(PartitionEffect::TellSeeded { epoch: self.epoch });
    }

    /// Whether the limiter has not answered its seed.
    pub(super) fn is_seeding(&self) -> bool {
        self.seeding.is_open
    }

    pub(super) fn on_open_gate(
        &mut self,
        now: Timestamp,
        epoch: Epoch,
        effects: &mut Vec<PartitionEffect>,
    ) {
        if epoch != self.epoch || self.phase != Phase::Draining {
            return;
        }
        self.schedule_flush(effects);
        if self.is_closing {
            self.phase = Phase::Closing;
            self.tell_if_quiet(effects);
            return;
        }
        self.phase = Phase::Leading;
        if self.config.incarnation > Incarnation::default() {
            // Before anything that sends a message.
            let command = BeginIncarnation { incarnation: self.config.incarnation };
            self.propose(now, Command::BeginIncarnation(command), None, effects);
        }
        for (command, reply) in std::mem::take(&mut self.held) {
            self.on_propose(now, command, reply, effects);
        }
        self.find_due(effects);
        effects.push(PartitionEffect::CountOutbox);
        effects.push(PartitionEffect::StartShuffle);
        self.walk_if_drained(effects);
    }

    /// The log refuses this leader's writes: waiters are answered, and it steps down. The
    /// supervisor decides the next step.
    pub(super) fn on_append_refused(
        &mut self,
        refusal: &AppendRefusal,
        effects: &mut Vec<PartitionEffect>,
    ) {
        let answer = match refusal {
            // Already reported, and all waiters were answered.
            _ if self.phase == Phase::Following => return,
            AppendRefusal::Fenced { current } if *current <= self.epoch => {
                // A late message of an epoch that this replica has left.
                return;
            }
            AppendRefusal::Fenced { .. } => Answer::LostLeadership,
            AppendRefusal::Failed { reason } => Answer::StorageFailed(reason.clone()),
        };
        self.answer_all(&answer, effects);
        self.on_stop_leading(effects);
        effects.push(PartitionEffect::TellRefused(refusal.clone()));
    }

    /// Another replica leads under a newer epoch: later records in the log are not from this
    /// replica.
    pub(super) fn yield_to(&mut self, epoch: Epoch, effects: &mut Vec<PartitionEffect>) {
        if epoch > self.epoch && self.phase != Phase::Following {
            self.on_stop_leading(effects);
        }
    }

    pub(super) fn on_stop_leading(&mut self, effects: &mut Vec<PartitionEffect>) {
        self.phase = Phase::Following;
        self.is_closing = false;
        self.is_quiet = false;
        self.seeding.end();
        self.drain.clear();
        self.journals.clear();
        self.outbox_room.clear();
        effects.push(PartitionEffect::StopShuffle);
        // There may be many handlers, so waiters are answered first.
        self.answer_all(&Answer::LostLeadership, effects);
        self.forget_vqueues(effects);
        self.stop_all_handlers(effects);
    }

    /// Nothing new starts from here on: vqueues are stopped, clients are refused, unproposed
    /// decisions are dropped and proposed ones are undone when applied. Running attempts may end,
    /// and their ends go through the log.
    pub(super) fn on_close_gate(&mut self, effects: &mut Vec<PartitionEffect>) {
        match self.phase {
            Phase::Following | Phase::Closing => {}
            Phase::Announcing => self.on_stop_leading(effects),
            Phase::Seeding | Phase::Draining => {
                // Running attempts may still end; the gate does not open again.
                self.is_closing = true;
                let held = std::mem::take(&mut self.held).into_iter();
                effects.extend(
                    held.map(|(_, to)| PartitionEffect::Answer { to, answer: Answer::NotLeading }),
                );
            }
            Phase::Leading => {
                self.phase = Phase::Closing;
                self.forget_vqueues(effects);
                self.drop_unproposed(effects);
                self.tell_if_quiet(effects);
            }
        }
    }

    /// Reports once that the gate is closed and nothing is left to wait for.
    pub(super) fn tell_if_quiet(&mut self, effects: &mut Vec<PartitionEffect>) {
        let is_quiet = self.phase == Phase::Closing
            && self.attempts.is_empty()
            && self.stopping.is_empty()
            && self.proposals.is_empty();
        if is_quiet && !std::mem::replace(&mut self.is_quiet, true) {
            effects.push(PartitionEffect::TellQuiet { epoch: self.epoch });
        }
    }

    /// P3: every request that waits for a proposal is answered.
    fn answer_all(&mut self, answer: &Answer, effects: &mut Vec<PartitionEffect>) {
        let mut waiting: Vec<_> = self.proposals.drain().collect();
        waiting.sort_unstable();
        let held = std::mem::take(&mut self.held);
        let all = waiting.into_iter().map(|(_, to)| to).chain(held.into_iter().map(|(_, to)| to));
        effects.extend(all.map(|to| PartitionEffect::Answer { to, answer: answer.clone() }));
    }
}
