//! `forebay exec`.

use std::{ffi::OsString, num::NonZeroU32, path::PathBuf};

use clap::{Args, value_parser};

use super::{RuleArg, TrimLogArg};

/// Most commands that run at the same time: each needs a process and three file
/// descriptors of the spawner.
const JOBS_MAX: u64 = 4096;

/// Run a command for every item of the input: durable, resumable and limited
///
/// Every item is stored before anything of it runs. When it is interrupted (Ctrl-C,
/// kill -9, power), the same command line goes on where it stopped: what has finished
/// is not run again.
#[derive(Args, Clone, Debug)]
#[command(after_help = HELP)]
pub(crate) struct ExecArgs {
    /// Read the items from FILE; `-` is standard input
    #[arg(long, short = 'i', value_name = "FILE", default_value = "-")]
    pub(crate) input: PathBuf,
    /// Items end with a NUL byte, not with a newline
    #[arg(short = '0', long = "null", conflicts_with = "ndjson")]
    pub(crate) null: bool,
    /// Items are JSON objects, one per line: {"args": […], "key": "…", "scope": "…",
    /// "limit_key": "a/b", "id": "…"}; further fields can be used in templates
    #[arg(long)]
    pub(crate) ndjson: bool,
    /// Let at most N items run at the same time for each scope (scope/l1, scope/l1/l2)
    /// that PATTERN matches, or `none`; kept in the data directory
    #[arg(long = "rule", value_name = "PATTERN=N")]
    pub(crate) rules: Vec<RuleArg>,
    /// At most this many commands run at the same time (default: one per core)
    #[arg(long, short = 'j', value_name = "N", value_parser = value_parser!(u32).range(1..=JOBS_MAX as i64))]
    pub(crate) jobs: Option<u32>,
    /// How often a failed item is tried again
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) retries: u32,
    /// Items with the same key (scope and limit key) run one after the other, in order
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) key: Option<OsString>,
    /// The scope of an item: what rules limit. Empty: no scope
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) scope: Option<OsString>,
    /// The limit key of an item under its scope, `l1` or `l1/l2`. Empty: none
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) limit_key: Option<OsString>,
    /// Keep results.ndjson and large outputs in DIR instead of printing the output
    #[arg(long, value_name = "DIR")]
    pub(crate) results: Option<PathBuf>,
    /// Refuse the whole input when one line of it is bad, before anything is stored
    #[arg(long)]
    pub(crate) strict: bool,
    /// Run the items even if they were run before
    #[arg(long)]
    pub(crate) again: bool,
    /// What the log keeps besides what a restart needs
    #[arg(long, value_enum, value_name = "WHEN", default_value_t)]
    pub(crate) trim_log: TrimLogArg,
    /// Run items again that have failed in an earlier run
    #[arg(long)]
    pub(crate) retry_failed: bool,
    /// The command and its arguments, with templates
    #[arg(last = true, required = true, num_args = 1.., value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

impl ExecArgs {
    /// How many commands run at the same time.
    #[must_use]
    pub(crate) fn jobs(&self) -> NonZeroU32 {
        let cores = || std::thread::available_parallelism().map_or(1, |n| n.get());
        let jobs = self.jobs.unwrap_or_else(|| u32::try_from(cores()).unwrap_or(1));
        NonZeroU32::new(jobs).unwrap_or(NonZeroU32::MIN)
    }
}

const HELP: &str = "\
Templates in COMMAND, --key, --scope and --limit-key:
  {}            the item (with --ndjson its args, spread when {} stands alone)
  {/} {//}      base name; directory
  {.} {ext}     without extension; extension
  {name}        a field of the JSON object
  {x:-default}  any of these, with a default where it is empty or missing
  {{name}}      the literal text {name}
Other braces, and ${name}, are left as they are. A COMMAND without any template gets
the item appended.

A command runs with an empty standard input, in a session of its own. What it leaves
running in the background is ended with it.

Examples:
  find . -type f -print0 | forebay exec -0 --scope '{ext:-none}' --rule '*=4' -- sha256sum {}
  forebay exec --ndjson --input jobs.ndjson --key '{user}' --retries 3 -- ./resize {} --to {size}";
