//! The seeds of a test, and the report of one that fails.
//!
//! FOREBAY_SIM_SEEDS=n runs n fresh seeds instead of the few of `make test`;
//! FOREBAY_SIM_SEED=n begins with that one (alone, without the other).

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{disk::Backend, faults, faults::Life, host};

/// Lives one seed. `target` is the make target that replays it.
pub(crate) fn live<B: Backend>(seed: u64, target: &str) -> Life<B> {
    match catch_unwind(AssertUnwindSafe(|| Life::live(seed))) {
        Ok(life) => life,
        Err(_) => panic!("seed {seed} (above); replay: make {target} SEED={seed}"),
    }
}

/// Lives the first `fixed` seeds and `fresh` new ones, or the seeds that the environment names.
pub(crate) fn live_all<B: Backend>(fixed: u64, fresh: u64, target: &str) {
    let new = host::fresh_seed();
    let first = host::variable("FOREBAY_SIM_SEED");
    let (fixed, fresh) = match (first, host::variable("FOREBAY_SIM_SEEDS")) {
        (None, None) => (0..fixed, new..new + fresh),
        (Some(first), count) => (0..0, first..first + count.unwrap_or(1)),
        (None, Some(count)) => (0..0, new..new + count),
    };
    host::timed(|| {
        let mut sum = faults::Sum::default();
        fixed.chain(fresh).for_each(|seed| sum.add(&live::<B>(seed, target)));
        sum
    });
}
