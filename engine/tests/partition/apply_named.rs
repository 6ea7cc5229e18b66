//! Applying records: past bugs and corner cases, case by case.

use std::sync::Arc;

use bytes::Bytes;
use forebay_engine::partition::{
    apply::{
        Acted, Applied, ApplyError, ENTRIES_PER_COMMAND_MAX, Enqueued, FORMAT_VERSION, Reply, Skip,
        Stale, apply, started,
    },
    machine::backoff,
    mem::MemTables,
    rows::{FsmSlot, Stage},
    state::PartitionState,
    store::put_fsm_number,
};
use forebay_messages::{
    AttemptToken, FailureKind, Lsn, Outcome, Record, Timestamp,
    command::{
        Command, EnqueueBatch, EntrySelector, NewEntry, Purge, Reschedule, RetryPolicy,
        RetryReason, UpsertRuleBook, VQueueSelector, VersionBarrier,
    },
};

use super::fixture::{
    Replica, book, by_leader, changed, entry, name, new_entry, record, skipped, these, this_vqueue,
    vqueue,
};

/// The name of a vqueue with a lock.
const LOCKED: u8 = 2;
/// The name of a vqueue without a lock.
const FREE: u8 = 0;

/// The reply to pausing (or resuming) the vqueue [`FREE`].
fn paused(changed: u64, skip: Option<Skip>) -> Reply {
    let skipped = skip.map(|skip| (vqueue(FREE), skip)).into_iter().collect();
    Reply::VQueuesActed(Acted { changed, skipped })
}

fn failure_of(replica: &Replica, n: u8) -> Option<FailureKind> {
    match replica.tables.finished.get(&entry(n))?.outcome() {
        Outcome::Success(_) => None,
        Outcome::Failure(failure) => Some(failure.kind),
    }
}

fn twice() -> RetryPolicy {
    RetryPolicy { attempts_max: 2, ..RetryPolicy::default() }
}

// --- Selections.

#[test]
fn an_entry_named_twice_in_one_command_is_changed_once() {
    // Regression: the entry was ended twice from one reading of its row, and the count of its
    // vqueue went below zero, which stopped the partition: any client could cause that.
    let mut replica = Replica::new();
    replica.enqueue(1, new_entry(1, FREE));
    replica.enqueue(1, new_entry(2, FREE));
    assert_eq!(replica.run(2, Command::Cancel(these(&[1, 1, 1]))), changed(1));
    assert_eq!(replica.run(2, Command::Redrive(these(&[1, 1]))), changed(1));
    assert_eq!(replica.run(2, Command::Pause(these(&[1, 2, 1]))), changed(2));
    assert_eq!(replica.run(2, Command::Kill(these(&[2, 1, 2]))), changed(2));
    let entries = vec![entry(1), entry(1)];
    let purge = Command::Purge(Purge { entries, ..Purge::default() });
    assert_eq!(replica.run(2, purge), changed(1));
}

#[test]
fn a_command_that_names_no_entry_changes_nothing() {
    // Regression: a selector without names used to mean every entry, with no bound on the batch.
    let mut replica = Replica::new();
    for n in 0..4 {
        replica.enqueue(1, new_entry(n, n));
    }
    for filter in
        [EntrySelector::default(), EntrySelector { service: Some("mail".into()), ..these(&[]) }]
    {
        assert_eq!(replica.run(2, Command::Kill(filter.clone())), changed(0));
        assert_eq!(replica.run(2, Command::Redrive(filter)), changed(0));
    }
    assert_eq!(replica.run(2, Command::PauseVQueue(VQueueSelector::default())), paused(0, None));
    assert_eq!(replica.tables.entries.len(), 4);
}

