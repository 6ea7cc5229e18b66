//! A partition's machine under manual control: every input by hand, every effect returned. Log,
//! rows and clock are here; limiter, vqueues and handlers are played by the test.

use std::{collections::VecDeque, sync::Arc};

use forebay_engine::{
    Machine,
    partition::{
        machine::{
            Answer, AppliedBatch, KnownAttempt, Partition, PartitionConfig, PartitionEffect,
            PartitionInput, VQueueLimits,
        },
        read,
        store::JournalRows,
    },
    shuffle::Routes,
};
use forebay_messages::{
    AttemptToken, EntryId, EntryKey, Epoch, Generation, InboxSeq, Incarnation, Lsn, NodeId,
    PartitionKey, PermitId, Producer, Record, ReplyId, Timestamp, VQueueHandle, VQueueId,
    actor::{LimiterMessage, Permits, Release},
    command::{Command, Enqueue, NewEntry},
};

use super::fixture::{Replica, entry, new_entry};

/// Number of messages to one partition beyond which calls wait.
pub(crate) const OUTBOX_MAX: usize = 3;

pub(crate) type Effects = Vec<PartitionEffect>;

pub(crate) struct Rig {
    pub(crate) now: u64,
    pub(crate) partition: Partition,
    pub(crate) replica: Replica,
    /// The partitions of children; none by default.
    pub(crate) routes: Routes,
    /// Appended but not committed.
    pub(crate) appended: VecDeque<Arc<Record>>,
    lsn: u64,
    replies: u64,
    pub(crate) epoch: Epoch,
    incarnation: u32,
    /// The interruptions in the next seed.
    pub(crate) interrupted: Vec<(AttemptToken, u32)>,
    /// The last inbox sequence in the next seed.
    pub(crate) last_seq: InboxSeq,
}

impl Rig {
    /// A following replica.
    pub(crate) fn new() -> Self {
        Self::over(Replica::new())
    }

    pub(crate) fn over(replica: Replica) -> Self {
        Self::with(replica, VQueueLimits { active_max: 100, idle_max: 0, sleepers_max: 2 })
    }

    /// A leader that keeps some idle vqueues.
    pub(crate) fn leading_with(vqueues: VQueueLimits) -> Self {
        let mut rig = Self::with(Replica::new(), vqueues);
        rig.announce(1);
        rig.seed();
        rig.open();
        rig
    }

    fn with(replica: Replica, vqueues: VQueueLimits) -> Self {
        let config = PartitionConfig {
            record_len_max: forebay_messages::record::RECORD_LEN_MAX,
            incarnation: Incarnation::default(),
            outbox_per_target_max: OUTBOX_MAX,
            node: NodeId(1),
            key_first: PartitionKey(0),
            key_last: PartitionKey(u64::MAX),
            dispatches: true,
            vqueues,
        };
        Self {
            now: 1_000,
            partition: Partition::new(config, replica.state.applied_lsn),
            lsn: replica.state.applied_lsn.0,
            replica,
            routes: Routes::default(),
            appended: VecDeque::new(),
            replies: 0,
            epoch: Epoch(0),
            incarnation: 0,
            interrupted: Vec::new(),
            last_seq: Default::default(),
        }
    }

    /// An idle leader under epoch 1.
    pub(crate) fn leading() -> Self {
        let mut rig = Self::new();
        rig.announce(1);
        rig.seed();
        rig.open();
        rig
    }

    /// Reports that a handler ended, with nothing else in the mailbox.
    pub(crate) fn end(&mut self, ended: PartitionInput) -> Effects {
        let mut effects = self.tell(ended);
        effects.extend(self.tell(PartitionInput::Flush));
        effects
    }

