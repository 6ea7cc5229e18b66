//! The leader's machine and the journals of its attempts, case by case.

use bytes::Bytes;
use forebay_engine::partition::{
    machine::{AttemptNews, PartitionEffect, PartitionInput},
    rows::Stage,
};
use forebay_messages::{
    AttemptToken, Run, Timestamp,
    actor::AttemptEnd,
    command::{AfterRun, Command, JournalWrite, MessageBody, Operation, SuspendAttempt},
    journal::JournalKind,
};

use super::{
    fixture::{entry, name},
    partitions::{child, key, step},
    rig::{Effects, Rig, aborts, releases, runs},
};

/// The name of a vqueue without a lock, and of two with one.
const FREE: u8 = 0;
const LOCKED: u8 = 2;

fn journal(n: u8, token: AttemptToken, operation: (&str, Operation)) -> PartitionInput {
    let (name, operation) = operation;
    let writes = vec![JournalWrite { key: key(name), operation: Some(operation) }];
    PartitionInput::Journal { entry: entry(n), token, run: Run(0), writes }
}

fn suspend(n: u8, token: AttemptToken, waits: &str) -> PartitionInput {
    let waits = vec![key(waits)];
    PartitionInput::Suspend(SuspendAttempt { entry: entry(n), token, waits, releases_key: false })
}

fn ended(n: u8, token: AttemptToken, ended: AttemptEnd) -> PartitionInput {
    PartitionInput::Ended { entry: entry(n), token, ended }
}

/// News for attempts, in order.
fn news(effects: &Effects) -> Vec<(AttemptToken, AttemptNews)> {
    let news = effects.iter().filter_map(|effect| match effect {
        PartitionEffect::TellAttempt { token, news, .. } => Some((*token, news.clone())),
        _ => None,
    });
    news.collect()
}

fn finished(effects: &Effects) -> Vec<(AttemptToken, String)> {
    let of = |(token, news)| match news {
        AttemptNews::Finished(finished) => (token, finished.key.to_string()),
        other => panic!("{other:?}"),
    };
    news(effects).into_iter().map(of).collect()
}

fn appended(rig: &Rig) -> Vec<Command> {
    rig.appended.iter().map(|record| record.command.clone().unwrap()).collect()
}

/// Hands in an input, and commits what it proposes.
fn hand_in(rig: &mut Rig, input: PartitionInput) -> Effects {
    rig.end(input);
    rig.commit()
}

#[test]
fn steps_that_end_together_share_a_record_before_the_end_of_their_attempt() {
    let mut rig = Rig::leading();
    let (_, first) = rig.start(1, FREE, 1);
    let (_, second) = rig.start(2, LOCKED, 2);
    rig.tell(journal(1, first, ("a", step("1"))));
    rig.tell(journal(2, second, ("b", step("2"))));
    rig.tell(journal(2, second, ("c", step("3"))));
    rig.end(ended(1, first, AttemptEnd::Success(Bytes::new())));
    let commands = appended(&rig);
    let [Command::WriteJournal(writes), Command::Complete(_)] = &commands[..] else {
        panic!("{commands:?}");
    };
    let count = writes.attempts.iter().map(|attempt| attempt.writes.len()).collect::<Vec<_>>();
    assert_eq!(count, [1, 2]);
    let effects = rig.commit();
    let expected = [(second, "b".to_owned()), (second, "c".to_owned())];
    assert_eq!(finished(&effects), expected, "the other one's handler is gone");
}

#[test]
fn an_attempt_of_another_epoch_writes_nothing() {
    let mut rig = Rig::leading();
    let (_, token) = rig.start(1, FREE, 1);
    let old = AttemptToken { epoch: forebay_messages::Epoch(0), ..token };
    rig.end(journal(1, old, ("a", step("1"))));
    rig.end(journal(1, AttemptToken { seq: 99, ..token }, ("a", step("1"))));
    rig.end(suspend(1, old, "a"));
    assert!(appended(&rig).is_empty());
    assert_eq!(rig.partition.stale().attempt, 3);
}

#[test]
fn a_suspended_attempt_gives_its_permit_back_when_its_handler_is_gone() {
    let mut rig = Rig::leading();
    let (_, token) = rig.start(1, LOCKED, 1);
    hand_in(&mut rig, journal(1, token, ("nap", Operation::Sleep(Timestamp(9_000)))));
    rig.end(suspend(1, token, "nap"));
    assert!(rig.running(1), "the future stays until this is applied");
    let effects = rig.commit();
    assert!(aborts(&effects, token));
    assert!(releases(&effects).is_empty(), "its handler may still run");
    assert_eq!(rig.replica.row(1).unwrap().stage, Stage::Suspended);
    let released = releases(&rig.stopped(token));
    assert_eq!(released.len(), 1);
    assert_eq!(released[0].keep_lock, Some(entry(1)), "the order of its key is kept");
}

#[test]
fn a_suspension_that_comes_too_late_is_void_and_the_attempt_continues() {
    let mut rig = Rig::leading();
    let (_, token) = rig.start(1, FREE, 1);
    hand_in(&mut rig, journal(1, token, ("done", step("1"))));
    let effects = hand_in(&mut rig, suspend(1, token, "done"));
    assert_eq!(news(&effects), [(token, AttemptNews::SuspendVoid)]);
    assert!(!aborts(&effects, token));
    let other = Operation::Promise(());
    let effects = hand_in(&mut rig, journal(1, token, ("done", other)));
    let refused = AttemptNews::WriteRefused { key: key("done"), found: JournalKind::Step };
    assert_eq!(news(&effects), [(token, refused)]);
}

