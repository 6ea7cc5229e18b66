//! Leadership scenarios, effect by effect.

use forebay_messages::{Epoch, Generation, NodeId, Timestamp};

use super::{
    Leadership, LeadershipEffect as Effect, LeadershipInput as Input, RANK_WAIT_MS, RESTARTS_MAX,
    RIVAL_GRACE_MS, Role,
};
use crate::Machine;

const OWN: NodeId = NodeId(1);

fn step(machine: &mut Leadership, now: u64, input: Input) -> Vec<Effect> {
    let mut effects = Vec::new();
    machine.step(Timestamp(now), input, &mut effects);
    effects
}

fn leader() -> Leadership {
    let mut machine = Leadership::new(OWN, Epoch(4));
    step(&mut machine, 0, Input::Run);
    step(&mut machine, 0, Input::EpochObtained(Epoch(5)));
    step(&mut machine, 0, Input::LogFenced { epoch: Epoch(5) });
    step(&mut machine, 0, Input::Announced { node: OWN, epoch: Epoch(5) });
    step(&mut machine, 0, Input::Seeded { epoch: Epoch(5) });
    step(&mut machine, 0, Input::Draining { epoch: Epoch(5) });
    assert_eq!(machine.role(), &Role::Leader { epoch: Epoch(5), open: true });
    machine
}

#[test]
fn a_leadership_starts_in_order() {
    let mut machine = Leadership::new(OWN, Epoch(4));
    let epoch = Epoch(5);
    assert_eq!(step(&mut machine, 0, Input::Run), [Effect::ObtainEpoch { above: Epoch(4) }]);
    assert_eq!(
        step(&mut machine, 0, Input::EpochObtained(epoch)),
        [
            Effect::Report(Role::Candidate { epoch }),
            Effect::HoldLease { epoch },
            Effect::Fence { epoch },
        ]
    );
    assert_eq!(step(&mut machine, 0, Input::LogFenced { epoch }), [Effect::Announce { epoch }]);
    assert_eq!(
        step(&mut machine, 0, Input::Announced { node: OWN, epoch }),
        [
            Effect::Report(Role::Leader { epoch, open: false }),
            Effect::StartLimiter { incarnation: Generation(1) },
            Effect::Seed { epoch },
        ]
    );
    assert_eq!(step(&mut machine, 0, Input::Seeded { epoch }), [Effect::Drain { epoch }]);
    assert_eq!(
        step(&mut machine, 0, Input::Draining { epoch }),
        [Effect::OpenGate { epoch }, Effect::Report(Role::Leader { epoch, open: true })]
    );
}

#[test]
fn only_a_newer_epoch_in_the_log_ends_a_leadership() {
    let mut machine = leader();
    assert_eq!(step(&mut machine, 0, Input::Announced { node: NodeId(2), epoch: Epoch(4) }), []);
    let effects = step(&mut machine, 0, Input::Announced { node: NodeId(2), epoch: Epoch(6) });
    assert!(effects.contains(&Effect::StopLeading));
    assert_eq!(machine.role(), &Role::Follower);
    assert_eq!(step(&mut machine, 0, Input::RetryDue), [], "it does not run again on its own");
}

#[test]
fn a_dead_limiter_repeats_the_start_and_too_many_deaths_end_the_leadership() {
    let mut machine = leader();
    for death in 1..=RESTARTS_MAX {
        let incarnation = Generation(u32::try_from(death).expect("small"));
        let effects = step(&mut machine, 10, Input::LimiterDied { incarnation });
        assert!(effects.contains(&Effect::StartLimiter { incarnation: incarnation.next() }));
        assert!(effects.contains(&Effect::Report(Role::Leader { epoch: Epoch(5), open: false })));
        step(&mut machine, 10, Input::Seeded { epoch: Epoch(5) });
        step(&mut machine, 10, Input::Draining { epoch: Epoch(5) });
    }
    let effects = step(&mut machine, 20, Input::LimiterDied { incarnation: Generation(4) });
    assert!(effects.contains(&Effect::StopLeading));
    assert!(matches!(effects.last(), Some(Effect::RetryAt(_))), "it runs again later");
}