#[test]
fn an_entry_that_no_longer_matches_is_unchanged() {
    let mut replica = Replica::new();
    for n in 0..4 {
        replica.enqueue(1, new_entry(n, n));
    }
    replica.start(2, 0).unwrap();
    let waiting = EntrySelector { stage: Some(Stage::Inbox as u32), ..these(&[0, 1, 9]) };
    let left = vec![(entry(0), Skip::NoMatch), (entry(9), Skip::Unknown)];
    let expected = Reply::Acted(Acted { changed: 1, skipped: left });
    assert_eq!(replica.run(3, Command::Kill(waiting)), expected);
    let below = EntrySelector { limit_key: Some("x".into()), ..these(&[0, 2, 3]) };
    let left = vec![(entry(0), Skip::NoMatch), (entry(2), Skip::NoMatch)];
    let expected = Reply::Acted(Acted { changed: 1, skipped: left });
    assert_eq!(replica.run(3, Command::Cancel(below)), expected, "3 has the limit key x/y");
    let old = EntrySelector { created_until: Some(Timestamp(0)), ..these(&[2]) };
    assert_eq!(replica.run(3, Command::Cancel(old)), skipped(2, Skip::NoMatch));
}

#[test]
fn one_command_changes_a_bounded_number_of_entries() {
    let mut replica = Replica::new();
    let many = u16::try_from(ENTRIES_PER_COMMAND_MAX + 3).unwrap();
    let wide = |n: u16| {
        let mut id = entry(0);
        id.uuid[..2].copy_from_slice(&n.to_be_bytes());
        id
    };
    let entries = (0..many).map(|n| NewEntry { id: wide(n), ..new_entry(0, FREE) }).collect();
    replica.run(1, Command::EnqueueBatch(EnqueueBatch { entries }));
    let all = EntrySelector { entries: (0..many).map(wide).collect(), ..EntrySelector::default() };
    let Reply::Acted(acted) = replica.run(2, Command::Kill(all)) else { panic!("not acted") };
    assert_eq!(acted.changed, ENTRIES_PER_COMMAND_MAX as u64);
    let left: Vec<_> = (many - 3..many).map(|n| (wide(n), Skip::OverLimit)).collect();
    assert_eq!(acted.skipped, left);
    assert_eq!(replica.tables.entries.len(), 3);
}

// --- Enqueue.

#[test]
fn a_clock_that_steps_back_does_not_reorder_a_queue() {
    let mut replica = Replica::new();
    replica.enqueue(100, new_entry(1, FREE));
    replica.enqueue(50, new_entry(2, FREE));
    replica.enqueue(60, new_entry(3, FREE));
    let sooner = NewEntry { run_at: Some(Timestamp(99)), ..new_entry(4, FREE) };
    replica.enqueue(60, sooner);
    assert_eq!(replica.queue(FREE), [4, 1, 2, 3]);
}

#[test]
fn the_same_id_or_key_adds_nothing_even_within_one_batch() {
    let mut replica = Replica::new();
    let keyed = |n| NewEntry { idempotency_key: Some("k".into()), ..new_entry(n, FREE) };
    let entries = vec![new_entry(1, FREE), new_entry(1, FREE), keyed(2), keyed(3)];
    let stored = |n, existing| Enqueued {
        entry: entry(n),
        existing,
        payload_differs: (!existing).then_some(false),
    };
    assert_eq!(
        replica.run(1, Command::EnqueueBatch(EnqueueBatch { entries })),
        Reply::EnqueuedBatch(vec![
            stored(1, false),
            stored(1, true),
            stored(2, false),
            stored(2, true)
        ])
    );
    let other_scope = NewEntry { idempotency_key: Some("k".into()), ..new_entry(4, 3) };
    assert_eq!(replica.enqueue(1, other_scope), Reply::Enqueued(stored(4, false)));
    // The key belongs to the first entry while that entry's result is kept.
    replica.run(2, Command::Kill(these(&[2])));
    assert_eq!(replica.enqueue(3, keyed(3)), Reply::Enqueued(stored(2, true)));
    replica.run(4, Command::Purge(Purge { entries: vec![entry(2)], ..Purge::default() }));
    assert_eq!(replica.enqueue(5, keyed(3)), Reply::Enqueued(stored(3, false)));
}

