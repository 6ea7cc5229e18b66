//! The bytes of a book never change, and damage is refused.

use std::num::NonZeroU32;

use forebay_engine::rules::{
    Change, DecodeBookError, DecodeHistoryError, History, LimitsPatch, RuleBook, RuleChange,
    RulePatch, barrier_before,
};
use forebay_messages::{
    Timestamp,
    rule::{Limits, Rate},
};
use proptest::prelude::*;

use super::{after, create, pattern};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn book() -> RuleBook {
    let all = Limits {
        concurrency: NonZeroU32::new(10),
        rate: Some(Rate { tokens: 5, period_ms: 1000, burst: 7 }),
        weight: NonZeroU32::new(3),
        guaranteed: NonZeroU32::new(2),
        backlog: NonZeroU32::new(300),
        ..Limits::default()
    };
    let patch =
        RulePatch { description: Some("why".into()), disabled: Some(true), limits: all.into() };
    let full = RuleChange::new(pattern("tenant-a/*/x"), Change::Create(patch));
    after(&after(&RuleBook::default(), &[create("a", 1)]), &[full])
}

#[test]
fn golden_bytes_of_a_book() {
    assert_eq!(hex(&RuleBook::default().encode()), "01");
    insta::assert_snapshot!(hex(&book().encode()), @"010402054a0faadb3e2faab7ad2d050c74656e616e742d612f2a2f7804020512040a0507040504e80604070403040204ac010503776879040104021f4e961eb632c6e60b0501610401050204010c01");
}

#[test]
fn golden_bytes_of_a_history() {
    let mut history = History::default();
    history.record(after(&RuleBook::default(), &[create("a", 1)]), "ann", Timestamp(5));
    insta::assert_snapshot!(hex(&history.encode()), @"0105210518040105141f4e961eb632c6e60b0501610401050204010c010503616e6e0405");
    assert_eq!(History::decode(&history.encode()), Ok(history));
    assert_eq!(History::decode(&[]), Err(DecodeHistoryError::Empty));
    assert_eq!(History::decode(&[9]), Err(DecodeHistoryError::Format { found: 9 }));
}

/// An older forebay skips unknown tags, so it would run paused work. It refuses an unknown format.
#[test]
fn a_book_with_pauses_has_a_format_that_older_binaries_refuse() {
    let plain = after(&RuleBook::default(), &[create("a", 1)]);
    let pause = RulePatch { limits: LimitsPatch::paused(true), ..RulePatch::default() };
    let paused = |text| {
        let change = RuleChange::new(pattern(text), Change::Create(pause.clone()));
        after(&RuleBook::default(), &[change])
    };
    let limited = after(&plain, &[plain.upsert(pattern("a"), pause.clone())]);
    assert_eq!((plain.encode()[0], barrier_before(&plain.encode())), (1, None));
    for book in [&limited, &paused("b"), &paused("service:mail")] {
        let bytes = book.encode();
        assert_eq!((bytes[0], barrier_before(&bytes)), (2, Some(2)), "{book:?}");
        assert_eq!(RuleBook::decode(&bytes).as_ref(), Ok(book));
    }
    insta::assert_snapshot!(hex(&limited.encode()), @"02040205161f4e961eb632c6e60d05016104020504040114010c02");
    insta::assert_snapshot!(hex(&paused("b").encode()), @"02040105163f84d8441c0b5a570d0501620401050218010c010401");
    insta::assert_snapshot!(hex(&paused("service:mail").encode()), @"020401052151f2e30713b6d1ab18050c736572766963653a6d61696c0401050218010c010401");
    let mut history = History::default();
    history.record(plain, "ann", Timestamp(5));
    assert_eq!(history.encode()[0], 1);
    history.record(limited, "ann", Timestamp(5));
    assert_eq!(history.encode()[0], 2);
    assert_eq!(History::decode(&history.encode()), Ok(history));
}

#[test]
fn bytes_that_are_not_a_book_are_refused() {
    assert_eq!(RuleBook::decode(&[]), Err(DecodeBookError::Empty));
    assert_eq!(RuleBook::decode(&[0]), Err(DecodeBookError::UnknownFormat));
    let newer = RuleBook::decode(&[3, 1, 2, 3]).unwrap_err();
    assert_eq!(newer, DecodeBookError::NewerFormat { found: 3 });
    assert!(newer.to_string().contains("use a newer forebay"), "{newer}");
    let mut bytes = book().encode();
    bytes.truncate(bytes.len() - 1);
    assert!(matches!(RuleBook::decode(&bytes), Err(DecodeBookError::Damaged(_))));
    // With the one-letter pattern `a` turned into `b`, the rule is no longer stored under its id;
    // turned into `/`, it is not a pattern.
    let one = after(&RuleBook::default(), &[create("a", 1)]).encode();
    let at = one.iter().position(|byte| *byte == b'a').unwrap();
    let with = |byte| {
        let mut bytes = one.clone();
        bytes[at] = byte;
        RuleBook::decode(&bytes).unwrap_err()
    };
    assert!(matches!(with(b'b'), DecodeBookError::Misfiled { .. }), "{}", with(b'b'));
    assert!(matches!(with(b'/'), DecodeBookError::Pattern { .. }), "{}", with(b'/'));
}

proptest! {
    #[test]
    fn any_damage_is_refused_or_gives_a_book_that_can_be_written(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = book().encode();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len() * 2).min(bytes.len()));
        if let Ok(book) = RuleBook::decode(&bytes) {
            prop_assert_eq!(RuleBook::decode(&book.encode()), Ok(book));
        }
    }
}