    /// Steps an input; returns the effects other than appends and applies.
    pub(crate) fn tell(&mut self, input: PartitionInput) -> Effects {
        let mut inputs = VecDeque::from([input]);
        let mut passed_on = Vec::new();
        while let Some(input) = inputs.pop_front() {
            let mut effects = Vec::new();
            self.partition.step(Timestamp(self.now), input, &mut effects);
            self.partition.check();
            for effect in effects {
                match effect {
                    PartitionEffect::Append { record, .. } => self.appended.push_back(record),
                    PartitionEffect::Apply { records, .. } => {
                        inputs.push_back(PartitionInput::Applied(self.apply(&records)));
                    }
                    PartitionEffect::FindDue => {
                        let sleeps = self.replica.tables.sleeps_until(Timestamp::MAX, 1).unwrap();
                        let first = sleeps.first().map(|(at, ..)| *at);
                        inputs.push_back(PartitionInput::DueFound { first });
                    }
                    PartitionEffect::CountOutbox => {
                        let count =
                            read::count_outbox(&self.replica.tables, self.routes.clone()).unwrap();
                        inputs.push_back(PartitionInput::OutboxCounted(count));
                    }
                    // Sent periodically, whatever the input.
                    PartitionEffect::ReportDurable => {}
                    other => passed_on.push(other),
                }
            }
        }
        passed_on
    }

    fn apply(&mut self, records: &[Arc<Record>]) -> AppliedBatch {
        let (mut replies, mut applied) = (Vec::new(), Vec::new());
        for record in records {
            let reply = self.replica.apply(record);
            let own = match &record.producer {
                Some(Producer::Leader(own)) => Some(*own),
                _ => None,
            };
            replies.push((own, reply));
            applied.append(&mut self.replica.applied);
        }
        AppliedBatch { last: self.replica.state.applied_lsn, replies, applied }
    }

    /// The log commits these records in one batch.
    pub(crate) fn commit_records(&mut self, records: Vec<Arc<Record>>) -> Effects {
        let first = Lsn(self.lsn + 1);
        self.lsn += records.len() as u64;
        self.tell(PartitionInput::Committed { first, records })
    }

    /// The log commits everything appended, in one batch.
    pub(crate) fn commit(&mut self) -> Effects {
        let records = self.appended.drain(..).collect();
        self.commit_records(records)
    }

    pub(crate) fn announce(&mut self, epoch: u64) {
        self.epoch = Epoch(epoch);
        self.tell(PartitionInput::Announce { epoch: self.epoch });
        self.commit();
    }

    /// A new limiter is requested and sent its seed; it has not answered.
    pub(crate) fn begin_seed(&mut self) -> usize {
        let effects = self.tell(PartitionInput::BeginSeed { epoch: self.epoch });
        let Some(PartitionEffect::SeedLimiter { proposed, stopping }) = effects.last() else {
            panic!("no seed: {effects:?}")
        };
        let mut running = proposed.clone();
        let rows = self.replica.tables.running.iter();
        running.extend(rows.map(|((vqueue, entry), row)| KnownAttempt {
            vqueue: *vqueue,
            entry: *entry,
            token: row.token,
        }));
        let is_over = |known: &KnownAttempt| running.iter().all(|of| of.token != known.token);
        let lock = |vqueue| self.replica.tables.locks.get(&vqueue).copied();
        let stopping = stopping.iter().filter(|known| is_over(known));
        let stopping: Vec<_> = stopping.map(|known| (*known, lock(known.vqueue))).collect();
        let count = running.len() + stopping.len();
        let (interrupted, last_seq) = (std::mem::take(&mut self.interrupted), self.last_seq);
        let sent = PartitionInput::SeedSent { running, stopping, interrupted, last_seq };
        assert!(self.tell(sent).is_empty());
        self.incarnation += 1;
        count
    }

    /// The answer of the limiter being seeded.
    pub(crate) fn seeded(&mut self, count: usize) -> Effects {
        let permits = (1..=count as u64).map(|serial| self.permit(serial)).collect();
        self.tell(PartitionInput::LimiterSeeded { permits })
    }

    pub(crate) fn seed(&mut self) {
        let count = self.begin_seed();
        let effects = self.seeded(count);
        assert!(
            matches!(effects.last(), Some(PartitionEffect::TellSeeded { .. })),
            "seeded: {effects:?}"
        );
    }

    /// Reports that a handler that was asked to stop has stopped.
    pub(crate) fn stopped(&mut self, token: AttemptToken) -> Effects {
        self.tell(PartitionInput::Stopped { token })
    }

    pub(crate) fn drain(&mut self) -> Effects {
        self.tell(PartitionInput::Drain { epoch: self.epoch })
    }

