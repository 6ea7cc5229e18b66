//! The progress of a run. Pure: the time is an argument.
//!
//! Must always hold: done + running + waiting = total; items that ended in an earlier run count as
//! done but not in the rate.

use std::{collections::VecDeque, fmt, time::Duration};

/// Period of time for the rate.
const RATE_WINDOW: Duration = Duration::from_secs(30);
/// Minimum number of ends for the rate: long items end rarely.
const RATE_ENDS_MIN: u64 = 10;
/// Resolution of the period. Bounds the number of samples.
const SAMPLE_EVERY: Duration = Duration::from_millis(500);
/// Mean duration of items from which on the remaining time is computed from the durations instead
/// of the recent rate.
const LONG_ITEM: Duration = Duration::from_secs(5);
/// Maximum number of reasons to wait that are shown at once.
const HELD_SHOWN_MAX: usize = 3;

/// Counts items. Times are since the start of the run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    total: u64,
    /// The whole input was read, so the total is final.
    total_known: bool,
    /// Ended in an earlier run.
    earlier: u64,
    running: u64,
    /// Sum of the start times of running attempts.
    started_at: Duration,
    /// Finished attempts, and their total duration.
    attempts: u32,
    took: Duration,
    succeeded: u64,
    failed: u64,
    /// Number of ends in this run, with the time, before the samples.
    base: (Duration, u64),
    /// The same; oldest first.
    samples: VecDeque<(Duration, u64)>,
}

/// The progress at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct View {
    /// Ended, in this run or an earlier one.
    pub(crate) done: u64,
    /// All known items.
    pub(crate) total: u64,
    /// Running now.
    pub(crate) running: u64,
    /// Not started, or waiting for a retry.
    pub(crate) waiting: u64,
    /// Failed permanently in this run.
    pub(crate) failed: u64,
    /// Recent items per second.
    pub(crate) rate: f64,
    /// Remaining time if everything continues like this; `None` if unknown.
    pub(crate) eta: Option<Duration>,
    /// Lines (or items) read so far; `None` once the input has been read.
    pub(crate) reading: Option<u64>,
    /// Reasons to wait with their numbers of items: `12` and `wait for acme=3`. The largest first.
    pub(crate) held: Vec<(u64, String)>,
}

impl Progress {
    /// An item is stored and will run.
    pub(crate) fn accepted(&mut self) {
        self.total += 1;
    }

    /// An item ended in an earlier run.
    pub(crate) fn ended_earlier(&mut self) {
        self.total += 1;
        self.earlier += 1;
    }

    /// The whole input was read.
    pub(crate) fn input_ended(&mut self) {
        self.total_known = true;
    }

    /// Whether the whole input was read.
    pub(crate) fn is_read(&self) -> bool {
        self.total_known
    }

    /// An attempt starts. May be called before [`Self::accepted`]: stored items of an earlier run
    /// start before this run has read them.
    pub(crate) fn started(&mut self, now: Duration) {
        self.running += 1;
        self.started_at += now;
    }

    /// An attempt that started at `since` is over, in any way.
    pub(crate) fn stopped(&mut self, now: Duration, since: Duration) {
        self.running = self.running.saturating_sub(1);
        self.started_at = self.started_at.saturating_sub(since);
        self.attempts = self.attempts.saturating_add(1);
        self.took += now.saturating_sub(since);
    }

    /// Number of attempts that are not over.
    pub(crate) fn running(&self) -> u64 {
        self.running
    }

    /// An item ended. Its attempt, if one ran, was over before.
    pub(crate) fn ended(&mut self, now: Duration, succeeded: bool) {
        if succeeded {
            self.succeeded += 1;
        } else {
            self.failed += 1;
        }
        self.sample(now);
    }

    fn ended_now(&self) -> u64 {
        self.succeeded + self.failed
    }

    fn sample(&mut self, now: Duration) {
        let ended = self.ended_now();
        match self.samples.back() {
            Some((at, _)) if now < *at + SAMPLE_EVERY => {}
            _ => self.samples.push_back((now, ended)),
        }
        while let Some(first) = self.samples.front()
            && is_before_window(*first, now, ended)
        {
            self.base = *first;
            self.samples.pop_front();
        }
    }

    fn done(&self) -> u64 {
        self.earlier + self.ended_now()
    }

