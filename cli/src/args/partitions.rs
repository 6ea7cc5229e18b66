//! `partitions`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::values::duration;

/// List the partitions, or tell a running process which of them to lead
#[derive(Args, Clone, Debug)]
pub(crate) struct PartitionsArgs {
    #[command(subcommand)]
    pub(crate) command: Option<PartitionsCommand>,
}

/// An action on a partition.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum PartitionsCommand {
    /// Lead a partition, in place of its current leader
    Lead {
        /// Its number, as `forebay partitions` lists it
        #[arg(value_name = "ID")]
        id: u32,
    },
    /// Stop leading a partition, until a `lead` command: nothing new starts
    StepDown {
        /// Its number, as `forebay partitions` lists it
        #[arg(value_name = "ID")]
        id: u32,
        /// How long running entries may take to end; then they are dropped and run again later
        #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
        within: Duration,
    },
}
