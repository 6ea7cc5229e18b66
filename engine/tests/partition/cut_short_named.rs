//! Attempts that were canceled or interrupted: by a cancel during the last attempt, by the death of
//! their process, by a clean shutdown.

use bytes::Bytes;
use forebay_engine::partition::{
    apply::{Enqueued, Reply, begin},
    machine::{PartitionEffect as Effect, PartitionInput as Input},
    rows::{FAILURE_TEXT_BYTES_MAX, FAILURES_KEPT_MAX, FailedAttempt},
};
use forebay_messages::{
    AttemptToken, Epoch, FailureKind, InboxSeq, Outcome, Timestamp,
    actor::AttemptEnd,
    command::{
        Command, Complete, Decision, NewEntry, RetryAttempt, RetryPolicy, RetryReason, payload_hash,
    },
};

use super::{
    fixture::{Replica, entry, new_entry, these, token, vqueue},
    rig::{Effects, Rig, runs},
};

/// The name of a vqueue with a lock.
const LOCKED: u8 = 2;
/// The name of a vqueue without a lock.
const FREE: u8 = 0;

fn failed(token: AttemptToken, heeds_cancel: bool) -> RetryAttempt {
    RetryAttempt {
        entry: entry(1),
        token,
        reason: RetryReason::Failed,
        run_at: Timestamp(5),
        message: "it broke".into(),
        detail: Bytes::new(),
        heeds_cancel,
        interrupted: 0,
        keeps_failure: false,
    }
}

/// The record written by this version.
fn failed_and_kept(token: AttemptToken, text: &str) -> Command {
    let message = text.into();
    Command::Retry(RetryAttempt { keeps_failure: true, message, ..failed(token, true) })
}

fn kept(replica: &Replica) -> Vec<(u32, u64, u64, String)> {
    let failures = match replica.tables.finished.get(&entry(1)) {
        Some(row) => row.failures(),
        None => replica.tables.entries[&entry(1)].failures(),
    };
    let of = |failure: &FailedAttempt| {
        let FailedAttempt { number, started_at, ended_at, text } = failure;
        (*number, started_at.0, ended_at.0, text.to_string())
    };
    failures.iter().map(of).collect()
}

#[test]
fn the_last_failed_attempts_are_kept_until_the_entry_is_purged() {
    let mut replica = Replica::new();
    let retry = Some(RetryPolicy { attempts_max: 11, ..RetryPolicy::default() });
    replica.enqueue(1, NewEntry { retry, ..new_entry(1, FREE) });
    for attempt in 1..=11u64 {
        let token = replica.start(10 * attempt, 1).unwrap();
        replica.run(10 * attempt + 3, failed_and_kept(token, &format!("no {attempt}")));
    }
    // The last failure is the outcome.
    assert_eq!(outcome(&replica), (FailureKind::Exhausted, "no 11".to_owned()));
    let one = |n: u64| (u32::try_from(n).unwrap(), 10 * n, 10 * n + 3, format!("no {n}"));
    assert_eq!(kept(&replica), (3..=10).map(one).collect::<Vec<_>>());
    replica.run(200, Command::Redrive(these(&[1])));
    assert_eq!(kept(&replica).len(), FAILURES_KEPT_MAX, "a redriven entry keeps them");
    let token = replica.start(210, 1).unwrap();
    replica.run(213, failed_and_kept(token, &"\u{e9}".repeat(4_000)));
    let (number, _, _, text) = kept(&replica).pop().unwrap();
    assert_eq!((number, text), (1, "\u{e9}".repeat(FAILURE_TEXT_BYTES_MAX / 2)));
    let token = replica.start(220, 1).unwrap();
    replica.succeed(221, 1, token);
    assert_eq!(kept(&replica).len(), FAILURES_KEPT_MAX, "so does one that finally succeeds");
}

/// A record of an earlier version has the effect of that version.
#[test]
fn a_failure_without_the_tag_is_not_kept() {
    let mut replica = Replica::new();
    replica.enqueue(1, new_entry(1, FREE));
    for (at, tag) in [(2, false), (4, true)] {
        let token = replica.start(at, 1).unwrap();
        let command = RetryAttempt { keeps_failure: tag, ..failed(token, true) };
        replica.run(at + 1, Command::Retry(command));
        let row = &replica.tables.entries[&entry(1)];
        assert_eq!(row.extra.is_some(), tag);
    }
    // A snooze is not a failure.
    let token = replica.start(6, 1).unwrap();
    let reason = RetryReason::Snoozed;
    let command = RetryAttempt { reason, keeps_failure: true, ..failed(token, true) };
    replica.run(7, Command::Retry(command));
    assert_eq!(kept(&replica).len(), 1);
}

