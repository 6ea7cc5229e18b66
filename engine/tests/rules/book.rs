//! The version contract, preconditions, batches, differences, history.

use std::num::NonZeroU32;

use forebay_engine::rules::{
    BookVersion, Change, ChangeError, Edit, HISTORY_BYTES_MAX, HISTORY_LEN_MAX, History,
    LimitsPatch, Precondition, RollbackError, RuleBook, RuleChange, RulePatch, check_supported,
};
use forebay_messages::{
    Timestamp,
    rule::{Limits, RATE_PERIOD_MS_MAX, Rate, RuleUpdate},
};
use proptest::prelude::*;

use super::{after, apply, create, delete, patch, pattern};

fn version(book: &RuleBook, text: &str) -> u64 {
    book.get(&pattern(text)).unwrap().version.0
}

fn described(text: &str) -> RulePatch {
    RulePatch { description: Some(text.into()), ..RulePatch::default() }
}

fn pause(paused: bool) -> RulePatch {
    RulePatch { limits: LimitsPatch::paused(paused), ..RulePatch::default() }
}

fn upsert(text: &str, limit: u32) -> RuleUpdate {
    RuleUpdate::Upsert { pattern: pattern(text), limits: Limits::concurrency(limit) }
}

fn remove(text: &str) -> RuleUpdate {
    RuleUpdate::Remove { pattern: pattern(text) }
}

#[test]
fn a_rule_takes_the_books_version_when_created_and_when_the_runtime_sees_a_change() {
    let one = after(&RuleBook::default(), &[create("a", 1), create("b", 1)]);
    assert_eq!((one.version().0, version(&one, "a"), version(&one, "b")), (1, 1, 1));
    let two = after(&one, &[patch("a", 2)]);
    assert_eq!((two.version().0, version(&two, "a"), version(&two, "b")), (2, 2, 1));
    let disable = RuleChange::new(pattern("b"), Change::Patch(RulePatch::disabled(true)));
    let three = after(&two, &[disable]);
    assert_eq!((three.version().0, version(&three, "a"), version(&three, "b")), (3, 2, 3));
}

#[test]
fn a_description_alone_changes_the_books_version_and_time_but_not_the_rules() {
    let one = after(&RuleBook::default(), &[create("a", 1)]);
    let two = after(&one, &[RuleChange::new(pattern("a"), Change::Patch(described("why")))]);
    let rule = two.get(&pattern("a")).unwrap();
    assert_eq!((two.version().0, rule.version.0, rule.last_modified), (2, 1, Timestamp(2)));
    assert_eq!(two.diff(&one), []);
}

#[test]
fn a_change_without_effect_changes_no_version() {
    let one = after(&RuleBook::default(), &[create("a", 1)]);
    for batch in [
        vec![],
        vec![patch("a", 1)],
        vec![RuleChange::new(pattern("a"), Change::Patch(RulePatch::default()))],
        vec![patch("a", 9), patch("a", 1)],
        vec![create("b", 1), delete("b")],
    ] {
        let applied = apply(&one, &batch).unwrap();
        assert!(!applied.changed, "{batch:?}");
        assert_eq!(applied.book, one, "{batch:?}");
    }
}

#[test]
fn recreate_after_delete_is_an_update() {
    let one = after(&RuleBook::default(), &[create("a", 1), create("b", 1)]);
    // In one batch, with equal limits: a partition that knows `one` must see the difference.
    let two = after(&one, &[delete("a"), create("a", 1)]);
    assert_eq!((two.version().0, version(&two, "a")), (2, 2));
    assert_eq!(two.diff(&one), [upsert("a", 1)]);
    // Over two books, one of which the partition never saw.
    let gone = after(&one, &[delete("a")]);
    let back = after(&gone, &[create("a", 5)]);
    assert_eq!(back.diff(&one), [upsert("a", 5)]);
    assert_eq!(gone.diff(&one), [remove("a")]);
}

#[test]
fn a_patched_rule_takes_the_version_of_the_book() {
    let mut book = after(&RuleBook::default(), &[create("a", 1), create("b", 1)]);
    for limit in 2..6 {
        book = after(&book, &[patch("b", limit)]);
    }
    let patched = after(&book, &[patch("a", 7)]);
    assert_eq!((patched.version().0, version(&patched, "a")), (6, 6));
    let recreated = after(&patched, &[delete("a"), create("a", 7)]);
    assert_eq!(recreated.diff(&patched), [upsert("a", 7)]);
}

