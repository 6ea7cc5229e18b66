//! `forebay` as users run it: the real binary, its exit codes, its output, and the contents of the
//! data directory afterwards.

mod act;
mod add;
mod bench;
mod clock;
mod cluster;
mod data_dir;
mod documents;
mod entry;
mod input;
mod inspect;
mod lacks;
mod live_rules;
mod options;
mod output;
mod partitions;
mod pauses;
mod pipes;
mod progress;
mod resume;
mod rules;
mod runs;
mod serve;
mod signals;
mod snapshot;
mod top;
mod unwritable;
mod workers;

use crate::place::Place;

/// The numbers of the items in the trace of a run, in order.
fn ran(place: &Place, trace: &str) -> Vec<u64> {
    place.lines(trace).iter().map(|line| line.parse().unwrap()).collect()
}

/// 1 to `count`, one a line.
fn numbers(count: u64) -> String {
    (1..=count).map(|n| format!("{n}\n")).collect()
}

/// `exec` with the usual directories and these further arguments.
fn exec<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["exec", "--data-dir", "data"], more].concat()
}