    /// The progress now.
    #[must_use]
    pub(crate) fn view(&self, now: Duration) -> View {
        let done = self.done();
        let total = self.total.max(done + self.running);
        let left = total - done;
        let rate = self.rate(now);
        View {
            done,
            total,
            running: self.running,
            waiting: left - self.running,
            failed: self.failed,
            rate,
            eta: self.eta(left, rate, now).filter(|_| self.total_known),
            reading: None,
            held: Vec::new(),
        }
    }

    /// Remaining time for this many items.
    fn eta(&self, left: u64, rate: f64, now: Duration) -> Option<Duration> {
        let mean = self.took.checked_div(self.attempts)?.as_secs_f64();
        if self.ended_now() == 0 {
            return None;
        }
        let seconds = if mean < LONG_ITEM.as_secs_f64() || self.running == 0 {
            left as f64 / rate
        } else {
            // The time that running attempts have already taken, except for late ones.
            let running = self.running as f64;
            let ages = running * now.as_secs_f64() - self.started_at.as_secs_f64();
            (left as f64 * mean - ages.min(running * mean)) / running
        };
        Duration::try_from_secs_f64(seconds).ok()
    }

    fn rate(&self, now: Duration) -> f64 {
        let ended = self.ended_now();
        let is_before = |sample: &&(Duration, u64)| is_before_window(**sample, now, ended);
        let (since, before) =
            *self.samples.iter().take_while(is_before).last().unwrap_or(&self.base);
        let seconds = now.saturating_sub(since).as_secs_f64();
        if seconds > 0.0 { (ended - before) as f64 / seconds } else { 0.0 }
    }
}

/// Whether the rate can start at this sample: the whole period and enough ends are after it.
fn is_before_window((at, before): (Duration, u64), now: Duration, ended: u64) -> bool {
    at + RATE_WINDOW <= now && before + RATE_ENDS_MIN <= ended
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} done, {}", self.done, self.total, Details(self))
    }
}

/// A view without the first two numbers, for display next to a bar that shows them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Details<'a>(pub(crate) &'a View);

impl fmt::Display for Details<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let View { running, failed, rate, eta, reading, held, .. } = self.0;
        if let Some(lines) = reading {
            write!(f, "reading input: {lines}, ")?;
        }
        write!(f, "{running} running")?;
        let mut waiting = self.0.waiting;
        for (count, why) in held.iter().take(HELD_SHOWN_MAX) {
            // It was counted a moment ago.
            let count = (*count).min(waiting);
            waiting -= count;
            if count > 0 {
                write!(f, ", {count} {why}")?;
            }
        }
        if waiting > 0 {
            write!(f, ", {waiting} waiting")?;
        }
        if *failed > 0 {
            write!(f, ", {failed} failed")?;
        }
        if *rate > 0.0 {
            write!(f, ", {}", Rate(*rate))?;
        }
        match eta {
            Some(eta) => write!(f, ", ETA {}", Clock(*eta)),
            None => Ok(()),
        }
    }
}

/// Items per second, or per longer unit if they are few.
#[derive(Clone, Copy, Debug)]
struct Rate(f64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            rate if rate >= 0.95 => write!(f, "{rate:.1}/s"),
            rate if rate * 60.0 >= 0.95 => write!(f, "{:.1}/min", rate * 60.0),
            rate => write!(f, "{:.1}/h", rate * 3600.0),
        }
    }
}

