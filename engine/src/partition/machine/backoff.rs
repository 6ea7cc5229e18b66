//! Delay before a retry.

use std::time::Duration;

use forebay_messages::command::RetryPolicy;

/// Maximum number of immediate retries of an entry, if its policy allows them.
pub const RETRIES_AT_ONCE_MAX: u32 = 16;
/// The shortest delay before any further retry, whatever the policy says: an entry that keeps
/// failing leaves the log and the other entries their turn.
pub const RETRY_WAIT_MIN: Duration = Duration::from_millis(10);

/// Like [`backoff`], but never zero for an entry that has failed often.
pub(super) fn wait(policy: &RetryPolicy, attempt: u32, random: u32) -> Duration {
    let shortest = if attempt > RETRIES_AT_ONCE_MAX { RETRY_WAIT_MIN } else { Duration::ZERO };
    backoff(policy, attempt, random).max(shortest)
}

/// The delay before the attempt that follows failed attempt number `attempt` (from 1).
///
/// Exponential, capped, reduced by a random fraction ("equal jitter" generalised; see the AWS
/// architecture blog, "Exponential Backoff And Jitter"). `random` is any number; the same number
/// gives the same delay.
#[must_use]
pub fn backoff(policy: &RetryPolicy, attempt: u32, random: u32) -> Duration {
    if policy.backoff_first_ms == 0 {
        // Zero stays zero, although 0 times infinity is not a number.
        return Duration::ZERO;
    }
    let growth = f64::from(policy.growth_percent.max(100)) / 100.0;
    let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
    #[expect(clippy::cast_precision_loss, reason = "a wait of 2^53 ms is far above every cap")]
    let (first, max) = (policy.backoff_first_ms as f64, policy.backoff_max_ms as f64);
    let wait = (first * growth.powi(exponent)).min(max.max(first));
    let share = f64::from(policy.jitter_percent.min(100)) / 100.0;
    let taken = wait * share * f64::from(random) / f64::from(u32::MAX);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the wait is between 0 and the policy's own u64"
    )]
    Duration::from_millis((wait - taken).max(0.0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: RetryPolicy = RetryPolicy {
        attempts_max: 0,
        backoff_first_ms: 0,
        backoff_max_ms: 60_000,
        growth_percent: 200,
        jitter_percent: 20,
    };

    /// Regression: 0 times infinity counted as the longest delay: 60 s from attempt 1,026 on.
    #[test]
    fn a_backoff_of_zero_stays_zero() {
        for attempt in [0, 1, 2, 1_025, 1_026, u32::MAX] {
            assert_eq!(backoff(&AT_ONCE, attempt, 7), Duration::ZERO, "attempt {attempt}");
        }
    }

    #[test]
    fn every_policy_gives_a_delay_between_zero_and_its_maximum() {
        let ends = [0, 1, 99, 100, u64::from(u32::MAX), u64::MAX];
        for (first, max) in ends.iter().flat_map(|first| ends.map(|max| (*first, max))) {
            for (growth_percent, jitter_percent) in [(0, 0), (200, 100), (u32::MAX, u32::MAX)] {
                let policy = RetryPolicy {
                    attempts_max: 0,
                    backoff_first_ms: first,
                    backoff_max_ms: max,
                    growth_percent,
                    jitter_percent,
                };
                for (attempt, random) in [(0, 0), (1, u32::MAX), (1_026, 1), (u32::MAX, 0)] {
                    let wait = backoff(&policy, attempt, random);
                    assert!(wait <= Duration::from_millis(first.max(max)), "{policy:?}: {wait:?}");
                    let grown = jitter_percent == 0 && first > 0;
                    assert!(!grown || wait >= Duration::from_millis(first), "{policy:?}: {wait:?}");
                }
            }
        }
    }

    #[test]
    fn immediate_retries_are_bounded() {
        assert_eq!(wait(&AT_ONCE, RETRIES_AT_ONCE_MAX, 0), Duration::ZERO);
        assert_eq!(wait(&AT_ONCE, RETRIES_AT_ONCE_MAX + 1, 0), RETRY_WAIT_MIN);
        let slow = RetryPolicy { backoff_first_ms: 500, ..AT_ONCE };
        assert_eq!(wait(&slow, 1_000, 0), Duration::from_secs(60));
    }
}
