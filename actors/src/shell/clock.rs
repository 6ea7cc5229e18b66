//! Clocks: the wall clock with the monotonic one, and the steady time of a partition.
//!
//! Must always hold: [`Clock::monotonic`] never steps back; a [`SteadyClock`] never steps back and
//! never stands still, whatever the wall clock does.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use forebay_messages::Timestamp;

/// Maximum age of the last reading of the wall clock. Between two readings a partition's time
/// follows the monotonic clock, so that reading the time costs one clock, not two.
const WALL_CLOCK_READ_EVERY: Duration = Duration::from_millis(1);

/// A partition whose time is this far ahead of the wall clock logs a warning.
pub const AHEAD_WARNING: Duration = Duration::from_secs(300);

/// A source of time.
pub trait Clock: std::fmt::Debug + Send + Sync {
    /// The wall clock: time since the Unix epoch. It may step in both directions.
    fn wall(&self) -> Duration;

    /// Time since a fixed point in the past of this process. Waits and leases are measured with it.
    fn monotonic(&self) -> Duration;

    /// The time now.
    fn now(&self) -> Timestamp {
        timestamp(self.wall())
    }

    /// The time now, for a caller that has just called [`Clock::monotonic`].
    fn at(&self, monotonic: Duration) -> Timestamp {
        let _ = monotonic;
        self.now()
    }
}

fn timestamp(since_epoch: Duration) -> Timestamp {
    Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The clocks of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct WallClock;

/// What [`WallClock::monotonic`] counts from.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Clock for WallClock {
    fn wall(&self) -> Duration {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }

    fn monotonic(&self) -> Duration {
        ORIGIN.elapsed()
    }
}

/// The time of a partition: the later of the wall clock and of what this clock showed before plus
/// the monotonic time since. It starts at, and is raised to, the times of the partition's records,
/// so that it does not step back over a restart or a change of leader either.
///
/// After a wall clock that ran ahead was corrected, it stays [ahead](Self::ahead) until the wall
/// clock has caught up. Work still starts meanwhile; an entry with an explicit start time may start
/// early by that difference.
#[derive(Debug)]
pub struct SteadyClock {
    source: Arc<dyn Clock>,
    /// This clock minus the monotonic one, in microseconds. It only grows.
    offset_us: AtomicU64,
    /// Monotonic time from which on the wall clock is to be read again, in microseconds.
    read_wall_at_us: AtomicU64,
}

impl SteadyClock {
    /// A clock that shows `floor` or later.
    #[must_use]
    pub fn new(source: Arc<dyn Clock>, floor: Timestamp) -> Self {
        let clock =
            Self { source, offset_us: AtomicU64::new(0), read_wall_at_us: AtomicU64::new(0) };
        clock.raise(floor);
        clock
    }

    /// From here on it shows `floor` or later.
    pub fn raise(&self, floor: Timestamp) {
        // Rounded down: the offset never brings more than `floor` itself.
        let monotonic = micros(self.source.monotonic());
        let offset = floor.0.saturating_mul(1_000).saturating_sub(monotonic);
        self.offset_us.fetch_max(offset, Ordering::Relaxed);
    }

    /// How far it is ahead of the wall clock.
    #[must_use]
    pub fn ahead(&self) -> Duration {
        let now = self.now();
        Duration::from_millis(now.0.saturating_sub(timestamp(self.source.wall()).0))
    }

    fn read_wall(&self, monotonic_us: u64) {
        let next = monotonic_us.saturating_add(micros(WALL_CLOCK_READ_EVERY));
        self.read_wall_at_us.store(next, Ordering::Relaxed);
        // The monotonic clock is read after the wall clock: a thread that is interrupted
        // between the two must not take the pause for an advance of the wall clock.
        let wall = micros(self.source.wall());
        let monotonic = micros(self.source.monotonic());
        self.offset_us.fetch_max(wall.saturating_sub(monotonic), Ordering::Relaxed);
    }
}

impl Clock for SteadyClock {
    fn wall(&self) -> Duration {
        self.source.wall()
    }

    fn monotonic(&self) -> Duration {
        self.source.monotonic()
    }

