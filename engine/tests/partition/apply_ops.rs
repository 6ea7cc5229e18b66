//! Random commands: small numbers that are turned into records depending on the current rows.

use std::sync::Arc;

use bytes::Bytes;
use forebay_engine::partition::{mem::MemTables, rows::Stage};
use forebay_messages::{
    AttemptToken, EntryKey, Epoch, FailureKind, InboxSeq, Lsn, NodeId, Outcome, Producer, Record,
    RecordSeq, Timestamp,
    command::{
        AnnounceLeader, Command, Complete, Decision, EndAttempts, Enqueue, EnqueueBatch,
        EntrySelector, NewEntry, Purge, Reschedule, RetryAttempt, RetryPolicy, RetryReason,
        SchedulerDecisions, UpdateDurability, UpsertRuleBook, VQueueSelector, VersionBarrier,
    },
    record::{ExternalSeq, OutboxSeq},
};
use proptest::prelude::*;

use super::fixture::{NAMES, book, by_leader, entry, name, new_entry, record, vqueue};

/// Number of entries.
const ENTRIES: u8 = 6;

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Enqueue(Vec<New>),
    Decide(Vec<(u8, Place)>),
    Complete {
        entry: u8,
        right: bool,
        outcome: u8,
    },
    Retry {
        entry: u8,
        right: bool,
        reason: u8,
        run_at: u8,
    },
    /// Several ends in one record.
    Ends(Vec<Op>),
    Select {
        what: What,
        chosen: Chosen,
    },
    PauseVQueues {
        chosen: ChosenVQueues,
        paused: bool,
    },
    Purge {
        entries: Vec<u8>,
        until: Option<u8>,
        count_max: u32,
    },
    RuleBook(u8),
    Announce(i8),
    Other(u8),
    /// Repeats an earlier record.
    Again(usize),
}

#[derive(Clone, Debug)]
pub(crate) struct New {
    id: u8,
    name: u8,
    run_at: Option<u8>,
    key: Option<u8>,
    retry: u8,
    retention: u8,
}

/// The inbox place of a decision.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    Right,
    OtherSeq,
    OtherVQueue,
    OtherLock,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    Cancel,
    Kill,
    Pause,
    Resume,
    Redrive,
    Reschedule(u8),
}

#[derive(Clone, Debug)]
pub(crate) enum Chosen {
    These(Vec<u8>),
    Where { service: u8, scope: u8, limit_key: u8, stage: u8, until: Option<u8>, of: Vec<u8> },
}

#[derive(Clone, Debug)]
pub(crate) enum ChosenVQueues {
    These(Vec<u8>),
    Where { service: u8, scope: u8, limit_key: u8, of: Vec<u8> },
}

/// One step: an operation, how far the clock moves (or steps back), who proposes.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) op: Op,
    pub(crate) ticks: i8,
    pub(crate) producer: u8,
}

fn new() -> impl Strategy<Value = New> {
    (
        0..ENTRIES,
        0..NAMES,
        prop::option::of(0..40_u8),
        prop::option::weighted(0.3, 0..2_u8),
        0..4_u8,
        0..4_u8,
    )
        .prop_map(|(id, name, run_at, key, retry, retention)| New {
            id,
            name,
            run_at,
            key,
            retry,
            retention,
        })
}

fn place() -> impl Strategy<Value = Place> {
    prop_oneof![
        8 => Just(Place::Right),
        1 => Just(Place::OtherSeq),
        1 => Just(Place::OtherVQueue),
        1 => Just(Place::OtherLock),
    ]
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        1 => Just(What::Cancel),
        1 => Just(What::Kill),
        2 => Just(What::Pause),
        2 => Just(What::Resume),
        2 => Just(What::Redrive),
        2 => (0..60_u8).prop_map(What::Reschedule),
    ]
}

fn chosen() -> impl Strategy<Value = Chosen> {
    let these = prop::collection::vec(0..ENTRIES, 1..4).prop_map(Chosen::These);
    let of = prop::collection::vec(0..ENTRIES, 0..8);
    let filter = (0..3_u8, 0..3_u8, 0..4_u8, 0..6_u8, prop::option::of(0..60_u8), of).prop_map(
        |(service, scope, limit_key, stage, until, of)| Chosen::Where {
            service,
            scope,
            limit_key,
            stage,
            until,
            of,
        },
    );
    prop_oneof![2 => these, 1 => filter]
}

