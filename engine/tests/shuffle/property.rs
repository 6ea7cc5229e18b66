//! Random sequences of events.

use proptest::prelude::*;

use super::world::World;

#[derive(Clone, Debug)]
enum Event {
    Send(Vec<u32>),
    SendMany(u32),
    Hint,
    LoseHint,
    Read,
    Receive(u32, bool, bool),
    Truncate(bool, bool),
    Tick,
    Lead,
    Route,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => prop::collection::vec(1..5_u32, 1..6).prop_map(Event::Send),
        1 => (1..5_u32).prop_map(Event::SendMany),
        6 => Just(Event::Hint),
        1 => Just(Event::LoseHint),
        6 => Just(Event::Read),
        12 => (1..5_u32, prop::bool::weighted(0.8), prop::bool::weighted(0.8))
            .prop_map(|(of, is_applied, is_known)| Event::Receive(of, is_applied, is_known)),
        4 => (prop::bool::weighted(0.8), any::<bool>())
            .prop_map(|(is_applied, is_known)| Event::Truncate(is_applied, is_known)),
        4 => Just(Event::Tick),
        1 => Just(Event::Lead),
        1 => Just(Event::Route),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn every_message_arrives_once_and_in_order(events in prop::collection::vec(event(), 1..120)) {
        let mut world = World::new(3);
        let mut sent: Vec<Vec<u64>> = vec![Vec::new(); 5];
        let mut next = 1;
        let mut send = |world: &mut World, targets: Vec<u32>| {
            for to in &targets {
                sent[*to as usize].push(next);
                next += 1;
            }
            world.send(targets);
        };
        world.lead();
        for event in events {
            match event {
                Event::Send(targets) => send(&mut world, targets),
                Event::SendMany(to) => send(&mut world, vec![to; 1_100]),
                Event::Hint => world.hint(),
                Event::LoseHint => world.lose_hint(),
                Event::Read => world.answer_read(),
                Event::Receive(of, is_applied, is_known) => {
                    world.receive(of, is_applied, is_known);
                }
                Event::Truncate(is_applied, is_known) => {
                    world.answer_truncation(is_applied, is_known);
                }
                Event::Tick => world.tick(),
                Event::Lead => world.lead(),
                Event::Route => world.route(4),
            }
        }
        world.route(4);
        // A lost notification is noticed at the next one.
        send(&mut world, vec![1, 2, 3, 4]);
        world.settle();
        for of in 1..5_u32 {
            prop_assert_eq!(&world.applied(of), &sent[of as usize], "to {}", of);
        }
        prop_assert!(world.outbox().is_empty(), "left: {:?}", world.outbox());
        prop_assert_eq!(world.held(), 0);
    }
}