    fn now(&self) -> Timestamp {
        self.at(self.source.monotonic())
    }

    fn at(&self, monotonic: Duration) -> Timestamp {
        let monotonic = micros(monotonic);
        if monotonic >= self.read_wall_at_us.load(Ordering::Relaxed) {
            self.read_wall(monotonic);
        }
        let micros = monotonic.saturating_add(self.offset_us.load(Ordering::Relaxed));
        Timestamp(micros / 1_000)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A wall clock and a monotonic one that are set by hand, in milliseconds.
    #[derive(Debug, Default)]
    struct ByHand(Mutex<(u64, u64)>);

    impl ByHand {
        fn set(&self, wall_ms: u64, monotonic_ms: u64) {
            *self.0.lock().unwrap() = (wall_ms, monotonic_ms);
        }
    }

    impl Clock for ByHand {
        fn wall(&self) -> Duration {
            Duration::from_millis(self.0.lock().unwrap().0)
        }

        fn monotonic(&self) -> Duration {
            Duration::from_millis(self.0.lock().unwrap().1)
        }
    }

    const HOUR_MS: u64 = 3_600_000;
    const START_MS: u64 = 1_000 * HOUR_MS;

    fn clock(floor_ms: u64) -> (Arc<ByHand>, SteadyClock) {
        let source = Arc::new(ByHand::default());
        source.set(START_MS, 50);
        let clock = SteadyClock::new(Arc::clone(&source) as _, Timestamp(floor_ms));
        (source, clock)
    }

    #[test]
    fn it_follows_the_wall_clock() {
        let (source, clock) = clock(0);
        assert_eq!(clock.now(), Timestamp(START_MS));
        source.set(START_MS + 70, 120);
        assert_eq!(clock.now(), Timestamp(START_MS + 70));
        assert_eq!(clock.ahead(), Duration::ZERO);
    }

    #[test]
    fn it_advances_when_the_wall_clock_steps_back() {
        let (source, clock) = clock(0);
        assert_eq!(clock.now(), Timestamp(START_MS));
        source.set(START_MS - HOUR_MS, 150);
        assert_eq!(clock.now(), Timestamp(START_MS + 100));
        assert_eq!(clock.ahead(), Duration::from_millis(HOUR_MS + 100));
    }

    #[test]
    fn it_steps_forward_with_the_wall_clock_and_not_back() {
        let (source, clock) = clock(0);
        assert_eq!(clock.now(), Timestamp(START_MS));
        source.set(START_MS + HOUR_MS, 60);
        assert_eq!(clock.now(), Timestamp(START_MS + HOUR_MS));
        source.set(START_MS + 30, 80);
        assert_eq!(clock.now(), Timestamp(START_MS + HOUR_MS + 20));
    }

    #[test]
    fn it_advances_while_the_wall_clock_stands_still() {
        let (source, clock) = clock(0);
        assert_eq!(clock.now(), Timestamp(START_MS));
        source.set(START_MS, 1_050);
        assert_eq!(clock.now(), Timestamp(START_MS + 1_000));
    }

    #[test]
    fn it_starts_at_its_floor_and_is_raised() {
        let (source, clock) = clock(START_MS + HOUR_MS);
        assert_eq!(clock.now(), Timestamp(START_MS + HOUR_MS));
        source.set(START_MS + 5, 55);
        clock.raise(Timestamp(START_MS));
        assert_eq!(clock.now(), Timestamp(START_MS + HOUR_MS + 5), "an older record");
        clock.raise(Timestamp(START_MS + 2 * HOUR_MS));
        assert_eq!(clock.now(), Timestamp(START_MS + 2 * HOUR_MS));
    }

    #[test]
    fn the_wall_clock_is_read_once_a_millisecond_at_most() {
        let (source, clock) = clock(0);
        assert_eq!(clock.at(Duration::from_millis(50)), Timestamp(START_MS));
        source.set(START_MS + HOUR_MS, 50);
        assert_eq!(clock.at(Duration::from_micros(50_999)), Timestamp(START_MS));
        assert_eq!(clock.at(Duration::from_millis(51)), Timestamp(START_MS + HOUR_MS + 1));
    }
}
