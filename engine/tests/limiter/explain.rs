//! Why a vqueue waits.

use std::num::NonZeroU32;

use forebay_engine::limiter::{BlockReason, Blocked, Lack, LockHolder, Rank};
use forebay_messages::{
    PermitId, Timestamp,
    actor::LimiterMessage,
    rule::{Limits, Pattern, Rate},
};

use super::rig::{INCARNATION, Rig, entry, handle, id, limit, name, upsert};

fn full(key: &str, pattern: &str, usage: u32, limit: u32, since: u64) -> Blocked {
    let pattern: Pattern = pattern.parse().unwrap();
    let rule = pattern.rule_id();
    let reason = BlockReason::Concurrency { key: key.to_owned(), rule, pattern, usage, limit };
    Blocked { reason, since: Timestamp(since) }
}

#[test]
fn all_reasons_are_reported_with_rule_and_start() {
    let slow = Limits {
        rate: Some(Rate { tokens: 1, period_ms: 5000, burst: 3 }),
        concurrency: NonZeroU32::new(9),
        ..Limits::default()
    };
    let mut rig = Rig::leased(&[limit("s/*/x", 1), upsert("s/a", slow), limit("*", 3)]);
    rig.send(LimiterMessage::CapacityLeased(3));
    rig.run(1, "s/a/x#k");
    rig.now = Timestamp(2000);
    rig.ask(2, "s/a/x#k");
    rig.now = Timestamp(3000);
    rig.run(3, "s/a");
    rig.run(4, "s/a");
    rig.now = Timestamp(4000);

    let explained = rig.limiter.explain(handle(2), rig.now).unwrap();
    assert_eq!((explained.waiting_since, explained.wanted), (Some(Timestamp(2000)), 1));
    let holder = LockHolder::Permit(PermitId { incarnation: INCARNATION, serial: 1 });
    let pattern: Pattern = "s/a".parse().unwrap();
    let key = "s/a".to_owned();
    let next_token = Timestamp(6000);
    let expected = [
        // Blocked before it began to wait: since the wait began.
        Blocked { reason: BlockReason::Lock { holder }, since: Timestamp(2000) },
        full("s/a/x", "s/*/x", 1, 1, 2000),
        // Blocked later: since they became full.
        Blocked {
            reason: BlockReason::Rate { key, rule: pattern.rule_id(), pattern, next_token },
            since: Timestamp(3000),
        },
        full("s", "*", 3, 3, 3000),
        Blocked {
            reason: BlockReason::Capacity { running: 3, leased: 3, is_asked: false },
            since: Timestamp(3000),
        },
    ];
    assert_eq!(explained.reasons, expected);
    let by_name = name("s/a/x#k");
    assert_eq!(rig.limiter.explain_vqueue(id(&by_name), &by_name, rig.now), explained);
    assert_eq!(rig.limiter.explain(handle(1), rig.now), None, "it does not wait");
}

#[test]
fn counters_without_room_report_what_they_lack() {
    let slow =
        Limits { rate: Some(Rate { tokens: 1, period_ms: 5000, burst: 1 }), ..Limits::default() };
    let mut rig = Rig::leased(&[limit("*", 1), upsert("*/a", slow)]);
    rig.send(LimiterMessage::CapacityLeased(3));
    rig.run(1, "s/a");
    rig.run(2, "-");
    let pattern = |text: &str| text.parse::<Pattern>().unwrap();
    let full = Lack::Concurrency { pattern: pattern("*"), limit: 1 };
    let dry = Lack::Rate { pattern: pattern("*/a") };
    let mut lacks = rig.limiter.lacks(rig.now);
    lacks.sort_by(|(a, _), (b, _)| a.cmp(b));
    assert_eq!(lacks, [("s".to_owned(), full), ("s/a".to_owned(), dry)]);
    rig.end(1);
    assert_eq!(rig.limiter.lacks(rig.now).len(), 1, "room, but no token");
    assert_eq!(rig.limiter.lacks(Timestamp(rig.now.0 + 5_000)), []);
}