#[test]
fn a_disabled_rule_counts_as_absent() {
    let one = after(&RuleBook::default(), &[create("a", 1), create("b", 2)]);
    let off = RuleChange::new(pattern("a"), Change::Patch(RulePatch::disabled(true)));
    let two = after(&one, &[off]);
    assert_eq!(two.diff(&one), [remove("a")]);
    assert_eq!(two.diff_from_empty(), [upsert("b", 2)]);
    let three = after(&two, &[patch("a", 3)]);
    assert_eq!(three.diff(&two), [], "a change of a disabled rule is invisible");
    let on = RuleChange::new(pattern("a"), Change::Patch(RulePatch::disabled(false)));
    let four = after(&three, &[on]);
    assert_eq!(four.diff(&three), [upsert("a", 3)]);
    let born_off = RulePatch { disabled: Some(true), ..RulePatch::default() };
    let five = after(&four, &[RuleChange::new(pattern("c"), Change::Create(born_off))]);
    assert_eq!(five.diff(&four), []);
}

#[test]
fn a_batch_is_all_or_nothing_and_is_checked_against_itself() {
    let one = after(&RuleBook::default(), &[create("a", 1)]);
    let refused = apply(&one, &[patch("a", 2), create("b", 1), create("a", 3)]);
    let there = BookVersion(2);
    assert_eq!(refused, Err(ChangeError::AlreadyExists { pattern: pattern("a"), version: there }));
    assert_eq!((one.len(), version(&one, "a")), (1, 1), "nothing of it was applied");

    let stale = patch("a", 3).only_if(Precondition::Matches(BookVersion(1)));
    let refused = apply(&one, &[patch("a", 2), stale]).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "rule `a`: expected version 1, found version 2; look at it again and repeat the change"
    );
    let unknown = ChangeError::UnknownRule { pattern: pattern("b") };
    assert_eq!(apply(&one, &[delete("b")]), Err(unknown));
    assert!(apply(&one, &[create("b", 1), patch("b", 2), delete("b"), create("b", 4)]).is_ok());
}

#[test]
fn failed_preconditions_report_expected_and_found() {
    let one = after(&RuleBook::default(), &[create("a", 1)]);
    let cases = [
        (
            create("a", 2).only_if(Precondition::DoesNotExist),
            "expected no such rule, found version 1",
        ),
        (
            delete("a").only_if(Precondition::Matches(BookVersion(9))),
            "expected version 9, found version 1",
        ),
        (
            delete("b").only_if(Precondition::Matches(BookVersion(9))),
            "expected version 9, found no such rule",
        ),
    ];
    for (change, says) in cases {
        let error = apply(&one, &[change]).unwrap_err();
        assert!(matches!(error, ChangeError::PreconditionFailed { .. }));
        assert!(error.to_string().contains(says), "{error}");
    }
    assert!(apply(&one, &[create("b", 2).only_if(Precondition::DoesNotExist)]).is_ok());
    assert!(apply(&one, &[patch("a", 2).only_if(Precondition::Matches(BookVersion(1)))]).is_ok());
}

#[test]
fn the_number_of_rules_and_the_length_of_descriptions_are_bounded() {
    let now = Timestamp(1);
    let two = [create("a", 1), create("b", 1)];
    let book = RuleBook::default().apply(&two, now, 2).unwrap().book;
    let refused = book.apply(&[create("c", 1)], now, 2);
    assert_eq!(refused, Err(ChangeError::TooManyRules { pattern: pattern("c"), rules_max: 2 }));
    assert!(book.apply(&[delete("a"), create("c", 1)], now, 2).is_ok());
    let long = RuleChange::new(pattern("a"), Change::Patch(described(&"x".repeat(1025))));
    let refused = book.apply(&[long], now, 2);
    assert_eq!(refused, Err(ChangeError::DescriptionTooLong { pattern: pattern("a"), len: 1025 }));
}

