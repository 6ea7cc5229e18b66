//! The only place of the simulation that sees the environment: seeds to run, output, durations.
//! Nothing of it reaches the world.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "the runner of the seeds is not part of the machine"
)]

use std::fmt::Display;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A number in the environment.
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

/// A seed that was not run before.
pub(crate) fn fresh_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    since.as_secs() << 20
}

/// Prints what `run` gives, and how long it took.
pub(crate) fn timed<T: Display>(run: impl FnOnce() -> T) {
    let began = Instant::now();
    let result = run();
    println!("{result} in {:.1} s", began.elapsed().as_secs_f64());
}