#[test]
fn a_vqueue_that_does_not_wait_learns_what_would_block_it() {
    let mut rig = Rig::new(&[limit("*", 1), limit("*/*", 1)]);
    rig.run(1, "s/a");
    rig.run(2, "-#k");
    rig.end_keeping(2, Some(entry(3)));
    let explain = |text: &str| {
        let name = name(text);
        rig.limiter.explain_vqueue(id(&name), &name, rig.now)
    };
    assert_eq!(
        explain("s/a").reasons,
        [full("s/a", "*/*", 1, 1, 1000), full("s", "*", 1, 1, 1000)]
    );
    // Missing deeper counters hold nothing.
    assert_eq!(explain("s/b/c").reasons, [full("s", "*", 1, 1, 1000)]);
    assert_eq!(explain("t/a").reasons, []);
    assert_eq!(explain("-").reasons, []);
    let reason = BlockReason::Lock { holder: LockHolder::Entry(entry(3)) };
    assert_eq!(explain("-#k").reasons, [Blocked { reason, since: Timestamp(1000) }]);
    assert_eq!(explain("-#k").waiting_since, None);
}

#[test]
fn a_rank_counts_the_vqueues_that_wait_for_the_same_counter() {
    let mut rig = Rig::leased(&[limit("s", 1), limit("t", 9)]);
    rig.send(LimiterMessage::CapacityLeased(2));
    rig.run(1, "s/a");
    rig.ask(2, "s/b");
    rig.ask(3, "s");
    rig.run(4, "t");
    rig.ask(5, "t");
    rig.ask(6, "s/b/c");
    let rank = |rig: &Rig, number| rig.limiter.explain(handle(number), rig.now).unwrap().rank;
    let of = |key: Option<&str>, ahead, waiting| {
        Some(Rank { key: key.map(str::to_owned), ahead, waiting })
    };
    assert_eq!(rank(&rig, 2), of(Some("s"), 0, 3));
    assert_eq!(rank(&rig, 3), of(Some("s"), 1, 3));
    assert_eq!(rank(&rig, 6), of(Some("s"), 2, 3));
    // Only a slot is missing: compared with all waiting vqueues.
    assert_eq!(rank(&rig, 5), of(None, 2, 4));
    // One slot for the vqueue of `t`, one for the next.
    rig.send(LimiterMessage::CapacityLeased(2));
    rig.run(7, "-#k");
    rig.ask(8, "-#k");
    assert_eq!(rank(&rig, 8), None, "it waits for its lock only");
}

#[test]
fn lowering_a_limit_fills_a_counter_at_that_time() {
    let mut rig = Rig::new(&[limit("s", 9), limit("s/a", 1)]);
    rig.run(1, "s/a");
    rig.now = Timestamp(2000);
    rig.ask(2, "s/a");
    for now in [5000, 6000] {
        rig.now = Timestamp(now);
        rig.update(&[limit("s", 1)]);
    }
    let explained = rig.limiter.explain(handle(2), rig.now).unwrap();
    assert_eq!(explained.reasons, [full("s/a", "s/a", 1, 1, 2000), full("s", "s", 1, 1, 5000)]);
}

#[test]
fn limits_lists_counters_in_use_or_with_waiters() {
    let mut rig = Rig::new(&[limit("s", 2), limit("s/*", 1)]);
    rig.run(1, "s/a");
    rig.run(2, "s");
    rig.ask(3, "s/a");
    rig.ask(4, "s/b");
    let limits = rig.limiter.limits(rig.now);
    let rows: Vec<_> = limits
        .iter()
        .map(|view| {
            let pattern = view.rule.as_ref().map(|(_, pattern)| pattern.to_string());
            (view.key.as_str(), view.usage, view.limit, view.waiters, pattern)
        })
        .collect();
    let by = |pattern: &str| Some(pattern.to_owned());
    let expected = [
        ("s", 2, Some(2), 1, by("s")),
        ("s/a", 1, Some(1), 1, by("s/*")),
        ("s/b", 0, Some(1), 0, by("s/*")),
    ];
    assert_eq!(rows, expected);
}