#[test]
fn an_upsert_changes_only_its_pattern_and_a_patch_only_its_fields() {
    let rate = Rate { tokens: 5, period_ms: 1000, burst: 5 };
    let set_rate = LimitsPatch { rate: Edit::Set(rate), ..LimitsPatch::default() };
    let set_rate = RulePatch { limits: set_rate, ..RulePatch::default() };
    let one = after(&RuleBook::default(), &[create("a", 1), create("b", 1)]);
    let two = after(&one, &[one.upsert(pattern("a"), set_rate.clone())]);
    assert_eq!(
        two.get(&pattern("a")).unwrap().limits,
        Limits { rate: Some(rate), ..Limits::concurrency(1) }
    );
    let three = after(&two, &[two.upsert(pattern("c"), set_rate)]);
    assert_eq!(
        three.get(&pattern("c")).unwrap().limits,
        Limits { rate: Some(rate), ..Limits::default() }
    );
    let clear = LimitsPatch { concurrency: Edit::Clear, ..LimitsPatch::default() };
    let clear = RulePatch { limits: clear, ..RulePatch::default() };
    let four = after(&three, &[three.upsert(pattern("a"), clear)]);
    assert_eq!(
        four.get(&pattern("a")).unwrap().limits,
        Limits { rate: Some(rate), ..Limits::default() }
    );
    assert_eq!(version(&four, "b"), 1);
}

#[test]
fn a_rollback_is_a_new_version_with_old_rules() {
    let mut history = History::default();
    let one = after(&RuleBook::default(), &[create("a", 1), create("b", 1)]);
    let two = after(&one, &[patch("a", 2), delete("b"), create("c", 3)]);
    for (book, author) in [(&one, "ann"), (&two, "bob"), (&one, "late")] {
        history.record(book.clone(), author, Timestamp(book.version().0));
    }
    let authors: Vec<_> = history.entries().iter().map(|entry| &*entry.author).collect();
    assert_eq!(authors, ["ann", "bob"], "an older book is not recorded");

    let back = history.rollback(&two, one.version(), Timestamp(9)).unwrap();
    back.book.check();
    assert_eq!(back.book.version(), BookVersion(3));
    let mut updates = back.book.diff(&two);
    updates.sort_by_key(|update| format!("{update:?}"));
    assert_eq!(updates, [remove("c"), upsert("a", 1), upsert("b", 1)]);
    let again = history.rollback(&two, two.version(), Timestamp(9)).unwrap();
    assert!(!again.changed, "a rollback to the current rules changes nothing");

    let error = history.rollback(&two, BookVersion(7), Timestamp(9)).unwrap_err();
    let kept = Some((BookVersion(1), BookVersion(2)));
    assert_eq!(error, RollbackError::NotKept { version: BookVersion(7), kept });
    assert_eq!(error.to_string(), "version 7 of the rule book is not kept; kept versions: 1 to 2");
}

#[test]
fn the_history_drops_the_oldest() {
    let mut history = History::default();
    let mut book = RuleBook::default();
    for limit in 1..=40 {
        let change = book.upsert(pattern("a"), RulePatch::limits(Limits::concurrency(limit)));
        book = after(&book, &[change]);
        history.record(book.clone(), "ann", Timestamp(u64::from(limit)));
    }
    assert_eq!(history.entries().len(), HISTORY_LEN_MAX);
    assert_eq!(history.entries().last().map(|entry| entry.book.version()), Some(BookVersion(40)));
}

#[test]
fn the_history_of_large_books_is_bounded_in_bytes() {
    let text = "x".repeat(1024);
    let empty = RuleBook::default();
    let changes = (0..8_000).map(|at| {
        let mut patch = RulePatch::limits(Limits::concurrency(1));
        patch.description = Some(text.as_str().into());
        empty.upsert(pattern(&format!("tenant-{at}")), patch)
    });
    let mut book = after(&empty, &changes.collect::<Vec<_>>());
    let mut history = History::default();
    for limit in 2..7 {
        let change =
            book.upsert(pattern("tenant-0"), RulePatch::limits(Limits::concurrency(limit)));
        book = after(&book, &[change]);
        history.record(book.clone(), "ann", Timestamp(u64::from(limit)));
    }
    assert_eq!(history.entries().len(), 3, "each version takes some 9 MB");
    assert!(history.encode().len() <= HISTORY_BYTES_MAX);
    assert_eq!(history.entries().last().map(|entry| entry.book.version()), Some(book.version()));
}

