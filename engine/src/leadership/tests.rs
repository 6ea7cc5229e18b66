//! Scenarios of leadership, effect by effect.

use forebay_messages::{Epoch, Generation, NodeId, Timestamp};

use super::{Leadership, LeadershipEffect as Effect, LeadershipInput as Input, RESTARTS_MAX, Role};
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
    step(&mut machine, 0, Input::Drained { epoch: Epoch(5) });
    assert_eq!(machine.role(), &Role::Leader { epoch: Epoch(5), open: true });
    machine
}

#[test]
fn the_start_of_a_leadership_keeps_its_order() {
    let mut machine = Leadership::new(OWN, Epoch(4));
    let epoch = Epoch(5);
    assert_eq!(step(&mut machine, 0, Input::Run), [Effect::ObtainEpoch { above: Epoch(4) }]);
    assert_eq!(
        step(&mut machine, 0, Input::EpochObtained(epoch)),
        [Effect::Report(Role::Candidate { epoch }), Effect::Fence { epoch }]
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
        step(&mut machine, 0, Input::Drained { epoch }),
        [Effect::OpenGate { epoch }, Effect::Report(Role::Leader { epoch, open: true })]
    );
}

#[test]
fn a_newer_epoch_in_the_log_ends_a_leadership_and_an_older_one_does_not() {
    let mut machine = leader();
    assert_eq!(step(&mut machine, 0, Input::Announced { node: NodeId(2), epoch: Epoch(4) }), []);
    let effects = step(&mut machine, 0, Input::Announced { node: NodeId(2), epoch: Epoch(6) });
    assert!(effects.contains(&Effect::StopLeading));
    assert_eq!(machine.role(), &Role::Follower);
    assert_eq!(step(&mut machine, 0, Input::RetryDue), [], "it does not fight back by itself");
}

#[test]
fn a_limiter_that_dies_takes_the_start_with_it_and_too_many_deaths_the_leadership() {
    let mut machine = leader();
    for death in 1..=RESTARTS_MAX {
        let incarnation = Generation(u32::try_from(death).expect("small"));
        let effects = step(&mut machine, 10, Input::LimiterDied { incarnation });
        assert!(effects.contains(&Effect::StartLimiter { incarnation: incarnation.next() }));
        assert!(effects.contains(&Effect::Report(Role::Leader { epoch: Epoch(5), open: false })));
        step(&mut machine, 10, Input::Seeded { epoch: Epoch(5) });
        step(&mut machine, 10, Input::Drained { epoch: Epoch(5) });
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
fn a_refused_epoch_is_tried_again_with_a_growing_wait() {
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
fn an_epoch_that_is_not_newer_than_what_was_announced_meanwhile_is_asked_for_again_later() {
    let mut machine = Leadership::new(OWN, Epoch(4));
    step(&mut machine, 0, Input::Run);
    step(&mut machine, 0, Input::Announced { node: NodeId(2), epoch: Epoch(6) });
    let effects = step(&mut machine, 0, Input::EpochObtained(Epoch(5)));
    assert_eq!(effects.last(), Some(&Effect::RetryAt(Timestamp(100))));
    assert_eq!(machine.role(), &Role::Follower);
    assert_eq!(step(&mut machine, 100, Input::RetryDue), [Effect::ObtainEpoch { above: Epoch(6) }]);
}

fn refused(fenced_by: Option<Epoch>) -> Input {
    Input::Refused { reason: "no".to_owned(), fenced_by }
}

#[test]
fn a_refusal_by_an_epoch_that_is_not_newer_is_old_news() {
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
    assert_eq!(step(&mut machine, 0, refused(None)), [], "it has left already");
    assert_eq!(step(&mut machine, 0, refused(None)), []);
    assert_eq!(step(&mut machine, 100, Input::RetryDue), [Effect::ObtainEpoch { above: Epoch(5) }]);
}
