//! The partition actor: performs the effects of the partition machine.
//!
//! Owns: the partition's store (as its only writer) and the related state in memory. Must always
//! hold: a batch is committed before the machine sees its consequences.

pub(crate) mod dropped;
mod events;
pub(crate) mod limiter;
pub(crate) mod links;
pub(crate) mod refill;
mod seed;
mod shuffle;
mod start;
pub(crate) mod supervisor;
pub(crate) mod vqueue;

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use forebay_engine::{
    leadership::LeadershipInput,
    partition::{
        apply::{self, Applied},
        machine::{AppendRefusal, AppliedBatch, Partition, PartitionEffect, PartitionInput},
        read,
        state::PartitionState,
        store::{JournalRows as _, TablesError},
    },
    rules::BookVersion,
};
use forebay_messages::{
    EntryId, Epoch, Lsn, PartitionId, Producer, Record, Timestamp, command::Command,
};
use forebay_storage::partition::PartitionStore;

use crate::{
    executor::Execute,
    host::Host,
    log_writer::{LogCommand, LogHandle, WRITER_GONE},
    registry::{PartitionGauges, Registry},
    shell::{AHEAD_WARNING, Cx, Performer, SteadyClock, TimerKey, World},
};

use links::Links;
use vqueue::VQueueShared;

/// Interval at which an idle leader checks for expired results, in milliseconds.
const UPKEEP_INTERVAL_MS: u64 = 60_000;
/// Maximum number of effects of a batch that room is reserved for.
const APPLIED_RESERVED_MAX: usize = 8_192;

/// Performs the effects of a partition.
pub(crate) struct PartitionPerformer {
    pub(crate) id: PartitionId,
    pub(crate) world: World,
    /// The partition's time: never before that of an applied record.
    pub(crate) clock: Arc<SteadyClock>,
    pub(crate) links: Rc<Links>,
    pub(crate) store: PartitionStore,
    pub(crate) state: PartitionState,
    pub(crate) log: LogHandle,
    pub(crate) executor: Arc<dyn Execute>,
    /// Where commands to other partitions run.
    pub(crate) host: Host,
    pub(crate) registry: Arc<Registry>,
    pub(crate) vqueues: Rc<VQueueShared>,
    /// Attempts under epochs up to this one ended with the process that ran them.
    pub(crate) lost_through: Epoch,
    pub(crate) wake: Option<TimerKey>,
    pub(crate) upkeep: Option<TimerKey>,
    /// A warning about its time was logged and still applies.
    pub(crate) warned_ahead: bool,
    /// The last time that the clock was raised to.
    pub(crate) time_floor: Timestamp,
    /// The last LSN applied, for the log's writer.
    pub(crate) progress: Arc<AtomicU64>,
    /// The last reported gauges.
    pub(crate) reported: Option<PartitionGauges>,
    /// The last reported version of the rule book.
    pub(crate) reported_rules: BookVersion,
    /// Buffer of `apply`, kept to avoid an allocation.
    pub(crate) applied: Vec<Applied>,
}

type PartitionCx<'a> = Cx<'a, PartitionInput>;

impl PartitionPerformer {
    /// Applies a run of records in one batch and commits it; only then does the machine process the
    /// consequences.
    fn apply(&mut self, first: Lsn, records: &[Arc<Record>], cx: &mut PartitionCx<'_>) {
        let store = self.store.clone();
        let mut batch = match store.begin() {
            Ok(batch) => batch,
            Err(error) => return self.fail(format!("partition {}: {error}", self.id), cx),
        };
        let mut replies = Vec::with_capacity(records.len());
        let mut lsn = first;
        for record in records {
            let applied = &mut self.applied;
            match apply::apply(&mut self.state, &mut batch, lsn, record, applied) {
                Ok(reply) => {
                    let own = match &record.producer {
                        Some(Producer::Leader(own)) => Some(*own),
                        _ => None,
                    };
                    replies.push((own, reply));
                }
                Err(error) => {
                    let reason = format!("partition {}, LSN {lsn}: {error}", self.id);
                    return self.fail(reason, cx);
                }
            }
            lsn = lsn.next();
        }
        let last = Lsn(lsn.0 - 1);
        if let Err(error) = batch.commit(last) {
            return self.fail(format!("partition {}: {error}", self.id), cx);
        }
        self.progress.store(last.0, Ordering::Release);
        self.keep_time();
        self.publish(cx.now);
        cx.feed_back(PartitionInput::Applied(AppliedBatch {
            last,
            replies,
            applied: self.take_applied(),
        }));
    }

