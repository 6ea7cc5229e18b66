//! The shuffle with outboxes, targets and a network in memory: commands are applied, lost or of
//! unknown outcome, notifications are missed, leaders change at both ends. Every message arrives
//! once and in order.

mod property;
mod world;

use std::sync::Arc;

use forebay_engine::{
    Machine,
    shuffle::{HELD_PER_TARGET_MAX, Shuffle, ShuffleEffect, ShuffleInput},
};
use forebay_messages::{PartitionId, Timestamp, journal::MESSAGES_PER_RECORD_MAX};

use world::{World, message, routes};

/// A shuffle whose outbox is known to be empty.
fn shuffle() -> Shuffle {
    let mut shuffle = Shuffle::new(PartitionId(9), routes(3));
    let mut effects = Vec::new();
    shuffle.start(Timestamp(0), &mut effects);
    assert!(matches!(effects[..], [ShuffleEffect::Read { .. }]), "{effects:?}");
    let input = ShuffleInput::Read { messages: Vec::new(), is_end: true };
    assert_eq!(step(&mut shuffle, 0, input), []);
    shuffle
}

fn step(shuffle: &mut Shuffle, now: u64, input: ShuffleInput) -> Vec<ShuffleEffect> {
    let mut effects = Vec::new();
    shuffle.step(Timestamp(now), input, &mut effects);
    shuffle.check();
    effects
}

fn added(indexes: impl IntoIterator<Item = (u64, u32)>) -> ShuffleInput {
    let messages = indexes.into_iter().map(|(index, to)| Arc::new(message(index, to)));
    ShuffleInput::Added(messages.collect())
}

/// For each delivery, its target and indexes; for each truncation, target 0 and the indexes.
fn summary(effects: &[ShuffleEffect]) -> Vec<(u32, Vec<u64>)> {
    let summary = effects.iter().filter_map(|effect| match effect {
        ShuffleEffect::Deliver { target, command } => {
            Some((target.0, command.messages.iter().map(|message| message.index.0).collect()))
        }
        ShuffleEffect::Truncate(command) => {
            Some((0, command.delivered.iter().map(|index| index.0).collect()))
        }
        _ => None,
    });
    summary.collect()
}

#[test]
fn one_command_per_target_is_in_flight_and_targets_do_not_wait_for_each_other() {
    let mut shuffle = shuffle();
    let effects = step(&mut shuffle, 0, added([(1, 1), (2, 2), (3, 1)]));
    assert_eq!(summary(&effects), [(1, vec![1, 3]), (2, vec![2])]);
    // More messages arrive: target 1 must answer first.
    let effects = step(&mut shuffle, 0, added([(4, 1), (5, 3)]));
    assert_eq!(summary(&effects), [(3, vec![5])]);
    let effects = step(&mut shuffle, 0, ShuffleInput::Delivered { target: PartitionId(1) });
    assert_eq!(summary(&effects), [(1, vec![4]), (0, vec![1, 3])]);
    // The next truncation waits for the first one.
    let effects = step(&mut shuffle, 0, ShuffleInput::Delivered { target: PartitionId(2) });
    assert_eq!(summary(&effects), []);
    assert_eq!(summary(&step(&mut shuffle, 0, ShuffleInput::Truncated)), [(0, vec![2])]);
}

#[test]
fn what_was_not_delivered_is_handed_over_again_later_with_newer_messages() {
    let mut shuffle = shuffle();
    step(&mut shuffle, 0, added([(1, 1)]));
    let effects = step(&mut shuffle, 50, ShuffleInput::NotDelivered { target: PartitionId(1) });
    assert_eq!(effects, [ShuffleEffect::WakeAt(Timestamp(150))]);
    assert_eq!(summary(&step(&mut shuffle, 60, added([(2, 1)]))), []);
    assert_eq!(summary(&step(&mut shuffle, 150, ShuffleInput::Tick)), [(1, vec![1, 2])]);
    // The delay grows.
    let effects = step(&mut shuffle, 150, ShuffleInput::NotDelivered { target: PartitionId(1) });
    assert_eq!(effects, [ShuffleEffect::WakeAt(Timestamp(350))]);
}

#[test]
fn a_target_that_does_not_answer_keeps_a_bound_in_memory_and_holds_up_no_other() {
    let mut world = World::new(3);
    let many = 3 * HELD_PER_TARGET_MAX as u64;
    world.lead();
    world.block(1);
    world.send((0..many).map(|_| 1));
    world.send([2]);
    world.settle();
    assert_eq!(world.applied(2), [many + 1]);
    assert_eq!(world.held(), HELD_PER_TARGET_MAX);
    world.unblock(1);
    world.settle();
    assert_eq!(world.applied(1), (1..=many).collect::<Vec<_>>());
    assert!(world.outbox().is_empty() && world.held() == 0);
    assert!(world.largest_command() <= MESSAGES_PER_RECORD_MAX);
}

#[test]
fn messages_without_an_owner_stay_until_there_is_one() {
    let mut world = World::new(1);
    world.lead();
    world.send([2, 1, 2]);
    world.settle();
    assert_eq!((world.applied(1), world.outbox()), (vec![2], vec![1, 3]));
    world.route(2);
    world.settle();
    assert_eq!((world.applied(2), world.outbox()), (vec![1, 3], vec![]));
}