fn chosen_vqueues() -> impl Strategy<Value = ChosenVQueues> {
    let these = prop::collection::vec(0..NAMES, 1..3).prop_map(ChosenVQueues::These);
    let of = prop::collection::vec(0..NAMES, 0..5);
    let filter = (0..3_u8, 0..3_u8, 0..6_u8, of).prop_map(|(service, scope, limit_key, of)| {
        ChosenVQueues::Where { service, scope, limit_key, of }
    });
    prop_oneof![2 => these, 1 => filter]
}

fn completed() -> impl Strategy<Value = Op> {
    (0..ENTRIES, prop::bool::weighted(0.8), 0..4_u8)
        .prop_map(|(entry, right, outcome)| Op::Complete { entry, right, outcome })
}

fn retried() -> impl Strategy<Value = Op> {
    (0..ENTRIES, prop::bool::weighted(0.8), 0..3_u8, 0..60_u8)
        .prop_map(|(entry, right, reason, run_at)| Op::Retry { entry, right, reason, run_at })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => prop::collection::vec(new(), 1..4).prop_map(Op::Enqueue),
        14 => prop::collection::vec((0..ENTRIES, place()), 1..4).prop_map(Op::Decide),
        6 => completed(),
        7 => retried(),
        6 => prop::collection::vec(prop_oneof![completed(), retried()], 0..4).prop_map(Op::Ends),
        12 => (what(), chosen()).prop_map(|(what, chosen)| Op::Select { what, chosen }),
        3 => (chosen_vqueues(), any::<bool>())
            .prop_map(|(chosen, paused)| Op::PauseVQueues { chosen, paused }),
        3 => (prop::collection::vec(0..ENTRIES, 0..3), prop::option::of(any::<u8>()), 0..3_u32)
            .prop_map(|(entries, until, count_max)| Op::Purge { entries, until, count_max }),
        2 => (0..7_u8).prop_map(Op::RuleBook),
        2 => (-1..3_i8).prop_map(Op::Announce),
        1 => (0..2_u8).prop_map(Op::Other),
        3 => any::<usize>().prop_map(Op::Again),
    ]
}

pub(crate) fn steps(count_max: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = (op(), -3..6_i8, any::<u8>()).prop_map(|(op, ticks, producer)| Step {
        op,
        ticks,
        producer,
    });
    prop::collection::vec(step, 1..count_max)
}

/// Turns steps into records.
#[derive(Debug, Default)]
pub(crate) struct Maker {
    pub(crate) records: Vec<Arc<Record>>,
    clock: u64,
    epoch: u64,
    leader_seq: u64,
    external_seq: u64,
    outbox: u64,
    tokens: u64,
}

impl Maker {
    pub(crate) fn new() -> Self {
        Self { clock: 20, epoch: 1, ..Self::default() }
    }

    pub(crate) fn make(&mut self, step: &Step, tables: &MemTables) -> Arc<Record> {
        self.clock = self.clock.saturating_add_signed(i64::from(step.ticks));
        let made = match &step.op {
            Op::Again(which) if !self.records.is_empty() => {
                Arc::clone(&self.records[which % self.records.len()])
            }
            Op::Announce(ahead) => {
                // The first record of an epoch is its announcement.
                let epoch = self.epoch.saturating_add_signed(i64::from(*ahead)).max(1);
                if epoch > self.epoch {
                    (self.epoch, self.leader_seq) = (epoch, 0);
                }
                self.leader_seq += 1;
                let (key_first, key_last) = Default::default();
                let command =
                    AnnounceLeader { node: NodeId(1), epoch: Epoch(epoch), key_first, key_last };
                let producer = by_leader(self.epoch, self.leader_seq);
                record(self.clock, Some(producer), Command::AnnounceLeader(command))
            }
            op => {
                let mut command = self.command(op, tables);
                let producer = self.producer(step.producer);
                // A record with a producer is applied once, however often it is received.
                if let (Command::Enqueue(new), Some(_)) = (&mut command, &producer) {
                    let id = new.entry.id;
                    let is_known =
                        tables.entries.contains_key(&id) || tables.finished.contains_key(&id);
                    new.entry.is_fresh = !is_known;
                }
                record(self.clock, producer, command)
            }
        };
        self.records.push(Arc::clone(&made));
        made
    }

