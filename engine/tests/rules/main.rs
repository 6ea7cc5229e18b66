//! The rule book: changes, versions, differences, bytes, history, lookup.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod book;
mod bytes;
mod impact;
mod lookup;

use forebay_engine::rules::{
    Applied, Change, ChangeError, MAX_RULES_PER_BOOK, RuleBook, RuleChange, RulePatch,
};
use forebay_messages::{
    Timestamp,
    rule::{Limits, Pattern},
};

fn pattern(text: &str) -> Pattern {
    text.parse().unwrap()
}

fn create(text: &str, limit: u32) -> RuleChange {
    RuleChange::new(pattern(text), Change::Create(RulePatch::limits(Limits::concurrency(limit))))
}

fn patch(text: &str, limit: u32) -> RuleChange {
    RuleChange::new(pattern(text), Change::Patch(RulePatch::limits(Limits::concurrency(limit))))
}

fn delete(text: &str) -> RuleChange {
    RuleChange::new(pattern(text), Change::Delete)
}

/// Applies a batch at a time that grows with the book, and checks the result.
fn apply(book: &RuleBook, batch: &[RuleChange]) -> Result<Applied, ChangeError> {
    let applied = book.apply(batch, Timestamp(book.version().0 + 1), MAX_RULES_PER_BOOK)?;
    applied.book.check();
    assert_eq!(applied.changed, applied.book != *book);
    assert_eq!(applied.book.version().0, book.version().0 + u64::from(applied.changed));
    Ok(applied)
}

/// The book after a batch that must be accepted.
fn after(book: &RuleBook, batch: &[RuleChange]) -> RuleBook {
    apply(book, batch).unwrap().book
}
