//! Pauses by rule: nothing starts under a paused pattern or of a paused service.

use forebay_engine::limiter::BlockReason;
use forebay_messages::rule::{Limits, RuleUpdate};

use super::rig::{Rig, handle, limit, pause, remove, upsert};

/// Why the vqueue of a slot waits, in order.
fn reasons(rig: &Rig, slot: u32) -> Vec<String> {
    let explained = rig.limiter.explain(handle(slot), rig.now).expect("the vqueue waits");
    let written = |reason: &BlockReason| match reason {
        BlockReason::ServicePaused { service, pattern, .. } => format!("{service} by {pattern}"),
        BlockReason::Paused { key, pattern, .. } => format!("{key} by {pattern}"),
        other => format!("{other:?}"),
    };
    explained.reasons.iter().map(|blocked| written(&blocked.reason)).collect()
}

#[test]
fn nothing_starts_under_a_paused_pattern_and_running_entries_continue() {
    let mut rig = Rig::new(&[limit("s", 2)]);
    rig.run(1, "s/a");
    assert_eq!(rig.update(&[upsert("s", Limits::concurrency(2).paused())]), []);
    assert_eq!(rig.ask(2, "s/a"), []);
    assert_eq!(rig.ask(3, "s"), []);
    rig.run(4, "t");
    assert_eq!(rig.counter("s"), (1, Some(2), 2), "the limit itself is shown");
    assert_eq!(reasons(&rig, 2), ["s by s"]);
    assert_eq!(rig.end(1), [], "a freed slot is not granted");
    assert_eq!(rig.update(&[limit("s", 2)]), [2, 3]);
}

/// Only the rule that governs a key limits it, but every matching pause stops it.
#[test]
fn a_pause_holds_for_keys_with_their_own_rules() {
    let mut rig = Rig::new(&[limit("s", 5), limit("*/a", 3), pause("*"), pause("*/a")]);
    for (slot, name) in [(1, "s"), (2, "s/a"), (3, "other/b"), (4, "s/a/x")] {
        assert_eq!(rig.ask(slot, name), []);
    }
    rig.run(5, "-");
    assert_eq!(reasons(&rig, 4), ["s/a by */a", "s by *"]);
    assert_eq!(rig.update(&[limit("*/a", 3)]), []);
    assert_eq!(rig.update(&[remove("*")]), [1, 3, 2, 4], "the scopes take turns");
}

#[test]
fn a_pause_alone_does_not_lift_the_limit_of_a_less_specific_rule() {
    let mut rig = Rig::new(&[limit("*", 1)]);
    rig.run(1, "s");
    rig.update(&[pause("s")]);
    assert_eq!(rig.ask(2, "s"), []);
    assert_eq!(rig.counter("s"), (1, Some(1), 1));
    assert_eq!(rig.update(&[remove("s")]), [], "`*` allows one");
    assert_eq!(rig.end(1), [2]);
}

#[test]
fn a_paused_service_waits_in_all_scopes_and_resumes_in_order() {
    let mut rig = Rig::new(&[limit("s", 2)]);
    rig.run(1, "u:s");
    rig.run(2, "s");
    for (slot, name) in [(3, "u:s"), (4, "s"), (5, "u:s/a"), (6, "u:-#k")] {
        rig.ask(slot, name);
    }
    assert_eq!(rig.held.get(&handle(6)).map(Vec::len), Some(1), "no scope, no limit");
    rig.ask(7, "u:-#k");
    assert_eq!(rig.update(&[pause("service:u")]), []);
    assert_eq!(rig.ask(8, "u:-"), []);
    assert_eq!(rig.end(1), [4], "a paused waiter is skipped");
    assert_eq!(rig.end(6), [], "its lock is free, its service is paused");
    assert_eq!(reasons(&rig, 3)[0], "u by service:u");
    assert_eq!(reasons(&rig, 8), ["u by service:u"]);
    let views = rig.limiter.limits(rig.now);
    let shown = views.iter().find(|view| view.key == "service:u").expect("the pause is listed");
    assert_eq!((shown.waiters, shown.paused.is_some()), (4, true));
    assert_eq!(rig.end(2), []);
    assert_eq!(
        rig.update(&[remove("service:u")]),
        [3, 8, 7],
        "7 is last because it waited for its lock"
    );
    assert_eq!(rig.end(4), [5]);
}

#[test]
fn a_service_pause_holds_for_services_below_and_the_nearest_counts() {
    let mut rig = Rig::new(&[pause("service:u")]);
    for (slot, name) in [(1, "u.x:s"), (2, "u:s"), (3, "u.x.y:-")] {
        assert_eq!(rig.ask(slot, name), [], "{name}");
    }
    assert_eq!(rig.ask(4, "ux:s"), [4], "only a dot separates levels");
    assert_eq!(reasons(&rig, 3), ["u.x.y by service:u"]);
    assert_eq!(rig.update(&[pause("service:u.x")]), []);
    assert_eq!(rig.update(&[remove("service:u")]), [2], "services below u.x have another pause");
    assert_eq!(reasons(&rig, 3), ["u.x.y by service:u.x"]);
    assert_eq!(rig.update(&[pause("service:u")]), []);
    assert_eq!(rig.update(&[remove("service:u.x")]), [], "they wait for the pause above");
    assert_eq!(rig.update(&[remove("service:u")]), [1, 3]);
}

#[test]
fn a_new_limiter_knows_what_is_paused() {
    let mut rig = Rig::new(&[pause("service:u"), pause("s")]);
    for (slot, name) in [(1, "u:t"), (2, "s/a/x"), (3, "u:-")] {
        assert_eq!(rig.ask(slot, name), [], "{name}");
    }
    let disabled: Vec<RuleUpdate> = vec![remove("service:u"), remove("s")];
    assert_eq!(rig.update(&disabled), [2, 1, 3], "scopes first, then services");
}
