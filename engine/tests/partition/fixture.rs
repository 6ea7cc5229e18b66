//! A replica without a machine: rows, state, and the effects of applied records.

use std::{num::NonZeroU32, sync::Arc};

use bytes::Bytes;
use forebay_engine::{
    partition::{
        apply::{Acted, Applied, Reply, Skip, apply},
        mem::MemTables,
        rows::EntryRow,
        state::PartitionState,
    },
    rules::{MAX_RULES_PER_BOOK, RuleBook, RulePatch},
};
use forebay_messages::{
    AttemptToken, EntryId, Epoch, PartitionKey, Producer, Record, RecordSeq, Timestamp, VQueueId,
    VQueueName,
    command::{
        Command, Complete, Decision, Enqueue, EntrySelector, NewEntry, RetryAttempt, RetryReason,
        SchedulerDecisions, VQueueSelector,
    },
    record::LeaderSeq,
    rule::Limits,
};

use super::invariants::{Shadow, check};

/// Number of names that [`name`] has.
pub(crate) const NAMES: u8 = 4;

/// The `n`th entry.
pub(crate) fn entry(n: u8) -> EntryId {
    EntryId { partition_key: PartitionKey(7), uuid: [n; 16] }
}

/// The `n`th vqueue name: with a scope; with scope, limit key and lock; with only a lock; with
/// another scope and both levels.
pub(crate) fn name(n: u8) -> VQueueName {
    match n % NAMES {
        0 => VQueueName::service("mail").with_scope("a"),
        1 => {
            let name = VQueueName::service("mail").with_scope("a").with_object_key("doc");
            name.with_limit_key("x").unwrap()
        }
        2 => VQueueName::service("cart").with_object_key("k"),
        _ => VQueueName::service("cart").with_scope("b").with_limit_key("x/y").unwrap(),
    }
}

/// The id of the `n`th vqueue.
pub(crate) fn vqueue(n: u8) -> VQueueId {
    name(n).id_for(entry(0))
}

/// A new entry with only the required fields.
pub(crate) fn new_entry(n: u8, name_of: u8) -> NewEntry {
    NewEntry {
        id: entry(n),
        vqueue: name(name_of),
        payload: Bytes::from(vec![n; 3]),
        run_at: None,
        idempotency_key: None,
        retry: None,
        retention_ms: None,
        is_fresh: false,
        payload_hash: None,
    }
}

/// The book of this version: one rule more than the one before.
pub(crate) fn book(version: u8) -> RuleBook {
    let backlog = |limit| Limits { backlog: NonZeroU32::new(limit), ..Limits::default() };
    (0..version).fold(RuleBook::default(), |book, n| {
        let (pattern, limits) = match n {
            0 => ("a".to_owned(), backlog(2)),
            1 => ("*/x".to_owned(), backlog(1)),
            2 => ("*/*/y".to_owned(), backlog(2)),
            // Governs its level and limits no backlog: `*/x` does not apply below it.
            3 => ("a/x".to_owned(), Limits::concurrency(3)),
            4 => ("*".to_owned(), backlog(2)),
            n => (format!("scope{n}"), Limits::concurrency(3)),
        };
        let change = book.upsert(pattern.parse().unwrap(), RulePatch::limits(limits));
        book.apply(&[change], Timestamp(1), MAX_RULES_PER_BOOK).unwrap().book
    })
}

/// A selector of exactly these entries.
pub(crate) fn these(entries: &[u8]) -> EntrySelector {
    EntrySelector { entries: entries.iter().map(|n| entry(*n)).collect(), ..Default::default() }
}

/// A selector of exactly one vqueue.
pub(crate) fn this_vqueue(n: u8) -> VQueueSelector {
    VQueueSelector { vqueues: vec![vqueue(n)], ..Default::default() }
}

/// The reply that `count` entries were changed and none skipped.
pub(crate) fn changed(count: u64) -> Reply {
    Reply::Acted(Acted { changed: count, skipped: Vec::new() })
}

