//! How far a run is. Pure: time comes in.
//!
//! Must always hold: done + running + waiting = total; what had ended in an earlier
//! run is counted as done but not in the rate.

use std::{collections::VecDeque, fmt, time::Duration};

/// Over how long a time the rate is taken.
const RATE_WINDOW: Duration = Duration::from_secs(30);
/// How finely the window moves. Bounds the samples kept.
const SAMPLE_EVERY: Duration = Duration::from_millis(500);

/// Counts items. Times are since the start of the run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    total: u64,
    /// The whole input has been read, so the total is final.
    total_known: bool,
    /// Ended in an earlier run.
    earlier: u64,
    running: u64,
    succeeded: u64,
    failed: u64,
    /// When how many had ended in this run; oldest first, at least one.
    samples: VecDeque<(Duration, u64)>,
}

/// What is shown at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct View {
    /// Ended, in this run or an earlier one.
    pub(crate) done: u64,
    /// All that are known of.
    pub(crate) total: u64,
    /// Run now.
    pub(crate) running: u64,
    /// Have not begun, or wait for another try.
    pub(crate) waiting: u64,
    /// Failed for good in this run.
    pub(crate) failed: u64,
    /// Items per second, of late.
    pub(crate) rate: f64,
    /// When all will be done, if it goes on like this; `None` while nobody can know.
    pub(crate) eta: Option<Duration>,
}

impl Progress {
    /// An item is stored and will run.
    pub(crate) fn accepted(&mut self) {
        self.total += 1;
    }

    /// An item had ended in an earlier run.
    pub(crate) fn ended_earlier(&mut self) {
        self.total += 1;
        self.earlier += 1;
    }

    /// The input has been read to its end.
    pub(crate) fn input_ended(&mut self) {
        self.total_known = true;
    }

    /// An attempt begins. It may come before [`Self::accepted`]: what an earlier run has
    /// stored starts before this run has read the item.
    pub(crate) fn started(&mut self) {
        self.running += 1;
    }

    /// An attempt is over, in whatever way.
    pub(crate) fn stopped(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// An item ended for good. Its attempt, if one ran, was over before.
    pub(crate) fn ended(&mut self, now: Duration, succeeded: bool) {
        if succeeded {
            self.succeeded += 1;
        } else {
            self.failed += 1;
        }
        self.sample(now);
    }

    fn sample(&mut self, now: Duration) {
        let ended = self.succeeded + self.failed;
        match self.samples.back() {
            Some((at, _)) if now < *at + SAMPLE_EVERY => {}
            _ => self.samples.push_back((now, ended)),
        }
        // One sample older than the window stays: rates are taken from it.
        while self.samples.get(1).is_some_and(|(at, _)| *at + RATE_WINDOW <= now) {
            self.samples.pop_front();
        }
    }

    fn done(&self) -> u64 {
        self.earlier + self.succeeded + self.failed
    }

    /// What to show now.
    #[must_use]
    pub(crate) fn view(&self, now: Duration) -> View {
        let rate = self.rate(now);
        let done = self.done();
        let total = self.total.max(done + self.running);
        let left = total - done;
        let knowable = self.total_known && rate > 0.0;
        let eta = knowable.then(|| Duration::try_from_secs_f64(left as f64 / rate).ok());
        View {
            done,
            total,
            running: self.running,
            waiting: left - self.running,
            failed: self.failed,
            rate,
            eta: eta.flatten(),
        }
    }

    fn rate(&self, now: Duration) -> f64 {
        let ended = self.succeeded + self.failed;
        let in_window = |(at, _): &&(Duration, u64)| *at + RATE_WINDOW > now;
        // The run's start counts as a sample while the window reaches back to it.
        let (since, before) = match self.samples.iter().find(in_window) {
            _ if now < RATE_WINDOW => (Duration::ZERO, 0),
            Some((at, ended)) => (*at, *ended),
            None => return 0.0,
        };
        let seconds = now.saturating_sub(since).as_secs_f64();
        if seconds > 0.0 { (ended - before) as f64 / seconds } else { 0.0 }
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} done, {}", self.done, self.total, Details(self))
    }
}

/// A view without the first two numbers, for beside a bar that shows them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Details<'a>(pub(crate) &'a View);

impl fmt::Display for Details<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let View { running, waiting, failed, rate, eta, .. } = self.0;
        write!(f, "{running} running, {waiting} waiting, {failed} failed, {rate:.1}/s")?;
        match eta {
            Some(eta) => write!(f, ", ETA {}", Clock(*eta)),
            None => Ok(()),
        }
    }
}

/// A duration as `1h02m`, `3m05s` or `42s`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(pub(crate) Duration);

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
            (0, 0, seconds) => write!(f, "{seconds}s"),
            (0, minutes, seconds) => write!(f, "{minutes}m{seconds:02}s"),
            (hours, minutes, _) => write!(f, "{hours}h{minutes:02}m"),
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

    #[test]
    fn a_run_from_start_to_end() {
        let mut progress = Progress::default();
        progress.ended_earlier();
        (0..20).for_each(|_| progress.accepted());
        progress.started();
        let view = progress.view(secs(0));
        assert_eq!(view.to_string(), "1/21 done, 1 running, 19 waiting, 0 failed, 0.0/s");
        progress.stopped();
        progress.ended(secs(1), true);
        progress.started();
        progress.stopped();
        progress.started();
        progress.stopped();
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
                progress.started();
                progress.stopped();
                progress.ended(secs(second), true);
            }
        }
        let rate = progress.view(secs(100)).rate;
        assert!((1.9..=2.2).contains(&rate), "{rate}");
        assert!(
            progress.samples.len() as u128
                <= RATE_WINDOW.as_millis() / SAMPLE_EVERY.as_millis() + 2
        );
        assert_eq!(progress.view(secs(1000)).rate, 0.0, "nothing has ended for long");
    }

    #[test]
    fn what_an_earlier_run_stored_may_start_before_it_is_read_again() {
        let mut progress = Progress::default();
        progress.started();
        let view = progress.view(secs(0));
        assert_eq!((view.total, view.running, view.waiting), (1, 1, 0));
        progress.accepted();
        assert_eq!(progress.view(secs(0)), view);
    }

    #[test]
    fn durations_are_short() {
        let show = |seconds| Clock(secs(seconds)).to_string();
        assert_eq!(
            [show(0), show(59), show(65), show(3600 * 25 + 61)],
            ["0s", "59s", "1m05s", "25h01m"]
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
                    2 => progress.started(),
                    3 => progress.stopped(),
                    4 if view.waiting > 0 => progress.ended(now, millis % 2 == 0),
                    _ => {}
                }
                let view = progress.view(now);
                prop_assert_eq!(view.done + view.running + view.waiting, view.total);
                prop_assert!(view.rate.is_finite() && view.rate >= 0.0);
                prop_assert!(progress.samples.len() < 70);
            }
        }
    }
}