#[test]
fn deaths_far_apart_do_not_add_up() {
    let mut machine = leader();
    for death in 1..=10_u32 {
        let incarnation = Generation(death);
        let now = u64::from(death) * 40_000;
        let effects = step(&mut machine, now, Input::LimiterDied { incarnation });
        assert!(effects.contains(&Effect::StartLimiter { incarnation: incarnation.next() }));
    }
}

#[test]
fn a_refused_epoch_is_retried_with_backoff() {
    let mut machine = Leadership::new(OWN, Epoch(0));
    step(&mut machine, 0, Input::Run);
    let refused = || Input::EpochRefused { reason: "no".to_owned() };
    let first = step(&mut machine, 0, refused());
    let second = step(&mut machine, 0, refused());
    assert_eq!(first.last(), Some(&Effect::RetryAt(Timestamp(100))));
    assert_eq!(second.last(), Some(&Effect::RetryAt(Timestamp(200))));
    assert_eq!(step(&mut machine, 300, Input::RetryDue), [Effect::ObtainEpoch { above: Epoch(0) }]);
}

#[test]
fn an_epoch_not_newer_than_the_last_announcement_is_abandoned() {
    let mut machine = Leadership::new(OWN, Epoch(4));
    step(&mut machine, 0, Input::Run);
    step(&mut machine, 0, Input::Announced { node: NodeId(2), epoch: Epoch(6) });
    let effects = step(&mut machine, 0, Input::EpochObtained(Epoch(5)));
    assert!(matches!(effects[..], [Effect::Warn(_)]), "the other replica leads: {effects:?}");
    assert_eq!(machine.role(), &Role::Follower);
    assert_eq!(step(&mut machine, 0, free()), [Effect::ObtainEpoch { above: Epoch(6) }]);
}

fn free() -> Input {
    Input::Lease { held: None }
}

fn announced(node: u32, epoch: u64) -> Input {
    Input::Announced { node: NodeId(node), epoch: Epoch(epoch) }
}

/// The fencer dies before it announces itself: without the retry no replica would ever lead.
#[test]
fn a_fenced_replica_runs_again_if_the_fencer_stays_silent() {
    let mut machine = leader();
    let effects = step(&mut machine, 1_000, refused(Some(Epoch(7))));
    let at = Timestamp(1_000 + RIVAL_GRACE_MS);
    assert_eq!(effects.last(), Some(&Effect::RetryAt(at)));
    assert_eq!(
        step(&mut machine, at.0, Input::RetryDue),
        [Effect::ObtainEpoch { above: Epoch(7) }]
    );
}

#[test]
fn a_retry_does_not_take_over_from_a_new_leader() {
    let mut machine = leader();
    step(&mut machine, 0, refused(Some(Epoch(7))));
    step(&mut machine, 10, announced(2, 7));
    assert_eq!(step(&mut machine, RIVAL_GRACE_MS, Input::RetryDue), []);
    assert_eq!(step(&mut machine, 60_000, Input::RetryDue), [], "an old timer");
}

#[test]
fn a_replaced_timer_does_nothing() {
    let mut machine = Leadership::new(OWN, Epoch(0));
    step(&mut machine, 0, Input::Run);
    let refused = || Input::EpochRefused { reason: "no".to_owned() };
    step(&mut machine, 0, refused());
    step(&mut machine, 100, Input::RetryDue);
    step(&mut machine, 100, refused());
    assert_eq!(step(&mut machine, 299, Input::RetryDue), [], "armed for 300");
    assert_eq!(step(&mut machine, 300, Input::RetryDue), [Effect::ObtainEpoch { above: Epoch(0) }]);
}

#[test]
fn a_late_fence_failure_does_not_end_a_newer_candidacy() {
    let mut machine = leader();
    let late = Input::FenceFailed { epoch: Epoch(4), current: Epoch(5) };
    assert_eq!(step(&mut machine, 0, late), []);
    assert_eq!(machine.role(), &Role::Leader { epoch: Epoch(5), open: true });
}

