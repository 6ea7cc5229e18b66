//! Handlers that run before their decision is applied: one attempt per entry, stopped if its
//! decision turns out void, ended behind its decision in the log.

use forebay_engine::partition::{
    apply,
    machine::{AppendRefusal, EarlyStart, PartitionEffect as Effect, PartitionInput as Input},
};
use forebay_messages::{
    AttemptToken, Epoch, VQueueHandle,
    actor::{AttemptEnd, Permits},
    command::{Command, Decision, Reschedule},
};

use super::{
    desk::{Desk, Effects, aborts, has, releases, runs},
    fixture::{entry, these, this_vqueue},
};

/// The name of a vqueue with a lock.
const LOCKED: u8 = 2;
/// The name of a vqueue without a lock.
const FREE: u8 = 0;

fn to_begin(effects: &Effects) -> Vec<Decision> {
    let begin = effects.iter().filter_map(|effect| match effect {
        Effect::Begin(decisions) => Some(decisions.clone()),
        _ => None,
    });
    begin.flatten().collect()
}

/// Starts the handlers that are to begin, as the executor does; returns the running attempts.
pub(crate) fn begin(desk: &mut Desk, effects: &Effects) -> Vec<AttemptToken> {
    let begun: Vec<_> = to_begin(effects)
        .iter()
        .filter_map(|decision| apply::begin(&desk.replica.tables, decision).unwrap())
        .map(|(run, retry)| EarlyStart { token: run.token, attempt: run.attempt, retry })
        .collect();
    let tokens = begun.iter().map(|begun| begun.token).collect();
    assert!(desk.tell(Input::Begun(begun)).is_empty());
    tokens
}

/// An entry whose handler runs and whose decision is proposed.
fn begun(desk: &mut Desk, n: u8, name: u8) -> (VQueueHandle, AttemptToken) {
    let handle = desk.enqueue_cold(n, name);
    let effects = desk.decide(handle, n, 10 + u64::from(n));
    let tokens = begin(desk, &effects);
    assert_eq!(tokens.len(), 1, "it runs before its decision is in the log");
    assert!(!desk.running(n));
    (handle, tokens[0])
}

fn end(desk: &mut Desk, n: u8, token: AttemptToken) -> Effects {
    let ended = AttemptEnd::Success(Default::default());
    desk.end(Input::Ended { entry: entry(n), token, ended })
}

#[test]
fn a_decision_and_its_end_are_committed_together() {
    let mut desk = Desk::leading();
    let (_, token) = begun(&mut desk, 1, LOCKED);
    end(&mut desk, 1, token);
    let commands: Vec<_> = desk.appended.iter().map(|record| record.command.clone()).collect();
    assert!(
        matches!(commands[..], [Some(Command::SchedulerDecisions(_)), Some(Command::Complete(_))]),
        "its end follows its decision: {commands:?}"
    );
    let effects = desk.commit();
    assert_eq!(runs(&effects), [], "it does not run again");
    assert_eq!(releases(&effects).len(), 1);
    assert!(desk.replica.tables.entries.is_empty() && desk.replica.tables.locks.is_empty());
}

#[test]
fn an_applied_decision_does_not_start_its_handler_twice() {
    let mut desk = Desk::leading();
    let (_, token) = begun(&mut desk, 1, FREE);
    let effects = desk.commit();
    assert!(desk.running(1) && runs(&effects).is_empty() && !aborts(&effects, token));
    end(&mut desk, 1, token);
    assert_eq!(releases(&desk.commit()).len(), 1);
}

#[test]
fn a_void_decision_stops_its_handler_and_returns_its_permit() {
    for (change, ends) in [
        (Command::Pause(these(&[1])), true),
        (Command::Pause(these(&[1])), false),
        (Command::PauseVQueue(this_vqueue(FREE)), false),
        (Command::Kill(these(&[1])), false),
    ] {
        let mut desk = Desk::leading();
        let handle = desk.enqueue_cold(1, FREE);
        desk.propose(change.clone());
        let effects = desk.decide(handle, 1, 10);
        let token = begin(&mut desk, &effects)[0];
        if ends {
            end(&mut desk, 1, token);
        }
        let effects = desk.commit();
        assert_eq!(aborts(&effects, token), !ends, "{change:?}: {effects:?}");
        assert_eq!(releases(&effects).len(), usize::from(ends), "{change:?}");
        assert!(!has(&effects, |effect| matches!(effect, Effect::Run { .. })));
        if !ends {
            assert_eq!(releases(&desk.stopped(token)).len(), 1, "{change:?}");
        }
        assert_ne!(
            desk.replica.tables.finished.get(&entry(1)).map(|row| row.outcome().is_success()),
            Some(true),
            "the end of a void attempt changes nothing"
        );
    }
}

/// The row moves, is decided again, and its first attempt still runs.
#[test]
fn an_entry_decided_again_does_not_run_twice() {
    let mut desk = Desk::leading();
    let handle = desk.enqueue_cold(1, FREE);
    let run_at = forebay_messages::Timestamp(900);
    desk.propose(Command::Reschedule(Reschedule { selector: these(&[1]), run_at }));
    let effects = desk.decide(handle, 1, 10);
    let first = begin(&mut desk, &effects)[0];
    let reschedule = desk.appended.pop_front().unwrap();
    desk.commit_records(vec![reschedule]);
    let effects = desk.decide(handle, 1, 11);
    assert_eq!(to_begin(&effects), [], "the first attempt still runs");
    let effects = desk.commit();
    assert!(aborts(&effects, first));
    assert_eq!(runs(&effects).len(), 1, "the second starts once applied");
}

#[test]
fn early_handlers_stop_with_the_leadership() {
    let mut desk = Desk::leading();
    let (_, token) = begun(&mut desk, 1, FREE);
    let refusal = AppendRefusal::Fenced { current: Epoch(9) };
    let effects = desk.tell(Input::AppendRefused(refusal));
    assert!(aborts(&effects, token), "{effects:?}");
}

#[test]
fn nothing_begins_behind_a_closed_gate() {
    let mut desk = Desk::leading();
    let handle = desk.enqueue_cold(1, FREE);
    let (keys, permits) = (vec![desk.key(1)], Permits::one(desk.permit(10)));
    desk.tell(Input::Decide { handle, keys, permits });
    desk.tell(Input::CloseGate);
    let effects = desk.tell(Input::Flush);
    assert_eq!(to_begin(&effects), []);
}