/// The reply that no entry was changed, for this reason.
pub(crate) fn skipped(n: u8, skip: Skip) -> Reply {
    Reply::Acted(Acted { changed: 0, skipped: vec![(entry(n), skip)] })
}

pub(crate) fn record(at: u64, producer: Option<Producer>, command: Command) -> Arc<Record> {
    let command = Some(command);
    Arc::new(Record { keys: None, producer, created_at: Timestamp(at), command })
}

pub(crate) fn by_leader(epoch: u64, seq: u64) -> Producer {
    Producer::Leader(LeaderSeq { epoch: Epoch(epoch), seq: RecordSeq(seq) })
}

pub(crate) fn token(epoch: u64, seq: u64) -> AttemptToken {
    AttemptToken { epoch: Epoch(epoch), seq }
}

/// Rows and state, checked after every record.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) state: PartitionState,
    pub(crate) tables: MemTables,
    /// The effects of the last record.
    pub(crate) applied: Vec<Applied>,
    pub(crate) shadow: Shadow,
    tokens: u64,
}

impl Replica {
    pub(crate) fn new() -> Self {
        Self::over(MemTables::default())
    }

    /// A replica (re)started over these rows.
    pub(crate) fn over(tables: MemTables) -> Self {
        let state = PartitionState::load(&tables).unwrap();
        let shadow = Shadow::of(&tables);
        Self { state, tables, applied: Vec::new(), shadow, tokens: 0 }
    }

    pub(crate) fn apply(&mut self, record: &Arc<Record>) -> Reply {
        self.applied.clear();
        let lsn = self.state.applied_lsn.next();
        let (state, tables) = (&mut self.state, &mut self.tables);
        let reply = apply(state, tables, lsn, record, &mut self.applied).unwrap();
        check(&self.tables);
        self.shadow.follow(&self.applied, &self.tables);
        self.shadow.check(&self.tables);
        reply
    }

    /// Applies a command without a producer.
    pub(crate) fn run(&mut self, at: u64, command: Command) -> Reply {
        self.apply(&record(at, None, command))
    }

    pub(crate) fn enqueue(&mut self, at: u64, entry: NewEntry) -> Reply {
        self.run(at, Command::Enqueue(Enqueue { entry }))
    }

    pub(crate) fn row(&self, n: u8) -> Option<&EntryRow> {
        self.tables.entries.get(&entry(n))
    }

    /// Decides for an entry; returns its token if it starts.
    pub(crate) fn start(&mut self, at: u64, n: u8) -> Option<AttemptToken> {
        self.tokens += 1;
        let row = self.row(n).unwrap();
        let token = token(1, self.tokens);
        let decision = Decision { vqueue: row.vqueue, key: row.key, token, executor: None };
        let command = SchedulerDecisions { decisions: vec![decision] };
        let reply = self.run(at, Command::SchedulerDecisions(command));
        (reply == Reply::Changed(1)).then_some(token)
    }

    pub(crate) fn retry(
        &mut self,
        at: u64,
        n: u8,
        token: AttemptToken,
        reason: RetryReason,
        run_at: u64,
    ) -> Reply {
        let command = RetryAttempt {
            entry: entry(n),
            token,
            reason,
            run_at: Timestamp(run_at),
            message: "it broke".into(),
            detail: Bytes::new(),
            heeds_cancel: false,
            interrupted: 0,
            keeps_failure: false,
        };
        self.run(at, Command::Retry(command))
    }

    pub(crate) fn succeed(&mut self, at: u64, n: u8, token: AttemptToken) -> Reply {
        self.run(
            at,
            Command::Complete(Complete {
                entry: entry(n),
                token,
                outcome: None,
                heeds_cancel: false,
            }),
        )
    }

    /// The inbox of a vqueue, in order, as entry numbers.
    pub(crate) fn queue(&self, n: u8) -> Vec<u8> {
        let (keys, _) = self.tables.inbox_after(vqueue(n), None, usize::MAX - 1);
        keys.iter().map(|key| key.entry.uuid[0]).collect()
    }
}
