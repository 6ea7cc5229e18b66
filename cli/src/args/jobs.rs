//! `jobs`.

use std::num::NonZeroU32;

use clap::{Args, value_parser};

use super::exec::JOBS_MAX;

/// Show how many commands may run at the same time, or change it while they run
///
/// For the process that has the data directory open: the limit set by `forebay exec --jobs`. With a
/// higher limit, more start at once; with a lower one, running commands finish, and nothing starts
/// until enough have ended.
#[derive(Args, Clone, Debug)]
pub(crate) struct JobsArgs {
    /// The new limit
    #[arg(value_name = "N", value_parser = value_parser!(u32).range(1..=JOBS_MAX))]
    pub(crate) jobs: Option<u32>,
}

impl JobsArgs {
    /// The change, if any.
    pub(crate) fn running_max(&self) -> Option<NonZeroU32> {
        self.jobs.and_then(NonZeroU32::new)
    }
}