#[test]
fn a_standing_follower_runs_only_when_the_lease_is_free() {
    let mut machine = Leadership::new(OWN, Epoch(4));
    assert_eq!(step(&mut machine, 0, free()), [], "it does not stand");
    step(&mut machine, 0, Input::Stand { rank: 0 });
    assert_eq!(step(&mut machine, 0, Input::Lease { held: Some(Epoch(4)) }), []);
    assert_eq!(step(&mut machine, 9, free()), [Effect::ObtainEpoch { above: Epoch(4) }]);
}

#[test]
fn higher_ranks_wait_for_lower_ones() {
    let mut machine = Leadership::new(OWN, Epoch(4));
    step(&mut machine, 0, Input::Stand { rank: 2 });
    assert_eq!(step(&mut machine, 100, free()), []);
    assert_eq!(step(&mut machine, 600, free()), []);
    assert_eq!(step(&mut machine, 700, Input::Lease { held: Some(Epoch(5)) }), []);
    assert_eq!(step(&mut machine, 1_200, free()), [], "it waits again");
    let due = 1_200 + 2 * RANK_WAIT_MS;
    assert_eq!(step(&mut machine, due, free()), [Effect::ObtainEpoch { above: Epoch(4) }]);
}

/// A leader that is cut off from the log receives neither announcements nor refusals.
#[test]
fn a_leader_steps_down_when_a_newer_epoch_holds_the_lease() {
    let mut machine = leader();
    let held = |epoch| Input::Lease { held: Some(Epoch(epoch)) };
    let holds = [Effect::HoldLease { epoch: Epoch(5) }];
    assert_eq!(step(&mut machine, 0, free()), holds);
    assert_eq!(step(&mut machine, 0, held(5)), holds);
    assert!(step(&mut machine, 0, held(6)).contains(&Effect::StopLeading));
    assert_eq!(machine.role(), &Role::Follower);
}

#[test]
fn leaving_closes_the_gate_and_waits_until_quiet() {
    let (mut machine, epoch) = (leader(), Epoch(5));
    assert_eq!(
        step(&mut machine, 0, Input::Leave { by: Timestamp(500) }),
        [
            Effect::CloseGate { epoch },
            Effect::Report(Role::Leader { epoch, open: false }),
            Effect::RetryAt(Timestamp(500)),
        ]
    );
    assert_eq!(step(&mut machine, 10, Input::Quiet { epoch: Epoch(4) }), []);
    assert!(step(&mut machine, 10, Input::Quiet { epoch }).contains(&Effect::StopLeading));
    assert_eq!(step(&mut machine, 500, Input::RetryDue), [], "it does not run again");
    assert_eq!(step(&mut machine, 900, free()), [], "not even without a leader");
}

#[test]
fn leaving_does_not_exceed_its_deadline() {
    let mut machine = leader();
    step(&mut machine, 0, Input::Leave { by: Timestamp(500) });
    assert_eq!(step(&mut machine, 499, Input::RetryDue), []);
    let effects = step(&mut machine, 500, Input::RetryDue);
    assert!(effects.contains(&Effect::StopLeading) && machine.role() == &Role::Follower);
}

/// Regression: a second order to leave ended the leadership at once, whatever its deadline.
#[test]
fn a_second_order_to_leave_can_only_shorten_the_deadline() {
    let mut machine = leader();
    let leave = |by| Input::Leave { by: Timestamp(by) };
    assert!(step(&mut machine, 0, leave(500)).contains(&Effect::RetryAt(Timestamp(500))));
    assert_eq!(step(&mut machine, 1, leave(900)), [Effect::RetryAt(Timestamp(500))]);
    assert_eq!(step(&mut machine, 2, leave(100)), [Effect::RetryAt(Timestamp(100))]);
    assert_eq!(step(&mut machine, 99, Input::RetryDue), []);
    assert!(step(&mut machine, 100, Input::RetryDue).contains(&Effect::StopLeading));
    assert_eq!(machine.role(), &Role::Follower);
}

