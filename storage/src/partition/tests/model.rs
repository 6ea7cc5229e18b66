//! Every command applied to the store has the same result as in memory, however the records are
//! split into batches, flushed and replayed.

use std::collections::BTreeMap;

use forebay_engine::partition::{
    apply::{Applied, Reply},
    rows::DedupKey,
    store::JournalRows,
};
use forebay_messages::{
    AttemptToken, Epoch, Outcome, RecordSeq,
    actor::{RefillId, RefillRequest},
    command::{
        AttemptWrites, Complete, Decision, Deliver, EntrySelector, JournalWrite, NewChild,
        Operation, OutboxMessage, Purge, Reschedule, Restart, RetryAttempt, RetryReason,
        SchedulerDecisions, SettlePromise, StepResult, Suspend, SuspendAttempt, TruncateOutbox,
        UpdateDurability, VQueueSelector, WakeSleepers, WriteJournal,
    },
    journal::{JournalKey, JournalOutcome, KeyParts},
    record::{ExternalSeq, Producer},
};
use proptest::prelude::*;

use super::*;

/// A step; numbers choose among the existing items.
#[derive(Clone, Debug)]
enum Step {
    Enqueue {
        id: u64,
        vqueue: u8,
        idempotency: u8,
    },
    Decide {
        nth: usize,
    },
    End {
        nth: usize,
        how: u8,
    },
    Select {
        id: u64,
        what: u8,
    },
    Forget {
        hours: u64,
    },
    /// A running attempt writes to its journal, or is suspended.
    Journal {
        nth: usize,
        operation: u8,
        kind: u8,
    },
    /// An external answer to entries with journals.
    Answer {
        id: u64,
        what: u8,
    },
    /// Delivers this many messages of the outbox to the same partition.
    Deliver {
        count: usize,
    },
    Commit,
    /// Applies all missing records, and drops the batch.
    Abandon,
    /// Commits, and reads every inbox as a refill does.
    Look {
        limit: usize,
    },
    /// Writes everything to RocksDB.
    SpillAll,
    Flush,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..24u64, 0..6u8, 0..8u8)
            .prop_map(|(id, vqueue, idempotency)| Step::Enqueue { id, vqueue, idempotency }),
        8 => (0..9usize).prop_map(|nth| Step::Decide { nth }),
        8 => (0..9usize, 0..4u8).prop_map(|(nth, how)| Step::End { nth, how }),
        4 => (0..24u64, 0..9u8).prop_map(|(id, what)| Step::Select { id, what }),
        1 => (0..40u64).prop_map(|hours| Step::Forget { hours }),
        8 => (0..9usize, 0..4u8, 0..6u8)
            .prop_map(|(nth, operation, kind)| Step::Journal { nth, operation, kind }),
        3 => (0..24u64, 0..4u8).prop_map(|(id, what)| Step::Answer { id, what }),
        3 => (1..4usize).prop_map(|count| Step::Deliver { count }),
        6 => Just(Step::Commit),
        3 => Just(Step::Abandon),
        4 => (1..6usize).prop_map(|limit| Step::Look { limit }),
        2 => Just(Step::SpillAll),
        2 => Just(Step::Flush),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..120)
}

fn name(n: u8) -> VQueueName {
    match n {
        0 | 1 => VQueueName::service("s"),
        2 => VQueueName::service("s").with_object_key("a"),
        3 => VQueueName::service("s").with_object_key("b"),
        n => VQueueName::service("t").with_scope(&format!("tenant-{n}")),
    }
}

/// Ends an attempt: failure with retry, final failure or success.
fn end(entry: EntryId, token: AttemptToken, how: u8, seq: u64) -> Command {
    let outcome = match how {
        0 => {
            return Command::Retry(RetryAttempt {
                entry,
                token,
                reason: RetryReason::Failed,
                run_at: Timestamp(seq),
                message: "boom".into(),
                detail: Bytes::new(),
                heeds_cancel: false,
                interrupted: if seq.is_multiple_of(4) { 3 } else { 0 },
                keeps_failure: seq.is_multiple_of(3),
            });
        }
        1 => Outcome::failure(forebay_messages::FailureKind::Terminal, "no"),
        _ => Outcome::Success(Bytes::from_static(b"ok")),
    };
    let heeds_cancel = seq.is_multiple_of(2);
    Command::Complete(Complete { entry, token, outcome: Some(outcome.into()), heeds_cancel })
}

