//! Answers as text, and as JSON.
//!
//! Must not know: where the answers come from.

mod columns;
mod details;
mod entries;
pub(crate) mod format;
mod rules;
mod status;
mod tokens;
mod work;

use forebay::control::{Request, Response};

use super::ask_error::AskError;

pub(super) use entries::{next_of, work};
pub(super) use rules::allowed;
pub(crate) use tokens::token_table;
pub(crate) use work::{command_line, safe};

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
        Response::Tokens { tokens } => serde_json::to_string(tokens),
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
        Response::Tokens { tokens } => token_table(tokens),
        Response::Snapshot { manifest } => super::snapshot::as_text(manifest),
        Response::Partitions { partitions } => super::partitions::partition_table(partitions),
        Response::Entries { .. }
        | Response::Queues { .. }
        | Response::Services { .. }
        | Response::Acted { .. }
        | Response::Error { .. } => return Err(AskError::Unexpected),
    })
}