    fn producer(&mut self, number: u8) -> Option<Producer> {
        match number % 16 {
            0 => None,
            1 => {
                self.external_seq += 1;
                Some(Producer::External(ExternalSeq { id: 5, seq: RecordSeq(self.external_seq) }))
            }
            2 => Some(Producer::External(ExternalSeq {
                id: 5,
                seq: RecordSeq(self.external_seq.saturating_sub(1)),
            })),
            3 => Some(by_leader(self.epoch - 1, self.leader_seq + 1)),
            4 => {
                self.outbox += u64::from(number / 16 % 2);
                let index = RecordSeq(self.outbox);
                Some(Producer::Partition(OutboxSeq { source: Default::default(), index }))
            }
            _ => {
                self.leader_seq += 1;
                Some(by_leader(self.epoch, self.leader_seq))
            }
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm per kind of command")]
    fn command(&mut self, op: &Op, tables: &MemTables) -> Command {
        match op {
            Op::Enqueue(new) => self.enqueue(new),
            Op::Decide(chosen) => {
                let decisions = chosen.iter().map(|(n, at)| self.decide(*n, *at, tables));
                let decisions = decisions.collect();
                Command::SchedulerDecisions(SchedulerDecisions { decisions })
            }
            Op::Complete { entry: n, right, outcome } => Command::Complete(Complete {
                entry: entry(*n),
                token: token_of(*n, *right, tables),
                outcome: outcome_of(*outcome).map(Into::into),
                heeds_cancel: false,
            }),
            Op::Retry { entry: n, right, reason, run_at } => Command::Retry(RetryAttempt {
                entry: entry(*n),
                token: token_of(*n, *right, tables),
                reason: [RetryReason::Failed, RetryReason::Snoozed, RetryReason::LeaderChange]
                    [usize::from(*reason)],
                run_at: Timestamp(u64::from(*run_at / 2)),
                message: "no".into(),
                detail: Bytes::from_static(b"x"),
                heeds_cancel: false,
                interrupted: 0,
                keeps_failure: *right,
            }),
            Op::Ends(ends) => {
                let mut command = EndAttempts::default();
                for end in ends {
                    match self.command(end, tables) {
                        Command::Complete(complete) => command.completed.push(complete),
                        Command::Retry(retry) => command.retried.push(retry),
                        other => unreachable!("not an end: {other:?}"),
                    }
                }
                Command::EndAttempts(command)
            }
            Op::Select { what, chosen } => select(*what, selector(chosen)),
            Op::PauseVQueues { chosen, paused } => {
                let selector = vqueue_selector(chosen);
                if *paused {
                    Command::PauseVQueue(selector)
                } else {
                    Command::ResumeVQueue(selector)
                }
            }
            Op::Purge { entries, until, count_max } => Command::Purge(Purge {
                entries: entries.iter().map(|n| entry(*n)).collect(),
                expired_until: until.map(|n| Timestamp(if n > 200 { u64::MAX } else { n.into() })),
                count_max: *count_max,
            }),
            Op::RuleBook(version) => {
                let rule_book = match version {
                    6 => Bytes::from_static(b"\xff\xffgarbage"),
                    version => Bytes::from(book(*version).encode()),
                };
                let (key_first, key_last) = Default::default();
                Command::UpsertRuleBook(UpsertRuleBook { key_first, key_last, rule_book })
            }
            Op::Other(0) | Op::Again(_) => {
                Command::UpdateDurability(UpdateDurability { durable: Lsn(1) })
            }
            Op::Other(_) => Command::VersionBarrier(VersionBarrier { format_min: 1 }),
            Op::Announce(_) => unreachable!("made by itself"),
        }
    }

    fn enqueue(&self, new: &[New]) -> Command {
        let mut entries: Vec<_> = new.iter().map(|new| self.entry(new)).collect();
        if entries.len() == 1 {
            return Command::Enqueue(Enqueue { entry: entries.remove(0) });
        }
        Command::EnqueueBatch(EnqueueBatch { entries })
    }

    fn entry(&self, new: &New) -> NewEntry {
        NewEntry {
            vqueue: name(new.name),
            run_at: new.run_at.map(|ahead| Timestamp(self.clock / 2 + u64::from(ahead))),
            idempotency_key: new.key.map(|key| format!("key{key}").into()),
            retry: match new.retry {
                0 => None,
                1 => Some(RetryPolicy::NONE),
                2 => Some(RetryPolicy { attempts_max: 2, ..RetryPolicy::default() }),
                _ => Some(RetryPolicy { attempts_max: 0, ..RetryPolicy::default() }),
            },
            retention_ms: [None, Some(0), Some(9), Some(u64::MAX)][usize::from(new.retention)],
            ..new_entry(new.id, new.name)
        }
    }

    fn decide(&mut self, n: u8, at: Place, tables: &MemTables) -> Decision {
        self.tokens += 1;
        let token = AttemptToken { epoch: Epoch(self.epoch), seq: self.tokens };
        let nowhere = EntryKey { entry: entry(n), ..EntryKey::default() };
        let row = tables.entries.get(&entry(n));
        let (mut of, mut key) = row.map_or((vqueue(0), nowhere), |row| (row.vqueue, row.key));
        match at {
            Place::Right => {}
            Place::OtherSeq => key.seq = InboxSeq(key.seq.0 + 1),
            Place::OtherVQueue => of = vqueue(if of == vqueue(0) { 1 } else { 0 }),
            Place::OtherLock => key.has_lock = !key.has_lock,
        }
        Decision { vqueue: of, key, token, executor: None }
    }
}

fn token_of(n: u8, right: bool, tables: &MemTables) -> AttemptToken {
    let token = tables.entries.get(&entry(n)).map(|row| row.token).unwrap_or_default();
    if right { token } else { AttemptToken { seq: token.seq + 1, ..token } }
}

fn outcome_of(number: u8) -> Option<Outcome> {
    match number {
        0 => None,
        1 => Some(Outcome::Success(Bytes::from_static(b"done"))),
        2 => Some(Outcome::failure(FailureKind::Terminal, "never")),
        _ => Some(Outcome::failure(FailureKind::Canceled, "stopped")),
    }
}

fn select(what: What, selector: EntrySelector) -> Command {
    match what {
        What::Cancel => Command::Cancel(selector),
        What::Kill => Command::Kill(selector),
        What::Pause => Command::Pause(selector),
        What::Resume => Command::Resume(selector),
        What::Redrive => Command::Redrive(selector),
        What::Reschedule(run_at) => {
            Command::Reschedule(Reschedule { selector, run_at: Timestamp(run_at.into()) })
        }
    }
}

fn service(number: u8) -> Option<bytestring::ByteString> {
    [None, Some("mail".into()), Some("cart".into())][usize::from(number)].clone()
}

fn scope(number: u8) -> Option<bytestring::ByteString> {
    [None, Some("a".into()), Some("b".into())][usize::from(number)].clone()
}

fn limit_key(number: u8) -> Option<bytestring::ByteString> {
    let keys = [None, Some("x"), Some("x/y"), Some("z"), Some(""), Some("x/")];
    keys[usize::from(number)].map(Into::into)
}

fn selector(chosen: &Chosen) -> EntrySelector {
    match chosen {
        Chosen::These(entries) => super::fixture::these(entries),
        Chosen::Where { service: by, scope: under, limit_key: key, stage, until, of } => {
            EntrySelector {
                entries: of.iter().map(|n| entry(*n)).collect(),
                service: service(*by),
                scope: scope(*under),
                limit_key: limit_key(*key),
                stage: [
                    None,
                    Some(Stage::Inbox),
                    Some(Stage::Running),
                    Some(Stage::Paused),
                    None,
                    None,
                ][usize::from(*stage)]
                .map(|stage| stage as u32),
                created_until: until.map(|at| Timestamp(at.into())),
                includes_suspended: false,
            }
        }
    }
}

fn vqueue_selector(chosen: &ChosenVQueues) -> VQueueSelector {
    match chosen {
        ChosenVQueues::These(names) => VQueueSelector {
            vqueues: names.iter().map(|n| vqueue(*n)).collect(),
            ..VQueueSelector::default()
        },
        ChosenVQueues::Where { service: by, scope: under, limit_key: key, of } => VQueueSelector {
            vqueues: of.iter().map(|n| vqueue(*n)).collect(),
            service: service(*by),
            scope: scope(*under),
            limit_key: limit_key(*key),
        },
    }
}
