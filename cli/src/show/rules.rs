//! Rule books and limits, for display.

use std::num::NonZeroU32;

use forebay::{Limits, control::BookView};

use super::format::{finish, or_dash, or_none, rate, table, time};

pub(super) fn rule_table(book: &BookView) -> String {
    let mut table = table(&[
        "RULE",
        "PATTERN",
        "CONCURRENCY",
        "RATE",
        "BACKLOG",
        "WEIGHT",
        "VERSION",
        "ENABLED",
        "PAUSED",
        "MODIFIED",
        "DESCRIPTION",
    ]);
    for rule in &book.rules {
        table.add_row([
            rule.id.clone(),
            rule.pattern.clone(),
            or_none(rule.limits.concurrency),
            rule.limits.rate.map_or_else(|| "none".to_owned(), rate),
            or_none(rule.limits.backlog),
            rule.limits.weight.map_or(1, NonZeroU32::get).to_string(),
            rule.version.to_string(),
            if rule.disabled { "no" } else { "yes" }.to_owned(),
            if rule.limits.paused { "yes" } else { "no" }.to_owned(),
            time(rule.last_modified),
            rule.description.clone(),
        ]);
    }
    let rules = finish(&table, book.rules.len(), "rules");
    format!("rule book version {}\n{rules}", book.version)
}

pub(super) fn history(books: &[BookView]) -> String {
    let mut table = table(&["VERSION", "AT", "AUTHOR", "RULES"]);
    for book in books {
        table.add_row([
            book.version.to_string(),
            book.at.map_or_else(|| "-".to_owned(), time),
            or_dash(book.author.as_ref()),
            book.rules.len().to_string(),
        ]);
    }
    finish(&table, books.len(), "earlier rule books")
}

/// The limits of a rule, in words.
pub(crate) fn allowed(limits: &Limits) -> String {
    let mut words = Vec::new();
    words.extend(limits.concurrency.map(|limit| format!("concurrency {limit}")));
    words.extend(limits.rate.map(|limit| format!("rate {}", rate(limit))));
    words.extend(limits.backlog.map(|limit| format!("backlog {limit}")));
    words.extend(limits.weight.map(|weight| format!("weight {weight}")));
    words.extend(limits.paused.then(|| "paused".to_owned()));
    if words.is_empty() { "no limit".to_owned() } else { words.join(", ") }
}
