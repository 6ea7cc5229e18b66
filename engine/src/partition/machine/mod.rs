//! The machine of a partition replica: it applies what the log commits and, while it leads,
//! proposes commands, knows which vqueues are active and owns permits and decisions from hand-over
//! until they are applied.
//!
//! Must always hold:
//! - P1: records are applied in LSN order, each once; no effect leaves before the batch it follows
//!   from is committed ([`PartitionEffect::Apply`] answers with [`PartitionInput::Applied`] only
//!   after the commit).
//! - P2: an attempt in `attempts` owns at most one permit, which is released exactly once: when its
//!   decision turns out void or the attempt is over, and its handler has stopped.
//! - P3: every proposal is answered: by its reply, or with `LostLeadership`.
//! - P4: no vqueue is spawned and no decision proposed before the limiter is seeded
//!   and the vqueue's attempts of earlier epochs are drained.
//! - P5: at most one incarnation of a vqueue is active.
//!
//! Must not know: RocksDB, threads, how handlers run.

mod attempts;
mod backoff;
mod bounds;
mod config;
mod counts;
mod drain;
mod effect;
mod ended;
mod idle;
mod input;
mod journals;
mod keys;
mod leading;
mod outbox;
mod registry;
mod sleepers;
mod stopping;
mod vqueues;
mod waiters;
mod waiting;

pub use backoff::{RETRIES_AT_ONCE_MAX, RETRY_WAIT_MIN, backoff};
pub use bounds::{CUT_MARK, DETAIL_LEN_MAX, ERROR_TEXT_LEN_MAX, TooLarge};
pub use config::{
    ACTIVE_VQUEUES_MAX, IDLE_VQUEUES_MAX, PartitionConfig, SLEEPERS_MAX, VQueueLimits,
};
pub use counts::{StaleCounts, WorkCounts};
pub use effect::{Answer, AttemptNews, PartitionEffect, RunAttempt};
pub use ended::ENDS_PER_RECORD_MAX;
pub use idle::IDLE_MS_MAX;
pub use input::{AppendRefusal, AppliedBatch, EarlyStart, EntryState, PartitionInput};
pub use leading::Phase;
pub use outbox::{OutboxCount, OutboxWait};
pub use stopping::KnownAttempt;
pub use waiters::WAITERS_MAX;

use forebay_messages::{
    EntryId, Epoch, InboxSeq, Lsn, Producer, Record, RecordSeq, ReplyId, Timestamp,
    actor::{LimiterMessage, Release},
    command::{Command, Purge},
    record::LeaderSeq,
};
use std::sync::Arc;

use crate::{Machine, machine::Map};

use super::apply::{Applied, Reply};
use attempts::Attempts;
use bounds::Bounds;
use drain::Drain;
use idle::LruVQueues;
use journals::Journals;
use keys::record_keys;
use leading::Seeding;
use outbox::OutboxRoom;
use registry::Registry;
use sleepers::Sleepers;
use stopping::Stopping;
use waiters::Waiters;

/// Maximum number of decisions in one record.
pub const DECISIONS_PER_RECORD_MAX: usize = 512;
/// Maximum number of vqueues activated in one step when a leader starts.
pub const ACTIVATIONS_PER_STEP_MAX: usize = 256;
/// Interval between checks of a leader for expired results, in milliseconds.
const PURGE_INTERVAL_MS: u64 = 30_000;
/// Interval between reports to the log of the position up to which it may trim, while records are
/// applied, in milliseconds: records trimmed soon are never compacted.
const REPORT_INTERVAL_MS: u64 = 1_000;
/// Maximum number of commands that wait for the gate to open; further ones are refused as `Busy`.
pub const HELD_MAX: usize = 16_384;