fn operation(n: u8) -> JournalKey {
    KeyParts::named(&format!("o{n}"), 0).key().unwrap()
}

fn journal(entry: EntryId, token: AttemptToken, n: u8, kind: u8, seq: u64) -> Command {
    let child = NewChild {
        vqueue: name(n + 2),
        payload: Bytes::from_static(b"child"),
        ..NewChild::default()
    };
    let what = match kind {
        0 => Operation::Step(StepResult { outcome: None }),
        1 => Operation::Call(child),
        2 => Operation::Send(child),
        3 => Operation::Sleep(Timestamp(seq * 900_000)),
        4 => Operation::Promise(()),
        _ => {
            let waits = vec![operation(n)];
            let suspended = SuspendAttempt { entry, token, waits, releases_key: n == 0 };
            return Command::Suspend(Suspend { attempts: vec![suspended] });
        }
    };
    let writes = vec![JournalWrite { key: operation(n), operation: Some(what) }];
    Command::WriteJournal(WriteJournal { attempts: vec![AttemptWrites { entry, token, writes }] })
}

fn answer(entry: EntryId, what: u8, seq: u64) -> Command {
    let one = EntrySelector { entries: vec![entry], ..Default::default() };
    match what {
        0 => Command::WakeSleepers(WakeSleepers { until: Timestamp(seq * 800_000), count_max: 2 }),
        1 => Command::Restart(Restart { selector: one, from: Some(operation(1)) }),
        2 => Command::Restart(Restart { selector: one, from: None }),
        _ => {
            let outcome = Some(JournalOutcome::Success(Bytes::from_static(b"yes")));
            let name = format!("o{}", seq % 4).into();
            Command::SettlePromise(SettlePromise { entry, name, outcome })
        }
    }
}

/// Also messages that were delivered before, and in between the deletion of some.
fn deliver(model: &MemTables, count: usize) -> Option<Command> {
    let rows = model.outbox.values().take(count);
    let decode = |bytes: &Bytes| bilrost::OwnedMessage::decode(bytes.clone()).unwrap();
    let messages: Vec<OutboxMessage> = rows.map(decode).collect();
    let first = messages.first()?.index;
    let marked = model.dedup.get(&DedupKey::Partition(0)).is_some_and(|mark| mark.seq >= first.0);
    if marked {
        let delivered = messages.iter().map(|message| message.index).collect();
        return Some(Command::TruncateOutbox(TruncateOutbox { through: 0, delivered }));
    }
    let (source, incarnation) = Default::default();
    Some(Command::Deliver(Deliver { source, incarnation, messages }))
}

