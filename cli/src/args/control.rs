//! Commands that act on entries, by id or by filter, and on whole queues.

use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use forebay::EntryOutcome;
use forebay_messages::{EntryId, VQueueId};
use jiff::Timestamp;

use super::{AtArgs, StageArg, values::duration};

/// Actions on entries; see `cli/src/act.rs`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum ActCommand {
    /// Cancel entries: waiting ones end, running ones are asked to stop
    Cancel(LiveSelection),
    /// Kill entries: running ones are stopped without being asked
    Kill(LiveSelection),
    /// Pause waiting entries, or whole queues, until they are resumed
    Pause(PauseArgs),
    /// Let paused entries, or whole queues, run again
    Resume(PauseArgs),
    Reschedule(RescheduleArgs),
    /// Remove finished entries and their results
    Purge(EndedArgs),
    /// Run permanently failed entries again, with all their attempts; by filter only failed ones,
    /// not canceled or killed ones
    Redrive(EndedArgs),
    Restart(RestartArgs),
}

impl ActCommand {
    pub(super) fn at(&self) -> &AtArgs {
        let selection = match self {
            Self::Cancel(live) | Self::Kill(live) => &live.selection,
            Self::Pause(args) | Self::Resume(args) => &args.live.selection,
            Self::Reschedule(args) => &args.live.selection,
            Self::Restart(args) => &args.live.selection,
            Self::Purge(args) | Self::Redrive(args) => &args.selection,
        };
        &selection.at_node
    }
}

/// Which entries: these, or all that match every given filter. Without any it is refused.
#[derive(Args, Clone, Debug)]
#[command(group = ArgGroup::new("which").required(true).multiple(true))]
pub(crate) struct Selection {
    #[command(flatten)]
    pub(crate) at_node: AtArgs,
    /// These entries, by id (`forebay entries` lists them)
    #[arg(value_name = "ENTRY", group = "which",
        conflicts_with_all = ["service", "scope", "limit_key", "older_than", "all"])]
    pub(crate) entries: Vec<EntryId>,
    /// All of this service (items of `forebay exec` have the service `exec`)
    #[arg(long, group = "which")]
    pub(crate) service: Option<String>,
    /// All of this scope
    #[arg(long, group = "which")]
    pub(crate) scope: Option<String>,
    /// All of this limit key; `l1` includes everything below it
    #[arg(long, group = "which", requires = "scope")]
    pub(crate) limit_key: Option<String>,
    /// All that were created longer ago than this, like `1h30m` or `7d`
    #[arg(long, group = "which", value_name = "DURATION", value_parser = duration)]
    pub(crate) older_than: Option<Duration>,
    /// Every entry there is
    #[arg(long, group = "which",
        conflicts_with_all = ["service", "scope", "limit_key", "older_than"])]
    pub(crate) all: bool,
    /// Print what would be changed, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Which live entries.
#[derive(Args, Clone, Debug)]
pub(crate) struct LiveSelection {
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// All in this stage
    #[arg(long, group = "which", conflicts_with_all = ["entries", "all"])]
    pub(crate) stage: Option<LiveStageArg>,
}

/// Which live entries, or which whole queues.
#[derive(Args, Clone, Debug)]
pub(crate) struct PauseArgs {
    #[command(flatten)]
    pub(crate) live: LiveSelection,
    /// This whole queue, by id (`forebay queues` lists them), with all present and future entries;
    /// may be given several times
    #[arg(long = "queue", value_name = "QUEUE", group = "which",
        conflicts_with_all =
            ["entries", "service", "scope", "limit_key", "older_than", "all", "stage"])]
    pub(crate) queues: Vec<VQueueId>,
}

/// Which ended entries.
#[derive(Args, Clone, Debug)]
pub(crate) struct EndedArgs {
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// All that ended like this
    #[arg(long, group = "which", conflicts_with_all = ["entries", "all"])]
    pub(crate) outcome: Option<OutcomeArg>,
}

/// Begin entries again with an empty journal: running handlers are stopped, calls without an answer
/// are canceled, remembered steps run again. By filter only entries that have not ended
#[derive(Args, Clone, Debug)]
pub(crate) struct RestartArgs {
    #[command(flatten)]
    pub(crate) live: LiveSelection,
    /// Keep the operations that finished before this one in the journal of one entry, like
    /// `charge`, or `charge.1` for the second one of that name
    #[arg(long, value_name = "OPERATION", requires = "entries",
        conflicts_with_all =
            ["service", "scope", "limit_key", "older_than", "all", "stage", "dry_run"])]
    pub(crate) from: Option<String>,
}

/// Give entries another start time, which is also their position in the queue: earlier times go
/// first
#[derive(Args, Clone, Debug)]
#[command(group = ArgGroup::new("when").required(true))]
pub(crate) struct RescheduleArgs {
    #[command(flatten)]
    pub(crate) live: LiveSelection,
    /// At this time, like 2030-01-31T08:00:00Z
    #[arg(long, group = "when", value_name = "TIME")]
    pub(crate) at: Option<Timestamp>,
    /// This long from now, like `1m30s`
    #[arg(long = "in", group = "when", value_name = "DURATION", value_parser = duration)]
    pub(crate) after: Option<Duration>,
    /// As soon as the limits allow
    #[arg(long, group = "when")]
    pub(crate) now: bool,
}

/// A stage of a live entry.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LiveStageArg {
    /// Waits for its turn
    Inbox,
    /// Runs
    Running,
    /// Waits for another event
    Suspended,
    /// Paused by a command
    Paused,
}

impl From<LiveStageArg> for StageArg {
    fn from(stage: LiveStageArg) -> Self {
        match stage {
            LiveStageArg::Inbox => Self::Inbox,
            LiveStageArg::Running => Self::Running,
            LiveStageArg::Suspended => Self::Suspended,
            LiveStageArg::Paused => Self::Paused,
        }
    }
}

/// How an entry ended.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutcomeArg {
    /// It succeeded
    Success,
    /// Its handler reported that a retry is useless
    Failed,
    /// All its attempts failed
    DeadLetter,
    /// It was canceled
    Canceled,
    /// It was killed
    Killed,
}

impl From<OutcomeArg> for EntryOutcome {
    fn from(outcome: OutcomeArg) -> Self {
        match outcome {
            OutcomeArg::Success => Self::Success,
            OutcomeArg::Failed => Self::Failed,
            OutcomeArg::DeadLetter => Self::DeadLetter,
            OutcomeArg::Canceled => Self::Canceled,
            OutcomeArg::Killed => Self::Killed,
        }
    }
}