/// The machine of a partition replica.
#[derive(Debug)]
pub struct Partition {
    pub(super) config: PartitionConfig,
    /// The maximum size of records.
    bounds: Bounds,
    applied: Lsn,
    received: Lsn,
    epoch: Epoch,
    phase: Phase,
    next_seq: RecordSeq,
    /// The requests that wait for own proposals.
    proposals: Map<u64, ReplyId>,
    /// Commands that arrived before the gate was open.
    held: Vec<(Command, ReplyId)>,
    /// The requests that wait for entries' results.
    waiters: Waiters,
    attempts: Attempts,
    /// Handlers that were asked to stop.
    stopping: Stopping,
    registry: Registry,
    /// All active vqueues, in the order of their activation.
    active: LruVQueues,
    /// Active vqueues that have nothing to do.
    idle: LruVQueues,
    /// Cold vqueues whose head is not due.
    sleepers: Sleepers,
    journals: Journals,
    outbox_room: OutboxRoom,
    /// All vqueues are being visited, page by page.
    is_walking: bool,
    /// The time for which the timer is set.
    wake_at: Option<Timestamp>,
    seeding: Seeding,
    /// Attempts of earlier leaders that return to their inboxes.
    drain: Drain,
    /// Entries with an inbox sequence up to this one start only after their decision is applied:
    /// they are older than this leadership.
    waits_through: InboxSeq,
    /// The epoch under which that was set.
    waits_under: Epoch,
    /// The gate was closed permanently, and is not reopened after a limiter's death.
    is_closing: bool,
    /// The supervisor has been informed that nothing is left to wait for.
    is_quiet: bool,
    flush_scheduled: bool,
    /// Permits to return at the end of the step, all in one message.
    released: Vec<Release>,
    purge_due: Timestamp,
    report_due: Timestamp,
    stale: StaleCounts,
    counts: WorkCounts,
}

impl Partition {
    /// A replica whose store has applied everything up to `applied`. It follows.
    #[must_use]
    pub fn new(config: PartitionConfig, applied: Lsn) -> Self {
        Self {
            config,
            bounds: Bounds::new(config.record_len_max),
            applied,
            received: applied,
            epoch: Epoch::default(),
            phase: Phase::Following,
            next_seq: RecordSeq::default(),
            proposals: Map::default(),
            held: Vec::new(),
            waiters: Waiters::default(),
            attempts: Attempts::default(),
            stopping: Stopping::new(Vec::new()),
            registry: Registry::default(),
            active: LruVQueues::new(config.vqueues.active_max),
            idle: LruVQueues::new(config.vqueues.idle_max),
            sleepers: Sleepers::new(config.vqueues.sleepers_max),
            journals: Journals::default(),
            outbox_room: OutboxRoom::new(config.outbox_per_target_max),
            is_walking: false,
            wake_at: None,
            seeding: Seeding::default(),
            drain: Drain::default(),
            waits_through: InboxSeq::default(),
            waits_under: Epoch::default(),
            is_closing: false,
            is_quiet: false,
            flush_scheduled: false,
            released: Vec::new(),
            purge_due: Timestamp::default(),
            report_due: Timestamp::default(),
            stale: StaleCounts::default(),
            counts: WorkCounts::default(),
        }
    }

    /// A replacement for a replica's actor that died and left these handlers, which are stopping:
    /// each reports once more when it has stopped.
    #[must_use]
    pub fn with_stopping(mut self, handlers: Vec<KnownAttempt>) -> Self {
        self.stopping = Stopping::new(handlers);
        self
    }

    /// Phase of this replica's leadership.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// LSN of the last applied record.
    #[must_use]
    pub fn applied(&self) -> Lsn {
        self.applied
    }

    /// Messages that arrived too late.
    #[must_use]
    pub fn stale(&self) -> StaleCounts {
        self.stale
    }

    /// What it counted while it led.
    #[must_use]
    pub fn counts(&self) -> WorkCounts {
        self.counts
    }

    /// Number of active vqueues.
    #[must_use]
    pub fn active_vqueues(&self) -> usize {
        self.registry.active()
    }

    /// Number of vqueues that wait for a permit without being active.
    #[must_use]
    pub fn waiting_vqueues(&self) -> usize {
        self.registry.waiting()
    }

