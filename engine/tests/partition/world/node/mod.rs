//! One node: a replica with all its actors, each with its mailbox. Performs effects as the shells
//! do, and checks that they are legal.

mod vqueues;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use forebay_engine::{
    Machine,
    leadership::{Leadership, LeadershipEffect, LeadershipInput},
    partition::{
        apply::{self, Applied},
        machine::{
            Answer, AppendRefusal, AppliedBatch, EarlyStart, KnownAttempt, Partition,
            PartitionConfig, PartitionEffect, PartitionInput, Phase, RunAttempt, VQueueLimits,
        },
        mem::MemTables,
        read::{self, SeedRead},
        rows::Stage,
        store::{JournalRows, Rows},
    },
    shuffle::Routes,
    vqueue::VQueue,
};
use forebay_messages::{
    AttemptToken, EntryId, Epoch, Incarnation, Lsn, NodeId, PartitionKey, Producer, Record,
    ReplyId, Timestamp, VQueueHandle, VQueueId, VQueueName,
    actor::{Granted, LimiterMessage, RefillRequest, Seed, VQueueMessage},
    command::{Command, Decision},
};

use super::{
    any_limiter::{self, AnyLimiter, LimiterOutput},
    checks::Checks,
    fake_limiter::SCOPE_LIMIT,
    log::{Log, Request},
};
use crate::fixture::Replica;

/// Vqueues per page of a walk.
const PAGE_LEN: usize = 2;

#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) machine: VQueue,
    pub(crate) mailbox: VecDeque<VQueueMessage>,
    pub(super) name: Arc<VQueueName>,
    pub(crate) timer: Option<Timestamp>,
    pub(crate) refill: Option<RefillRequest>,
    /// It announced its passivation: it takes no further messages.
    pub(super) is_gone: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Handler {
    pub(crate) entry: EntryId,
    name: Arc<VQueueName>,
    pub(crate) is_canceled: bool,
    /// It was asked to stop.
    pub(crate) is_stopping: bool,
}

/// State shared by all nodes.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) now: Timestamp,
    pub(crate) log: Log,
    pub(crate) epoch: u64,
    /// The epoch of the lease holder, as seen by the nodes.
    pub(crate) lease: Option<Epoch>,
    /// Requests, and their answers.
    pub(crate) answers: BTreeMap<ReplyId, Option<Answer>>,
    /// Some nodes read their inboxes at once, others use a worker.
    pub(crate) reads_block: bool,
    /// Limits for idle vqueues.
    pub(crate) vqueues: VQueueLimits,
    /// Whether the limiter is the real one or the strict fake.
    pub(crate) limiter_is_real: bool,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) index: usize,
    pub(crate) replica: Replica,
    /// The names with a handler here, one bit each.
    pub(crate) served: u8,
    /// The rows that survive a crash.
    pub(crate) flushed: MemTables,
    pub(crate) delivered: usize,
    pub(crate) partition: Partition,
    pub(crate) mailbox: VecDeque<PartitionInput>,
    pub(crate) supervisor: Leadership,
    pub(crate) orders: VecDeque<LeadershipInput>,
    pub(crate) limiter: Option<AnyLimiter>,
    pub(crate) asked: VecDeque<LimiterMessage>,
    /// Limiters that were started but do not serve yet; `None` is dead.
    pub(crate) started: VecDeque<Option<AnyLimiter>>,
    pub(crate) vqueues: BTreeMap<VQueueHandle, Active>,
    pub(crate) handlers: BTreeMap<AttemptToken, Handler>,
    /// Attempts that start when others have stopped.
    waiting: Vec<RunAttempt>,
    /// The slots that the node's capacity reserves for handlers without a limiter.
    slots: Option<u32>,
    pub(crate) wake_at: Option<Timestamp>,
    pub(crate) retry_at: Vec<Timestamp>,
    /// How often each epoch was reported to the supervisor as drained.
    pub(crate) drained: BTreeMap<Epoch, usize>,
    /// Number of seeded limiters.
    pub(crate) seeds: usize,
    looks_up_locks: bool,
    /// Attempts of epochs up to this one were lost in a crash.
    pub(crate) lost_through: Epoch,
    checks: Checks,
}

