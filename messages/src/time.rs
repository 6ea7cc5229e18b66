//! Time as stored: milliseconds since the Unix epoch, UTC.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::wire::wire_number;

/// A point in time: milliseconds since 1970-01-01T00:00:00Z.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

wire_number!(Timestamp, u64, Varint);

impl Timestamp {
    /// The latest possible time.
    pub const MAX: Self = Self(u64::MAX);

    /// This time plus `duration` (whole milliseconds, saturating).
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// The time since `earlier`; zero if that is in the future.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

#[expect(clippy::disallowed_types, reason = "a conversion: no clock is read here")]
impl From<std::time::SystemTime> for Timestamp {
    /// Rounds up to a whole millisecond: nothing that is due then starts before. Times before 1970
    /// become the epoch.
    fn from(time: std::time::SystemTime) -> Self {
        let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_types, reason = "a conversion: no clock is read here")]

    use std::time::{Duration, SystemTime};

    use super::*;

    /// Regression: an entry started up to a millisecond before its `run_at`.
    #[test]
    fn a_part_of_a_millisecond_counts_as_a_whole_one() {
        let at = |nanos| Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)).0;
        assert_eq!([at(0), at(1), at(1_000_000), at(1_000_001)], [0, 1, 1, 2]);
        assert_eq!(Timestamp::from(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), Timestamp(0));
    }
}