// --- Retention.

#[test]
fn a_retention_of_zero_keeps_nothing() {
    let mut replica = Replica::new();
    let new = NewEntry {
        retention_ms: Some(0),
        idempotency_key: Some("k".into()),
        ..new_entry(1, LOCKED)
    };
    for fails in [false, true] {
        replica.enqueue(1, new.clone());
        let token = replica.start(1, 1).unwrap();
        if fails {
            replica.run(2, Command::Kill(these(&[1])));
        } else {
            replica.succeed(2, 1, token);
        }
        let has_ended = |applied: &Applied| matches!(applied, Applied::Finished { .. });
        assert!(replica.applied.iter().any(has_ended), "waiters are answered");
        let empty = MemTables { fsm: replica.tables.fsm.clone(), ..MemTables::default() };
        assert_eq!(replica.tables, empty);
    }
}

#[test]
fn expired_results_are_purged_in_bounded_steps() {
    let mut replica = Replica::new();
    for (n, retention) in [(1, Some(10)), (2, Some(20)), (3, None), (4, Some(u64::MAX))] {
        replica.enqueue(1, NewEntry { retention_ms: retention, ..new_entry(n, FREE) });
        replica.run(5, Command::Kill(these(&[n])));
    }
    let purge = |until, count_max| {
        let expired_until = Some(Timestamp(until));
        Command::Purge(Purge { entries: Vec::new(), expired_until, count_max })
    };
    assert_eq!(replica.run(6, purge(14, 0)), changed(0));
    assert_eq!(replica.run(6, purge(u64::MAX - 1, 1)), changed(1));
    assert!(!replica.tables.finished.contains_key(&entry(1)), "the oldest first");
    assert_eq!(replica.run(6, purge(25, 0)), changed(1));
    assert_eq!(replica.run(6, purge(u64::MAX, 0)), changed(1));
    assert_eq!(replica.tables.finished.len(), 1, "one is kept until it is purged by name");
}

// --- Attempts and retries.

#[test]
fn failed_attempts_are_counted_and_the_last_one_makes_a_dead_letter() {
    let mut replica = Replica::new();
    replica.enqueue(1, NewEntry { retry: Some(twice()), ..new_entry(1, FREE) });
    let first = replica.start(2, 1).unwrap();
    assert_eq!(replica.retry(3, 1, first, RetryReason::Failed, 500), Reply::Changed(1));
    assert_eq!(replica.row(1).unwrap().key.run_at, Timestamp(500));
    // Neither a snooze nor a change of leader counts as an attempt.
    let token = replica.start(500, 1).unwrap();
    replica.retry(501, 1, token, RetryReason::Snoozed, 900);
    let token = replica.start(900, 1).unwrap();
    replica.retry(901, 1, token, RetryReason::LeaderChange, 0);
    assert_eq!(replica.row(1).unwrap().key.run_at, Timestamp(900), "its time is unchanged");
    let last = replica.start(902, 1).unwrap();
    let begun = replica.applied.iter().find_map(|applied| match applied {
        Applied::Started { attempt, .. } => Some(*attempt),
        _ => None,
    });
    assert_eq!(begun, Some(2));
    let run = started(&replica.tables, entry(1), last).unwrap().unwrap();
    assert_eq!((run.attempt, &*run.last_failure), (2, "it broke"));
    assert_eq!(started(&replica.tables, entry(1), token).unwrap(), None, "another token");
    replica.retry(903, 1, last, RetryReason::Failed, 5_000);
    assert_eq!(failure_of(&replica, 1), Some(FailureKind::Exhausted));
    assert_eq!(replica.tables.finished[&entry(1)].attempts, 2);
    assert_eq!(replica.retry(904, 1, last, RetryReason::Failed, 0), Reply::Stale(Stale::Finished));
}