impl Node {
    pub(crate) fn new(index: usize, tables: MemTables, vqueues: VQueueLimits) -> Self {
        let replica = Replica::over(tables.clone());
        let id = NodeId(u32::try_from(index).unwrap());
        let config = PartitionConfig {
            record_len_max: forebay_messages::record::RECORD_LEN_MAX,
            incarnation: Incarnation::default(),
            outbox_per_target_max: usize::MAX,
            node: id,
            key_first: PartitionKey(0),
            key_last: PartitionKey(u64::MAX),
            dispatches: true,
            vqueues,
        };
        let applied = replica.state.applied_lsn;
        Self {
            index,
            served: u8::MAX,
            flushed: tables,
            delivered: usize::try_from(applied.0).unwrap(),
            partition: Partition::new(config, applied),
            mailbox: VecDeque::new(),
            supervisor: Leadership::new(id, replica.state.leader_epoch),
            orders: VecDeque::new(),
            limiter: None,
            asked: VecDeque::new(),
            started: VecDeque::new(),
            vqueues: BTreeMap::new(),
            handlers: BTreeMap::new(),
            waiting: Vec::new(),
            slots: None,
            wake_at: None,
            retry_at: Vec::new(),
            drained: BTreeMap::new(),
            seeds: 0,
            looks_up_locks: false,
            lost_through: Epoch::default(),
            checks: Checks::default(),
            replica,
        }
    }

    pub(crate) fn leads(&self) -> bool {
        self.partition.phase() == Phase::Leading
    }

