//! Rule books, for display.

use forebay::control::BookView;

use super::{finish, or_dash, or_none, rate, table, time};

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
            rule.limits.weight.unwrap_or(1).to_string(),
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
