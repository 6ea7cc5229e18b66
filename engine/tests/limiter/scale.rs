//! Many waiters and many rules at once. `benches/limiter.rs` measures the cost; here, a cost that
//! grew with their product would exceed the test runner's time limit.

use super::rig::{Rig, limit};

#[test]
fn ten_thousand_updates_under_a_hundred_thousand_waiters() {
    let rule = |n: u32, limit_to| limit(&format!("s{}/l{n}/*", n % 100), limit_to);
    let rules: Vec<_> = (0..10_000).map(|n| rule(n, 1)).collect();
    let mut rig = Rig::new(&rules);
    rig.checked = false;
    for slot in 0..100_000 {
        let n = slot % 10_000;
        rig.ask(slot, &format!("s{}/l{n}/x", n % 100));
    }
    let updates: Vec<_> = (0..10_000).map(|n| rule(n, 2)).collect();
    let granted = rig.update(&updates);
    // One more under each rule, each vqueue once.
    let slots: std::collections::BTreeSet<_> = granted.iter().copied().collect();
    assert_eq!((granted.len(), slots.len()), (10_000, 10_000));
    rig.limiter_is_sound();
}
