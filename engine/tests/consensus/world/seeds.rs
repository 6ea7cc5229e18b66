//! The seeds of a test, and the report of a failing seed.
//!
//! FOREBAY_SIM_SEEDS=n runs n random seeds instead of the few of `make test`; FOREBAY_SIM_SEED=n
//! starts with that seed (alone, without the other variable).

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{disk::Backend, faults, faults::Run, host};

/// Runs one seed. `target` is the make target that replays it.
pub(crate) fn run_seed<B: Backend>(seed: u64, target: &str) -> Run<B> {
    match catch_unwind(AssertUnwindSafe(|| Run::of_seed(seed))) {
        Ok(run) => run,
        Err(_) => panic!("seed {seed} (above); replay: make {target} SEED={seed}"),
    }
}

/// Runs the first `fixed` seeds and `fresh` random ones, or the seeds named by the environment.
pub(crate) fn run_seeds<B: Backend>(fixed: u64, fresh: u64, target: &str) {
    let new = host::fresh_seed();
    let first = host::variable("FOREBAY_SIM_SEED");
    let (fixed, fresh) = match (first, host::variable("FOREBAY_SIM_SEEDS")) {
        (None, None) => (0..fixed, new..new + fresh),
        (Some(first), count) => (0..0, first..first + count.unwrap_or(1)),
        (None, Some(count)) => (0..0, new..new + count),
    };
    host::timed(|| {
        let mut sum = faults::Sum::default();
        fixed.chain(fresh).for_each(|seed| sum.add(&run_seed::<B>(seed, target)));
        sum
    });
}
