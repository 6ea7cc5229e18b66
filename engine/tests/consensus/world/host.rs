//! The only part of the simulation that sees the environment: seeds to run, output, durations. The
//! world does not depend on it.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "the runner of the seeds is not part of the machine"
)]

use std::fmt::Display;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A number from an environment variable.
pub(crate) fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// FOREBAY_SIM_TRACE prints every input and effect.
pub(crate) fn prints() -> bool {
    std::env::var_os("FOREBAY_SIM_TRACE").is_some()
}

pub(crate) fn print(line: impl Display) {
    println!("{line}");
}

/// A random seed.
pub(crate) fn fresh_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    since.as_secs() << 20
}

/// Prints the result of `run`, and how long it took.
pub(crate) fn timed<T: Display>(run: impl FnOnce() -> T) {
    let began = Instant::now();
    let result = run();
    println!("{result} in {:.1} s", began.elapsed().as_secs_f64());
}
