//! Parts of answers as text: times, tables, missing values.

use std::time::Duration;

use comfy_table::{Table, presets::NOTHING};
use forebay::Rate;

/// A time as ISO 8601 with its zone.
pub(crate) fn time(millis: u64) -> String {
    let millis = i64::try_from(millis).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_millisecond(millis) {
        Ok(time) => {
            time.to_zoned(jiff::tz::TimeZone::system()).strftime("%FT%T%.3f%:z").to_string()
        }
        Err(_) => "never".to_owned(),
    }
}

pub(crate) fn rate(rate: Rate) -> String {
    let every = Duration::from_millis(rate.period_ms);
    format!("{} per {every:?}, burst {}", rate.tokens, rate.burst)
}

pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.to_vec());
    table
}

pub(crate) fn or_dash(text: Option<&String>) -> String {
    text.map_or_else(|| "-".to_owned(), Clone::clone)
}

/// A limit.
pub(crate) fn or_none(limit: Option<impl ToString>) -> String {
    limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string())
}

pub(crate) fn finish(table: &Table, rows: usize, what: &str) -> String {
    if rows == 0 { format!("no {what}\n") } else { format!("{}\n", table.trim_fmt()) }
}

/// Time between two points, to the millisecond below a minute and to the second above.
pub(crate) fn span(since: u64, until: u64) -> String {
    let long = Duration::from_millis(until.saturating_sub(since));
    let rounded = if long.as_secs() < 60 { long } else { Duration::from_secs(long.as_secs()) };
    jiff::SignedDuration::try_from(rounded)
        .map_or_else(|_| format!("{rounded:?}"), |span| format!("{span:#}"))
}
