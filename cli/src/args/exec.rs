//! `forebay exec`.

use std::{
    ffi::OsString,
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, value_parser};

use super::{BackoffArg, DelimiterArg, HaltArg, RuleArg, TrimLogArg, ValueError, values::seconds};

/// Maximum number of commands that run at the same time: each needs a process and three file
/// descriptors of the spawner.
pub(super) const JOBS_MAX: i64 = 4096;
/// Maximum number of input lines per item.
const PER_ITEM_MAX: u64 = 65_536;

/// Run a command for every item of the input: durable, resumable and limited
///
/// Every item is stored before its command runs. After an interruption (Ctrl-C, kill -9, power
/// failure), the same command line continues where it stopped: finished items are not run again.
#[derive(Args, Clone, Debug)]
#[command(after_help = HELP)]
pub(crate) struct ExecArgs {
    /// Read the items from FILE; `-` is standard input
    #[arg(long, short = 'i', value_name = "FILE", default_value = "-")]
    pub(crate) input: PathBuf,
    /// Items end with a NUL byte instead of a newline
    #[arg(short = '0', long = "null", conflicts_with = "ndjson")]
    pub(crate) null: bool,
    /// Items are JSON objects, one per line: {"args": […], "key": "…", "scope": "…",
    /// "limit_key": "a/b", "id": "…"}; further fields can be used in templates
    #[arg(long)]
    pub(crate) ndjson: bool,
    /// Items end with this character (or `\n`, `\t`, `\0`, `\xHH`) instead of a newline
    #[arg(short = 'd', long, value_name = "CHAR", conflicts_with_all = ["null", "ndjson"])]
    pub(crate) delimiter: Option<DelimiterArg>,
    /// Remove the CR from lines that end with CR LF, as on Windows
    #[arg(long, conflicts_with_all = ["null", "ndjson", "delimiter"])]
    pub(crate) crlf: bool,
    /// Run each command with N items of the input, in place of `{}` or at the end
    #[arg(short = 'n', long = "items-per-command", value_name = "N", default_value = "1",
        conflicts_with = "ndjson", value_parser = per_item)]
    pub(crate) per_item: NonZeroUsize,
    /// Let at most N items run at the same time for each scope (scope/l1, scope/l1/l2) that PATTERN
    /// matches, or `none`; further limits after commas, by the names of the options of `forebay
    /// rules set`: `rate=10/s`. Stored in the data directory; --jobs applies as well
    #[arg(long = "rule", value_name = "PATTERN=N[,LIMIT=…]")]
    pub(crate) rules: Vec<RuleArg>,
    /// Run at most this many commands at the same time (default: one per core); `forebay jobs`
    /// changes it while they run
    #[arg(long, short = 'j', value_name = "N", value_parser = value_parser!(u32).range(1..=JOBS_MAX))]
    pub(crate) jobs: Option<u32>,
    /// How often a failed item is retried
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) retries: u32,
    /// Delay before a failed item is retried: seconds, or a duration like `1m30s` (default: 0.2 s)
    #[arg(long, value_name = "DURATION", value_parser = seconds, requires = "retries")]
    pub(crate) retry_delay: Option<Duration>,
    /// Factor by which that delay grows with each retry, up to an hour; 1 keeps it constant
    /// (default: 2)
    #[arg(long, value_name = "FACTOR", requires = "retries")]
    pub(crate) backoff: Option<BackoffArg>,
    /// Stop a command that takes longer: SIGTERM, and SIGKILL after --grace. The attempt has
    /// failed. Seconds, or a duration like `1m30s`
    #[arg(long, value_name = "DURATION", value_parser = timeout)]
    pub(crate) timeout: Option<Duration>,
    /// Time between SIGTERM and SIGKILL for a command, for any reason to stop it: --timeout,
    /// --halt, a second Ctrl-C. After one SIGTERM to forebay, the time for commands to end by
    /// themselves
    #[arg(long, value_name = "DURATION", value_parser = seconds, default_value = "10s")]
    pub(crate) grace: Duration,
    /// End the run when N items have failed, or N% of them (and at least 3): `soon` lets running
    /// commands end, `now` stops them. The same command line continues with the rest
    #[arg(long, value_name = "now|soon,fail=N[%]")]
    pub(crate) halt: Option<HaltArg>,
    /// Items with the same key (scope and limit key) run one after the other, in order
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) key: Option<OsString>,
    /// The scope of an item, for rules. Empty: no scope
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) scope: Option<OsString>,
    /// The limit key of an item under its scope, `l1` or `l1/l2`. Empty: none
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) limit_key: Option<OsString>,
    /// Run each command in this directory, relative to the current one
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) chdir: Option<OsString>,
    /// Keep results.ndjson and large outputs in DIR instead of printing the output
    #[arg(long, value_name = "DIR")]
    pub(crate) results: Option<PathBuf>,
    /// Print the item and a tab before each line of its output
    #[arg(long, conflicts_with = "results")]
    pub(crate) tag: bool,
    /// Print only errors on standard error: no progress, no summary
    #[arg(long, short = 'q')]
    pub(crate) quiet: bool,
    /// Print the commands, one per line, without running or storing anything. Commands that ran
    /// before are printed too
    #[arg(long, conflicts_with_all = ["results", "again", "retry_failed"])]
    pub(crate) dry_run: bool,
    /// Refuse the whole input if one of its lines is bad, before anything is stored
    #[arg(long)]
    pub(crate) strict: bool,
    /// Run the items even if they ran before. To continue such a run after an interruption, give
    /// the NAME from its last line
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(crate) again: Option<String>,
    /// Print outputs in the order of the input, not as items end
    #[arg(long, short = 'k')]
    pub(crate) keep_order: bool,
    /// Read no input: run the rest of an interrupted run, or of all of them, oldest first.
    /// `forebay runs` lists them
    #[arg(long, value_name = "RUN", num_args = 0..=1, default_missing_value = "", conflicts_with_all = ["input", "again", "command"])]
    pub(crate) resume: Option<String>,
    /// Which records the log keeps beyond the ones that a restart needs
    #[arg(long, value_enum, value_name = "WHEN", default_value_t)]
    pub(crate) trim_log: TrimLogArg,
    /// Run items again that failed in an earlier run; needs the command line and the input of that
    /// run
    #[arg(long, conflicts_with = "resume")]
    pub(crate) retry_failed: bool,
    /// The command and its arguments, with templates
    #[arg(last = true, required_unless_present = "resume", num_args = 1.., value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

