//! `snapshot`, `bench`, `completions`.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use clap_complete::Shell;

use super::values::seconds;

/// Write a consistent copy of the data directory
#[derive(Args, Clone, Debug)]
pub(crate) struct SnapshotArgs {
    /// Where to; must not exist yet
    #[arg(value_name = "DIR")]
    pub(crate) to: PathBuf,
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