    /// The effects of the batch. The next one is likely to have about as many.
    fn take_applied(&mut self) -> Vec<Applied> {
        let next = Vec::with_capacity(self.applied.len().min(APPLIED_RESERVED_MAX));
        std::mem::replace(&mut self.applied, next)
    }

    /// Raises the partition's time to that of its records, including records of other leaders.
    fn keep_time(&mut self) {
        let latest = self.state.latest_time();
        if latest > self.time_floor {
            self.time_floor = latest;
            self.clock.raise(latest);
        }
    }

    /// Warns once when the partition's time is far ahead of the wall clock.
    fn warn_if_ahead(&mut self) {
        let ahead = self.clock.ahead();
        let is_far = ahead > AHEAD_WARNING;
        if is_far && !self.warned_ahead {
            tracing::warn!(
                partition = %self.id,
                ?ahead,
                "the partition's time is ahead of this machine's clock, which seems to have \
                 been set back; entries with an explicit start time may start early until it \
                 has caught up"
            );
        }
        self.warned_ahead = is_far;
    }

    /// The partition cannot continue: pending questions are answered, and it stops.
    fn fail(&mut self, reason: String, cx: &mut PartitionCx<'_>) {
        tracing::error!(partition = %self.id, reason, "the partition stops");
        self.registry.report_stopped(self.id, reason.clone());
        cx.feed_back(PartitionInput::AppendRefused(AppendRefusal::Failed { reason }));
        cx.feed_back(PartitionInput::StopLeading);
        cx.stop();
    }

    fn look_up(&mut self, entries: &[EntryId], cx: &mut PartitionCx<'_>) {
        let found = self.store.begin().map_err(TablesError::from);
        match found.and_then(|rows| read::gone(&rows, entries)) {
            Ok(gone) if gone.is_empty() => {}
            Ok(gone) => cx.feed_back(PartitionInput::LookedUp { gone }),
            Err(error) => self.fail(format!("partition {}: {error}", self.id), cx),
        }
    }

    fn check_expired(&mut self, until: Timestamp, cx: &mut PartitionCx<'_>) {
        if let Err(error) = self.store.give_back(until) {
            tracing::warn!(partition = %self.id, %error, "disk space is not freed");
        }
        match self.store.expired(until, 1) {
            Ok(due) if due.is_empty() => {}
            Ok(_) => cx.feed_back(PartitionInput::ExpiredFound { until }),
            Err(error) => self.fail(error.to_string(), cx),
        }
    }

    /// Reads the end of the first sleep.
    fn find_due(&mut self, cx: &mut PartitionCx<'_>) {
        match self.store.sleeps_until(Timestamp::MAX, 1) {
            Ok(first) => {
                let first = first.first().map(|(at, ..)| *at);
                cx.feed_back(PartitionInput::DueFound { first });
            }
            Err(error) => self.fail(error.to_string(), cx),
        }
    }