/// A batch over few patterns, so that changes collide.
fn batches() -> impl Strategy<Value = Vec<Vec<RuleChange>>> {
    let change = (0..4_usize, 0..7_u8, 1..3_u32).prop_map(|(at, what, limit)| {
        let text = ["a", "a/b", "*/b", "*"][at];
        match what {
            0 => create(text, limit),
            1 => patch(text, limit),
            2 => delete(text),
            3 => RuleChange::new(pattern(text), Change::Patch(RulePatch::disabled(limit == 1))),
            5 => RuleChange::new(pattern(text), Change::Patch(pause(limit == 1))),
            6 => RuleChange::new(pattern(text), Change::Create(pause(true))),
            _ => RuleChange::new(pattern(text), Change::Patch(described(&limit.to_string()))),
        }
    });
    prop::collection::vec(prop::collection::vec(change, 1..5), 1..12)
}

proptest! {
    /// Applying every difference and skipping books give the same rules: exactly the active ones.
    #[test]
    fn differences_lead_from_any_book_to_any_later_one(batches in batches(), skip in 1..4_usize) {
        let mut books = vec![RuleBook::default()];
        for batch in &batches {
            let last = books.last().unwrap();
            if let Ok(applied) = apply(last, batch) {
                books.push(applied.book);
            }
        }
        let mut versions = std::collections::BTreeMap::new();
        let mut at = &books[0];
        for book in books.iter().skip(skip).step_by(skip) {
            for update in book.diff(at) {
                match update {
                    RuleUpdate::Upsert { pattern, limits } => versions.insert(pattern, limits),
                    RuleUpdate::Pause { pattern } => {
                        versions.insert(pattern, Limits::default().paused())
                    }
                    RuleUpdate::Remove { pattern } => versions.remove(&pattern),
                };
            }
            at = book;
            let active = book.rules().filter(|rule| !rule.disabled);
            let active = active.map(|rule| (rule.pattern.clone(), rule.limits)).collect();
            prop_assert_eq!(&versions, &active);
            prop_assert_eq!(RuleBook::decode(&book.encode()), Ok(book.clone()));
        }
    }
}

#[test]
fn weights_below_a_scope_and_guarantees_are_refused() {
    let check = |text: &str, limits: Limits| {
        let change = Change::Create(RulePatch::limits(limits));
        check_supported(&[RuleChange::new(pattern(text), change)])
    };
    let weight = Limits { weight: NonZeroU32::new(2), ..Limits::default() };
    let below = ChangeError::WeightBelowScope { pattern: pattern("s/*") };
    assert_eq!((check("s/*", weight), check("*", weight)), (Err(below), Ok(())));
    let guaranteed = Limits { guaranteed: NonZeroU32::new(2), ..Limits::default() };
    assert_eq!(check("s", guaranteed), Err(ChangeError::Guaranteed { pattern: pattern("s") }));
}

#[test]
fn zeros_and_overlong_periods_are_refused_with_advice() {
    let check = |limits: Limits| {
        let change = Change::Create(RulePatch::limits(limits));
        let refused = check_supported(&[RuleChange::new(pattern("s"), change)]);
        refused.map_err(|error| error.to_string())
    };
    let rate = |tokens, period_ms, burst| Limits {
        rate: Some(Rate { tokens, period_ms, burst }),
        ..Limits::default()
    };
    for (limits, advice) in [
        (Limits::concurrency(0), "a concurrency limit is at least 1"),
        (Limits::concurrency(0).paused(), "a concurrency limit is at least 1"),
        (rate(0, 1, 1), "a rate of 0 tokens"),
        (rate(1, 0, 1), "a period of 0 ms"),
        (rate(1, 1, 0), "a burst of 0"),
    ] {
        let error = check(limits).unwrap_err();
        assert!(error.contains(advice) && error.contains("rules pause s"), "{error}");
        let kept = LimitsPatch::keeping_others(limits);
        let change = Change::Patch(RulePatch { limits: kept, ..RulePatch::default() });
        assert!(check_supported(&[RuleChange::new(pattern("s"), change)]).is_err(), "{advice}");
    }
    assert_eq!(check(rate(1, RATE_PERIOD_MS_MAX, 1)), Ok(()));
    let error = check(rate(1, RATE_PERIOD_MS_MAX + 1, 1)).unwrap_err();
    assert!(error.contains("at most 31622400000 ms (366 days)"), "{error}");
    assert_eq!(check(rate(u32::MAX, 1, u32::MAX)), Ok(()));
}