#[test]
fn a_superseded_attempt_changes_nothing() {
    let mut replica = Replica::new();
    replica.enqueue(1, new_entry(1, FREE));
    let old = replica.start(1, 1).unwrap();
    replica.retry(2, 1, old, RetryReason::LeaderChange, 0);
    assert_eq!(replica.succeed(3, 1, old), Reply::Stale(Stale::Superseded));
    let new = replica.start(3, 1).unwrap();
    assert_eq!(replica.succeed(4, 1, old), Reply::Stale(Stale::Superseded));
    assert_eq!(replica.succeed(4, 1, new), Reply::Changed(1));
    assert_eq!(replica.succeed(4, 1, new), Reply::Stale(Stale::Finished));
    let unknown = AttemptToken::default();
    assert_eq!(replica.succeed(4, 9, unknown), Reply::Stale(Stale::Unknown));
}

#[test]
fn a_canceled_entry_is_not_retried() {
    let mut replica = Replica::new();
    replica.enqueue(1, new_entry(1, LOCKED));
    let token = replica.start(1, 1).unwrap();
    assert_eq!(replica.run(2, Command::Cancel(these(&[1]))), changed(1));
    assert_eq!(replica.run(2, Command::Cancel(these(&[1]))), skipped(1, Skip::AlreadyCanceled));
    replica.retry(3, 1, token, RetryReason::Failed, 9);
    assert_eq!(failure_of(&replica, 1), Some(FailureKind::Canceled));
    assert!(replica.tables.locks.is_empty());
}

#[test]
fn the_backoff_grows_to_its_maximum() {
    let policy = RetryPolicy {
        attempts_max: 0,
        backoff_first_ms: 100,
        backoff_max_ms: 1_000,
        growth_percent: 200,
        jitter_percent: 50,
    };
    let wait = |attempt, random| backoff(&policy, attempt, random).as_millis();
    let waits: Vec<_> = (1..=6).map(|attempt| wait(attempt, 0)).collect();
    assert_eq!(waits, [100, 200, 400, 800, 1_000, 1_000]);
    assert_eq!(wait(u32::MAX, 0), 1_000, "however often it failed");
    assert_eq!(wait(2, u32::MAX), 100, "jitter removes up to a half");
    assert_eq!(backoff(&RetryPolicy::NONE, 1, 7).as_millis(), 0);
    let constant = RetryPolicy { growth_percent: 0, jitter_percent: 200, ..policy };
    assert_eq!(backoff(&constant, 9, 0).as_millis(), 100, "less than 100 % does not shrink");
    assert_eq!(backoff(&constant, 9, u32::MAX).as_millis(), 0);
}

// --- Locks.

#[test]
fn the_order_of_a_key_survives_retries() {
    let mut replica = Replica::new();
    for n in 1..=3 {
        replica.enqueue(1, new_entry(n, LOCKED));
    }
    let token = replica.start(1, 1).unwrap();
    assert_eq!(replica.start(1, 2), None, "one at a time");
    assert_eq!(replica.row(2).unwrap().stage, Stage::Inbox);
    replica.retry(2, 1, token, RetryReason::Failed, 60_000);
    assert_eq!(replica.queue(LOCKED), [1, 2, 3], "it waits at the front");
    assert_eq!(replica.start(2, 2), None, "and holds the lock");
    let token = replica.start(60_000, 1).unwrap();
    replica.succeed(60_001, 1, token);
    assert!(replica.start(60_002, 2).is_some());
}