#[test]
fn a_replica_asked_to_run_while_leaving_runs_after_it_left() {
    let mut machine = leader();
    step(&mut machine, 0, Input::Leave { by: Timestamp(500) });
    assert_eq!(step(&mut machine, 0, Input::Run), []);
    let effects = step(&mut machine, 1, Input::Quiet { epoch: Epoch(5) });
    assert_eq!(effects.last(), Some(&Effect::ObtainEpoch { above: Epoch(5) }));
}

/// Too many restarts: it steps down, and runs again unless another replica leads meanwhile.
#[test]
fn after_giving_up_it_runs_again_only_without_another_leader() {
    let give_up = || {
        let mut machine = leader();
        for death in 1..=4 {
            step(&mut machine, 0, Input::LimiterDied { incarnation: Generation(death) });
        }
        assert_eq!(machine.role(), &Role::Follower);
        machine
    };
    let runs = [Effect::ObtainEpoch { above: Epoch(5) }];
    assert_eq!(step(&mut give_up(), 100, Input::RetryDue), runs);
    let mut machine = give_up();
    step(&mut machine, 50, announced(2, 6));
    assert_eq!(step(&mut machine, 100, Input::RetryDue), []);
}

fn refused(fenced_by: Option<Epoch>) -> Input {
    Input::Refused { reason: "no".to_owned(), fenced_by }
}

#[test]
fn a_refusal_by_an_epoch_that_is_not_newer_is_ignored() {
    let mut machine = leader();
    assert_eq!(step(&mut machine, 0, refused(Some(Epoch(5)))), []);
    assert_eq!(machine.role(), &Role::Leader { epoch: Epoch(5), open: true });
    assert!(step(&mut machine, 0, refused(Some(Epoch(6)))).contains(&Effect::StopLeading));
}

#[test]
fn many_refusals_arm_one_retry() {
    let mut machine = leader();
    let effects = step(&mut machine, 0, refused(None));
    assert_eq!(effects.last(), Some(&Effect::RetryAt(Timestamp(100))));
    assert_eq!(step(&mut machine, 0, refused(None)), [], "it already left");
    assert_eq!(step(&mut machine, 0, refused(None)), []);
    assert_eq!(step(&mut machine, 100, Input::RetryDue), [Effect::ObtainEpoch { above: Epoch(5) }]);
}

/// Regression (`make sim SEED=360388089836`): a node that started, was too old for the log and then
/// saw in the log that it had led before never ran again.
#[test]
fn an_old_announcement_does_not_cancel_the_retry() {
    let mut machine = Leadership::new(OWN, Epoch(0));
    step(&mut machine, 0, Input::Run);
    step(&mut machine, 0, Input::EpochObtained(Epoch(2)));
    let effects = step(&mut machine, 0, Input::FenceFailed { epoch: Epoch(2), current: Epoch(3) });
    let due = Timestamp(RIVAL_GRACE_MS);
    assert_eq!(effects.last(), Some(&Effect::RetryAt(due)));
    assert_eq!(step(&mut machine, 10, Input::Announced { node: OWN, epoch: Epoch(1) }), []);
    let runs = [Effect::ObtainEpoch { above: Epoch(3) }];
    assert_eq!(step(&mut machine, due.0, Input::RetryDue), runs);
}

#[test]
fn a_second_order_to_run_does_not_ask_for_a_second_epoch() {
    let mut machine = Leadership::new(OWN, Epoch(4));
    let asks = [Effect::ObtainEpoch { above: Epoch(4) }];
    assert_eq!(step(&mut machine, 0, Input::Run), asks);
    assert_eq!(step(&mut machine, 1, Input::Run), [], "the first has no answer yet");
    step(&mut machine, 2, Input::StepDown);
    assert_eq!(step(&mut machine, 3, Input::EpochObtained(Epoch(5))), [], "it came too late");
    assert_eq!(step(&mut machine, 4, Input::Run), asks, "that one was answered");
}
