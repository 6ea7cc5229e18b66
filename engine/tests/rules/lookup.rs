//! Which rule governs a key.

use forebay_engine::rules::{RuleBook, RuleLookup};
use forebay_messages::rule::{Limits, Pattern, RuleUpdate};
use proptest::prelude::*;

use super::{after, create, pattern};

fn upsert(text: &str, limits: Limits) -> RuleUpdate {
    RuleUpdate::Upsert { pattern: pattern(text), limits }
}

fn lookup(patterns: &[&str]) -> RuleLookup {
    let updates: Vec<_> =
        patterns.iter().map(|text| upsert(text, Limits::concurrency(1))).collect();
    RuleLookup::from_updates(&updates)
}

fn governs(lookup: &RuleLookup, key: &str) -> Option<String> {
    let key: Vec<_> = key.split('/').collect();
    lookup.governing(&key).map(|rule| rule.pattern.to_string())
}

#[test]
fn precedence_of_all_eight_ranks() {
    let by_rank = ["s/a/b", "s/a/*", "s/*/b", "s/*/*", "*/a/b", "*/a/*", "*/*/b", "*/*/*"];
    for (strongest, expected) in by_rank.iter().enumerate() {
        let lookup = lookup(&by_rank[strongest..]);
        assert_eq!(governs(&lookup, "s/a/b").as_deref(), Some(*expected));
        assert_eq!(pattern(expected).rank(), 7 - u8::try_from(strongest).unwrap());
    }
    // The scope is most significant: 110 beats 101 beats 011.
    let all = lookup(&["scope/foo/*", "scope/*/bar", "*/foo/bar"]);
    assert_eq!(governs(&all, "scope/foo/bar").as_deref(), Some("scope/foo/*"));
    assert_eq!(governs(&all, "scope/x/bar").as_deref(), Some("scope/*/bar"));
    assert_eq!(governs(&all, "other/foo/bar").as_deref(), Some("*/foo/bar"));
    assert_eq!(governs(&all, "other/x/bar"), None);
}

#[test]
fn a_rule_applies_to_keys_of_its_own_depth_only() {
    let lookup = lookup(&["*", "s/*", "a/b/c"]);
    assert_eq!(governs(&lookup, "s").as_deref(), Some("*"));
    assert_eq!(governs(&lookup, "s/a").as_deref(), Some("s/*"));
    assert_eq!(governs(&lookup, "t/a"), None);
    assert_eq!(governs(&lookup, "s/a/b"), None);
    assert_eq!(lookup.resolve(&[]), None);
    assert_eq!(lookup.resolve(&["a", "b", "c", "d"]), None);
}

#[test]
fn removing_a_rule_uncovers_the_less_specific_one() {
    let mut lookup = lookup(&["s/a", "s/*"]);
    let before = lookup.generation();
    lookup.apply(&RuleUpdate::Remove { pattern: pattern("s/a") });
    assert_eq!(governs(&lookup, "s/a").as_deref(), Some("s/*"));
    lookup.apply(&RuleUpdate::Remove { pattern: pattern("s/a") });
    assert_eq!((lookup.len(), lookup.generation()), (1, before + 2));
    lookup.apply(&RuleUpdate::Remove { pattern: pattern("s/*") });
    assert!(lookup.is_empty());
    assert_eq!(governs(&lookup, "s/a"), None);
}

#[test]
fn what_if_returns_the_current_and_the_future_rule() {
    let lookup = lookup(&["s/*", "s/a"]);
    let updates =
        [RuleUpdate::Remove { pattern: pattern("s/a") }, upsert("s/*", Limits::concurrency(7))];
    let answer = lookup.what_if(&updates, &["s", "a"]);
    assert_eq!(answer.now.unwrap().pattern, pattern("s/a"));
    let then = answer.then.unwrap();
    assert_eq!((then.pattern, then.limits), (pattern("s/*"), Limits::concurrency(7)));
    assert_eq!(governs(&lookup, "s/a").as_deref(), Some("s/a"), "nothing was changed");
}

#[test]
fn a_lookup_of_a_book_knows_its_active_rules() {
    let book = after(&RuleBook::default(), &[create("a", 1), create("*", 2)]);
    let lookup = RuleLookup::from_updates(&book.diff_from_empty());
    let rule = lookup.governing(&["a"]).unwrap();
    assert_eq!((rule.id, rule.limits), (pattern("a").rule_id(), Limits::concurrency(1)));
    assert_eq!(lookup.governing(&["b"]).unwrap().pattern, pattern("*"));
}

fn patterns() -> impl Strategy<Value = Pattern> {
    prop::collection::vec(prop::sample::select(vec!["*", "a", "b"]), 1..=3)
        .prop_map(|parts| parts.join("/").parse().unwrap())
}

proptest! {
    #[test]
    fn a_lookup_finds_the_same_rule_as_a_scan(
        updates in prop::collection::vec((patterns(), any::<bool>()), 0..40),
        key in prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..=3),
    ) {
        let mut lookup = RuleLookup::default();
        let mut scanned: Vec<Pattern> = Vec::new();
        for (pattern, there) in updates {
            scanned.retain(|other| *other != pattern);
            let update = if there {
                scanned.push(pattern.clone());
                RuleUpdate::Upsert { pattern, limits: Limits::default() }
            } else {
                RuleUpdate::Remove { pattern }
            };
            lookup.apply(&update);
            prop_assert_eq!(lookup.len(), scanned.len());
        }
        let best = scanned.iter().filter(|pattern| pattern.matches(&key)).max_by_key(|p| p.rank());
        prop_assert_eq!(lookup.governing(&key).map(|rule| &rule.pattern), best);
    }
}
