//! `add`.

use std::{ffi::OsString, num::NonZeroUsize, path::PathBuf};

use clap::Args;

use super::{DelimiterArg, exec::per_item};

/// Add items to a running run, which then ends when they have ended, too
///
/// The run is the one that `forebay exec` serves in this data directory. Items are written as in
/// its input, unless an option says otherwise; its templates, scopes, keys and retries apply to
/// them. Added items are durable: after a crash, `forebay exec --resume` runs them.
#[derive(Args, Clone, Debug)]
#[command(after_help = HELP)]
pub(crate) struct AddArgs {
    /// The items; without any, they are read from --input
    #[arg(value_name = "ITEM")]
    pub(crate) items: Vec<OsString>,
    /// Add only to this run: the beginning of its id, as `forebay runs` shows it
    #[arg(long, value_name = "RUN")]
    pub(crate) run: Option<String>,
    /// Read the items from FILE; `-` is standard input
    #[arg(long, short = 'i', value_name = "FILE", default_value = "-", conflicts_with = "items")]
    pub(crate) input: PathBuf,
    /// Items end with a NUL byte
    #[arg(short = '0', long = "null", conflicts_with_all = ["ndjson", "items"])]
    pub(crate) null: bool,
    /// Items are JSON objects, one per line
    #[arg(long)]
    pub(crate) ndjson: bool,
    /// Items end with this character (or `\n`, `\t`, `\0`, `\xHH`)
    #[arg(short = 'd', long, value_name = "CHAR", conflicts_with_all = ["null", "ndjson", "items"])]
    pub(crate) delimiter: Option<DelimiterArg>,
    /// Remove the CR from lines that end with CR LF
    #[arg(long, conflicts_with_all = ["null", "ndjson", "delimiter", "items"])]
    pub(crate) crlf: bool,
    /// Run each command with N of the items
    #[arg(short = 'n', long = "items-per-command", value_name = "N", conflicts_with = "ndjson",
        value_parser = per_item)]
    pub(crate) per_item: Option<NonZeroUsize>,
}

const HELP: &str = "\
Exit codes: 0 all were added (or the run had them), 1 some were bad or had failed before,
2 nothing sensible could be done: no run takes items here, or it ended before it had all.

A run ends when all its items have ended. To keep one for items that come later, leave its
input open:
  tail -f /dev/null | forebay exec -j4 -- ./convert {} &
  forebay add a.png b.png
  find new -name '*.png' -print0 | forebay add -0
It ends when its input does (here: when `tail` is killed).";
