//! `snapshot`, `bench`, `completions`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::values::seconds;

/// Take a consistent copy of the data directory, even while it is used, or restore one
#[derive(Args, Clone, Debug)]
pub(crate) struct SnapshotArgs {
    #[command(subcommand)]
    pub(crate) command: SnapshotCommand,
}

/// An action on a snapshot.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum SnapshotCommand {
    /// Copy the data directory as of one moment, with checksums
    Create {
        /// Target directory; must not exist, or be empty
        #[arg(value_name = "DIR")]
        to: PathBuf,
    },
    /// Make a data directory (--data-dir) from a snapshot
    Restore {
        /// The snapshot
        #[arg(value_name = "DIR")]
        from: PathBuf,
        /// Use the log of this data directory, whose rows were lost: everything acknowledged is
        /// restored, if its log still has all records since the snapshot
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

/// Which records the log keeps, as an option.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum TrimLogArg {
    /// None
    #[default]
    Flushed,
    /// Everything since the newest snapshot, so that both together can restore everything
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
/// Runs complete entries (enqueue, dispatch, complete) in this process, on disk and synced,
/// alternating with an ideal queue: memory and one preallocated file with two synced records per
/// job. The data is in a new directory next to --data-dir, which is removed at the end.
#[derive(Args, Clone, Debug)]
pub(crate) struct BenchArgs {
    /// Number of entries in flight
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) in_flight: u32,
    /// Number of entries enqueued at once; divides --in-flight
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) batch: u32,
    /// Number of keys over which the entries are spread; 0 is none
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) keys: u64,
    /// Number of scopes over which the entries are spread; 0 is none
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) scopes: u64,
    /// Number of rules, on three levels; needs scopes
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) rules: u32,
    /// Bytes of a payload
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    pub(crate) payload: usize,
    /// Duration in seconds (or like `10m`), without the warm-up
    #[arg(long = "seconds", value_name = "N", default_value = "10", value_parser = seconds)]
    pub(crate) time: Duration,
    /// Number of partitions; one per core without it
    #[arg(long, value_name = "N")]
    pub(crate) partitions: Option<u32>,
}

/// Print completions for a shell
#[derive(Args, Clone, Debug)]
pub(crate) struct CompletionsArgs {
    /// Which shell
    pub(crate) shell: Shell,
}
