//! Rules changed from a second terminal while `forebay exec` runs: how soon they take effect,
//! rates, and two users who change the same rule.
//!
//! Must always hold: the order of events comes from the items themselves (the times of the files
//! they create), not from how often a test checks.

use std::{
    sync::Barrier,
    time::{Duration, SystemTime},
};

use super::{exec, numbers};
use crate::place::{Done, Place, Running, say, until};

/// Maximum time until a changed rule takes effect.
const IN_FORCE_WITHIN: Duration = Duration::from_millis(100);
/// Number of measurements; more on a busy machine.
const ATTEMPTS_MIN: usize = 3;
const ATTEMPTS_MAX: usize = 8;
/// File times have the granularity of the kernel's tick.
const TICK: Duration = Duration::from_millis(10);

/// Items of scope `t` that record their start and end, and run for `seconds`.
struct Site {
    /// Killed before the directory is removed.
    running: Running,
    place: Place,
}

impl Site {
    fn open(items: u64, seconds: &str, first: &[&str]) -> Self {
        let place = Place::new();
        place.write("items", numbers(items));
        for dir in ["start", "end"] {
            std::fs::create_dir(place.path(dir)).unwrap();
        }
        if !first.is_empty() {
            place.write("first", "0\n");
            let once = ["--input", "first", "--", "true"];
            place.run(&exec(&once)).expect(0, &[]);
            set(&place, first).expect(0, &[]);
        }
        let script = format!(": > start/{{}}; sleep {seconds}; : > end/{{}}");
        let rest = ["--input", "items", "--jobs", "64", "--scope", "t", "--", "sh", "-c", &script];
        let running = place.start(&exec(&rest));
        Self { running, place }
    }

    /// Times at which items began or ended, in order.
    fn times(&self, of: &str) -> Vec<SystemTime> {
        let entries = std::fs::read_dir(self.place.path(of)).unwrap();
        let time = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.unwrap().metadata().unwrap().modified().unwrap()
        };
        let mut times: Vec<_> = entries.map(time).collect();
        times.sort_unstable();
        times
    }

    fn started(&self) -> usize {
        std::fs::read_dir(self.place.path("start")).unwrap().count()
    }
}

fn set(place: &Place, words: &[&str]) -> Done {
    place.run(&[&["rules", "set", "--data-dir", "data"], words].concat())
}

/// Time from `from` to `at`; zero if `at` was earlier, within the precision.
fn after(from: SystemTime, at: SystemTime) -> Duration {
    at.duration_since(from).unwrap_or_default()
}

/// The best of several attempts must be below the bound; all are printed.
fn best_of(what: &str, mut attempt: impl FnMut() -> Duration) {
    let mut took = Vec::new();
    while took.len() < ATTEMPTS_MIN
        || took.len() < ATTEMPTS_MAX && took.iter().all(|one| *one >= IN_FORCE_WITHIN)
    {
        took.push(attempt());
    }
    say(&format!("{what}, from the start of the command on: {took:.0?}"));
    assert!(took.iter().any(|one| *one < IN_FORCE_WITHIN), "{what}: {took:?}");
}

#[test]
fn a_raised_limit_takes_effect_within_100_ms() {
    let site = Site::open(40, "60", &["*", "--concurrency", "1"]);
    until("one runs", || site.started() == 1);
    let mut limit = 1;
    best_of("raised", || {
        limit += 3;
        let begun = SystemTime::now();
        set(&site.place, &["*", "--concurrency", &limit.to_string()]).expect(0, &[]);
        until("as many run as may", || site.started() == limit);
        after(begun, site.times("start")[limit - 1])
    });
    std::thread::sleep(3 * TICK);
    assert_eq!(site.started(), limit, "and not more");
}

#[test]
fn a_lowered_limit_takes_effect_within_100_ms() {
    let site = Site::open(5_000, "0.02", &["*", "--concurrency", "8"]);
    best_of("lowered", || {
        let known = site.started();
        until("many run", || site.started() > known + 40);
        let begun = SystemTime::now();
        set(&site.place, &["*", "--concurrency", "1"]).expect(0, &[]);
        let known = site.started();
        until("some run one by one", || site.started() > known + 12);
        let (starts, ends) = (site.times("start"), site.times("end"));
        set(&site.place, &["*", "--concurrency", "8"]).expect(0, &[]);
        // When items run one by one, each starts after all earlier ones have ended.
        let overlaps = |(before, start): (usize, &SystemTime)| {
            (ends.partition_point(|end| end <= start) < before).then_some(*start)
        };
        let last = starts.iter().enumerate().filter_map(overlaps).next_back();
        after(begun, last.expect("eight ran at once"))
    });
}