    /// Steps the partition and everything that answers it at once.
    pub(crate) fn step_partition(&mut self, input: PartitionInput, shared: &mut Shared) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut effects = Vec::new();
            self.partition.step(shared.now, input, &mut effects);
            self.partition.check();
            for effect in effects {
                self.perform(effect, &mut inputs, shared);
            }
        }
        assert!(self.leads() || self.vqueues.is_empty(), "P4: only a leader has vqueues");
        self.check_handlers(shared);
    }

    #[expect(clippy::too_many_lines, reason = "one arm per effect")]
    fn perform(
        &mut self,
        effect: PartitionEffect,
        inputs: &mut VecDeque<PartitionInput>,
        shared: &mut Shared,
    ) {
        match effect {
            PartitionEffect::Append { epoch, record } => {
                self.check_proposal(epoch, &record);
                shared.log.requests.push_back(Request::Append { node: self.index, epoch, record });
            }
            PartitionEffect::Apply { first, records } => {
                inputs.push_back(PartitionInput::Applied(self.apply(first, &records)));
            }
            PartitionEffect::Answer { to, answer } => {
                let before = shared.answers.get_mut(&to).unwrap();
                assert_eq!(*before, None, "{to} is answered once");
                self.checks.answered(&answer);
                *before = Some(answer);
            }
            PartitionEffect::LookUp { entries } => {
                let gone = read::gone(&self.replica.tables, &entries).unwrap();
                inputs.push_back(PartitionInput::LookedUp { gone });
            }
            PartitionEffect::ScheduleFlush => self.mailbox.push_back(PartitionInput::Flush),
            // No attempt writes a journal here.
            PartitionEffect::ReportDurable
            | PartitionEffect::TellAttempt { .. }
            | PartitionEffect::StartShuffle
            | PartitionEffect::StopShuffle
            | PartitionEffect::OutboxAdded { .. } => {}
            PartitionEffect::CheckExpired { until } => inputs.extend(self.find_expired(until)),
            PartitionEffect::CountOutbox => {
                let count = read::count_outbox(&self.replica.tables, Routes::default()).unwrap();
                inputs.push_back(PartitionInput::OutboxCounted(count));
            }
            PartitionEffect::FindDue => inputs.push_back(self.find_due()),
            PartitionEffect::TellAnnounced { .. }
            | PartitionEffect::TellQuiet { .. }
            | PartitionEffect::TellSeeded { .. }
            | PartitionEffect::TellDraining { .. }
            | PartitionEffect::TellRefused(_) => self.tell_supervisor(effect),
            PartitionEffect::SeedLimiter { proposed, stopping } => {
                inputs.extend(self.seed_limiter(proposed, &stopping));
            }
            PartitionEffect::ToLimiter(message) => self.tell_limiter(message),
            PartitionEffect::FindVQueues { after } => self.find_vqueues(after),
            PartitionEffect::WakeAt(at) => self.wake_at = Some(at),
            PartitionEffect::Acquire { handle, vqueue, head, is_known } => {
                let rest = self.acquire_for(handle, vqueue, (head, is_known));
                inputs.extend(rest.map(|rest| PartitionInput::Passivated { handle, rest }));
            }
            PartitionEffect::SpawnVQueue { handle, vqueue, dispatched, permits } => {
                let rest = self.spawn(handle, vqueue, (dispatched, permits), shared);
                inputs.extend(rest.map(|rest| PartitionInput::Passivated { handle, rest }));
            }
            PartitionEffect::StopVQueue(handle) => {
                // A dead one is gone already; one without a meta row never existed.
                self.vqueues.remove(&handle);
            }
            PartitionEffect::ToVQueue(handle, message) => self.tell_vqueue(handle, message),
            PartitionEffect::Begin(decisions) => {
                inputs.push_back(PartitionInput::Begun(self.begin(&decisions)));
            }
            PartitionEffect::Run { entry, token } => {
                let run = apply::started(&self.replica.tables, entry, token).unwrap();
                self.run(run.expect("it runs"));
            }
            PartitionEffect::Abort { .. }
            | PartitionEffect::LeaveCapacity { .. }
            | PartitionEffect::ReturnCapacity => self.stop(effect),
            PartitionEffect::Cancel { token, .. } => {
                if let Some(handler) = self.handlers.get_mut(&token) {
                    handler.is_canceled = true;
                }
            }
        }
    }

    fn seed_limiter(
        &mut self,
        proposed: Vec<KnownAttempt>,
        stopping: &[KnownAttempt],
    ) -> Option<PartitionInput> {
        self.limiter = self.started.pop_front()?;
        self.asked.clear();
        let read = self.seed(proposed, stopping);
        let SeedRead { locks, are_locks_partial, running, stopping, holders } = read;
        self.looks_up_locks = are_locks_partial;
        let seed =
            Seed { rules: vec![any_limiter::rule()], locks, running: holders, ..Seed::default() };
        self.slots = None;
        self.seeds += 1;
        self.tell_limiter(LimiterMessage::Seed(Box::new(seed)));
        // After a restart, attempts that ran before are lost, under any leader.
        let is_lost = |known: &&KnownAttempt| known.token.epoch <= self.lost_through;
        let interrupted = running.iter().filter(is_lost).map(|known| (known.token, 2)).collect();
        let last_seq = self.replica.state.inbox_seq();
        Some(PartitionInput::SeedSent { running, stopping, interrupted, last_seq })
    }

    /// Asks handlers to stop, or reports to the node's capacity how many still run.
    fn stop(&mut self, effect: PartitionEffect) {
        match effect {
            PartitionEffect::Abort { token, .. } => {
                if let Some(handler) = self.handlers.get_mut(&token) {
                    handler.is_stopping = true;
                }
                if self.waiting.iter().any(|run| run.token == token) {
                    self.waiting.retain(|run| run.token != token);
                    self.mailbox.push_back(PartitionInput::Stopped { token });
                }
            }
            PartitionEffect::LeaveCapacity { running } => {
                let outcomes = |input: &&PartitionInput| {
                    matches!(input, PartitionInput::Stopped { .. } | PartitionInput::Ended { .. })
                };
                let most = self.handlers.len() + self.mailbox.iter().filter(outcomes).count();
                assert!(running as usize <= most, "{running} handlers stop, there are {most}");
                assert!(running as usize >= self.handlers.len(), "each handler has its slot");
                self.slots = Some(running);
            }
            PartitionEffect::ReturnCapacity => {
                let slots = self.slots.as_mut().expect("no limiter has its slot");
                *slots = slots.checked_sub(1).expect("its slot was reserved");
            }
            other => unreachable!("not about handlers that stop: {other:?}"),
        }
    }

    fn tell_supervisor(&mut self, effect: PartitionEffect) {
        match effect {
            PartitionEffect::TellAnnounced { node, epoch } => {
                self.orders.push_back(LeadershipInput::Announced { node, epoch });
            }
            PartitionEffect::TellSeeded { epoch } => {
                self.orders.push_back(LeadershipInput::Seeded { epoch });
            }
            PartitionEffect::TellQuiet { epoch } => {
                let is_idle = self.handlers.is_empty() && self.waiting.is_empty();
                assert!(is_idle, "it is quiet: nothing runs");
                self.orders.push_back(LeadershipInput::Quiet { epoch });
            }
            PartitionEffect::TellDraining { epoch } => {
                *self.drained.entry(epoch).or_default() += 1;
                self.orders.push_back(LeadershipInput::Draining { epoch });
            }
            PartitionEffect::TellRefused(refusal) => {
                let fenced_by = match &refusal {
                    AppendRefusal::Fenced { current } => Some(*current),
                    AppendRefusal::Failed { .. } => None,
                };
                let reason = format!("{refusal:?}");
                self.orders.push_back(LeadershipInput::Refused { reason, fenced_by });
            }
            other => unreachable!("not for the supervisor: {other:?}"),
        }
    }

    fn begin(&mut self, decisions: &[Decision]) -> Vec<EarlyStart> {
        let mut begun = Vec::new();
        for decision in decisions {
            let found = apply::begin(&self.replica.tables, decision, Timestamp::default()).unwrap();
            let Some((run, retry)) = found else { continue };
            begun.push(EarlyStart { token: run.token, attempt: run.attempt, retry });
            self.run(run);
        }
        begun
    }

    /// P4: a vqueue decides nothing before its attempts of earlier epochs are drained.
    fn check_proposal(&self, epoch: Epoch, record: &Record) {
        let Some(Command::SchedulerDecisions(command)) = &record.command else { return };
        let running = &self.replica.tables.running;
        for ((vqueue, _), _) in running.iter().filter(|(_, row)| row.token.epoch != epoch) {
            let decides = command.decisions.iter().any(|decision| decision.vqueue == *vqueue);
            assert!(!decides, "P4: {vqueue} decides while attempts of earlier epochs run");
        }
    }

    fn apply(&mut self, first: Lsn, records: &[Arc<Record>]) -> AppliedBatch {
        let (mut replies, mut applied) = (Vec::new(), Vec::<Applied>::new());
        assert_eq!(first, self.replica.state.applied_lsn.next(), "P1: no gap");
        for record in records {
            let reply = self.replica.apply(record);
            self.checks.applied(record, &reply);
            let own = match &record.producer {
                Some(Producer::Leader(own)) => Some(*own),
                _ => None,
            };
            replies.push((own, reply));
            applied.append(&mut self.replica.applied);
            self.check_limits();
        }
        AppliedBatch { last: self.replica.state.applied_lsn, replies, applied }
    }

    fn check_limits(&self) {
        let tables = &self.replica.tables;
        let mut running: BTreeMap<_, usize> = BTreeMap::new();
        for row in tables.entries.values().filter(|row| row.stage == Stage::Running) {
            let name = &tables.vqueues[&row.vqueue].name;
            if let Some(scope) = &name.scope {
                *running.entry(scope).or_default() += 1;
            }
        }
        assert!(running.values().all(|count| *count <= SCOPE_LIMIT), "a limit: {running:?}");
    }

    /// A leader's handlers run the attempts that its rows say run, or that it proposed for a
    /// waiting row; and never two of one vqueue with a lock.
    fn check_handlers(&self, shared: &Shared) {
        let epoch = self.replica.state.leader_epoch;
        if !self.leads() {
            return;
        }
        let of_leader = |(token, handler): &(&AttemptToken, &Handler)| {
            token.epoch == epoch && !handler.is_stopping
        };
        for (token, handler) in self.handlers.iter().filter(of_leader) {
            let row = self.replica.tables.entries.get(&handler.entry);
            let runs = row.is_some_and(|row| row.stage == Stage::Running && row.token == *token);
            let is_proposed = || shared.log.has_decision(self.delivered, *token);
            let is_on_its_way =
                || self.mailbox.iter().any(|input| super::log::settles(input, *token));
            assert!(
                runs || is_proposed() || is_on_its_way(),
                "{token} of {} runs although it should have been stopped",
                handler.entry
            );
        }
    }

    fn seed(&self, proposed: Vec<KnownAttempt>, stopping: &[KnownAttempt]) -> SeedRead {
        // A waiting one has no handler, and its row still exists.
        let name_of = |_, token| self.handlers.get(&token).map(|handler| handler.name.clone());
        // Every second limiter is seeded with few locks.
        let locks_max = if self.seeds.is_multiple_of(2) { usize::MAX } else { 0 };
        read::seed(&self.replica.tables, proposed, stopping, locks_max, name_of).unwrap()
    }

    pub(super) fn tell_limiter(&mut self, message: LimiterMessage) {
        if self.limiter.is_some() {
            self.asked.push_back(message);
        }
    }

    fn find_due(&self) -> PartitionInput {
        let sleeps = self.replica.tables.sleeps_until(Timestamp::MAX, 1).unwrap();
        PartitionInput::DueFound { first: sleeps.first().map(|(at, ..)| *at) }
    }

    fn find_expired(&self, until: Timestamp) -> Option<PartitionInput> {
        let expired = self.replica.tables.timers_until(until, 1).unwrap();
        (!expired.is_empty()).then_some(PartitionInput::ExpiredFound { until })
    }

    fn find_vqueues(&mut self, after: Option<VQueueId>) {
        let page = self.replica.tables.vqueues_after(after, PAGE_LEN).unwrap();
        let next = page.last().map(|(id, _)| *id);
        let found = page.into_iter().filter(|(_, meta)| meta.inbox > 0 && !meta.is_paused);
        let tables = &self.replica.tables;
        // Sometimes a head is unknown: it may be due, as far as the walk knows.
        let head = |id| match tables.inbox_after(id, None, 1).0.first() {
            Some(head) if !tables.inbox.len().is_multiple_of(3) => Some(*head),
            _ => None,
        };
        let found = found.map(|(id, _)| (id, head(id))).collect();
        self.mailbox.push_back(PartitionInput::VQueuesFound { found, next });
    }

    /// Like the executor: nothing starts beside a stopping attempt of the same entry or key.
    fn run(&mut self, run: RunAttempt) {
        assert!(
            self.replica.tables.payloads.contains_key(&run.entry),
            "{} starts without a payload",
            run.entry
        );
        let mut waits = false;
        for (token, other) in &self.handlers {
            let excludes = run.name.has_lock() && other.name == run.name;
            if other.entry == run.entry || excludes {
                assert!(other.is_stopping, "{token} of the same entry or key already runs");
                let is_free =
                    excludes && token.epoch == run.token.epoch && other.entry != run.entry;
                assert!(!is_free, "{token} still has the lock");
                waits = true;
            }
        }
        if waits {
            return self.waiting.push(run);
        }
        self.check_running(&run);
        let (entry, name) = (run.entry, run.name);
        let handler = Handler { entry, name, is_canceled: false, is_stopping: false };
        let before = self.handlers.insert(run.token, handler);
        assert!(before.is_none(), "an attempt starts once");
    }

    /// Checks that the running handlers, including stopping ones, respect the limit.
    fn check_running(&self, run: &RunAttempt) {
        let Some(scope) = &run.name.scope else { return };
        let beside = self.handlers.values().filter(|of| of.name.scope.as_ref() == Some(scope));
        let count = 1 + beside.count();
        assert!(count <= SCOPE_LIMIT, "{count} handlers of {scope} run here");
    }

    /// Reports that a handler that was asked to stop has stopped.
    pub(crate) fn stop_handler(&mut self, token: AttemptToken) {
        self.handlers.remove(&token).expect("it runs");
        self.mailbox.push_back(PartitionInput::Stopped { token });
        for run in std::mem::take(&mut self.waiting) {
            // Whether its row still exists is not checked: it is asked to stop too.
            self.rerun(run);
        }
    }

    fn rerun(&mut self, run: RunAttempt) {
        let is_free = self.handlers.values().all(|other| {
            other.entry != run.entry && !(run.name.has_lock() && other.name == run.name)
        });
        if is_free {
            self.check_running(&run);
            let (entry, name) = (run.entry, run.name);
            let handler = Handler { entry, name, is_canceled: false, is_stopping: false };
            self.handlers.insert(run.token, handler);
        } else {
            self.waiting.push(run);
        }
    }

    pub(crate) fn step_limiter(&mut self, shared: &Shared) {
        let message = self.asked.pop_front().unwrap();
        self.checks.asked(&message);
        let mut outcomes = Vec::new();
        self.limiter.as_mut().unwrap().step(shared.now, message, &mut outcomes);
        for outcomes in outcomes {
            match outcomes {
                LimiterOutput::Granted(granted) => {
                    // A leader that leaves returns the permits of decisions that it does not
                    // propose, and with them locks that entries keep: it decides nothing more.
                    if self.partition.phase() == Phase::Leading {
                        self.checks.granted(&granted, &self.replica.tables);
                    }
                    let Granted { handle, permits } = granted;
                    match self.vqueues.get(&handle) {
                        Some(_) => self.tell_vqueue(handle, VQueueMessage::Granted(permits)),
                        None => {
                            self.mailbox.push_back(PartitionInput::Granted { handle, permits });
                        }
                    }
                }
                LimiterOutput::Seeded(permits) => {
                    self.mailbox.push_back(PartitionInput::LimiterSeeded { permits });
                }
            }
        }
    }

    pub(crate) fn step_supervisor(&mut self, input: LeadershipInput, shared: &mut Shared) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut effects = Vec::new();
            self.supervisor.step(shared.now, input, &mut effects);
            for effect in effects {
                self.perform_order(effect, &mut inputs, shared);
            }
        }
    }

    fn perform_order(
        &mut self,
        effect: LeadershipEffect,
        inputs: &mut VecDeque<LeadershipInput>,
        shared: &mut Shared,
    ) {
        match effect {
            LeadershipEffect::ObtainEpoch { above } => {
                shared.epoch = shared.epoch.max(above.0) + 1;
                inputs.push_back(LeadershipInput::EpochObtained(Epoch(shared.epoch)));
            }
            LeadershipEffect::Fence { epoch } => {
                shared.log.requests.push_back(Request::Fence { node: self.index, epoch });
            }
            LeadershipEffect::Announce { epoch } => {
                self.mailbox.push_back(PartitionInput::Announce { epoch });
            }
            LeadershipEffect::StartLimiter { incarnation } => {
                let limiter = AnyLimiter::new(shared.limiter_is_real, incarnation);
                self.started.push_back(Some(limiter));
            }
            LeadershipEffect::Seed { epoch } => {
                self.mailbox.push_back(PartitionInput::BeginSeed { epoch });
            }
            LeadershipEffect::Drain { epoch } => {
                self.mailbox.push_back(PartitionInput::Drain { epoch });
            }
            LeadershipEffect::OpenGate { epoch } => {
                self.mailbox.push_back(PartitionInput::OpenGate { epoch });
            }
            LeadershipEffect::CloseGate { .. } => {
                self.mailbox.push_back(PartitionInput::CloseGate);
            }
            LeadershipEffect::StopLeading => self.mailbox.push_back(PartitionInput::StopLeading),
            LeadershipEffect::StopLimiter => {
                self.limiter = None;
                self.started.clear();
                self.asked.clear();
            }
            LeadershipEffect::Report(_) | LeadershipEffect::Warn(_) => {}
            LeadershipEffect::HoldLease { epoch } => {
                shared.lease = shared.lease.max(Some(epoch));
            }
            LeadershipEffect::FreeLease { epoch } => {
                shared.lease = shared.lease.filter(|held| *held > epoch);
            }
            LeadershipEffect::RetryAt(at) => self.retry_at.push(at),
        }
    }
}
