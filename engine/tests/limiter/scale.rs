//! Many waiters and many rules at once. `benches/limiter.rs` measures the cost; here, a cost that
//! grew with their product would exceed the test runner's time limit.

use super::desk::{Desk, limit};

#[test]
fn ten_thousand_updates_under_a_hundred_thousand_waiters() {
    let rule = |n: u32, limit_to| limit(&format!("s{}/l{n}/*", n % 100), limit_to);
    let rules: Vec<_> = (0..10_000).map(|n| rule(n, 1)).collect();
    let mut desk = Desk::new(&rules);
    desk.checked = false;
    for slot in 0..100_000 {
        let n = slot % 10_000;
        desk.ask(slot, &format!("s{}/l{n}/x", n % 100));
    }
    let updates: Vec<_> = (0..10_000).map(|n| rule(n, 2)).collect();
    let granted = desk.update(&updates);
    // One more under each rule, each vqueue once.
    let slots: std::collections::BTreeSet<_> = granted.iter().copied().collect();
    assert_eq!((granted.len(), slots.len()), (10_000, 10_000));
    desk.limiter_is_sound();
}
