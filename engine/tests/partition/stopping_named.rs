//! Handlers that were asked to stop keep permit and lock until they stop, and return them once.

use forebay_engine::partition::machine::{
    KnownAttempt, PartitionEffect as Effect, PartitionInput as Input,
};
use forebay_messages::{
    AttemptToken, EntryId, PermitId,
    actor::{AttemptEnd, LimiterMessage, Release},
    command::{Command, RetryReason},
};

use super::{
    fixture::{entry, these},
    rig::{Effects, Rig, aborts, has, releases},
};

/// The name of a vqueue with a lock.
const LOCKED: u8 = 2;
/// The name of a vqueue without a lock.
const FREE: u8 = 0;

fn release(permit: PermitId, keep_lock: Option<EntryId>) -> Release {
    Release { permit, keep_lock }
}

/// The messages to the node's capacity: numbers of handlers still running, and how many stopped.
fn to_capacity(effects: &Effects) -> (Vec<u32>, usize) {
    let leaves = effects.iter().filter_map(|effect| match effect {
        Effect::LeaveCapacity { running } => Some(*running),
        _ => None,
    });
    let back = effects.iter().filter(|effect| matches!(effect, Effect::ReturnCapacity));
    (leaves.collect(), back.count())
}

fn kill(rig: &mut Rig, n: u8) -> Effects {
    rig.propose(Command::Kill(these(&[n])));
    rig.commit()
}

#[test]
fn a_killed_handler_holds_permit_and_lock_until_it_stops() {
    let mut rig = Rig::leading();
    let (_, token) = rig.start(1, LOCKED, 10);
    let effects = kill(&mut rig, 1);
    assert!(aborts(&effects, token) && releases(&effects).is_empty(), "{effects:?}");
    let effects = rig.stopped(token);
    assert_eq!(releases(&effects), [release(rig.permit(10), None)]);
    assert_eq!(to_capacity(&effects), (vec![], 0), "its limiter has the slot");
    assert!(releases(&rig.stopped(token)).is_empty(), "once");
}

/// It ended on its own when asked to stop, or its end was reported twice.
#[test]
fn any_end_means_that_a_handler_has_stopped() {
    let mut rig = Rig::leading();
    let (_, token) = rig.start(1, FREE, 10);
    kill(&mut rig, 1);
    let ended = AttemptEnd::Success(Default::default());
    let end = Input::Ended { entry: entry(1), token, ended };
    assert_eq!(releases(&rig.end(end.clone())).len(), 1);
    assert_eq!(releases(&rig.end(end)).len(), 0);
    assert!(rig.appended.is_empty(), "the end itself is ignored");
}

#[test]
fn an_ended_handler_is_not_waited_for() {
    let mut rig = Rig::leading();
    let (_, token) = rig.start(1, LOCKED, 10);
    rig.propose(Command::Kill(these(&[1])));
    let ended = AttemptEnd::Success(Default::default());
    rig.end(Input::Ended { entry: entry(1), token, ended });
    let effects = rig.commit();
    assert!(!aborts(&effects, token), "its stop would never be reported");
    assert_eq!(releases(&effects), [release(rig.permit(10), None)]);
    // The same when the leadership ends.
    let mut rig = Rig::leading();
    let (_, token) = rig.start(1, LOCKED, 10);
    let ended = AttemptEnd::Success(Default::default());
    rig.end(Input::Ended { entry: entry(1), token, ended });
    let effects = rig.tell(Input::StopLeading);
    assert_eq!((aborts(&effects, token), to_capacity(&effects)), (false, (vec![0], 0)));
}

#[test]
fn a_new_limiter_counts_handlers_that_are_stopping() {
    let mut rig = Rig::leading();
    let (_, token) = rig.start(1, LOCKED, 10);
    kill(&mut rig, 1);
    assert_eq!(rig.begin_seed(), 1, "it has no row any more");
    rig.seeded(1);
    assert_eq!(releases(&rig.stopped(token)), [release(rig.permit(1), None)]);
    // Stopped before the next limiter has answered: returned as soon as it does.
    let mut rig = Rig::leading();
    let (_, token) = rig.start(1, LOCKED, 10);
    kill(&mut rig, 1);
    rig.begin_seed();
    assert_eq!(releases(&rig.stopped(token)), []);
    let effects = rig.seeded(1);
    assert_eq!(releases(&effects), [release(rig.permit(1), None)]);
    rig.drain();
}

