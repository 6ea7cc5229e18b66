//! Slots of executors: a service that was announced runs only as many entries as they take.

use std::collections::BTreeMap;

use forebay_engine::limiter::{BlockReason, LimiterEffect};
use forebay_messages::actor::{LimiterMessage, SeedRunning, SlotChange};

use super::rig::{Rig, entry, handle, id, limit, name, pause, remove};

/// A limiter for which the service `u` was announced.
fn announced(rules: &[forebay_messages::rule::RuleUpdate]) -> Rig {
    let mut rig = Rig::new(rules);
    rig.send(LimiterMessage::SlotsAnnounced("u".into()));
    rig.others();
    rig
}

fn leased(slots: u32) -> LimiterMessage {
    LimiterMessage::Slots { service: "u".into(), change: SlotChange::Leased(slots) }
}

fn wants(slots: u32) -> LimiterEffect {
    LimiterEffect::WantSlots { service: "u".into(), slots }
}

fn returns(slots: u32) -> LimiterEffect {
    LimiterEffect::ReturnSlots { service: "u".into(), slots }
}

#[test]
fn an_announced_service_runs_as_many_entries_as_there_are_slots() {
    let mut rig = announced(&[]);
    rig.run(1, "a");
    assert_eq!(rig.ask_for(2, "u:a", 5), [], "others need no slots, this service does");
    assert_eq!(rig.others(), [wants(1)]);
    assert_eq!(rig.ask(3, "u:b"), []);
    assert_eq!(rig.others(), [], "asked once");
    assert_eq!(rig.slots(leased(2)), [2], "both slots: the first one asked for five");
    assert_eq!(rig.others(), [wants(1)]);
    rig.hand_over(2);
    assert_eq!(rig.end(2), [3]);
    rig.hand_over(3);
    assert_eq!((rig.end(2), rig.end(3)), (vec![], vec![]));
    assert_eq!(rig.others(), [returns(1), returns(1)], "no spare is kept");
}

#[test]
fn a_vqueue_that_lacks_something_else_uses_no_slot() {
    let mut rig = announced(&[limit("a", 1)]);
    rig.run(1, "a");
    rig.ask(2, "u:a");
    rig.ask(3, "u:b");
    rig.others();
    assert_eq!(rig.slots(leased(1)), [3], "a is full");
    assert_eq!(rig.end(1), [], "now a has room, and no slot is free");
    let explained = rig.limiter.explain(handle(2), rig.now).unwrap();
    let reasons: Vec<_> = explained.reasons.into_iter().map(|blocked| blocked.reason).collect();
    let service = "u".to_owned();
    assert_eq!(reasons, [BlockReason::Slot { service, running: 1, leased: 1 }]);
    rig.hand_over(3);
    assert_eq!(rig.end(3), [2]);
}

#[test]
fn a_paused_service_and_a_taken_lock_keep_no_slot() {
    let mut rig = announced(&[]);
    rig.ask(1, "u:a#k");
    rig.update(&[pause("service:u")]);
    assert_eq!(rig.slots(leased(1)), []);
    assert_eq!(rig.update(&[remove("service:u")]), []);
    assert_eq!(rig.slots(leased(2)), [1]);
    rig.hand_over(1);
    assert_eq!(rig.ask(1, "u:a#k"), [], "its own lock");
    assert_eq!(rig.withdraw(1), []);
}

#[test]
fn running_entries_of_a_seed_count() {
    let name = name("u:a");
    let running = SeedRunning { entry: entry(1), vqueue: id(&name), name: name.into() };
    let seed = forebay_messages::actor::Seed {
        running: vec![running],
        services: vec!["u".into()],
        ..Default::default()
    };
    let mut rig = Rig::with(Default::default(), seed);
    rig.send(leased(1));
    assert_eq!(rig.ask(1, "u:b"), []);
    assert_eq!(rig.slots(leased(1)), [1]);
}

/// Random work: the invariants hold after each step, and no more entries run than slots are leased.
#[test]
fn random_work_never_exceeds_the_leased_slots() {
    for seed in 0..40_u64 {
        let mut rig = announced(&[limit("a", 2), limit("b", 1)]);
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let names = ["u:a", "u:b", "u:c", "u:a#k", "u:-", "a", "b"];
        let (mut slots, mut held): (u32, BTreeMap<u32, u32>) = (0, BTreeMap::new());
        for _ in 0..300 {
            let slot = u32::try_from(random(names.len() as u64)).unwrap();
            let granted = match random(8) {
                0 => {
                    slots += 1;
                    rig.slots(leased(1))
                }
                1 => rig.slots(LimiterMessage::Slots {
                    service: "u".into(),
                    change: SlotChange::Claimed,
                }),
                2 => rig.slots(LimiterMessage::Slots {
                    service: "u".into(),
                    change: SlotChange::Recalled,
                }),
                3 | 4 if held.get(&slot).is_some_and(|count| *count > 0) => {
                    *held.entry(slot).or_default() -= 1;
                    rig.end(slot)
                }
                _ => rig.ask(slot, names[slot as usize]),
            };
            for slot in granted {
                *held.entry(slot).or_default() += 1;
                rig.hand_over(slot);
            }
            for effect in rig.others() {
                if let LimiterEffect::ReturnSlots { slots: returned, .. } = effect {
                    slots -= returned;
                }
            }
            let used: u32 = (0..5).filter_map(|slot| held.get(&slot)).sum();
            assert!(used <= slots, "seed {seed}: {used} run with {slots} slots");
        }
    }
}
