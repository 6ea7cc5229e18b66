//! Handlers told to stop keep their permit and lock until they stop, and return them once.

use forebay_engine::partition::machine::{PartitionEffect as Effect, PartitionInput as Input};
use forebay_messages::{
    AttemptToken, EntryId, PermitId,
    actor::{AttemptEnd, LimiterMessage, Release},
    command::{Command, RetryReason},
};

use super::{
    desk::{Desk, Effects, aborts, has, releases},
    fixture::{entry, these},
};

/// The name of a vqueue with a lock.
const LOCKED: u8 = 2;
/// The name of a vqueue without a lock.
const FREE: u8 = 0;

fn release(permit: PermitId, keep_lock: Option<EntryId>) -> Release {
    Release { permit, keep_lock }
}

/// The messages to the node's capacity: numbers of handlers still running, and how many stopped.
fn told(effects: &Effects) -> (Vec<u32>, usize) {
    let leaves = effects.iter().filter_map(|effect| match effect {
        Effect::LeaveCapacity { running } => Some(*running),
        _ => None,
    });
    let back = effects.iter().filter(|effect| matches!(effect, Effect::ReturnCapacity));
    (leaves.collect(), back.count())
}

fn kill(desk: &mut Desk, n: u8) -> Effects {
    desk.propose(Command::Kill(these(&[n])));
    desk.commit()
}

#[test]
fn a_killed_handler_holds_permit_and_lock_until_it_stops() {
    let mut desk = Desk::leading();
    let (_, token) = desk.start(1, LOCKED, 10);
    let effects = kill(&mut desk, 1);
    assert!(aborts(&effects, token) && releases(&effects).is_empty(), "{effects:?}");
    let effects = desk.stopped(token);
    assert_eq!(releases(&effects), [release(desk.permit(10), None)]);
    assert_eq!(told(&effects), (vec![], 0), "its limiter has the slot");
    assert!(releases(&desk.stopped(token)).is_empty(), "once");
}

/// It ended on its own when told to stop, or its end was reported twice.
#[test]
fn any_end_means_that_a_handler_has_stopped() {
    let mut desk = Desk::leading();
    let (_, token) = desk.start(1, FREE, 10);
    kill(&mut desk, 1);
    let ended = AttemptEnd::Success(Default::default());
    let end = Input::Ended { entry: entry(1), token, ended };
    assert_eq!(releases(&desk.end(end.clone())).len(), 1);
    assert_eq!(releases(&desk.end(end)).len(), 0);
    assert!(desk.appended.is_empty(), "the end itself is ignored");
}

#[test]
fn an_ended_handler_is_not_waited_for() {
    let mut desk = Desk::leading();
    let (_, token) = desk.start(1, LOCKED, 10);
    desk.propose(Command::Kill(these(&[1])));
    let ended = AttemptEnd::Success(Default::default());
    desk.end(Input::Ended { entry: entry(1), token, ended });
    let effects = desk.commit();
    assert!(!aborts(&effects, token), "its stop would never be reported");
    assert_eq!(releases(&effects), [release(desk.permit(10), None)]);
    // The same when the leadership ends.
    let mut desk = Desk::leading();
    let (_, token) = desk.start(1, LOCKED, 10);
    let ended = AttemptEnd::Success(Default::default());
    desk.end(Input::Ended { entry: entry(1), token, ended });
    let effects = desk.tell(Input::StopLeading);
    assert_eq!((aborts(&effects, token), told(&effects)), (false, (vec![0], 0)));
}

#[test]
fn a_new_limiter_counts_handlers_that_are_stopping() {
    let mut desk = Desk::leading();
    let (_, token) = desk.start(1, LOCKED, 10);
    kill(&mut desk, 1);
    assert_eq!(desk.begin_seed(), 1, "it has no row any more");
    desk.seeded(1);
    assert_eq!(releases(&desk.stopped(token)), [release(desk.permit(1), None)]);
    // Stopped before the next limiter has answered: returned as soon as it does.
    let mut desk = Desk::leading();
    let (_, token) = desk.start(1, LOCKED, 10);
    kill(&mut desk, 1);
    desk.begin_seed();
    assert_eq!(releases(&desk.stopped(token)), []);
    let effects = desk.seeded(1);
    assert_eq!(releases(&effects), [release(desk.permit(1), None)]);
    desk.drain();
}