#[test]
fn a_new_leadership_waits_for_handlers_still_running() {
    let mut rig = Rig::leading();
    let (_, first) = rig.start(1, LOCKED, 10);
    let (_, second) = rig.start(2, FREE, 11);
    let effects = rig.tell(Input::StopLeading);
    assert!(aborts(&effects, first) && aborts(&effects, second));
    assert_eq!(to_capacity(&effects), (vec![2], 0), "their slots are not free");
    assert_eq!(to_capacity(&rig.tell(Input::StopLeading)), (vec![], 0), "known");
    assert_eq!(to_capacity(&rig.stopped(second)), (vec![], 1));
    assert_eq!(to_capacity(&rig.tell(Input::TellCapacity)), (vec![1], 0));
    rig.announce(2);
    rig.seed();
    let effects = rig.open();
    assert!(releases(&effects).is_empty(), "{effects:?}");
    assert!(!rig.running(1) && !rig.running(2), "both are back in their inboxes");
    let effects = rig.stopped(first);
    assert_eq!(to_capacity(&effects), (vec![], 0), "the limiter has its slot");
    // The rows were read in this order: its lock is for the entry that runs again.
    let first = release(rig.permit(1), Some(entry(1)));
    assert_eq!(releases(&effects), [first]);
}

#[test]
fn a_lock_is_not_kept_if_its_entry_has_ended() {
    let mut rig = Rig::leading();
    let (_, first) = rig.start(1, LOCKED, 10);
    rig.tell(Input::StopLeading);
    rig.announce(2);
    rig.seed();
    rig.open();
    // It waits in its inbox, with the lock.
    let effects = kill(&mut rig, 1);
    let is_freed =
        |effect: &Effect| matches!(effect, Effect::ToLimiter(LimiterMessage::FreeLock { .. }));
    assert!(has(&effects, is_freed));
    assert_eq!(releases(&rig.stopped(first)), [release(rig.permit(1), None)]);
}

/// The log had no record of it: a deposed leader had started it.
#[test]
fn a_handler_without_a_row_is_counted_until_it_stops() {
    let mut rig = Rig::leading();
    let handle = rig.enqueue_cold(1, LOCKED);
    let effects = rig.decide(handle, 1, 10);
    let token = super::machine_pipelined::begin(&mut rig, &effects)[0];
    rig.appended.clear();
    assert_eq!(to_capacity(&rig.tell(Input::StopLeading)), (vec![1], 0));
    rig.announce(2);
    assert_eq!(rig.begin_seed(), 1);
    rig.seeded(1);
    rig.open();
    assert_eq!(releases(&rig.stopped(token)), [release(rig.permit(1), None)]);
}

#[test]
fn a_closing_gate_is_quiet_when_the_last_handler_has_stopped() {
    let quiet = |effect: &Effect| matches!(effect, Effect::TellQuiet { .. });
    let mut rig = Rig::leading();
    let (_, token) = rig.start(1, FREE, 10);
    kill(&mut rig, 1);
    assert!(!has(&rig.tell(Input::CloseGate), quiet));
    assert!(has(&rig.stopped(token), quiet));
}

/// Its runtime was stopped: it cannot run here, and the next start continues it.
#[test]
fn a_handler_that_stops_unasked_keeps_its_row() {
    let mut rig = Rig::leading();
    let (_, token) = rig.start(1, FREE, 10);
    let effects = rig.stopped(token);
    assert!(effects.is_empty() && rig.appended.is_empty(), "{effects:?}");
    let effects = rig.tell(Input::StopLeading);
    assert_eq!((aborts(&effects, token), to_capacity(&effects)), (false, (vec![0], 0)));
    rig.announce(2);
    rig.seed();
    rig.drain();
    let Some(Command::Retry(back)) = &rig.appended[0].command else { panic!("it returns") };
    assert_eq!((back.token, back.reason), (token, RetryReason::LeaderChange));
}

/// Handlers of an actor that died before this one.
#[test]
fn a_replacement_actor_counts_the_handlers_of_the_former_one() {
    let token = AttemptToken::default();
    let left = vec![KnownAttempt { vqueue: Default::default(), entry: entry(1), token }];
    let mut rig = Rig::new();
    rig.partition = rig.partition.with_stopping(left);
    let mut effects = Vec::new();
    forebay_engine::Machine::start(
        &mut rig.partition,
        forebay_messages::Timestamp(0),
        &mut effects,
    );
    assert_eq!(to_capacity(&effects), (vec![1], 0));
    assert_eq!(to_capacity(&rig.stopped(token)), (vec![], 1));
    assert_eq!(to_capacity(&rig.stopped(token)), (vec![], 0));
}