fn given_back(token: AttemptToken, interrupted: u32) -> Command {
    let reason = RetryReason::LeaderChange;
    Command::Retry(RetryAttempt { reason, interrupted, ..failed(token, false) })
}

fn outcome(replica: &Replica) -> (FailureKind, String) {
    match replica.tables.finished.get(&entry(1)).map(|row| row.outcome()) {
        Some(Outcome::Failure(failure)) => (failure.kind, failure.message.to_string()),
        other => panic!("it did not fail: {other:?}"),
    }
}

/// An entry in its last attempt that was asked to stop.
fn canceled_in_its_last_attempt() -> (Replica, AttemptToken) {
    let mut replica = Replica::new();
    replica.enqueue(1, NewEntry { retry: Some(RetryPolicy::NONE), ..new_entry(1, LOCKED) });
    let token = replica.start(2, 1).unwrap();
    replica.run(3, Command::Cancel(these(&[1])));
    (replica, token)
}

/// Regression: it ended as a dead letter, which a redrive of dead letters then ran again.
#[test]
fn a_cancel_during_the_last_attempt_ends_the_entry_as_canceled() {
    let (mut replica, token) = canceled_in_its_last_attempt();
    replica.run(4, Command::Retry(failed(token, true)));
    assert_eq!(outcome(&replica).0, FailureKind::Canceled);
    // A record of an earlier version has its old effect.
    let (mut replica, token) = canceled_in_its_last_attempt();
    replica.run(4, Command::Retry(failed(token, false)));
    assert_eq!(outcome(&replica).0, FailureKind::Exhausted);
}

#[test]
fn a_final_failure_after_a_cancel_ends_the_entry_as_canceled() {
    for (heeds_cancel, kind) in [(true, FailureKind::Canceled), (false, FailureKind::Terminal)] {
        let (mut replica, token) = canceled_in_its_last_attempt();
        let outcome_said = Some(Outcome::failure(FailureKind::Terminal, "no").into());
        let end = Complete { entry: entry(1), token, outcome: outcome_said, heeds_cancel };
        replica.run(4, Command::Complete(end));
        assert_eq!(outcome(&replica), (kind, "no".to_owned()));
    }
}

#[test]
fn without_a_cancel_the_last_failure_makes_a_dead_letter() {
    let mut replica = Replica::new();
    replica.enqueue(1, NewEntry { retry: Some(RetryPolicy::NONE), ..new_entry(1, FREE) });
    let token = replica.start(2, 1).unwrap();
    replica.run(4, Command::Retry(failed(token, true)));
    assert_eq!(outcome(&replica), (FailureKind::Exhausted, "it broke".to_owned()));
}

#[test]
fn too_many_process_deaths_make_a_dead_letter_and_free_the_lock() {
    let mut replica = Replica::new();
    replica.enqueue(1, new_entry(1, LOCKED));
    for interrupted in 1..=2 {
        let token = replica.start(2, 1).unwrap();
        replica.run(3, given_back(token, 3));
        // Neither a change of leaders nor a failure counts as an interruption, or resets the count.
        let token = replica.start(2, 1).unwrap();
        replica.run(3, given_back(token, 0));
        let row = replica.row(1).unwrap();
        assert_eq!((row.interrupted, row.attempts), (interrupted, 0));
    }
    let token = replica.start(4, 1).unwrap();
    replica.run(5, given_back(token, 3));
    let (kind, message) = outcome(&replica);
    assert_eq!(kind, FailureKind::Exhausted);
    assert!(message.contains("the process died 3 times"), "{message}");
    assert!(replica.tables.locks.is_empty());
    // After a redrive the count starts over.
    replica.run(6, Command::Redrive(these(&[1])));
    assert_eq!(replica.row(1).unwrap().interrupted, 0);
}

#[test]
fn a_canceled_and_interrupted_entry_ends_as_canceled() {
    let (mut replica, token) = canceled_in_its_last_attempt();
    replica.run(4, given_back(token, 1));
    assert_eq!(outcome(&replica).0, FailureKind::Canceled);
}

