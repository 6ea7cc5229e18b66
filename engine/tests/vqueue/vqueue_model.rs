//! The vqueue under every interleaving of the events around it; see `world` for the checks.
//! `FOREBAY_CASES` sets the number of cases of each property, [`CASES_DEFAULT`] by default.

use proptest::prelude::*;

use super::world::{Options, World};

/// Cases of each property, and in the long mode (`make test-long`).
const CASES_DEFAULT: u32 = 20_000;
const CASES_LONG: u32 = 200_000;

/// The number of cases set by the environment; at least the default, unless `FOREBAY_CASES` is set.
#[expect(clippy::disallowed_methods, reason = "the environment sets the number of cases")]
fn cases() -> u32 {
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse().unwrap());
    let is_long = std::env::var("FOREBAY_TEST_LONG").is_ok_and(|value| value == "1");
    let default = if is_long { CASES_LONG } else { CASES_DEFAULT };
    number("FOREBAY_CASES").unwrap_or_else(|| number("PROPTEST_CASES").unwrap_or(0).max(default))
}

/// Calls it once, twice or three times, whether there is work or not.
fn several(arg: usize, mut what: impl FnMut() -> bool) {
    for _ in 0..=arg % 3 {
        what();
    }
}

/// One number makes one step: an operation and an argument.
fn step(world: &mut World, raw: u16) {
    let (what, arg) = (raw % 64, usize::from(raw / 64));
    let delay_ms = if arg.is_multiple_of(2) { arg as u64 % 100 } else { 0 };
    let pick = if arg.is_multiple_of(3) { 0 } else { arg };
    match what {
        0..=6 => world.enqueue(1 + arg % 3, delay_ms),
        7 | 8 => world.cancel(pick),
        9 | 10 => world.reschedule(pick, delay_ms),
        11..=20 => several(arg, || world.deliver()),
        21..=27 => several(arg, || world.deliver_to_partition()),
        28..=34 => several(arg, || world.deliver_to_limiter()),
        35..=39 => several(0, || world.grant()),
        40..=44 => several(0, || world.apply(arg.is_multiple_of(5))),
        45 | 46 => several(0, || world.complete(arg)),
        47 | 48 => world.retry(arg, delay_ms),
        49 => world.snapshot(1 + arg % 4),
        50..=52 => {
            let limit = if arg.is_multiple_of(2) { usize::MAX } else { 1 + arg % 4 };
            several(0, || world.finish_scan(limit));
        }
        53 => world.fail_scan(),
        54..=57 => world.advance(arg as u64 % 50),
        58 if arg.is_multiple_of(2) => world.wake_early(),
        58 => world.wake(),
        59 if world.paused => world.resume(),
        59 => world.pause(),
        60 => world.drained(),
        61 | 62 => world.passivate(arg.is_multiple_of(2)),
        _ if arg.is_multiple_of(3) => world.kill(),
        _ => world.passivate(true),
    }
}

fn run(options: Options, raw: &[u16]) -> usize {
    let mut world = World::new(options);
    raw.iter().for_each(|raw| step(&mut world, *raw));
    world.finish();
    world.ended
}

fn options(has_lock: bool) -> impl Strategy<Value = Options> {
    let capacity = prop::sample::select(vec![1_usize, 3, 4, 24]);
    let entries_max = prop::sample::select(vec![2_usize, 3, 1_000]);
    (1..6_u32, capacity, 1..5_usize, 0..3_usize, any::<bool>(), entries_max).prop_map(
        move |(quantum, capacity, limit, inline_every, draining, entries_max)| Options {
            has_lock,
            quantum,
            capacity,
            limit,
            inline_every,
            draining,
            entries_max,
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<u16>> {
    prop::collection::vec(any::<u16>(), 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn vqueue_runs_every_entry(options in options(false), raw in steps()) {
        run(options, &raw);
    }

    #[test]
    fn vqueue_with_a_lock_runs_every_entry(options in options(true), raw in steps()) {
        run(options, &raw);
    }
}