impl ExecArgs {
    /// Number of commands that run at the same time.
    #[must_use]
    pub(crate) fn jobs(&self) -> NonZeroU32 {
        let cores = || std::thread::available_parallelism().map_or(1, |n| n.get());
        let jobs = self.jobs.unwrap_or_else(|| u32::try_from(cores()).unwrap_or(1));
        NonZeroU32::new(jobs).unwrap_or(NonZeroU32::MIN)
    }
}

pub(super) fn per_item(text: &str) -> Result<NonZeroUsize, String> {
    let number: Option<u64> = text.parse().ok();
    let number = number.filter(|number| (1..=PER_ITEM_MAX).contains(number));
    let number = number.and_then(|number| NonZeroUsize::new(usize::try_from(number).ok()?));
    number.ok_or_else(|| format!("write a number from 1 to {PER_ITEM_MAX}"))
}

fn timeout(text: &str) -> Result<Duration, ValueError> {
    let timeout = seconds(text)?;
    if timeout.is_zero() { Err(ValueError::Duration(text.to_owned())) } else { Ok(timeout) }
}

const HELP: &str = "\
Templates in COMMAND, --key, --scope, --limit-key and --chdir:
  {}            the item (with --ndjson its args, with -n the items: one argument each
                when {} stands alone)
  {/} {//}      base name; directory
  {.} {/.}      without extension; base name without extension
  {ext}         extension
  {#}           its number in the input
  {name}        a field of the JSON object
  {x:-default}  any of these, with a default where it is empty or missing
  {{name}}      the literal text {name}
Other braces, and ${name}, are left as they are. A COMMAND without any template gets
the item appended.

COMMAND is a program and its arguments; no shell reads it. For pipes, redirections and
variables run a shell, and give it the item as an argument, not as a part of its text:
  forebay exec -- sh -c 'grep -c x \"$1\" > \"$1.count\"' _ {}     right
  forebay exec -- sh -c 'grep -c x {} > {}.count'              wrong: an item named
                                                  `a;rm -rf b` would be run as code

A command has FOREBAY_ITEM (items up to 64 KiB), FOREBAY_SEQ, FOREBAY_ENTRY and
FOREBAY_ATTEMPT in its environment. Ctrl-C lets running commands end, a second one
sends them SIGTERM, a third one SIGKILL; interrupted items run again.

A command runs with an empty standard input, in its own session. Processes that it
leaves running in the background are killed when it ends.

Examples:
  find . -type f -print0 | forebay exec -0 --scope '{ext:-none}' --rule '*=4' -- sha256sum {}
  forebay exec --ndjson --input jobs.ndjson --key '{user}' --retries 3 -- ./resize {} --to {size}
  forebay exec -i hosts --jobs 8 --retries 5 --retry-delay 10 --tag -- ssh {} uptime
  forebay exec -i urls --scope api --rule 'api=4,rate=10/s' -- curl -sfO {}
More: docs/exec.md.";