    /// Drains earlier attempts and opens the gate.
    pub(crate) fn open(&mut self) -> Effects {
        self.drain();
        if !self.appended.is_empty() {
            self.commit();
        }
        self.tell(PartitionInput::OpenGate { epoch: self.epoch })
    }

    pub(crate) fn permit(&self, serial: u64) -> PermitId {
        PermitId { incarnation: Generation(self.incarnation), serial }
    }

    pub(crate) fn reply(&mut self) -> ReplyId {
        self.replies += 1;
        ReplyId(self.replies)
    }

    /// A client's command; appended but not committed.
    pub(crate) fn propose(&mut self, command: Command) -> Effects {
        let reply = self.reply();
        self.tell(PartitionInput::Propose { command: Box::new(command), reply })
    }

    /// Enqueues and commits; returns the effects.
    pub(crate) fn enqueue(&mut self, entry: NewEntry) -> Effects {
        self.propose(Command::Enqueue(Enqueue { entry }));
        self.commit()
    }

    /// Enqueues an entry of a cold vqueue; returns the vqueue's handle.
    pub(crate) fn enqueue_cold(&mut self, n: u8, name: u8) -> VQueueHandle {
        let effects = self.enqueue(new_entry(n, name));
        spawned(&effects).expect("a cold vqueue is started").0
    }

    pub(crate) fn key(&self, n: u8) -> EntryKey {
        self.replica.row(n).unwrap().key
    }

    /// A vqueue decides for an entry; proposed but not committed.
    pub(crate) fn decide(&mut self, handle: VQueueHandle, n: u8, serial: u64) -> Effects {
        let (keys, permits) = (vec![self.key(n)], Permits::one(self.permit(serial)));
        let mut effects = self.tell(PartitionInput::Decide { handle, keys, permits });
        effects.extend(self.tell(PartitionInput::Flush));
        effects
    }

    /// Starts an entry of a cold vqueue; returns its vqueue and its attempt.
    pub(crate) fn start(&mut self, n: u8, name: u8, serial: u64) -> (VQueueHandle, AttemptToken) {
        let handle = self.enqueue_cold(n, name);
        self.decide(handle, n, serial);
        let effects = self.commit();
        (handle, runs(&effects)[0].1)
    }

    pub(crate) fn running(&self, n: u8) -> bool {
        self.replica.tables.running.keys().any(|(_, id)| *id == entry(n))
    }
}

/// The started vqueue, and the keys it was given as dispatched.
pub(crate) fn spawned(effects: &Effects) -> Option<(VQueueHandle, VQueueId, Vec<EntryKey>)> {
    effects.iter().find_map(|effect| match effect {
        PartitionEffect::SpawnVQueue { handle, vqueue, dispatched, .. } => {
            Some((*handle, *vqueue, dispatched.clone()))
        }
        _ => None,
    })
}

pub(crate) fn runs(effects: &Effects) -> Vec<(EntryId, AttemptToken)> {
    let runs = effects.iter().filter_map(|effect| match effect {
        PartitionEffect::Run { entry, token } => Some((*entry, *token)),
        _ => None,
    });
    runs.collect()
}

pub(crate) fn releases(effects: &Effects) -> Vec<Release> {
    let releases = effects.iter().filter_map(|effect| match effect {
        PartitionEffect::ToLimiter(LimiterMessage::Release(releases)) => Some(releases.clone()),
        _ => None,
    });
    releases.flatten().collect()
}

pub(crate) fn answers(effects: &Effects) -> Vec<Answer> {
    let answers = effects.iter().filter_map(|effect| match effect {
        PartitionEffect::Answer { answer, .. } => Some(answer.clone()),
        _ => None,
    });
    answers.collect()
}

/// Whether the handler of an attempt is asked to stop.
pub(crate) fn aborts(effects: &Effects, token: AttemptToken) -> bool {
    effects
        .iter()
        .any(|effect| matches!(effect, PartitionEffect::Abort { token: of, .. } if *of == token))
}

pub(crate) fn has(effects: &Effects, wanted: fn(&PartitionEffect) -> bool) -> bool {
    effects.iter().any(wanted)
}