#[test]
fn starts_follow_a_rate_its_burst_and_a_change_of_it() {
    let begun = SystemTime::now();
    let site = Site::open(90, "0", &["t", "--rate", "20/s", "--burst", "10"]);
    until("the burst is over", || site.started() >= 30);
    let raised = SystemTime::now();
    set(&site.place, &["t", "--rate", "100/s", "--burst", "5"]).expect(0, &[]);
    until("it is faster", || site.started() >= 70);
    let lowered = SystemTime::now();
    set(&site.place, &["t", "--rate", "10/s", "--burst", "1"]).expect(0, &[]);
    let in_force = SystemTime::now();
    until("all have started", || site.started() == 90);
    let starts = site.times("start");
    site.running.end().expect(0, &["90 succeeded"]);

    // An item may be late, but never early: the bucket is full at first, then refilled.
    let allowed = |from: SystemTime, at: SystemTime, burst: f64, rate: f64| {
        burst + rate * after(from, at + TICK).as_secs_f64()
    };
    let at_first = |at| allowed(begun, at, 10.0, 20.0);
    for (number, start) in starts.iter().enumerate() {
        let most = match *start {
            at if at < raised => at_first(at),
            at => at_first(raised) + allowed(raised, at, 5.0, 100.0),
        };
        assert!((number + 1) as f64 <= most, "{number} had started, {most} may have: {starts:?}");
    }
    let slow: Vec<_> = starts.iter().filter(|start| **start > in_force).collect();
    for (number, start) in slow.iter().enumerate() {
        // One of them is in progress.
        let most = 1.0 + allowed(in_force, **start, 1.0, 10.0);
        assert!((number + 1) as f64 <= most, "{number} of the slow, {most} may have: {slow:?}");
    }
    // Nor is it too slow: at most half the rate on a busy machine.
    let took = |from: usize, to: usize| after(starts[from], starts[to]).as_secs_f64();
    let [first, second] = [19.0 / took(10, 29), 35.0 / took(34, 69)];
    let third = slow.len() as f64 / after(lowered, starts[89]).as_secs_f64();
    say(&format!("starts per second at 20, 100 and 10: {first:.1}, {second:.1}, {third:.1}"));
    assert!(took(0, 9) < 0.35, "the burst at once: {starts:?}");
    assert!((13.0..=22.0).contains(&first), "{first} a second instead of 20");
    assert!((40.0..=120.0).contains(&second), "{second} a second instead of 100");
    assert!((6.0..=12.0).contains(&third), "{third} a second instead of 10");
}

#[test]
fn the_later_of_two_editors_is_asked_to_look_again() {
    let site = Site::open(3, "60", &["t", "--concurrency", "1"]);
    until("one runs", || site.started() == 1);
    // Both have seen version 1 and start at the same time.
    let editors = 4;
    let barrier = Barrier::new(editors);
    let edit = |number: usize| {
        let limit = (10 + number).to_string();
        barrier.wait();
        set(&site.place, &["t", "--concurrency", &limit, "--if-version", "1"])
    };
    let ended: Vec<Done> = std::thread::scope(|threads| {
        let editors: Vec<_> =
            (0..editors).map(|number| threads.spawn(move || edit(number))).collect();
        editors.into_iter().map(|editor| editor.join().unwrap()).collect()
    });
    let winners: Vec<_> = (0..editors).filter(|number| ended[*number].code == 0).collect();
    let [winner] = winners[..] else { panic!("not one of them: {ended:?}") };
    for (_, done) in ended.into_iter().enumerate().filter(|(number, _)| *number != winner) {
        let advice = "rule `t`: expected version 1, found version 2; look at it again and repeat";
        done.expect_refused(&[advice]);
    }
    let book = site.place.json(&["rules", "list", "--data-dir", "data"]);
    assert_eq!(book["rules"][0]["concurrency"], 10 + winner, "{book}");
    // As the error advised.
    set(&site.place, &["t", "--concurrency", "2", "--if-version", "2"]).expect(0, &[]);
}
