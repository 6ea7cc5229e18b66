//! What a handler holds that was told to stop comes back when it has, once.

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
/// The name of one without.
const FREE: u8 = 0;

fn release(permit: PermitId, keep_lock: Option<EntryId>) -> Release {
    Release { permit, keep_lock }
}

/// What the node's capacity is told: how many have not stopped, how many have.
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
fn whoever_is_killed_holds_permit_and_lock_until_it_has_stopped() {
    let mut desk = Desk::leading();
    let (_, token) = desk.start(1, LOCKED, 10);
    let effects = kill(&mut desk, 1);
    assert!(aborts(&effects, token) && releases(&effects).is_empty(), "{effects:?}");
    let effects = desk.stopped(token);
    assert_eq!(releases(&effects), [release(desk.permit(10), None)]);
    assert_eq!(told(&effects), (vec![], 0), "its limiter has the slot");
    assert!(releases(&desk.stopped(token)).is_empty(), "once");
}

/// It ended by itself when it was told to stop; or its end was told twice.
#[test]
fn any_end_says_that_a_handler_has_stopped() {
    let mut desk = Desk::leading();
    let (_, token) = desk.start(1, FREE, 10);
    kill(&mut desk, 1);
    let ended = AttemptEnd::Success(Default::default());
    let end = Input::Ended { entry: entry(1), token, ended };
    assert_eq!(releases(&desk.end(end.clone())).len(), 1);
    assert_eq!(releases(&desk.end(end)).len(), 0);
    assert!(desk.appended.is_empty(), "the end itself is of no interest");
}

#[test]
fn what_has_ended_already_is_not_waited_for() {
    let mut desk = Desk::leading();
    let (_, token) = desk.start(1, LOCKED, 10);
    desk.propose(Command::Kill(these(&[1])));
    let ended = AttemptEnd::Success(Default::default());
    desk.end(Input::Ended { entry: entry(1), token, ended });
    let effects = desk.commit();
    assert!(!aborts(&effects, token), "nobody would say that it has stopped");
    assert_eq!(releases(&effects), [release(desk.permit(10), None)]);
    // So when the leadership ends.
    let mut desk = Desk::leading();
    let (_, token) = desk.start(1, LOCKED, 10);
    let ended = AttemptEnd::Success(Default::default());
    desk.end(Input::Ended { entry: entry(1), token, ended });
    let effects = desk.tell(Input::StopLeading);
    assert_eq!((aborts(&effects, token), told(&effects)), (false, (vec![0], 0)));
}

#[test]
fn a_limiter_that_dies_meanwhile_is_followed_by_one_that_counts_what_stops() {
    let mut desk = Desk::leading();
    let (_, token) = desk.start(1, LOCKED, 10);
    kill(&mut desk, 1);
    assert_eq!(desk.begin_seed(), 1, "no row has it any more");
    desk.seeded(1);
    assert_eq!(releases(&desk.stopped(token)), [release(desk.permit(1), None)]);
    // Stopped before the next limiter has answered: at once when it does.
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
fn who_leads_again_waits_for_what_was_left_running() {
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
fn a_lock_that_was_to_be_kept_is_not_when_its_entry_has_ended() {
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

/// The log had none of it: a deposed leader had begun it.
#[test]
fn what_was_begun_and_is_in_no_row_is_counted_until_it_has_stopped() {
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
fn a_gate_that_closes_is_quiet_when_the_last_has_stopped() {
    let quiet = |effect: &Effect| matches!(effect, Effect::TellQuiet { .. });
    let mut desk = Desk::leading();
    let (_, token) = desk.start(1, FREE, 10);
    kill(&mut desk, 1);
    assert!(!has(&desk.tell(Input::CloseGate), quiet));
    assert!(has(&desk.stopped(token), quiet));
}

/// It went with its runtime: nobody can run it here, and the next start takes it up.
#[test]
fn what_stops_unasked_stays_in_the_rows() {
    let mut desk = Desk::leading();
    let (_, token) = desk.start(1, FREE, 10);
    let effects = desk.stopped(token);
    assert!(effects.is_empty() && desk.appended.is_empty(), "{effects:?}");
    let effects = desk.tell(Input::StopLeading);
    assert_eq!((aborts(&effects, token), told(&effects)), (false, (vec![0], 0)));
    desk.announce(2);
    desk.seed();
    desk.drain();
    let Some(Command::Retry(back)) = &desk.appended[0].command else { panic!("it goes back") };
    assert_eq!((back.token, back.reason), (token, RetryReason::LeaderChange));
}

/// Those of an actor that died before this one.
#[test]
fn an_actor_that_takes_the_place_of_another_counts_what_that_has_left() {
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