    /// Reports which records are no longer needed for a replay, because the store has flushed their
    /// changes.
    fn report_durable(&self) {
        match self.store.durable_lsn() {
            Ok(through) if through > Lsn::default() => {
                let node = self.registry.node;
                self.log.send(LogCommand::Durable { partition: self.id, node, through });
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(partition = %self.id, %error, "the log is not trimmed"),
        }
    }

    fn wake_at(&mut self, at: Timestamp, cx: &PartitionCx<'_>) {
        if let Some(timer) = self.wake.take() {
            self.world.timers().cancel(timer);
        }
        self.wake = Some(self.tick_at(at, cx));
    }

    fn tick_at(&self, at: Timestamp, cx: &PartitionCx<'_>) -> TimerKey {
        let me = cx.me.clone();
        self.world.timers().set(at, move || {
            me.send(PartitionInput::Tick);
        })
    }

    fn append(&mut self, epoch: Epoch, record: Arc<Record>, cx: &mut PartitionCx<'_>) {
        // No caller waits for a decision: its handler already runs, and the results follow.
        let may_wait = matches!(record.command, Some(Command::SchedulerDecisions(_)));
        let command = LogCommand::Append { partition: self.id, epoch, record, may_wait };
        if !self.log.send(command) {
            self.fail(WRITER_GONE.to_owned(), cx);
        }
    }

    /// A fenced leader steps down; if the log cannot be written the partition stops, because a log
    /// that failed once accepts no more writes before it is reopened.
    fn refused(&mut self, refusal: AppendRefusal, cx: &mut PartitionCx<'_>) {
        match refusal {
            AppendRefusal::Fenced { current } => {
                let reason = format!("fenced off by epoch {current}");
                let fenced_by = Some(current);
                self.links.to_supervisor(LeadershipInput::Refused { reason, fenced_by });
            }
            AppendRefusal::Failed { reason } => self.fail(reason, cx),
        }
    }
}

impl Performer<Partition> for PartitionPerformer {
    #[expect(clippy::too_many_lines, reason = "one arm per effect")]
    fn perform(&mut self, effect: PartitionEffect, cx: &mut PartitionCx<'_>) {
        if self.upkeep.is_none() {
            self.upkeep = Some(self.tick_at(Timestamp(cx.now.0 + UPKEEP_INTERVAL_MS), cx));
        }
        match effect {
            PartitionEffect::Append { epoch, record } => self.append(epoch, record, cx),
            PartitionEffect::Apply { first, records } => self.apply(first, &records, cx),
            PartitionEffect::Answer { to, answer } => self.registry.replies.answer(to, answer),
            PartitionEffect::LookUp { entries } => self.look_up(&entries, cx),
            PartitionEffect::ScheduleFlush => {
                cx.me.send(PartitionInput::Flush);
            }
            PartitionEffect::ReportDurable => {
                if let Some(timer) = self.upkeep.take() {
                    self.world.timers().cancel(timer);
                }
                self.report_durable();
                self.warn_if_ahead();
            }
            PartitionEffect::CheckExpired { until } => self.check_expired(until, cx),
            PartitionEffect::FindDue => self.find_due(cx),
            PartitionEffect::CountOutbox => self.count_outbox(cx),
            PartitionEffect::TellAttempt { entry, token, news } => {
                self.executor.tell(entry, token, news);
            }
            PartitionEffect::StartShuffle => self.start_shuffle(cx),
            PartitionEffect::StopShuffle => self.stop_shuffle(),
            PartitionEffect::OutboxAdded { messages } => self.hand_on(messages),
            PartitionEffect::TellAnnounced { node, epoch } => {
                self.links.to_supervisor(LeadershipInput::Announced { node, epoch });
            }
            PartitionEffect::TellSeeded { epoch } => {
                self.links.to_supervisor(LeadershipInput::Seeded { epoch });
            }
            PartitionEffect::TellDraining { epoch } => {
                self.links.to_supervisor(LeadershipInput::Draining { epoch });
            }
            PartitionEffect::TellQuiet { epoch } => {
                self.links.to_supervisor(LeadershipInput::Quiet { epoch });
            }
            PartitionEffect::TellRefused(refusal) => self.refused(refusal, cx),
            PartitionEffect::SeedLimiter { proposed, stopping } => {
                self.seed_limiter(proposed, &stopping, cx);
            }
            PartitionEffect::LeaveCapacity { running } => {
                self.registry.leave_capacity(self.id, running);
            }
            PartitionEffect::ReturnCapacity => self.registry.return_capacity(self.id),
            PartitionEffect::ToLimiter(message) => self.links.to_limiter(message),
            PartitionEffect::FindVQueues { after } => self.find_vqueues(after, cx),
            PartitionEffect::WakeAt(at) => self.wake_at(at, cx),
            PartitionEffect::SpawnVQueue { handle, vqueue, dispatched, permits } => {
                self.spawn_vqueue(handle, vqueue, dispatched, permits, cx);
            }
            PartitionEffect::Acquire { handle, vqueue, head, is_known } => {
                self.acquire_for(handle, vqueue, (head, is_known), cx);
            }
            PartitionEffect::StopVQueue(handle) => self.links.stop_vqueue(handle),
            PartitionEffect::ToVQueue(handle, message) => self.links.to_vqueue(handle, message),
            PartitionEffect::Begin(decisions) => self.begin(&decisions, cx),
            PartitionEffect::Run { entry, token } => self.run(entry, token, cx),
            PartitionEffect::Abort { entry, token } => self.executor.abort(entry, token),
            PartitionEffect::Cancel { entry, token } => self.executor.cancel(entry, token),
        }
    }

    fn observe(&mut self, machine: &Partition) {
        self.registry.observe_partition(self.id, machine, &mut self.reported);
        // Not when it is applied: the limiter gets it a step later.
        let book = self.state.rule_book();
        if self.reported_rules != book.version() {
            self.reported_rules = book.version();
            self.registry.rule_book_applied(self.id, book);
        }
    }
}

impl Drop for PartitionPerformer {
    fn drop(&mut self) {
        for timer in [self.wake.take(), self.upkeep.take()].into_iter().flatten() {
            self.world.timers().cancel(timer);
        }
        self.links.stop_all();
    }
}
