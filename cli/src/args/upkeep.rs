//! `snapshot`, `bench`, `completions`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::values::seconds;

/// Take a consistent copy of the data directory, also while it is used, or restore one
#[derive(Args, Clone, Debug)]
pub(crate) struct SnapshotArgs {
    #[command(subcommand)]
    pub(crate) command: SnapshotCommand,
}

/// What is done with a snapshot.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum SnapshotCommand {
    /// Copy the data directory as it is at one moment, with checksums
    Create {
        /// Where to; must not exist, or be empty
        #[arg(value_name = "DIR")]
        to: PathBuf,
    },
    /// Make a data directory (--data-dir) out of a snapshot
    Restore {
        /// The snapshot
        #[arg(value_name = "DIR")]
        from: PathBuf,
        /// Take the log of this data directory, whose rows were lost: everything that was
        /// acknowledged is there again, if its log still has all since the snapshot
        #[arg(long, value_name = "DATA_DIR")]
        log_of: Option<PathBuf>,
    },
    /// Check every file of a snapshot
    Verify {
        /// The snapshot
        #[arg(value_name = "DIR")]
        from: PathBuf,
    },
}

/// What the log keeps, as an option.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum TrimLogArg {
    /// Only what a restart needs
    #[default]
    Flushed,
    /// Everything since the newest snapshot, so that it and the log bring all back
    Snapshotted,
    /// Everything
    Never,
}

impl From<TrimLogArg> for forebay::TrimLog {
    fn from(arg: TrimLogArg) -> Self {
        match arg {
            TrimLogArg::Flushed => Self::Flushed,
            TrimLogArg::Snapshotted => Self::Snapshotted,
            TrimLogArg::Never => Self::Never,
        }
    }
}

/// Measure entries per second and latencies on this machine
///
/// Runs whole lives of entries (enqueue, dispatch, complete) in this process, on disk
/// and synced, in turn with an ideal queue: memory and one preallocated file that two
/// synced records per job go to. The data goes to a new directory beside --data-dir,
/// which is removed at the end.
#[derive(Args, Clone, Debug)]
pub(crate) struct BenchArgs {
    /// How many entries are in flight
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) in_flight: u32,
    /// How many entries are enqueued at once; divides --in-flight
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) batch: u32,
    /// Over how many keys the entries spread; 0 is none
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) keys: u64,
    /// Over how many scopes the entries spread; 0 is none
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) scopes: u64,
    /// How many rules there are, on three levels; needs scopes
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) rules: u32,
    /// Bytes of a payload
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    pub(crate) payload: usize,
    /// For how long, in seconds (or a duration like `10m`), warm-up not counted
    #[arg(long = "seconds", value_name = "N", default_value = "10", value_parser = seconds)]
    pub(crate) time: Duration,
    /// How many partitions; one per core without it
    #[arg(long, value_name = "N")]
    pub(crate) partitions: Option<u32>,
}

/// Print completions for a shell
#[derive(Args, Clone, Debug)]
pub(crate) struct CompletionsArgs {
    /// Which shell
    pub(crate) shell: Shell,
}
