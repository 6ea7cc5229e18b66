//! Commands that only read: `queues`, `entries`, `explain`, `limits`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use forebay::{EntryCursor, control::Request};
use forebay_messages::{EntryId, VQueueId};

use super::{AtArgs, OutcomeArg, calls::TreeArgs, values::duration};

/// Commands that send one request and print its answer; see `cli/src/show/`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum QueryCommand {
    /// Show partitions, counts and whether a process has the data directory open
    Status {
        #[command(flatten)]
        at: AtArgs,
    },
    Explain(ExplainArgs),
    Tree(TreeArgs),
    Limits(LimitsArgs),
}

impl QueryCommand {
    /// The request.
    pub(crate) fn request(&self) -> Request {
        match self {
            Self::Status { .. } => Request::Status,
            Self::Explain(args) => Request::Explain { entry: args.entry },
            Self::Tree(args) => Request::Tree { entry: args.entry },
            Self::Limits(args) => Request::Limits { scope: args.scope.clone(), in_parts: true },
        }
    }

    pub(super) fn at(&self) -> &AtArgs {
        match self {
            Self::Status { at } => at,
            Self::Explain(args) => &args.at,
            Self::Tree(args) => &args.at,
            Self::Limits(args) => &args.at,
        }
    }
}

/// List the queues that have work
#[derive(Args, Clone, Debug)]
pub(crate) struct QueuesArgs {
    #[command(flatten)]
    pub(crate) at: AtArgs,
    /// Only of this service
    #[arg(long)]
    pub(crate) service: Option<String>,
    /// Only of this scope
    #[arg(long)]
    pub(crate) scope: Option<String>,
    /// At most this many; 0 is all
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) limit: usize,
    /// List queues without work, too
    #[arg(long)]
    pub(crate) all: bool,
    /// Continue after an earlier answer with the same filters
    #[arg(long, value_name = "VQUEUE")]
    pub(crate) after: Option<VQueueId>,
}

/// List entries
#[derive(Args, Clone, Debug)]
pub(crate) struct EntriesArgs {
    #[command(flatten)]
    pub(crate) at: AtArgs,
    /// Only in this stage
    #[arg(long)]
    pub(crate) stage: Option<StageArg>,
    /// Only of this scope
    #[arg(long)]
    pub(crate) scope: Option<String>,
    /// Only of this service
    #[arg(long)]
    pub(crate) service: Option<String>,
    /// Only of this limit key; `l1` includes everything below it
    #[arg(long, requires = "scope")]
    pub(crate) limit_key: Option<String>,
    /// Only those with this outcome
    #[arg(long)]
    pub(crate) outcome: Option<OutcomeArg>,
    /// Only those created longer ago than this, like `1h30m` or `7d`
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) older_than: Option<Duration>,
    /// At most this many; 0 is all
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) limit: usize,
    /// Continue after an earlier answer with the same filters
    #[arg(long, value_name = "CURSOR")]
    pub(crate) after: Option<EntryCursor>,
    /// Print only the number ("at least" that many, if counting all takes too long)
    #[arg(long, conflicts_with_all = ["after", "limit"])]
    pub(crate) count: bool,
}

/// A stage, by name.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StageArg {
    /// Waits for its turn
    Inbox,
    /// Runs
    Running,
    /// Waits for another event
    Suspended,
    /// Paused by a command
    Paused,
    /// Has ended
    Finished,
}

/// Show everything known about an entry: command or payload, failed attempts, result
#[derive(Args, Clone, Debug)]
pub(crate) struct EntryArgs {
    #[command(flatten)]
    pub(crate) at: AtArgs,
    /// The entry
    #[arg(value_name = "ENTRY")]
    pub(crate) entry: EntryId,
}

/// Print the stored outputs of `exec` commands
#[derive(Args, Clone, Debug)]
pub(crate) struct OutputArgs {
    /// The entries
    #[arg(value_name = "ENTRY", required_unless_present = "run", conflicts_with = "run")]
    pub(crate) entries: Vec<EntryId>,
    /// All items of this run, in the order of its input; `forebay runs` lists runs
    #[arg(long, value_name = "RUN")]
    pub(crate) run: Option<String>,
}

/// Explain why an entry does not run
#[derive(Args, Clone, Debug)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    pub(crate) at: AtArgs,
    /// The entry
    #[arg(value_name = "ENTRY")]
    pub(crate) entry: EntryId,
}

/// List the counters of the limits, with usage and waiters
#[derive(Args, Clone, Debug)]
pub(crate) struct LimitsArgs {
    #[command(flatten)]
    pub(crate) at: AtArgs,
    /// Only of this scope
    #[arg(long)]
    pub(crate) scope: Option<String>,
}