/// Time for which the timer was last set.
fn timer(effects: &Effects) -> Option<u64> {
    effects.iter().rev().find_map(|effect| match effect {
        PartitionEffect::WakeAt(at) => Some(at.0),
        _ => None,
    })
}

#[test]
fn a_sleep_ends_by_a_record_when_its_time_has_come() {
    let mut rig = Rig::leading();
    let (_, first) = rig.start(1, FREE, 1);
    let (_, second) = rig.start(2, LOCKED, 2);
    let effects = hand_in(&mut rig, journal(1, first, ("nap", Operation::Sleep(Timestamp(9_000)))));
    assert_eq!(timer(&effects), Some(9_000));
    let effects =
        hand_in(&mut rig, journal(2, second, ("nap", Operation::Sleep(Timestamp(5_000)))));
    assert_eq!(timer(&effects), Some(5_000), "the first one counts");
    rig.now = 4_999;
    rig.tell(PartitionInput::Tick);
    assert!(appended(&rig).is_empty());
    rig.now = 5_000;
    rig.tell(PartitionInput::Tick);
    rig.tell(PartitionInput::Tick);
    let commands = appended(&rig);
    assert!(matches!(commands[..], [Command::WakeSleepers(_)]), "once: {commands:?}");
    let effects = rig.commit();
    assert_eq!(finished(&effects), [(second, "nap".to_owned())]);
    assert_eq!(timer(&effects), Some(9_000), "and then the next one");
}

/// Regression: the timer fired again and again until the partition led, and kept its thread busy.
#[test]
fn a_sleep_that_is_due_sets_no_timer_while_the_partition_does_not_lead() {
    let mut rig = Rig::leading();
    let (_, token) = rig.start(1, FREE, 1);
    hand_in(&mut rig, journal(1, token, ("nap", Operation::Sleep(Timestamp(5_000)))));
    rig.tell(PartitionInput::CloseGate);
    rig.now = 5_000;
    assert_eq!(timer(&rig.tell(PartitionInput::Tick)), None);

    let mut rig = Rig::leading();
    let (_, token) = rig.start(1, FREE, 1);
    hand_in(&mut rig, journal(1, token, ("nap", Operation::Sleep(Timestamp(5_000)))));
    let count = rig.begin_seed();
    rig.now = 5_000;
    assert_eq!(timer(&rig.tell(PartitionInput::Tick)), None);
    rig.seeded(count);
    rig.drain();
    rig.open();
    let commands = appended(&rig);
    assert!(matches!(commands[..], [Command::WakeSleepers(_)]), "{commands:?}");
}

#[test]
fn a_new_leader_wakes_those_whose_time_came_meanwhile() {
    let mut rig = Rig::leading();
    let (_, token) = rig.start(1, FREE, 1);
    hand_in(&mut rig, journal(1, token, ("nap", Operation::Sleep(Timestamp(5_000)))));
    hand_in(&mut rig, suspend(1, token, "nap"));
    let tables = rig.replica.tables.clone();
    let mut next = Rig::over(super::fixture::Replica::over(tables));
    next.now = 6_000;
    next.announce(2);
    next.seed();
    next.open();
    let commands = appended(&next);
    assert!(matches!(commands[..], [Command::WakeSleepers(_)]), "{commands:?}");
    next.commit();
    assert_eq!(next.replica.row(1).unwrap().stage, Stage::Inbox);
}

#[test]
fn messages_are_handed_on_once_they_are_committed() {
    let mut rig = Rig::leading();
    let (_, token) = rig.start(1, FREE, 1);
    let call = Operation::Call(child(name(LOCKED)));
    let early = rig.end(journal(1, token, ("ship", call)));
    let messages = |effects: &Effects| {
        let added = effects.iter().filter_map(|effect| match effect {
            PartitionEffect::OutboxAdded { messages } => Some(messages.clone()),
            _ => None,
        });
        added.flatten().collect::<Vec<_>>()
    };
    assert!(messages(&early).is_empty());
    let committed = rig.commit();
    let added = messages(&committed);
    assert!(matches!(added[0].body, Some(MessageBody::Invoke(_))) && added.len() == 1);
}

#[test]
fn an_attempt_that_ends_its_run_is_over() {
    let mut rig = Rig::leading();
    let (handle, token) = rig.start(1, FREE, 1);
    let then = AttemptEnd::Run(AfterRun::ContinueWith(Bytes::from_static(b"next")));
    let effects = hand_in(&mut rig, ended(1, token, then));
    assert_eq!(releases(&effects).len(), 1);
    assert_eq!(rig.replica.tables.payloads[&entry(1)], "next");
    rig.decide(handle, 1, 2);
    let token = runs(&rig.commit())[0].1;
    let pause = AttemptEnd::Run(AfterRun::Pause("other code".into()));
    hand_in(&mut rig, ended(1, token, pause));
    assert_eq!(rig.replica.row(1).unwrap().stage, Stage::Paused);
}