#[test]
fn a_paused_entry_keeps_its_lock_until_it_ends() {
    let mut replica = Replica::new();
    replica.enqueue(1, new_entry(1, LOCKED));
    replica.enqueue(1, new_entry(2, LOCKED));
    let token = replica.start(1, 1).unwrap();
    replica.retry(2, 1, token, RetryReason::Snoozed, 5);
    replica.run(3, Command::Pause(these(&[1])));
    assert_eq!(replica.start(4, 2), None);
    let holder = replica.applied.iter().find_map(|applied| match applied {
        Applied::DecisionVoid { lock_holder, still_there, .. } => {
            Some((*lock_holder, *still_there))
        }
        _ => None,
    });
    assert_eq!(holder, Some((Some(entry(1)), true)));
    replica.run(5, Command::Resume(these(&[1])));
    assert_eq!(replica.queue(LOCKED), [1, 2], "its place is kept too");
    replica.run(5, Command::Pause(these(&[1])));
    replica.run(6, Command::Kill(these(&[1])));
    let freed = Applied::LockFreed { vqueue: vqueue(LOCKED), entry: entry(1) };
    assert!(replica.applied.contains(&freed));
    assert!(replica.start(7, 2).is_some());
}

// --- Other places.

#[test]
fn reschedule_keeps_the_order_of_the_command() {
    let mut replica = Replica::new();
    for n in 1..=4 {
        replica.enqueue(10, new_entry(n, FREE));
    }
    let to = |entries: &[u8], at| {
        Command::Reschedule(Reschedule { selector: these(entries), run_at: Timestamp(at) })
    };
    replica.run(11, to(&[1], 50));
    assert_eq!(replica.queue(FREE), [2, 3, 4, 1]);
    replica.run(11, to(&[4, 3], 5));
    assert_eq!(replica.queue(FREE), [4, 3, 2, 1], "equal times: in the order of the command");
    replica.run(12, Command::Pause(these(&[1])));
    replica.run(12, to(&[1], 1));
    assert_eq!(replica.queue(FREE), [4, 3, 2], "a paused entry stays paused");
    replica.run(13, Command::Resume(these(&[1])));
    assert_eq!(replica.queue(FREE), [1, 4, 3, 2]);
    replica.start(14, 2);
    assert_eq!(replica.run(15, to(&[2], 1)), skipped(2, Skip::Running));
}

#[test]
fn redrive_retries_a_dead_letter_from_attempt_one() {
    let mut replica = Replica::new();
    let new = NewEntry {
        retry: Some(RetryPolicy::NONE),
        idempotency_key: Some("k".into()),
        ..new_entry(1, LOCKED)
    };
    replica.enqueue(1, new.clone());
    let old = replica.start(1, 1).unwrap();
    replica.retry(2, 1, old, RetryReason::Failed, 0);
    replica.enqueue(3, new_entry(2, LOCKED));
    assert_eq!(replica.run(4, Command::Redrive(these(&[1]))), changed(1));
    assert_eq!(replica.queue(LOCKED), [2, 1], "behind the entries waiting by now");
    let row = replica.row(1).unwrap();
    assert_eq!((row.attempts, row.retry), (0, Some(RetryPolicy::NONE)));
    assert_eq!(replica.succeed(5, 1, old), Reply::Stale(Stale::Superseded));
    let stored = Enqueued { entry: entry(1), existing: true, payload_differs: None };
    assert_eq!(replica.enqueue(5, NewEntry { id: entry(9), ..new }), Reply::Enqueued(stored));
    let token = replica.start(6, 1).unwrap();
    replica.succeed(7, 1, token);
    assert_eq!(replica.run(8, Command::Redrive(these(&[1]))), skipped(1, Skip::Succeeded));
}

