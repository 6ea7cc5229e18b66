//! `partitions`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::values::duration;

/// List the partitions, or say which of them a running process is to lead
#[derive(Args, Clone, Debug)]
pub(crate) struct PartitionsArgs {
    #[command(subcommand)]
    pub(crate) command: Option<PartitionsCommand>,
}

/// What is done to a partition.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum PartitionsCommand {
    /// Lead a partition, whoever leads it now
    Lead {
        /// Its number, as `forebay partitions` lists it
        #[arg(value_name = "ID")]
        id: u32,
    },
    /// Stop leading a partition until it is told to lead again: nothing new starts
    StepDown {
        /// Its number, as `forebay partitions` lists it
        #[arg(value_name = "ID")]
        id: u32,
        /// How long what runs may take to end; then it is dropped and runs again later
        #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
        within: Duration,
    },
}
