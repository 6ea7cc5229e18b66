//! `jobs`.

use std::num::NonZeroU32;

use clap::{Args, value_parser};

use super::exec::JOBS_MAX;

/// Say how many commands may run at the same time, or change it while they run
///
/// Of the process that has the data directory open: what `forebay exec --jobs` has set.
/// More start at once; of fewer, what runs goes on, and nothing starts until enough have
/// ended.
#[derive(Args, Clone, Debug)]
pub(crate) struct JobsArgs {
    /// So many from now on
    #[arg(value_name = "N", value_parser = value_parser!(u32).range(1..=JOBS_MAX))]
    pub(crate) jobs: Option<u32>,
}

impl JobsArgs {
    /// What is to be changed, if anything.
    pub(crate) fn running_max(&self) -> Option<NonZeroU32> {
        self.jobs.and_then(NonZeroU32::new)
    }
}