#[test]
fn a_paused_vqueue_starts_nothing_and_is_kept_when_empty() {
    let mut replica = Replica::new();
    assert_eq!(
        replica.run(1, Command::PauseVQueue(this_vqueue(FREE))),
        paused(0, Some(Skip::Unknown))
    );
    replica.enqueue(1, NewEntry { retention_ms: Some(0), ..new_entry(1, FREE) });
    assert_eq!(replica.run(1, Command::PauseVQueue(this_vqueue(FREE))), paused(1, None));
    assert_eq!(replica.start(2, 1), None);
    replica.run(3, Command::Kill(these(&[1])));
    replica.enqueue(4, new_entry(2, FREE));
    assert_eq!(replica.start(5, 2), None, "still paused");
    assert_eq!(replica.run(6, Command::ResumeVQueue(this_vqueue(FREE))), paused(1, None));
    let again = Some(Skip::NotPaused);
    assert_eq!(replica.run(6, Command::ResumeVQueue(this_vqueue(FREE))), paused(0, again));
    assert!(replica.start(7, 2).is_some());
}

// --- Records of older leaders.

#[test]
fn records_of_an_older_leader_are_dropped_after_an_announcement() {
    let mut replica = Replica::new();
    let kill = |seq, epoch| record(1, Some(by_leader(epoch, seq)), Command::Kill(these(&[1])));
    replica.enqueue(1, new_entry(1, FREE));
    let announce = |epoch| {
        let (node, key_first, key_last) = Default::default();
        let epoch = forebay_messages::Epoch(epoch);
        Command::AnnounceLeader(forebay_messages::command::AnnounceLeader {
            node,
            epoch,
            key_first,
            key_last,
        })
    };
    replica.apply(&record(1, Some(by_leader(5, 1)), announce(5)));
    assert_eq!(replica.apply(&kill(9, 4)), Reply::Fenced);
    assert_eq!(replica.apply(&record(1, None, announce(5))), Reply::Stale(Stale::Older));
    assert_eq!(replica.apply(&kill(1, 5)), Reply::Duplicate);
    assert_eq!(replica.apply(&kill(2, 5)), changed(1));
}

#[test]
fn a_damaged_or_older_rule_book_is_ignored() {
    let mut replica = Replica::new();
    let upsert = |bytes: Vec<u8>| {
        let (key_first, key_last) = Default::default();
        Command::UpsertRuleBook(UpsertRuleBook { key_first, key_last, rule_book: bytes.into() })
    };
    assert_eq!(replica.run(1, upsert(book(2).encode())), Reply::Changed(2));
    assert!(matches!(replica.run(1, upsert(vec![0xff; 9])), Reply::RuleBookRefused(_)));
    assert_eq!(replica.run(1, upsert(book(2).encode())), Reply::Stale(Stale::Older));
    assert_eq!(replica.run(1, upsert(book(1).encode())), Reply::Stale(Stale::Older));
    assert_eq!(**Replica::over(replica.tables).state.rule_book(), book(2));
}

// --- A partition that must stop.

fn error_of(command: Option<Command>) -> ApplyError {
    let (mut tables, mut applied) = (MemTables::default(), Vec::new());
    let mut state = PartitionState::load(&tables).unwrap();
    let record = Arc::new(Record { keys: None, producer: None, created_at: Timestamp(1), command });
    apply(&mut state, &mut tables, Lsn(1), &record, &mut applied).unwrap_err()
}

#[test]
fn an_older_binary_stops_at_an_unknown_command() {
    let format_min = u32::try_from(FORMAT_VERSION).unwrap() + 1;
    let barrier = Command::VersionBarrier(VersionBarrier { format_min });
    assert!(matches!(error_of(Some(barrier)), ApplyError::TooNew { needed }
        if needed == FORMAT_VERSION + 1));
    assert!(matches!(error_of(None), ApplyError::UnknownCommand));
    let mut tables = MemTables::default();
    put_fsm_number(&mut tables, FsmSlot::MinVersion, FORMAT_VERSION + 1);
    assert!(matches!(PartitionState::load(&tables), Err(ApplyError::TooNew { .. })));
    tables.fsm.insert(FsmSlot::MinVersion, Bytes::from_static(b"short"));
    assert!(matches!(PartitionState::load(&tables), Err(ApplyError::Tables(_))));
}