#[test]
fn an_interrupted_entry_starts_only_after_its_decision_is_applied() {
    let mut replica = Replica::new();
    replica.enqueue(1, new_entry(1, FREE));
    let key = replica.row(1).unwrap().key;
    let at = |key| Decision { vqueue: vqueue(FREE), key, token: token(1, 9), executor: None };
    assert!(begin(&replica.tables, &at(key), Timestamp::default()).unwrap().is_some());
    let started = replica.start(2, 1).unwrap();
    replica.run(3, given_back(started, 5));
    let key = replica.row(1).unwrap().key;
    assert!(begin(&replica.tables, &at(key), Timestamp::default()).unwrap().is_none());
}

fn begun(effects: &Effects) -> usize {
    let begun = effects.iter().filter_map(|effect| match effect {
        Effect::Begin(decisions) => Some(decisions.len()),
        _ => None,
    });
    begun.sum()
}

/// Regression: a job that ended its process at once left no running row, and was never counted.
#[test]
fn entries_older_than_the_leadership_start_when_their_decision_is_applied() {
    let mut rig = Rig::new();
    rig.last_seq = InboxSeq(1);
    rig.announce(1);
    rig.seed();
    rig.open();
    let first = rig.enqueue_cold(1, FREE);
    assert_eq!(rig.key(1).seq, InboxSeq(1));
    assert_eq!(begun(&rig.decide(first, 1, 10)), 0);
    assert_eq!(runs(&rig.commit()).len(), 1, "it still starts");
    let second = rig.enqueue_cold(2, 1);
    assert_eq!(begun(&rig.decide(second, 2, 11)), 1, "later ones do not wait");
}

fn interruptions(rig: &Rig) -> Vec<u32> {
    let of = |command: &Command| match command {
        Command::Retry(retry) => vec![retry.interrupted],
        Command::EndAttempts(ends) => ends.retried.iter().map(|end| end.interrupted).collect(),
        _ => Vec::new(),
    };
    rig.appended.iter().flat_map(|record| of(record.command.as_ref().unwrap())).collect()
}

#[test]
fn only_attempts_whose_process_died_return_as_interrupted() {
    let mut rig = Rig::leading();
    let (_, lost) = rig.start(1, FREE, 10);
    rig.start(2, 1, 11);
    rig.tell(Input::StopLeading);
    rig.interrupted = vec![(lost, 4)];
    rig.announce(2);
    rig.seed();
    rig.drain();
    let mut found = interruptions(&rig);
    found.sort_unstable();
    assert_eq!(found, [0, 4]);
}

#[test]
fn a_clean_stop_returns_running_entries() {
    let mut rig = Rig::leading();
    let (_, ends) = rig.start(1, FREE, 10);
    rig.start(2, 1, 11);
    rig.tell(Input::HandBack);
    assert!(rig.appended.is_empty(), "the gate is open");
    rig.tell(Input::CloseGate);
    let ended = AttemptEnd::Success(Default::default());
    rig.tell(Input::Ended { entry: entry(1), token: ends, ended });
    rig.tell(Input::HandBack);
    assert_eq!(interruptions(&rig), [0], "an ended entry is not returned");
    rig.tell(Input::Flush);
    rig.commit();
    assert!(!rig.running(1) && !rig.running(2));
    assert_eq!(rig.replica.row(2).unwrap().interrupted, 0);
    assert!(rig.replica.row(1).is_none(), "its end counts");
    assert_eq!(rig.epoch, Epoch(1));
}

#[test]
fn another_payload_under_an_idempotency_key_is_reported() {
    let keyed = |n, payload: &'static str, is_hashed: bool| NewEntry {
        payload: Bytes::from_static(payload.as_bytes()),
        idempotency_key: Some("k".into()),
        payload_hash: is_hashed.then(|| payload_hash(payload.as_bytes())),
        ..new_entry(n, FREE)
    };
    let enqueued = |payload_differs| {
        Reply::Enqueued(Enqueued { entry: entry(1), existing: true, payload_differs })
    };
    let mut replica = Replica::new();
    replica.enqueue(1, keyed(1, "one", true));
    assert_eq!(replica.enqueue(2, keyed(2, "one", true)), enqueued(Some(false)));
    assert_eq!(replica.enqueue(2, keyed(3, "other", true)), enqueued(Some(true)));
    assert_eq!(replica.enqueue(2, keyed(4, "other", false)), enqueued(None));
    let mut old = Replica::new();
    old.enqueue(1, keyed(1, "one", false));
    assert_eq!(old.enqueue(2, keyed(2, "other", true)), enqueued(None));
}
