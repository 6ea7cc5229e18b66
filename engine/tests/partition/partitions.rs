//! Several partitions and the delivery of messages between them, for tests about journals and
//! children: replicas whose outboxes are delivered when the test says so.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use forebay_engine::partition::{
    apply::{Applied, OperationFinished, Reply},
    rows::{EntryRow, FinishedRow, JournalRow, Stage},
    store::JournalRows,
};
use forebay_messages::{
    AttemptToken, EntryId, FailureKind, Incarnation, Outcome, PartitionId, PartitionKey, RecordSeq,
    VQueueName,
    command::{
        AttemptWrites, Command, Complete, Decision, Deliver, Enqueue, JournalWrite, NewChild,
        NewEntry, Operation, OutboxMessage, SchedulerDecisions, StepResult, Suspend,
        SuspendAttempt, TruncateOutbox, WakeSleepers, WriteJournal,
    },
    journal::{JournalKey, JournalOutcome, KeyParts},
};

use super::fixture::{Replica, token};

/// The key of an operation outside of branches.
pub(crate) fn key(name: &str) -> JournalKey {
    KeyParts::named(name, 0).key().unwrap()
}

/// A service without a lock.
pub(crate) fn service(name: &str) -> VQueueName {
    VQueueName::service(name)
}

/// A step that ended with this.
pub(crate) fn step(bytes: &'static str) -> Operation {
    let outcome = Some(success(bytes));
    Operation::Step(StepResult { outcome })
}

pub(crate) fn success(bytes: &'static str) -> JournalOutcome {
    JournalOutcome::Success(Bytes::from_static(bytes.as_bytes()))
}

pub(crate) fn child(vqueue: VQueueName) -> NewChild {
    NewChild { vqueue, payload: Bytes::from_static(b"work"), ..NewChild::default() }
}

/// Replicas, their outboxes, and their effects.
#[derive(Debug)]
pub(crate) struct Partitions {
    pub(crate) replicas: Vec<Replica>,
    /// Incarnation of each outbox, as known to its leader.
    pub(crate) incarnations: Vec<u64>,
    pub(crate) now: u64,
    /// Effects since they were last taken.
    pub(crate) effects: Vec<Applied>,
    tokens: u64,
    ids: u128,
}

impl Partitions {
    pub(crate) fn new(count: usize) -> Self {
        let replicas = (0..count).map(|_| Replica::new()).collect();
        Self {
            replicas,
            incarnations: vec![0; count],
            now: 0,
            effects: Vec::new(),
            tokens: 0,
            ids: 0,
        }
    }

    fn owner(&self, key: PartitionKey) -> usize {
        usize::try_from(key.0 % self.replicas.len() as u64).unwrap()
    }

    pub(crate) fn of(&mut self, entry: EntryId) -> &mut Replica {
        let owner = self.owner(entry.partition_key);
        &mut self.replicas[owner]
    }

    /// Applies a command at the partition of an entry.
    pub(crate) fn run(&mut self, entry: EntryId, command: Command) -> Reply {
        let owner = self.owner(entry.partition_key);
        self.run_at(owner, command)
    }

    fn run_at(&mut self, owner: usize, command: Command) -> Reply {
        self.now += 1;
        let now = self.now;
        let reply = self.replicas[owner].run(now, command);
        self.effects.extend(self.replicas[owner].applied.iter().cloned());
        reply
    }

    pub(crate) fn applied(&mut self, entry: EntryId) -> &[Applied] {
        &self.of(entry).applied
    }

    /// The operations finished by the last record of an entry's partition.
    pub(crate) fn finished_operations(&mut self, entry: EntryId) -> Vec<OperationFinished> {
        let effects = self.applied(entry).iter().filter_map(|applied| match applied {
            Applied::OperationFinished { finished, .. } => Some(OperationFinished::clone(finished)),
            _ => None,
        });
        effects.collect()
    }

    pub(crate) fn enqueue(&mut self, vqueue: VQueueName) -> EntryId {
        self.ids += 1;
        let uuid = self.ids.to_be_bytes();
        let id = EntryId { partition_key: vqueue.partition_key(None, &uuid), uuid };
        let entry = NewEntry {
            id,
            vqueue,
            payload: Bytes::from_static(b"input"),
            run_at: None,
            idempotency_key: None,
            retry: None,
            retention_ms: None,
            is_fresh: false,
            payload_hash: None,
        };
        self.run(id, Command::Enqueue(Enqueue { entry }));
        id
    }

    pub(crate) fn row(&mut self, entry: EntryId) -> Option<&EntryRow> {
        self.of(entry).tables.entries.get(&entry)
    }

    pub(crate) fn stage(&mut self, entry: EntryId) -> Option<Stage> {
        let finished = self.finished(entry).map(|_| Stage::Finished);
        self.row(entry).map(|row| row.stage).or(finished)
    }

    pub(crate) fn finished(&mut self, entry: EntryId) -> Option<&FinishedRow> {
        self.of(entry).tables.finished.get(&entry)
    }

    pub(crate) fn failure(&mut self, entry: EntryId) -> Option<(FailureKind, String)> {
        match self.finished(entry)?.outcome() {
            Outcome::Success(_) => None,
            Outcome::Failure(failure) => Some((failure.kind, failure.message.to_string())),
        }
    }

    pub(crate) fn journal(&mut self, entry: EntryId) -> BTreeMap<JournalKey, JournalRow> {
        let rows = self.of(entry).tables.journal_after(entry, None, usize::MAX).unwrap();
        rows.into_iter().collect()
    }

    pub(crate) fn outcome(&mut self, entry: EntryId, name: &str) -> Option<JournalOutcome> {
        self.journal(entry).get(&key(name)).and_then(JournalRow::outcome)
    }