/// A duration as `1h02m`, `3m05s` or `42s`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(pub(crate) Duration);

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
            (0, 0, 0, seconds) => write!(f, "{seconds}s"),
            (0, 0, minutes, seconds) => write!(f, "{minutes}m{seconds:02}s"),
            (0, hours, minutes, _) => write!(f, "{hours}h{minutes:02}m"),
            (days, hours, ..) => write!(f, "{days}d{hours:02}h"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{Clock, Progress, RATE_WINDOW, SAMPLE_EVERY};

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn attempt(progress: &mut Progress, from: u64, to: u64) {
        progress.started(secs(from));
        progress.stopped(secs(to), secs(from));
    }

    #[test]
    fn a_run_from_start_to_end() {
        let mut progress = Progress::default();
        progress.ended_earlier();
        (0..20).for_each(|_| progress.accepted());
        progress.started(secs(0));
        let view = progress.view(secs(0));
        assert_eq!(view.to_string(), "1/21 done, 1 running, 19 waiting");
        progress.stopped(secs(1), secs(0));
        progress.ended(secs(1), true);
        attempt(&mut progress, 1, 2);
        attempt(&mut progress, 2, 2);
        progress.ended(secs(2), false);
        assert_eq!(progress.view(secs(2)).eta, None, "more may come");
        progress.input_ended();
        let view = progress.view(secs(2));
        assert_eq!(view.to_string(), "3/21 done, 0 running, 18 waiting, 1 failed, 1.0/s, ETA 18s");
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut progress = Progress::default();
        (0..1000).for_each(|_| progress.accepted());
        for second in 1..=100 {
            let per_second = if second <= 50 { 10 } else { 2 };
            for _ in 0..per_second {
                attempt(&mut progress, second, second);
                progress.ended(secs(second), true);
            }
        }
        let rate = progress.view(secs(100)).rate;
        assert!((1.9..=2.2).contains(&rate), "{rate}");
        assert!(
            progress.samples.len() as u128
                <= RATE_WINDOW.as_millis() / SAMPLE_EVERY.as_millis() + 2
        );
        assert!(progress.view(secs(1000)).rate < 0.02, "nothing has ended for long");
    }

    #[test]
    fn items_of_an_earlier_run_may_start_before_they_are_read() {
        let mut progress = Progress::default();
        progress.started(secs(0));
        let view = progress.view(secs(0));
        assert_eq!((view.total, view.running, view.waiting), (1, 1, 0));
        progress.accepted();
        assert_eq!(progress.view(secs(0)), view);
    }

    /// Regression: with four at a time, ten minutes each, no estimate was shown after half a minute
    /// without an end.
    #[test]
    fn long_items_have_a_rate_and_an_estimate() {
        let mut progress = Progress::default();
        (0..12).for_each(|_| progress.accepted());
        progress.input_ended();
        (0..4).for_each(|_| progress.started(secs(0)));
        assert_eq!(progress.view(secs(300)).eta, None, "none has ended");
        for _ in 0..4 {
            progress.stopped(secs(600), secs(0));
            progress.ended(secs(600), true);
            progress.started(secs(600));
        }
        let view = progress.view(secs(601));
        assert_eq!(view.eta.unwrap().as_secs(), 1199);
        assert!(view.to_string().ends_with("4 running, 4 waiting, 24.0/h, ETA 19m59s"), "{view}");
        assert_eq!(progress.view(secs(900)).eta, Some(secs(900)), "it does not stand still");
        assert_eq!(progress.view(secs(1500)).eta, Some(secs(600)), "late ones may end at any time");
    }

    #[test]
    fn the_main_reasons_are_named_and_the_rest_is_counted() {
        let mut progress = Progress::default();
        (0..50).for_each(|_| progress.accepted());
        (0..3).for_each(|_| progress.started(secs(0)));
        let mut view = progress.view(secs(1));
        view.held = vec![(24, "paused".to_owned()), (12, "wait for acme=3".to_owned())];
        let text = "0/50 done, 3 running, 24 paused, 12 wait for acme=3, 11 waiting";
        assert_eq!(view.to_string(), text);
        view.reading = Some(1234);
        view.held = vec![(99, "wait for --jobs".to_owned())];
        let text = "0/50 done, reading input: 1234, 3 running, 47 wait for --jobs";
        assert_eq!(view.to_string(), text, "counted a moment ago, before some started");
    }

    #[test]
    fn rates_have_a_useful_unit() {
        let show = |rate| super::Rate(rate).to_string();
        assert_eq!([show(12.34), show(0.5), show(0.002)], ["12.3/s", "30.0/min", "7.2/h"]);
    }

    #[test]
    fn durations_are_short() {
        let show = |seconds| Clock(secs(seconds)).to_string();
        assert_eq!(
            [show(0), show(59), show(65), show(3600 * 23 + 61), show(3600 * 25 + 61)],
            ["0s", "59s", "1m05s", "23h01m", "1d01h"]
        );
    }

    proptest! {
        #[test]
        fn the_counts_always_add_up(events in prop::collection::vec((0_u8..5, 0_u64..2000), 0..200)) {
            let mut progress = Progress::default();
            let mut now = Duration::ZERO;
            for (event, millis) in events {
                now += Duration::from_millis(millis);
                let view = progress.view(now);
                match event {
                    0 => progress.accepted(),
                    1 => progress.ended_earlier(),
                    2 => progress.started(now),
                    3 => progress.stopped(now, now / 2),
                    4 if view.waiting > 0 => progress.ended(now, millis % 2 == 0),
                    _ => {}
                }
                let view = progress.view(now);
                prop_assert_eq!(view.done + view.running + view.waiting, view.total);
                prop_assert!(view.rate.is_finite() && view.rate >= 0.0);
                prop_assert!(progress.samples.len() < 90);
            }
        }
    }
}
