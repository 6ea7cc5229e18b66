//! Answers as text, and as JSON.
//!
//! Must not know: where the answers come from.

mod columns;
mod details;
mod entries;
mod rules;
mod status;
mod work;

use std::time::Duration;

use comfy_table::{Table, presets::NOTHING};
use forebay::{
    Rate,
    control::{Request, Response},
};

use super::ask_error::AskError;

pub(super) use rules::allowed;
pub(crate) use work::command_line;

/// Prints the parts of an answer as they arrive.
pub(crate) struct Printer {
    is_json: bool,
    list: Option<entries::List>,
}

impl Printer {
    /// For the answer to a request.
    pub(crate) fn of(request: &Request, is_json: bool) -> Self {
        Self { is_json, list: entries::List::of(request, is_json, terminal_width()) }
    }

    /// A part as text.
    pub(crate) fn part(&mut self, part: &Response) -> Result<String, AskError> {
        if let Some(list) = &mut self.list {
            return Ok(list.page(part).ok_or(AskError::Unexpected)??);
        }
        if self.is_json { json(part) } else { as_text(part) }
    }

    /// Text after the last part.
    pub(crate) fn end(&self) -> String {
        self.list.as_ref().map(entries::List::end).unwrap_or_default()
    }
}

/// Width of the terminal, if standard output is one.
fn terminal_width() -> Option<usize> {
    let stdout = rustix::stdio::stdout();
    let size = rustix::termios::tcgetwinsize(stdout).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// The content of the answer, on one line.
pub(crate) fn json(response: &Response) -> Result<String, AskError> {
    let mut text = match response {
        Response::Status { node } => serde_json::to_string(node),
        Response::Jobs { jobs } => serde_json::to_string(jobs),
        Response::EntryCount { count } => serde_json::to_string(count),
        Response::Services { services } => serde_json::to_string(services),
        Response::Entry { details } => serde_json::to_string(&details::json(details)?),
        Response::Explain { explained } => {
            let mut json = serde_json::to_value(explained)?;
            json["entry"] = entries::entry_json(&explained.entry);
            serde_json::to_string(&json)
        }
        Response::Tree { tree } => serde_json::to_string(tree),
        Response::Resolved { entry, name, is_rejected } => {
            let settled = serde_json::json!({
                "entry": entry, "name": name, "is_rejected": is_rejected,
            });
            serde_json::to_string(&settled)
        }
        Response::Limits { limits, .. } => serde_json::to_string(limits),
        Response::Rules { book } => serde_json::to_string(book),
        Response::RulesHistory { books, .. } => serde_json::to_string(books),
        Response::RulesTest { impact } => serde_json::to_string(impact),
        Response::Aliases { aliases } => serde_json::to_string(aliases),
        Response::Snapshot { manifest } => serde_json::to_string(manifest),
        Response::Partitions { partitions } => serde_json::to_string(partitions),
        Response::Acted { report } => serde_json::to_string(report),
        Response::Error { .. } => serde_json::to_string(response),
        Response::Entries { .. } | Response::Queues { .. } => return Err(AskError::Unexpected),
    }?;
    text.push('\n');
    Ok(text)
}

fn as_text(response: &Response) -> Result<String, AskError> {
    Ok(match response {
        Response::Status { node } => status::status(node),
        Response::Jobs { jobs } => super::jobs::as_text(jobs),
        Response::EntryCount { count } => format!("{count}\n"),
        Response::Entry { details } => details::as_text(details),
        Response::Explain { explained } => super::explain::explanation(explained),
        Response::Tree { tree } => super::calls::tree(tree),
        Response::Resolved { entry, name, is_rejected } => {
            let done = if *is_rejected { "rejected" } else { "resolved" };
            format!("promise {} of {entry} {done}\n", safe(name))
        }
        Response::Limits { limits, .. } => super::explain::limits(limits),
        Response::Rules { book } => rules::rule_table(book),
        Response::RulesHistory { books, .. } => rules::history(books),
        Response::RulesTest { impact } => super::explain::impact(impact),
        Response::Aliases { aliases } => super::alias::alias_table(aliases),
        Response::Snapshot { manifest } => super::snapshot::as_text(manifest),
        Response::Partitions { partitions } => super::partitions::partition_table(partitions),
        Response::Entries { .. }
        | Response::Queues { .. }
        | Response::Services { .. }
        | Response::Acted { .. }
        | Response::Error { .. } => return Err(AskError::Unexpected),
    })
}

pub(super) use work::safe;

/// What a queue runs now or next, on one line.
pub(super) fn next_of(queue: &forebay_api::VQueueView) -> String {
    work::Work::of(&queue.service, queue.payload.as_ref(), None).line()
}

/// The work of an entry, on one line; its directory, if it has one.
pub(super) fn work(entry: &forebay::EntryView) -> (String, Option<String>) {
    let work = entries::work_of(entry);
    let directory = match &work {
        work::Work::Command { job, is_whole: true } => {
            Some(work::safe(&String::from_utf8_lossy(&job.directory)))
        }
        _ => None,
    };
    (work.line(), directory)
}

/// A time as ISO 8601 with its zone.
pub(super) fn time(millis: u64) -> String {
    let millis = i64::try_from(millis).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_millisecond(millis) {
        Ok(time) => {
            time.to_zoned(jiff::tz::TimeZone::system()).strftime("%FT%T%.3f%:z").to_string()
        }
        Err(_) => "never".to_owned(),
    }
}

pub(super) fn rate(rate: Rate) -> String {
    let every = std::time::Duration::from_millis(rate.period_ms);
    format!("{} per {every:?}, burst {}", rate.tokens, rate.burst)
}

pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.to_vec());
    table
}

pub(super) fn or_dash(text: Option<&String>) -> String {
    text.map_or_else(|| "-".to_owned(), Clone::clone)
}

/// A limit.
pub(super) fn or_none(limit: Option<impl ToString>) -> String {
    limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string())
}

pub(super) fn finish(table: &Table, rows: usize, what: &str) -> String {
    if rows == 0 { format!("no {what}\n") } else { format!("{}\n", table.trim_fmt()) }
}

/// Time between two points, to the millisecond below a minute and to the second above.
pub(super) fn span(since: u64, until: u64) -> String {
    let long = Duration::from_millis(until.saturating_sub(since));
    let rounded = if long.as_secs() < 60 { long } else { Duration::from_secs(long.as_secs()) };
    jiff::SignedDuration::try_from(rounded)
        .map_or_else(|_| format!("{rounded:?}"), |span| format!("{span:#}"))
}