    pub(crate) fn child_of(&mut self, entry: EntryId, name: &str) -> EntryId {
        self.journal(entry)[&key(name)].child.unwrap()
    }

    /// Decides for an entry in its current place; it must start.
    pub(crate) fn start(&mut self, entry: EntryId) -> AttemptToken {
        self.tokens += 1;
        let token = token(1, self.tokens);
        let row = self.row(entry).unwrap();
        let decision = Decision { vqueue: row.vqueue, key: row.key, token, executor: None };
        let command = SchedulerDecisions { decisions: vec![decision] };
        let reply = self.run(entry, Command::SchedulerDecisions(command));
        assert_eq!(reply, Reply::Changed(1), "{entry} starts");
        token
    }

    /// Journal writes of an attempt; returns whether they were accepted.
    pub(crate) fn write(
        &mut self,
        entry: EntryId,
        token: AttemptToken,
        operations: impl IntoIterator<Item = (JournalKey, Operation)>,
    ) -> bool {
        let writes = operations
            .into_iter()
            .map(|(key, operation)| JournalWrite { key, operation: Some(operation) })
            .collect();
        let attempts = vec![AttemptWrites { entry, token, writes }];
        let reply = self.run(entry, Command::WriteJournal(WriteJournal { attempts }));
        reply == Reply::Changed(1)
    }

    pub(crate) fn write_one(
        &mut self,
        entry: EntryId,
        token: AttemptToken,
        name: &str,
        operation: Operation,
    ) -> bool {
        self.write(entry, token, [(key(name), operation)])
    }

    /// Suspends an attempt; returns whether it was suspended.
    pub(crate) fn suspend(&mut self, entry: EntryId, token: AttemptToken, waits: &[&str]) -> bool {
        self.suspend_with(entry, token, waits, false)
    }

    pub(crate) fn suspend_with(
        &mut self,
        entry: EntryId,
        token: AttemptToken,
        waits: &[&str],
        releases_key: bool,
    ) -> bool {
        let waits = waits.iter().map(|name| key(name)).collect();
        let attempts = vec![SuspendAttempt { entry, token, waits, releases_key }];
        let reply = self.run(entry, Command::Suspend(Suspend { attempts }));
        reply == Reply::Changed(1)
    }

    pub(crate) fn wake(&mut self, entry: EntryId, until: u64) -> Reply {
        let until = forebay_messages::Timestamp(until);
        self.run(entry, Command::WakeSleepers(WakeSleepers { until, count_max: 0 }))
    }

    pub(crate) fn end(&mut self, entry: EntryId, token: AttemptToken, outcome: Outcome) {
        let outcome = Some(outcome.into());
        let command = Complete { entry, token, outcome, heeds_cancel: true };
        assert_eq!(self.run(entry, Command::Complete(command)), Reply::Changed(1));
    }

    pub(crate) fn succeed(&mut self, entry: EntryId, token: AttemptToken, bytes: &'static str) {
        self.end(entry, token, Outcome::Success(Bytes::from_static(bytes.as_bytes())));
    }

    /// Starts an entry and ends it with success.
    pub(crate) fn serve(&mut self, entry: EntryId, bytes: &'static str) {
        let token = self.start(entry);
        self.succeed(entry, token, bytes);
    }

    /// The messages in the outbox of a partition, by target, in order.
    pub(crate) fn pending(&self, source: usize) -> BTreeMap<usize, Vec<OutboxMessage>> {
        let rows = self.replicas[source].tables.outbox_after(None, usize::MAX).unwrap();
        let mut pending: BTreeMap<usize, Vec<OutboxMessage>> = BTreeMap::new();
        for (index, bytes) in rows {
            let message: OutboxMessage = bilrost::OwnedMessage::decode(bytes).unwrap();
            assert_eq!(message.index, index, "a message says its index");
            pending.entry(self.owner(message.to)).or_default().push(message);
        }
        pending
    }

    pub(crate) fn deliver(
        &mut self,
        source: usize,
        target: usize,
        messages: Vec<OutboxMessage>,
    ) -> Reply {
        let incarnation = Incarnation(self.incarnations[source]);
        let source = PartitionId(u32::try_from(source).unwrap());
        self.run_at(target, Command::Deliver(Deliver { source, incarnation, messages }))
    }

    pub(crate) fn truncate(&mut self, source: usize, delivered: Vec<RecordSeq>) -> Reply {
        self.run_at(source, Command::TruncateOutbox(TruncateOutbox { through: 0, delivered }))
    }

    /// Delivers the messages of the outboxes, and the ones that follow, until all outboxes are
    /// empty.
    pub(crate) fn deliver_all(&mut self) {
        loop {
            let mut is_idle = true;
            for source in 0..self.replicas.len() {
                for (target, messages) in self.pending(source) {
                    is_idle = false;
                    let indexes = messages.iter().map(|message| message.index).collect();
                    self.deliver(source, target, messages);
                    self.truncate(source, indexes);
                }
            }
            if is_idle {
                return;
            }
        }
    }

    /// Restarts each replica over its rows: nothing may depend on state that is not stored.
    pub(crate) fn restart_all(&mut self) {
        for replica in &mut self.replicas {
            let tables = replica.tables.clone();
            *replica = Replica::over(tables);
        }
    }

    /// The partition to which messages of an entry's partition are sent first.
    pub(crate) fn source_of(&self, entry: EntryId) -> usize {
        self.owner(entry.partition_key)
    }

    /// A message that was applied, for inspection.
    pub(crate) fn sent(&mut self, entry: EntryId) -> Vec<Arc<OutboxMessage>> {
        let sent = self.applied(entry).iter().filter_map(|applied| match applied {
            Applied::OutboxAdded(message) => Some(Arc::clone(message)),
            _ => None,
        });
        sent.collect()
    }
}
