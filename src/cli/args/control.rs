//! Commands that act on entries, by id or by filter.

use std::time::Duration;

use clap::{ArgGroup, Args};
use forebay_messages::EntryId;
use jiff::Timestamp;

use super::{StageArg, values::duration};

/// Which entries: these, or all that match every filter given. Nothing given is refused.
#[derive(Args, Clone, Debug)]
#[command(group = ArgGroup::new("which").required(true).multiple(true))]
pub(crate) struct Selection {
    /// These entries
    #[arg(value_name = "ENTRY", group = "which",
        conflicts_with_all = ["service", "scope", "limit_key", "stage", "older_than"])]
    pub(crate) entries: Vec<EntryId>,
    /// All of this service
    #[arg(long, group = "which")]
    pub(crate) service: Option<String>,
    /// All of this scope
    #[arg(long, group = "which")]
    pub(crate) scope: Option<String>,
    /// All of this limit key; `l1` includes everything below it
    #[arg(long, group = "which", requires = "scope")]
    pub(crate) limit_key: Option<String>,
    /// All in this stage
    #[arg(long, group = "which")]
    pub(crate) stage: Option<StageArg>,
    /// All that were created longer ago than this, like `1h30m` or `7d`
    #[arg(long, group = "which", value_name = "DURATION", value_parser = duration)]
    pub(crate) older_than: Option<Duration>,
}

/// Give entries another time to run at
#[derive(Args, Clone, Debug)]
#[command(group = ArgGroup::new("when").required(true))]
pub(crate) struct RescheduleArgs {
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// At this time, like 2030-01-31T08:00:00Z
    #[arg(long, group = "when", value_name = "TIME")]
    pub(crate) at: Option<Timestamp>,
    /// This long from now, like `1m30s`
    #[arg(long = "in", group = "when", value_name = "DURATION", value_parser = duration)]
    pub(crate) after: Option<Duration>,
}