    /// Whether attempts of earlier leaders are still returning.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        !self.drain.is_over()
    }

    /// Wraps a command into a record of this leader and has it appended.
    fn propose(
        &mut self,
        now: Timestamp,
        command: Command,
        reply: Option<ReplyId>,
        effects: &mut Vec<PartitionEffect>,
    ) {
        let record = self.next_record(now, command);
        if let Some(reply) = reply {
            self.proposals.insert(self.next_seq.0, reply);
        }
        effects.push(PartitionEffect::Append { epoch: self.epoch, record: Arc::new(record) });
    }

    fn next_record(&mut self, now: Timestamp, command: Command) -> Record {
        self.next_seq = self.next_seq.next();
        Record {
            keys: record_keys(&command),
            producer: Some(Producer::Leader(LeaderSeq { epoch: self.epoch, seq: self.next_seq })),
            created_at: now,
            command: Some(command),
        }
    }

    fn on_propose(
        &mut self,
        now: Timestamp,
        command: Command,
        reply: ReplyId,
        effects: &mut Vec<PartitionEffect>,
    ) {
        match self.phase {
            Phase::Leading => self.propose_for(now, command, reply, effects),
            Phase::Following | Phase::Closing => {
                effects.push(PartitionEffect::Answer { to: reply, answer: Answer::NotLeading });
            }
            Phase::Announcing | Phase::Seeding | Phase::Draining => {
                let answer = match (self.is_closing, self.held.len() < HELD_MAX) {
                    (true, _) => Answer::NotLeading,
                    (false, false) => Answer::Busy,
                    (false, true) => return self.held.push((command, reply)),
                };
                effects.push(PartitionEffect::Answer { to: reply, answer });
            }
        }
    }

    fn on_committed(
        &mut self,
        first: Lsn,
        records: Vec<Arc<Record>>,
        effects: &mut Vec<PartitionEffect>,
    ) {
        assert_eq!(first, self.received.next(), "P1: committed records arrive without a gap");
        self.received = Lsn(first.0 + records.len() as u64 - 1);
        effects.push(PartitionEffect::Apply { first, records });
    }

    fn on_applied(
        &mut self,
        now: Timestamp,
        batch: AppliedBatch,
        effects: &mut Vec<PartitionEffect>,
    ) {
        assert!(batch.last > self.applied, "P1: each record is applied once");
        self.applied = batch.last;
        for (producer, reply) in batch.replies {
            self.answer_proposal(producer, reply, effects);
        }
        for applied in batch.applied {
            self.on_one_applied(now, applied, effects);
        }
        self.registry.flush_notes(effects);
        self.tell_handlers(now, effects);
        self.hand_on_messages(effects);
        self.continue_draining(now, effects);
        self.tell_if_quiet(effects);
        self.keep_up(now, effects);
    }

    /// Periodic work: report to the log how far it may trim, and purge expired results.
    fn keep_up(&mut self, now: Timestamp, effects: &mut Vec<PartitionEffect>) {
        if now >= self.report_due {
            self.report_due = Timestamp(now.0 + REPORT_INTERVAL_MS);
            effects.push(PartitionEffect::ReportDurable);
        }
        if now < self.purge_due {
            return;
        }
        self.purge_due = Timestamp(now.0 + PURGE_INTERVAL_MS);
        if self.phase == Phase::Leading {
            effects.push(PartitionEffect::CheckExpired { until: now });
        }
    }

    fn on_tick(&mut self, now: Timestamp, effects: &mut Vec<PartitionEffect>) {
        self.wake(now, effects);
        self.wake_sleeping_entries(now, effects);
        self.keep_up(now, effects);
    }

    fn answer_proposal(
        &mut self,
        producer: Option<LeaderSeq>,
        reply: Reply,
        effects: &mut Vec<PartitionEffect>,
    ) {
        let own = producer.filter(|own| own.epoch == self.epoch);
        let Some(own) = own else { return };
        // Only a leader proposes, so replayed records are not counted.
        self.counts.replied(&reply);
        self.drain.applied(own.seq);
        self.outbox_room.applied(own.seq);
        let Some(to) = self.proposals.remove(&own.seq.0) else { return };
        let answer = match reply {
            Reply::Fenced => Answer::LostLeadership,
            reply => Answer::Reply(reply),
        };
        effects.push(PartitionEffect::Answer { to, answer });
    }

    fn on_one_applied(
        &mut self,
        now: Timestamp,
        applied: Applied,
        effects: &mut Vec<PartitionEffect>,
    ) {
        match applied {
            Applied::Finished { entry, outcome } => {
                if self.phase == Phase::Leading {
                    self.counts.finished(&outcome);
                }
                self.answer_waiters(entry, &outcome, effects);
            }
            Applied::LeaderAnnounced { node, epoch } => {
                self.yield_to(epoch, effects);
                effects.push(PartitionEffect::TellAnnounced { node, epoch });
            }
            // More may have expired than one purge takes: check again now, not in half a minute.
            Applied::Purged { .. } => self.purge_due = Timestamp::default(),
            _ if !self.phase.has_limiter() => {}
            Applied::InboxAdded { vqueue, key } => self.on_inbox_added(now, vqueue, key, effects),
            Applied::InboxRemoved { vqueue, key } => self.on_inbox_removed(vqueue, key, effects),
            Applied::RulesUpdated(updates) => {
                self.tell_limiter(LimiterMessage::RulesUpdated(updates), effects);
            }
            Applied::OperationFinished { .. }
            | Applied::WriteRefused { .. }
            | Applied::SuspendVoid { .. }
            | Applied::SleepAdded { .. }
            | Applied::SleepersWoken
            | Applied::OutboxAdded(_)
            | Applied::OutboxRemoved { .. } => self.on_journal_applied(applied, effects),
            Applied::VQueuePaused { vqueue, paused } => {
                self.on_vqueue_paused(vqueue, paused, effects);
            }
            other => {
                self.counts.started += u64::from(matches!(other, Applied::Started { .. }));
                self.on_attempt_applied(other, effects);
            }
        }
    }

    fn answer_waiters(
        &mut self,
        entry: EntryId,
        outcome: &forebay_messages::Outcome,
        effects: &mut Vec<PartitionEffect>,
    ) {
        self.waiters.take(entry, |to| {
            let answer = Answer::Outcome(outcome.clone());
            effects.push(PartitionEffect::Answer { to, answer });
        });
    }

    fn on_attach(&mut self, waits: Vec<(EntryId, ReplyId)>, effects: &mut Vec<PartitionEffect>) {
        let mut entries = Vec::with_capacity(waits.len());
        for (entry, to) in waits {
            if self.waiters.add(entry, to) {
                entries.push(entry);
            } else {
                effects.push(PartitionEffect::Answer { to, answer: Answer::Busy });
            }
        }
        effects.push(PartitionEffect::LookUp { entries });
    }

    fn on_looked_up(
        &mut self,
        gone: Vec<(EntryId, EntryState)>,
        effects: &mut Vec<PartitionEffect>,
    ) {
        for (entry, state) in gone {
            match state {
                EntryState::Finished(outcome) => self.answer_waiters(entry, &outcome, effects),
                EntryState::Unknown => self.waiters.take(entry, |to| {
                    effects.push(PartitionEffect::Answer { to, answer: Answer::UnknownEntry });
                }),
            }
        }
    }

    /// Sends a message to the limiter, after the returned permits.
    fn tell_limiter(&mut self, message: LimiterMessage, effects: &mut Vec<PartitionEffect>) {
        self.release_permits(effects);
        effects.push(PartitionEffect::ToLimiter(message));
    }

    fn release_permits(&mut self, effects: &mut Vec<PartitionEffect>) {
        if !self.released.is_empty() {
            let released = std::mem::take(&mut self.released);
            effects.push(PartitionEffect::ToLimiter(LimiterMessage::Release(released)));
        }
    }

    fn schedule_flush(&mut self, effects: &mut Vec<PartitionEffect>) {
        if !self.flush_scheduled {
            self.flush_scheduled = true;
            effects.push(PartitionEffect::ScheduleFlush);
        }
    }
}

