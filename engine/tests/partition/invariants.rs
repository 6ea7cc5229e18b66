//! The invariants of a partition's rows after every record, and of the reported effects.

use std::collections::{BTreeMap, BTreeSet};

use forebay_engine::partition::{
    apply::Applied,
    mem::MemTables,
    rows::{IdempotencyKey, JournalState, Stage, VQueueMeta},
};
use forebay_messages::{
    AttemptToken, EntryId, EntryKey, Timestamp, VQueueId, VQueueName, journal::JournalKind,
};

/// Checks all rows against each other.
pub(crate) fn check(tables: &MemTables) {
    check_stages(tables);
    check_counts(tables);
    check_locks(tables);
    check_ends(tables);
    check_idempotency(tables);
    check_journals(tables);
}

/// An entry has exactly one stage row, the one of its stage.
fn check_stages(tables: &MemTables) {
    let (mut inbox, mut running, mut parked) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
    let mut places = BTreeSet::new();
    for (id, row) in &tables.entries {
        assert_eq!(row.key.entry, *id, "a place names its entry");
        assert!(places.insert(row.key.seq), "two entries have one place");
        match row.stage {
            Stage::Inbox => assert!(inbox.insert((row.vqueue, row.key))),
            Stage::Running => assert!(running.insert((row.vqueue, *id), row.token).is_none()),
            Stage::Suspended | Stage::Paused => assert!(parked.insert((row.vqueue, *id))),
            Stage::Finished => panic!("{id} is finished but has an entry row"),
        }
    }
    assert_eq!(tables.inbox, inbox, "inbox rows are those of waiting entries");
    assert_eq!(tables.parked, parked, "parked rows are those of suspended and paused entries");
    let rows: BTreeMap<_, _> = tables.running.iter().map(|(key, row)| (*key, row.token)).collect();
    assert_eq!(rows, running, "running rows are those of running entries");
}

fn check_counts(tables: &MemTables) {
    let mut counted: BTreeMap<VQueueId, VQueueMeta> = BTreeMap::new();
    for row in tables.entries.values() {
        *counted.entry(row.vqueue).or_default().count_mut(row.stage) += 1;
    }
    for row in tables.finished.values() {
        *counted.entry(row.vqueue).or_default().count_mut(Stage::Finished) += 1;
    }
    for (id, meta) in &tables.vqueues {
        assert!(!meta.is_empty(), "{id} is empty but has a row");
        assert_eq!(meta.name.id(id.partition_key), *id, "a vqueue has the id of its name");
        let mut counted = counted.remove(id).unwrap_or_default();
        counted.name.clone_from(&meta.name);
        counted.is_paused = meta.is_paused;
        counted.created_at = meta.created_at;
        assert_eq!(*meta, counted, "counts of {id}");
    }
    assert!(counted.is_empty(), "entries of unknown vqueues: {counted:?}");
}

fn name_of(tables: &MemTables, vqueue: VQueueId) -> &VQueueName {
    &tables.vqueues[&vqueue].name
}

/// A lock is held only by the entry that runs or kept it.
fn check_locks(tables: &MemTables) {
    let mut expected = BTreeMap::new();
    for (id, row) in &tables.entries {
        let has_lock = name_of(tables, row.vqueue).has_lock();
        assert!(has_lock || !row.key.has_lock, "{id} holds a lock that does not exist");
        if has_lock && (row.stage == Stage::Running || row.key.has_lock) {
            let other = expected.insert(row.vqueue, *id);
            assert_eq!(other, None, "two entries hold one lock");
        }
    }
    assert_eq!(tables.locks, expected, "locks are held by entries that run or kept them");
}

/// An ended entry keeps only its result, and its payload if it failed.
fn check_ends(tables: &MemTables) {
    let mut payloads: BTreeSet<EntryId> = tables.entries.keys().copied().collect();
    let mut timers = BTreeSet::new();
    for (id, row) in &tables.finished {
        assert!(!tables.entries.contains_key(id), "{id} ended but has an entry row");
        if !row.outcome().is_success() {
            payloads.insert(*id);
        }
        if row.expires_at < Timestamp::MAX {
            timers.insert((row.expires_at, *id));
        }
    }
    for (child, row) in &tables.tombstones {
        assert!(!tables.entries.contains_key(child), "{child} was stopped before it came");
        timers.insert((row.expires_at, *child));
    }
    assert!(tables.payloads.keys().eq(payloads.iter()), "payloads are those still needed");
    assert_eq!(tables.timers, timers, "each expiring row has its timer");
}