fn command(step: &Step, seq: u64, model: &MemTables) -> Option<Command> {
    let token = AttemptToken { epoch: Epoch(1), seq };
    Some(match *step {
        Step::Enqueue { id, vqueue, idempotency } => {
            let mut entry = new_entry(entry_id(id), name(vqueue));
            entry.idempotency_key = (idempotency < 3).then(|| format!("k{idempotency}").into());
            entry.retention_ms = [None, Some(0), Some(u64::MAX)][id as usize % 3];
            Command::Enqueue(Enqueue { entry })
        }
        Step::Decide { nth } => {
            let &(vqueue, key) = model.inbox.iter().nth(nth)?;
            let decisions = vec![Decision { vqueue, key, token, executor: None }];
            Command::SchedulerDecisions(SchedulerDecisions { decisions })
        }
        Step::End { nth, how } => {
            let (&(_, entry), running) = model.running.iter().nth(nth)?;
            end(entry, running.token, how, seq)
        }
        Step::Select { id, what } => {
            let one = EntrySelector { entries: vec![entry_id(id)], ..Default::default() };
            let entries = (0..24).map(entry_id).collect();
            let all = EntrySelector { entries, service: Some("s".into()), ..Default::default() };
            let vqueues = || VQueueSelector {
                vqueues: model.vqueues.keys().copied().collect(),
                ..VQueueSelector::default()
            };
            match what {
                0 => Command::Cancel(one),
                1 => Command::Kill(one),
                2 => Command::Pause(one),
                3 => Command::Pause(all),
                4 => Command::Resume(all),
                5 => Command::Redrive(all),
                6 => Command::PauseVQueue(vqueues()),
                7 => Command::ResumeVQueue(vqueues()),
                _ => Command::Reschedule(Reschedule { selector: one, run_at: Timestamp(seq) }),
            }
        }
        Step::Forget { hours: 0 } => {
            Command::UpdateDurability(UpdateDurability { durable: Lsn(seq) })
        }
        Step::Forget { hours } => Command::Purge(Purge {
            entries: Vec::new(),
            expired_until: Some(Timestamp(hours * 3_600_000)),
            count_max: 3,
        }),
        Step::Journal { nth, operation, kind } => {
            let (&(_, entry), running) = model.running.iter().nth(nth)?;
            journal(entry, running.token, operation, kind, seq)
        }
        Step::Answer { id, what } => answer(entry_id(id), what, seq),
        Step::Deliver { count } => deliver(model, count)?,
        Step::Commit
        | Step::Abandon
        | Step::Look { .. }
        | Step::SpillAll
        | Step::Flush
        | Step::Reopen => return None,
    })
}

type Outcomes = BTreeMap<Lsn, (Reply, Vec<Applied>)>;

/// One replica in memory, the reference.
struct Model {
    state: PartitionState,
    tables: MemTables,
    log: Vec<Arc<Record>>,
    outcomes: Outcomes,
}

impl Model {
    fn new() -> Self {
        let tables = MemTables::default();
        let state = PartitionState::load(&tables).unwrap();
        Self { state, tables, log: Vec::new(), outcomes: Outcomes::new() }
    }

    fn apply(&mut self, command: Command) {
        let seq = self.log.len() as u64;
        let mut made = Record::clone(&record(seq * 700_000, command));
        if seq.is_multiple_of(3) {
            let seq = RecordSeq(seq / 2 + 1);
            made.producer = Some(Producer::External(ExternalSeq { id: seq.0 % 2, seq }));
        }
        let made = Arc::new(made);
        let lsn = self.state.applied_lsn.next();
        let mut applied = Vec::new();
        let reply = apply(&mut self.state, &mut self.tables, lsn, &made, &mut applied).unwrap();
        self.outcomes.insert(lsn, (reply, applied));
        self.log.push(made);
    }
}

/// Applies all missing records in one batch, and compares the results.
fn commit(store: &PartitionStore, state: &mut PartitionState, model: &Model) {
    let mut txn = store.begin().unwrap();
    while state.applied_lsn < model.state.applied_lsn {
        let lsn = state.applied_lsn.next();
        let mut applied = Vec::new();
        let record = &model.log[lsn.0 as usize - 1];
        let reply = apply(state, &mut txn, lsn, record, &mut applied).unwrap();
        assert_eq!(&(reply, applied), &model.outcomes[&lsn], "LSN {lsn}: {record:?}");
    }
    txn.commit(state.applied_lsn).unwrap();
}

/// The same, and drops the batch. The state in memory is unusable after that.
fn abandon(store: &PartitionStore, model: &Model) {
    let mut state = PartitionState::load(store).unwrap();
    let mut txn = store.begin().unwrap();
    while state.applied_lsn < model.state.applied_lsn {
        let lsn = state.applied_lsn.next();
        let record = &model.log[lsn.0 as usize - 1];
        apply(&mut state, &mut txn, lsn, record, &mut Vec::new()).unwrap();
    }
}

