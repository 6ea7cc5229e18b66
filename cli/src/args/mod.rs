//! The command line as typed.
//!
//! Owns: names, defaults and help of every option, and the checks that need only the text. Must not
//! know: the runtime, files.

mod add;
mod alias;
mod calls;
mod cluster;
mod control;
mod exec;
mod halt;
mod inspect;
mod jobs;
mod partitions;
mod rules;
mod serve;
mod upkeep;
mod values;

use std::{ffi::OsString, path::PathBuf};

use clap::{
    Args, FromArgMatches, Subcommand,
    error::{ContextKind, ContextValue, ErrorKind},
};
use tracing::level_filters::LevelFilter;

pub(crate) use add::AddArgs;
pub(crate) use alias::AliasArgs;
pub(crate) use calls::ResolveArgs;
pub(crate) use cluster::{AtArgs, ClusterArgs, ClusterCommand, NodeArgs};
pub(crate) use control::{
    ActCommand, EndedArgs, LiveSelection, OutcomeArg, PauseArgs, RescheduleArgs, Selection,
};
pub(crate) use exec::ExecArgs;
pub(crate) use halt::HaltArg;
pub(crate) use inspect::{EntriesArgs, EntryArgs, OutputArgs, QueryCommand, QueuesArgs, StageArg};
pub(crate) use jobs::JobsArgs;
pub(crate) use partitions::{PartitionsArgs, PartitionsCommand};
pub(crate) use rules::{PauseTarget, RuleArg, RuleTarget, RulesArgs, RulesCommand};
pub(crate) use serve::{ServeArgs, TokenArgs, TokenCommand};
pub(crate) use upkeep::{BenchArgs, CompletionsArgs, SnapshotArgs, SnapshotCommand, TrimLogArg};
pub(crate) use values::{BackoffArg, ConcurrencyArg, DelimiterArg, RateArg, ValueError};

/// Position in the help: after the options of the subcommand.
const GLOBAL_ORDER: usize = 900;

/// Options of every subcommand.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// Where entries, rules and results are kept
    #[arg(
        long,
        global = true,
        display_order = GLOBAL_ORDER,
        value_name = "DIR",
        env = "FOREBAY_DATA_DIR",
        default_value = "./forebay-data"
    )]
    pub(crate) data_dir: PathBuf,
    /// Print JSON instead of text (a summary, or one object per line)
    #[arg(long, global = true, display_order = GLOBAL_ORDER)]
    pub(crate) json: bool,
    /// How much to log on standard error: off, error, warn, info, debug or trace
    #[arg(
        long,
        global = true,
        display_order = GLOBAL_ORDER,
        value_name = "LEVEL",
        default_value = "off"
    )]
    pub(crate) log: LevelFilter,
    /// The node that is asked, of the commands that can ask one elsewhere
    #[arg(skip)]
    pub(crate) at: AtArgs,
}

/// What to do.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Command {
    Exec(ExecArgs),
    Add(AddArgs),
    Jobs(JobsArgs),
    /// List the runs of `exec`: their commands, directories, and unfinished items
    Runs,
    Output(OutputArgs),
    Rules(RulesArgs),
    Queues(QueuesArgs),
    Entries(EntriesArgs),
    Entry(EntryArgs),
    #[command(flatten)]
    Query(QueryCommand),
    /// Watch runs, queues and limits, and what blocks them, in a terminal
    Top,
    Resolve(ResolveArgs),
    #[command(flatten)]
    Act(ActCommand),
    Partitions(PartitionsArgs),
    Alias(AliasArgs),
    Snapshot(SnapshotArgs),
    Serve(ServeArgs),
    Token(TokenArgs),
    Node(NodeArgs),
    Cluster(ClusterArgs),
    Bench(BenchArgs),
    Completions(CompletionsArgs),
    /// Print the manual page, in roff
    Man,
}

impl Command {
    /// The node that is asked, if the command can ask one elsewhere. Those of `cluster` have their
    /// own way.
    fn at(&self) -> Option<&AtArgs> {
        match self {
            Self::Rules(args) => Some(&args.at),
            Self::Queues(args) => Some(&args.at),
            Self::Entries(args) => Some(&args.at),
            Self::Entry(args) => Some(&args.at),
            Self::Query(query) => Some(query.at()),
            Self::Act(command) => Some(command.at()),
            _ => None,
        }
    }
}

/// A parsed command line.
#[derive(Clone, Debug)]
pub(crate) struct Cli {
    /// Options common to all.
    pub(crate) global: Global,
    /// What to do.
    pub(crate) command: Command,
}

/// The command line for clap. Completions and the manual page are made from it, too.
#[must_use]
pub(crate) fn command_line() -> clap::Command {
    // First, because they set `about` to the comments of their types.
    Global::augment_args(Command::augment_subcommands(clap::Command::new("forebay")))
        .version(env!("CARGO_PKG_VERSION"))
        .about("Durable, flow-controlled work queues that run inside your own process")
        .after_help(
            "Exit codes: 0 all succeeded, 1 some failed or were skipped, \
             2 wrong usage or environment.",
        )
        .subcommand_required(true)
        .arg_required_else_help(true)
}

/// Parses a command line, the program's name first.
///
/// # Errors
/// Whatever clap reports; help and version are errors too, see [`clap::Error::exit_code`].
pub(crate) fn parse(line: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut parser = command_line();
    let line: Vec<OsString> = line.into_iter().collect();
    let matches =
        parser.try_get_matches_from_mut(&line).map_err(|error| with_dashes(error, &line))?;
    let read = || -> Result<Cli, clap::Error> {
        let mut global = Global::from_arg_matches(&matches)?;
        let command = Command::from_arg_matches(&matches)?;
        global.at = command.at().cloned().unwrap_or_default();
        Ok(Cli { global, command })
    };
    read().map_err(|error| error.format(&mut parser))
}

/// The error for a command of `exec` without `--` before it.
fn with_dashes(error: clap::Error, line: &[OsString]) -> clap::Error {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    let is_exec = line.get(1).is_some_and(|word| word == "exec");
    let is_option = argument.starts_with('-');
    let at = line.iter().position(|word| word == argument.as_str());
    let (ErrorKind::UnknownArgument, true, false, Some(at)) =
        (error.kind(), is_exec, is_option, at)
    else {
        return error;
    };
    let join = |words: &[OsString]| {
        let words = words.iter().map(|word| word.to_string_lossy());
        words.collect::<Vec<_>>().join(" ")
    };
    let (before, command) = line[1..].split_at(at - 1);
    let text = format!(
        "`{argument}` is not an option of exec: put `--` before the command, as in\n\n  \
         forebay {} -- {}\n\nFor more information, try 'forebay exec --help'.\n",
        join(before),
        join(command)
    );
    // Raw: the usage of the whole program would not help.
    clap::Error::raw(ErrorKind::UnknownArgument, text)
}

#[cfg(test)]
mod tests;