/// Rows of journals belong to entries that count them. Each unfinished operation is waited for in
/// one place, and a suspended entry waits for an unfinished operation.
fn check_journals(tables: &MemTables) {
    let journal = |extra: &Option<Box<forebay_engine::partition::rows::EntryExtra>>| {
        extra.as_deref().and_then(|extra| extra.journal.as_deref().cloned())
    };
    let live = tables.entries.iter().map(|(id, row)| (*id, journal(&row.extra)));
    let ended = tables.finished.iter().map(|(id, row)| (*id, journal(&row.extra)));
    let states: BTreeMap<EntryId, JournalState> =
        live.chain(ended).filter_map(|(id, state)| state.map(|state| (id, state))).collect();
    let (mut rows, mut promises) = (BTreeMap::new(), BTreeMap::new());
    let (mut sleeps, mut waits) = (BTreeSet::new(), BTreeMap::new());
    for ((id, key), row) in &tables.journal {
        *rows.entry(*id).or_insert(0) += 1;
        assert_eq!(row.is_finished(), row.outcome().is_some());
        match row.kind {
            _ if row.is_finished() => {}
            JournalKind::Sleep => assert!(sleeps.insert((row.until, *id, key.clone()))),
            JournalKind::Promise => {
                waits.entry((*id, key.name())).or_insert_with(BTreeSet::new).insert(key.clone());
            }
            JournalKind::Call => assert!(row.child.is_some(), "{id}: {key} waits for no child"),
            JournalKind::Step | JournalKind::Send => panic!("{id}: {key} is unfinished"),
        }
    }
    for ((id, name), row) in &tables.promises {
        *promises.entry(*id).or_insert(0) += 1;
        let waiting: BTreeSet<_> = row.waiting.iter().cloned().collect();
        assert_eq!(waiting.len(), row.waiting.len(), "each waits once");
        assert_eq!(waits.remove(&(*id, name.clone())).unwrap_or_default(), waiting);
        assert!(!row.is_settled || waiting.is_empty(), "no entry waits for a settled promise");
    }
    assert!(waits.is_empty(), "unknown promises: {waits:?}");
    assert_eq!(tables.sleeps, sleeps, "sleeps are the unfinished ones");
    for (id, state) in &states {
        assert_eq!(state.rows, rows.remove(id).unwrap_or(0), "rows of {id}");
        assert_eq!(state.promises, promises.remove(id).unwrap_or(0), "promises of {id}");
        let stage = tables.entries.get(id).map(|row| row.stage);
        match stage {
            Some(Stage::Suspended) => assert!(!state.waits.is_empty(), "{id} waits for nothing"),
            Some(Stage::Paused) => {}
            _ => assert!(state.waits.is_empty(), "{id} waits in {stage:?}"),
        }
        for key in &state.waits {
            let row = &tables.journal[&(*id, key.clone())];
            assert!(!row.is_finished(), "{id} sleeps through {key}");
        }
    }
    assert!(rows.is_empty() && promises.is_empty(), "rows of entries without a journal");
}

/// An idempotency key refers to the entry that carries it.
fn check_idempotency(tables: &MemTables) {
    let mut expected = BTreeMap::new();
    let live = tables.entries.iter().map(|(id, row)| (id, row.vqueue, &row.idempotency_key));
    let ended = tables.finished.iter().map(|(id, row)| (id, row.vqueue, &row.idempotency_key));
    for (id, vqueue, key) in live.chain(ended) {
        let Some(key) = key else { continue };
        let name = name_of(tables, vqueue);
        let domain = VQueueName {
            service: name.service.clone(),
            scope: name.scope.clone(),
            ..VQueueName::default()
        };
        let domain = domain.id(Default::default()).hash;
        let other = expected.insert(IdempotencyKey { domain, key: key.clone() }, *id);
        assert_eq!(other, None, "two entries share an idempotency key");
    }
    let rows: BTreeMap<_, _> =
        tables.idempotency.iter().map(|(key, row)| (key.clone(), row.entry)).collect();
    assert_eq!(rows, expected, "idempotency keys refer to existing entries");
}

/// The state as derived from the reported effects only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shadow {
    inbox: BTreeSet<(VQueueId, EntryKey)>,
    running: BTreeMap<(VQueueId, EntryId), AttemptToken>,
    locks: BTreeMap<VQueueId, EntryId>,
}

impl Shadow {
    pub(crate) fn of(tables: &MemTables) -> Self {
        Self {
            inbox: tables.inbox.clone(),
            running: tables.running.iter().map(|(key, row)| (*key, row.token)).collect(),
            locks: tables.locks.clone(),
        }
    }

    pub(crate) fn follow(&mut self, applied: &[Applied], tables: &MemTables) {
        for applied in applied {
            match applied {
                Applied::InboxAdded { vqueue, key } => {
                    assert!(self.inbox.insert((*vqueue, *key)), "{key:?} was reported twice");
                }
                Applied::InboxRemoved { vqueue, key } => {
                    assert!(self.inbox.remove(&(*vqueue, *key)), "{key:?} was never reported");
                }
                Applied::Started { entry, vqueue, token, .. } => {
                    let before = self.running.insert((*vqueue, *entry), *token);
                    assert_eq!(before, None, "{entry} starts while it runs");
                    if name_of(tables, *vqueue).has_lock() {
                        let holder = self.locks.insert(*vqueue, *entry);
                        assert!(holder.is_none_or(|holder| holder == *entry), "a lock is stolen");
                    }
                }
                Applied::AttemptOver { entry, vqueue, token, keeps_lock, .. } => {
                    let before = self.running.remove(&(*vqueue, *entry));
                    assert_eq!(before, Some(*token), "the ended attempt was running");
                    if !keeps_lock {
                        self.locks.remove(vqueue);
                    }
                }
                Applied::LockFreed { vqueue, entry } => {
                    assert_eq!(self.locks.remove(vqueue), Some(*entry), "it held the lock");
                    let runs = self.running.contains_key(&(*vqueue, *entry));
                    assert!(!runs, "its permit returns the lock");
                }
                Applied::DecisionVoid { vqueue, key, still_there, lock_holder, .. } => {
                    let is_there = self.inbox.contains(&(*vqueue, *key));
                    assert_eq!(*still_there, is_there, "whether the row exists");
                    assert_eq!(
                        *lock_holder,
                        self.locks.get(vqueue).copied(),
                        "the holder of the lock"
                    );
                }
                _ => {}
            }
        }
    }

    pub(crate) fn check(&self, tables: &MemTables) {
        assert_eq!(*self, Self::of(tables), "the effects match the rows");
    }
}