impl Machine for Partition {
    type Input = PartitionInput;
    type Effect = PartitionEffect;

    fn start(&mut self, _: Timestamp, effects: &mut Vec<PartitionEffect>) {
        if !self.stopping.is_empty() {
            self.on_tell_capacity(effects);
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm per input")]
    fn step(&mut self, now: Timestamp, input: PartitionInput, effects: &mut Vec<PartitionEffect>) {
        match input {
            PartitionInput::Committed { first, records } => {
                self.on_committed(first, records, effects);
            }
            PartitionInput::Applied(batch) => self.on_applied(now, batch, effects),
            PartitionInput::Propose { command, reply } => {
                self.on_propose(now, *command, reply, effects);
            }
            PartitionInput::Attach { waits } => self.on_attach(waits, effects),
            PartitionInput::Detach { waits } => {
                waits.into_iter().for_each(|(entry, reply)| self.waiters.remove(entry, reply));
            }
            PartitionInput::LookedUp { gone } => self.on_looked_up(gone, effects),
            PartitionInput::Flush => self.on_flush(now, effects),
            PartitionInput::Begun(begun) => self.on_begun(&begun),
            PartitionInput::Ended { entry, token, ended } => {
                self.on_ended(now, entry, token, ended, effects);
            }
            input @ (PartitionInput::Journal { .. }
            | PartitionInput::Suspend(_)
            | PartitionInput::DueFound { .. }
            | PartitionInput::OutboxCounted(_)
            | PartitionInput::Rerouted
            | PartitionInput::AskOutbox { .. }) => self.on_journal_input(now, input, effects),
            PartitionInput::Stopped { token } => {
                self.on_handler_gone(token, effects);
            }
            PartitionInput::TellCapacity => self.on_tell_capacity(effects),
            PartitionInput::ExpiredFound { until } => {
                if self.phase == Phase::Leading {
                    let purge = Purge { expired_until: Some(until), ..Purge::default() };
                    self.propose(now, Command::Purge(purge), None, effects);
                }
            }
            PartitionInput::RecordTooLarge { record, why } => {
                self.on_record_too_large(now, &record, why, effects);
            }
            PartitionInput::AppendRefused(refusal) => self.on_append_refused(&refusal, effects),
            PartitionInput::Announce { epoch } => self.on_announce(now, epoch, effects),
            PartitionInput::BeginSeed { epoch } => self.on_begin_seed(epoch, effects),
            PartitionInput::SeedSent { running, stopping, interrupted, last_seq } => {
                self.on_seed_sent(running, stopping);
                self.on_seeded_rows(interrupted, last_seq);
            }
            PartitionInput::LimiterSeeded { permits } => self.on_seeded(&permits, effects),
            PartitionInput::Drain { epoch } => self.on_drain(now, epoch, effects),
            PartitionInput::OpenGate { epoch } => self.on_open_gate(now, epoch, effects),
            PartitionInput::CloseGate => self.on_close_gate(effects),
            PartitionInput::HandBack => self.on_hand_back(now, effects),
            PartitionInput::StopLeading => self.on_stop_leading(effects),
            PartitionInput::VQueuesFound { found, next } => {
                self.on_vqueues_found(now, &found, next, effects);
            }
            PartitionInput::Decide { handle, keys, permits } => {
                self.on_decide(handle, &keys, permits, effects);
            }
            PartitionInput::Granted { handle, permits } => {
                self.on_granted(handle, permits, effects);
            }
            PartitionInput::Idle(handle) => self.on_idle(now, handle, effects),
            PartitionInput::WantsToGo(handle) => self.on_wants_to_go(handle, effects),
            PartitionInput::Passivated { handle, rest } => {
                self.on_passivated(now, handle, rest, effects);
            }
            PartitionInput::StillNeeded(handle) => self.on_still_needed(handle, effects),
            PartitionInput::VQueueDied(handle) => self.on_vqueue_died(handle, effects),
            PartitionInput::ServicesChanged { lost } => self.on_services_changed(lost, effects),
            PartitionInput::Tick => self.on_tick(now, effects),
        }
        self.release_permits(effects);
    }

    fn check(&self) {
        self.waiters.check();
        self.outbox_room.check();
        if !self.phase.has_limiter() {
            assert!(self.registry.is_empty(), "P4: no vqueue is active without a limiter");
            assert!(
                self.held.is_empty() || self.phase == Phase::Announcing,
                "P3: no request waits"
            );
        }
        self.registry.check();
        self.active.check();
        self.idle.check();
        self.idle.check_bound();
        self.sleepers.check();
        let is_seeded = self.phase.has_limiter() && self.phase != Phase::Seeding;
        self.attempts.check(is_seeded);
        self.stopping.check(is_seeded, |token| self.attempts.knows(token));
        if is_seeded {
            self.drain.check(&self.attempts.count_before(self.epoch));
        }
    }
}