/// Compares every inbox, page by page, and the rows by key with those in memory.
fn compare(store: &PartitionStore, model: &Model, limit: usize) {
    for vqueue in (0..6)
        .map(|n| name(n).id_for(entry_id(0)))
        .chain(model.tables.inbox.iter().map(|(vqueue, _)| *vqueue))
    {
        let mut expected = model.tables.inbox.iter().filter(|(of, _)| *of == vqueue).peekable();
        let mut after = None;
        loop {
            let request =
                RefillRequest { id: RefillId(1), vqueue, after, limit, cancel: Default::default() };
            let found = store.refill(&request).unwrap().unwrap();
            let page: Vec<_> = expected.by_ref().take(limit).map(|(_, key)| *key).collect();
            assert_eq!(found.rows, page, "{vqueue} after {after:?}");
            assert_eq!(found.reached_end, expected.peek().is_none());
            after = found.rows.last().copied();
            if found.reached_end {
                break;
            }
        }
        assert_eq!(store.vqueue(vqueue).unwrap(), model.tables.vqueues.get(&vqueue).cloned());
    }
    for n in 0..24 {
        let id = entry_id(n);
        assert_eq!(store.entry(id).unwrap(), model.tables.entries.get(&id).cloned());
        assert_eq!(store.payload(id).unwrap(), model.tables.payloads.get(&id).cloned());
        assert_eq!(store.finished(id).unwrap(), model.tables.finished.get(&id).cloned());
        let expected = model.tables.journal_after(id, None, limit).unwrap();
        assert_eq!(store.journal_after(id, None, limit).unwrap(), expected);
        let expected = model.tables.promises_of(id, limit).unwrap();
        assert_eq!(store.promises_of(id, limit).unwrap(), expected);
    }
    let until = Timestamp(model.log.len() as u64 * 800_000);
    let expected = model.tables.sleeps_until(until, limit).unwrap();
    assert_eq!(store.sleeps_until(until, limit).unwrap(), expected);
    let expected = model.tables.outbox_after(None, limit).unwrap();
    assert_eq!(store.outbox_after(None, limit).unwrap(), expected);
}

fn without_applied(mut tables: MemTables) -> MemTables {
    // The overlay writes it once per commit, the state machine on every record.
    tables.fsm.remove(&FsmSlot::AppliedLsn);
    tables
}

fn run(steps: &[Step]) {
    let medium = Medium::memory().unwrap();
    let open = || Store::open(Path::new("/store"), &medium).unwrap().partition(P).unwrap();
    let mut model = Model::new();
    let mut store = open();
    let mut state = PartitionState::load(&store.begin().unwrap()).unwrap();
    for step in steps {
        let seq = model.log.len() as u64 + 1;
        match step {
            Step::Commit => commit(&store, &mut state, &model),
            Step::Abandon => abandon(&store, &model),
            Step::Look { limit } => {
                commit(&store, &mut state, &model);
                compare(&store, &model, *limit);
            }
            Step::SpillAll => store.spill_all().unwrap(),
            Step::Flush => {
                assert_eq!(store.flush().unwrap(), store.applied_lsn().unwrap());
            }
            Step::Reopen => {
                drop(store);
                store = open();
                // Records that were not committed or flushed are applied again.
                state = PartitionState::load(&store.begin().unwrap()).unwrap();
            }
            step => {
                if let Some(command) = command(step, seq, &model.tables) {
                    model.apply(command);
                }
            }
        }
    }
    commit(&store, &mut state, &model);
    assert_eq!(without_applied(dump(&store)), without_applied(model.tables.clone()));
    store.compact();
    assert_eq!(without_applied(dump(&store)), without_applied(model.tables.clone()));

    if model.log.is_empty() {
        return;
    }
    // A replica that applied the same records one by one has the same bytes.
    let other = in_memory();
    catch_up(&other, &model.log, 1);
    assert_eq!(other.digest().unwrap(), store.digest().unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn the_store_equals_the_tables_in_memory(steps in steps()) {
        run(&steps);
    }
}
