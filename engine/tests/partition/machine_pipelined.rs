//! Handlers that run before their decision is applied: one attempt per entry, stopped if its
//! decision turns out void, ended behind its decision in the log.

use forebay_engine::partition::{
    apply,
    machine::{AppendRefusal, EarlyStart, PartitionEffect as Effect, PartitionInput as Input},
};
use forebay_messages::{
    AttemptToken, Epoch, Timestamp, VQueueHandle,
    actor::{AttemptEnd, Permits},
    command::{Command, Decision, Reschedule},
};

use super::{
    fixture::{entry, these, this_vqueue},
    rig::{Effects, Rig, aborts, has, releases, runs},
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
pub(crate) fn begin(rig: &mut Rig, effects: &Effects) -> Vec<AttemptToken> {
    let begun: Vec<_> = to_begin(effects)
        .iter()
        .filter_map(|decision| {
            apply::begin(&rig.replica.tables, decision, Timestamp::default()).unwrap()
        })
        .map(|(run, retry)| EarlyStart { token: run.token, attempt: run.attempt, retry })
        .collect();
    let tokens = begun.iter().map(|begun| begun.token).collect();
    assert!(rig.tell(Input::Begun(begun)).is_empty());
    tokens
}

/// An entry whose handler runs and whose decision is proposed.
fn begun(rig: &mut Rig, n: u8, name: u8) -> (VQueueHandle, AttemptToken) {
    let handle = rig.enqueue_cold(n, name);
    let effects = rig.decide(handle, n, 10 + u64::from(n));
    let tokens = begin(rig, &effects);
    assert_eq!(tokens.len(), 1, "it runs before its decision is in the log");
    assert!(!rig.running(n));
    (handle, tokens[0])
}

fn end(rig: &mut Rig, n: u8, token: AttemptToken) -> Effects {
    let ended = AttemptEnd::Success(Default::default());
    rig.end(Input::Ended { entry: entry(n), token, ended })
}

#[test]
fn a_decision_and_its_end_are_committed_together() {
    let mut rig = Rig::leading();
    let (_, token) = begun(&mut rig, 1, LOCKED);
    end(&mut rig, 1, token);
    let commands: Vec<_> = rig.appended.iter().map(|record| record.command.clone()).collect();
    assert!(
        matches!(commands[..], [Some(Command::SchedulerDecisions(_)), Some(Command::Complete(_))]),
        "its end follows its decision: {commands:?}"
    );
    let effects = rig.commit();
    assert_eq!(runs(&effects), [], "it does not run again");
    assert_eq!(releases(&effects).len(), 1);
    assert!(rig.replica.tables.entries.is_empty() && rig.replica.tables.locks.is_empty());
}

#[test]
fn an_applied_decision_does_not_start_its_handler_twice() {
    let mut rig = Rig::leading();
    let (_, token) = begun(&mut rig, 1, FREE);
    let effects = rig.commit();
    assert!(rig.running(1) && runs(&effects).is_empty() && !aborts(&effects, token));
    end(&mut rig, 1, token);
    assert_eq!(releases(&rig.commit()).len(), 1);
}

#[test]
fn a_void_decision_stops_its_handler_and_returns_its_permit() {
    for (change, ends) in [
        (Command::Pause(these(&[1])), true),
        (Command::Pause(these(&[1])), false),
        (Command::PauseVQueue(this_vqueue(FREE)), false),
        (Command::Kill(these(&[1])), false),
    ] {
        let mut rig = Rig::leading();
        let handle = rig.enqueue_cold(1, FREE);
        rig.propose(change.clone());
        let effects = rig.decide(handle, 1, 10);
        let token = begin(&mut rig, &effects)[0];
        if ends {
            end(&mut rig, 1, token);
        }
        let effects = rig.commit();
        assert_eq!(aborts(&effects, token), !ends, "{change:?}: {effects:?}");
        assert_eq!(releases(&effects).len(), usize::from(ends), "{change:?}");
        assert!(!has(&effects, |effect| matches!(effect, Effect::Run { .. })));
        if !ends {
            assert_eq!(releases(&rig.stopped(token)).len(), 1, "{change:?}");
        }
        assert_ne!(
            rig.replica.tables.finished.get(&entry(1)).map(|row| row.outcome().is_success()),
            Some(true),
            "the end of a void attempt changes nothing"
        );
    }
}

/// The row moves, is decided again, and its first attempt still runs.
#[test]
fn an_entry_decided_again_does_not_run_twice() {
    let mut rig = Rig::leading();
    let handle = rig.enqueue_cold(1, FREE);
    let run_at = forebay_messages::Timestamp(900);
    rig.propose(Command::Reschedule(Reschedule { selector: these(&[1]), run_at }));
    let effects = rig.decide(handle, 1, 10);
    let first = begin(&mut rig, &effects)[0];
    let reschedule = rig.appended.pop_front().unwrap();
    rig.commit_records(vec![reschedule]);
    let effects = rig.decide(handle, 1, 11);
    assert_eq!(to_begin(&effects), [], "the first attempt still runs");
    let effects = rig.commit();
    assert!(aborts(&effects, first));
    assert_eq!(runs(&effects).len(), 1, "the second starts once applied");
}

#[test]
fn early_handlers_stop_with_the_leadership() {
    let mut rig = Rig::leading();
    let (_, token) = begun(&mut rig, 1, FREE);
    let refusal = AppendRefusal::Fenced { current: Epoch(9) };
    let effects = rig.tell(Input::AppendRefused(refusal));
    assert!(aborts(&effects, token), "{effects:?}");
}

#[test]
fn nothing_begins_behind_a_closed_gate() {
    let mut rig = Rig::leading();
    let handle = rig.enqueue_cold(1, FREE);
    let (keys, permits) = (vec![rig.key(1)], Permits::one(rig.permit(10)));
    rig.tell(Input::Decide { handle, keys, permits });
    rig.tell(Input::CloseGate);
    let effects = rig.tell(Input::Flush);
    assert_eq!(to_begin(&effects), []);
}