#[test]
fn a_new_leadership_waits_for_handlers_still_running() {
    let mut desk = Desk::leading();
    let (_, first) = desk.start(1, LOCKED, 10);
    let (_, second) = desk.start(2, FREE, 11);
    let effects = desk.tell(Input::StopLeading);
    assert!(aborts(&effects, first) && aborts(&effects, second));
    assert_eq!(told(&effects), (vec![2], 0), "their slots are not free");
    assert_eq!(told(&desk.tell(Input::StopLeading)), (vec![], 0), "known");
    assert_eq!(told(&desk.stopped(second)), (vec![], 1));
    assert_eq!(told(&desk.tell(Input::TellCapacity)), (vec![1], 0));
    desk.announce(2);
    desk.seed();
    let effects = desk.open();
    assert!(releases(&effects).is_empty(), "{effects:?}");
    assert!(!desk.running(1) && !desk.running(2), "both are back in their inboxes");
    let effects = desk.stopped(first);
    assert_eq!(told(&effects), (vec![], 0), "the limiter has its slot");
    // The rows were read in this order: its lock is for the entry that runs again.
    let first = release(desk.permit(1), Some(entry(1)));
    assert_eq!(releases(&effects), [first]);
}

#[test]
fn a_lock_is_not_kept_if_its_entry_has_ended() {
    let mut desk = Desk::leading();
    let (_, first) = desk.start(1, LOCKED, 10);
    desk.tell(Input::StopLeading);
    desk.announce(2);
    desk.seed();
    desk.open();
    // It waits in its inbox, with the lock.
    let effects = kill(&mut desk, 1);
    let is_freed =
        |effect: &Effect| matches!(effect, Effect::ToLimiter(LimiterMessage::FreeLock { .. }));
    assert!(has(&effects, is_freed));
    assert_eq!(releases(&desk.stopped(first)), [release(desk.permit(1), None)]);
}

/// The log had no record of it: a deposed leader had started it.
#[test]
fn a_handler_without_a_row_is_counted_until_it_stops() {
    let mut desk = Desk::leading();
    let handle = desk.enqueue_cold(1, LOCKED);
    let effects = desk.decide(handle, 1, 10);
    let token = super::machine_pipelined::begin(&mut desk, &effects)[0];
    desk.appended.clear();
    assert_eq!(told(&desk.tell(Input::StopLeading)), (vec![1], 0));
    desk.announce(2);
    assert_eq!(desk.begin_seed(), 1);
    desk.seeded(1);
    desk.open();
    assert_eq!(releases(&desk.stopped(token)), [release(desk.permit(1), None)]);
}

#[test]
fn a_closing_gate_is_quiet_when_the_last_handler_has_stopped() {
    let quiet = |effect: &Effect| matches!(effect, Effect::TellQuiet { .. });
    let mut desk = Desk::leading();
    let (_, token) = desk.start(1, FREE, 10);
    kill(&mut desk, 1);
    assert!(!has(&desk.tell(Input::CloseGate), quiet));
    assert!(has(&desk.stopped(token), quiet));
}

/// Its runtime went away: it cannot run here, and the next start takes it up.
#[test]
fn a_handler_that_stops_unasked_keeps_its_row() {
    let mut desk = Desk::leading();
    let (_, token) = desk.start(1, FREE, 10);
    let effects = desk.stopped(token);
    assert!(effects.is_empty() && desk.appended.is_empty(), "{effects:?}");
    let effects = desk.tell(Input::StopLeading);
    assert_eq!((aborts(&effects, token), told(&effects)), (false, (vec![0], 0)));
    desk.announce(2);
    desk.seed();
    desk.drain();
    let Some(Command::Retry(back)) = &desk.appended[0].command else { panic!("it returns") };
    assert_eq!((back.token, back.reason), (token, RetryReason::LeaderChange));
}

/// Handlers of an actor that died before this one.
#[test]
fn a_replacement_actor_counts_the_handlers_of_the_former_one() {
    let token = AttemptToken::default();
    let left = vec![(forebay_messages::VQueueId::default(), entry(1), token)];
    let mut desk = Desk::new();
    desk.partition = desk.partition.with_stopping(left);
    let mut effects = Vec::new();
    forebay_engine::Machine::start(
        &mut desk.partition,
        forebay_messages::Timestamp(0),
        &mut effects,
    );
    assert_eq!(told(&effects), (vec![1], 0));
    assert_eq!(told(&desk.stopped(token)), (vec![], 1));
    assert_eq!(told(&desk.stopped(token)), (vec![], 0));
}
