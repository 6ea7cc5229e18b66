//! `tree` and `resolve`.

use clap::{ArgGroup, Args};
use forebay_messages::EntryId;

use super::AtArgs;

/// Show an entry with the children that it called or sent, and what each waits for
#[derive(Args, Clone, Debug)]
pub(crate) struct TreeArgs {
    #[command(flatten)]
    pub(crate) at: AtArgs,
    /// The entry
    #[arg(value_name = "ENTRY")]
    pub(crate) entry: EntryId,
}

/// Resolve a promise of an entry, or reject it; without a value it is resolved with `null`. The
/// first result stands
#[derive(Args, Clone, Debug)]
#[command(group = ArgGroup::new("with"))]
pub(crate) struct ResolveArgs {
    /// The entry
    #[arg(value_name = "ENTRY")]
    pub(crate) entry: EntryId,
    /// The promise
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Resolve it with this value, in JSON
    #[arg(long = "value", value_name = "JSON", group = "with", value_parser = value)]
    pub(crate) value: Option<serde_json::Value>,
    /// Reject it, with this reason
    #[arg(long, value_name = "REASON", group = "with")]
    pub(crate) reject: Option<String>,
}

fn value(text: &str) -> Result<serde_json::Value, String> {
    serde_json::from_str(text)
        .map_err(|error| format!("{error}; a text needs quotes, as in '\"yes\"'"))
}