#[test]
#[should_panic(expected = "one after the other")]
fn records_are_never_skipped() {
    let (mut tables, mut applied) = (MemTables::default(), Vec::new());
    let mut state = PartitionState::load(&tables).unwrap();
    let record = record(1, None, Command::Kill(these(&[1])));
    let _ = apply(&mut state, &mut tables, Lsn(2), &record, &mut applied);
}

#[test]
fn the_digest_distinguishes_rows() {
    let mut replica = Replica::new();
    let mut digests = vec![replica.tables.digest()];
    replica.enqueue(1, new_entry(1, LOCKED));
    digests.push(replica.tables.digest());
    let token = replica.start(2, 1).unwrap();
    digests.push(replica.tables.digest());
    replica.succeed(3, 1, token);
    digests.push(replica.tables.digest());
    let count = digests.len();
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), count);
    assert_eq!(name(LOCKED), *replica.tables.vqueues[&vqueue(LOCKED)].name);
}

#[test]
fn a_full_backlog_refuses_only_new_entries() {
    let mut replica = Replica::new();
    let enqueue = |replica: &mut Replica, n| replica.enqueue(1, new_entry(n, 0));
    let stored = |n| {
        Reply::Enqueued(Enqueued { entry: entry(n), existing: false, payload_differs: Some(false) })
    };
    assert_eq!(enqueue(&mut replica, 1), stored(1), "before there is any rule");
    let (key_first, key_last) = Default::default();
    let rule_book = book(5).encode().into();
    let upsert = UpsertRuleBook { key_first, key_last, rule_book };
    replica.run(1, Command::UpsertRuleBook(upsert));
    // `a` = 2, and one entry has waited since before the rule.
    assert_eq!(enqueue(&mut replica, 2), stored(2));
    let full = |reply: Reply| match reply {
        Reply::BacklogFull(full) => (full.key, full.pattern.to_string(), full.waiting, full.limit),
        other => panic!("{other:?}"),
    };
    let a = || ("a".to_owned(), "a".to_owned(), 2, 2);
    assert_eq!(full(enqueue(&mut replica, 3)), a());
    let existing =
        Reply::Enqueued(Enqueued { entry: entry(2), existing: true, payload_differs: None });
    assert_eq!(enqueue(&mut replica, 2), existing, "an existing entry is not refused");
    assert_eq!(replica.enqueue(1, new_entry(4, 2)), stored(4), "without a scope: no limit");
    assert_eq!(replica.enqueue(1, new_entry(5, 3)), stored(5), "another scope");

    // One starts: there is room for one, and a batch of two is refused as a whole.
    let token = replica.start(2, 1).unwrap();
    let batch = |ns: &[u8]| {
        let entries = ns.iter().map(|n| new_entry(*n, 0)).collect();
        Command::EnqueueBatch(EnqueueBatch { entries })
    };
    let before = replica.tables.entries.len();
    assert_eq!(full(replica.run(3, batch(&[6, 7]))), a());
    assert_eq!(replica.tables.entries.len(), before, "all or nothing");
    let reply = replica.run(3, batch(&[6, 6, 2]));
    let Reply::EnqueuedBatch(stored) = reply else { panic!("{reply:?}") };
    let existing: Vec<_> = stored.iter().map(|stored| stored.existing).collect();
    assert_eq!(existing, [false, true, true], "only new entries need room");

    // A retry always has room, and counts.
    let reply = replica.retry(4, 1, token, RetryReason::Failed, 100);
    assert!(matches!(reply, Reply::Changed(1)), "{reply:?}");
    let over = ("a".to_owned(), "a".to_owned(), 3, 2);
    assert_eq!(full(enqueue(&mut replica, 8)), over);
    // A restarted replica refuses the same.
    let mut second = Replica::over(replica.tables.clone());
    assert_eq!(full(enqueue(&mut second, 8)), over);
}
