//! The lease book: random workers, attempts and losses against what its callers may rely on, and
//! the cases that matter by name.

#![allow(clippy::unwrap_used, reason = "tests")]

mod cases;
mod world;

use proptest::prelude::*;

use world::{Op, World};

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let worker = 0..3_u8;
    let op = prop_oneof![
        4 => (worker.clone(), 1..5_usize, 0..3_u8, 0..400_u64)
            .prop_map(|(worker, max, services, wait)| Op::Poll { worker, max, services, wait }),
        1 => worker.clone().prop_map(|worker| Op::Repeat { worker }),
        1 => worker.prop_map(|worker| Op::Disconnect { worker }),
        4 => prop::collection::vec((0..2_u8, 0..4_u8, any::<bool>()), 1..5).prop_map(Op::Offer),
        2 => any::<prop::sample::Index>().prop_map(Op::Heartbeat),
        3 => any::<prop::sample::Index>().prop_map(Op::End),
        1 => any::<prop::sample::Index>().prop_map(Op::EndAgain),
        1 => any::<prop::sample::Index>().prop_map(Op::Revoke),
        1 => any::<prop::sample::Index>().prop_map(Op::Stop),
        1 => any::<prop::sample::Index>().prop_map(Op::Undelivered),
        4 => (1..300_u64).prop_map(Op::Wait),
    ];
    prop::collection::vec(op, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn a_lease_ends_once_and_keys_never_overlap(ops in ops()) {
        let mut world = World::new();
        for op in ops {
            world.step(op);
        }
        world.finish();
    }
}