#[test]
fn a_service_can_only_be_paused() {
    let change = |change| check_supported(&[RuleChange::new(pattern("service:mail"), change)]);
    assert_eq!(change(Change::Create(pause(true))), Ok(()));
    assert_eq!(change(Change::Create(RulePatch::limits(Limits::default().paused()))), Ok(()));
    let refused = change(Change::Create(RulePatch::limits(Limits::concurrency(1)))).unwrap_err();
    assert_eq!(refused, ChangeError::LimitsOfService { pattern: pattern("service:mail") });
    for text in ["service:", "service:*", "service:a/b"] {
        assert!(text.parse::<forebay_messages::rule::Pattern>().is_err(), "{text}");
    }
}

/// A pause is not a limit: it does not create a rule that lifts the limits of a less specific one,
/// nor does resuming leave such a rule behind.
#[test]
fn a_rule_that_only_pauses_is_deleted_on_resume() {
    let set = |book: &RuleBook, text: &str, patch: RulePatch| {
        after(book, &[book.upsert(pattern(text), patch)])
    };
    let limits = |limits| RulePatch::limits(limits);
    let before = set(&RuleBook::default(), "*", limits(Limits::concurrency(5)));
    let paused = set(&before, "acme", pause(true));
    assert_eq!(paused.diff(&before), [RuleUpdate::Pause { pattern: pattern("acme") }]);
    let resumed = set(&paused, "acme", pause(false));
    assert_eq!(resumed.diff(&paused), [remove("acme")]);
    assert_eq!(resumed.get(&pattern("acme")), None);

    // With its own limits it is a rule before, during and after the pause.
    let limited = set(&paused, "acme", limits(Limits::concurrency(2).paused()));
    let rule = limited.get(&pattern("acme")).unwrap();
    assert!(!rule.only_pauses && rule.limits.paused);
    let resumed = set(&limited, "acme", pause(false));
    assert_eq!(resumed.diff(&limited), [upsert("acme", 2)]);

    // So is one that was created to lift limits.
    let lifting = set(&before, "acme", limits(Limits::default()));
    let there_and_back = set(&set(&lifting, "acme", pause(true)), "acme", pause(false));
    let rule = there_and_back.get(&pattern("acme")).unwrap();
    assert_eq!((rule.limits, rule.only_pauses), (Limits::default(), false));

    // A patch without limits keeps them and the pause.
    let kept = LimitsPatch::keeping_others(Limits {
        rate: Some(Rate { tokens: 1, period_ms: 1, burst: 1 }),
        ..Limits::default()
    });
    let both = set(&limited, "acme", RulePatch { limits: kept, ..RulePatch::default() });
    let all = both.get(&pattern("acme")).unwrap().limits;
    assert!(all.paused && all.rate.is_some() && all.concurrency.is_some(), "{all:?}");
}

#[test]
fn a_rollback_restores_and_removes_pauses() {
    let one = after(&RuleBook::default(), &[create("*", 5)]);
    let two = after(&one, &[one.upsert(pattern("acme"), pause(true))]);
    let three =
        after(&two, &[two.upsert(pattern("acme"), RulePatch::limits(Limits::concurrency(1)))]);
    let four = after(&three, &[three.upsert(pattern("service:mail"), pause(true))]);
    for (from, to) in [(&four, &two), (&two, &one), (&one, &four), (&three, &four), (&four, &three)]
    {
        let back = from.rolled_back_to(to, Timestamp(9)).book;
        back.check();
        let versions = |book: &RuleBook| {
            let rules = book.rules();
            rules.map(|r| (r.pattern.clone(), r.limits, r.only_pauses)).collect::<Vec<_>>()
        };
        assert_eq!(versions(&back), versions(to));
    }
}
