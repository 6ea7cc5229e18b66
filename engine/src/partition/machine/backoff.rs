//! How long a failed attempt is followed by nothing.

use std::time::Duration;

use forebay_messages::command::RetryPolicy;

/// The wait before the attempt that follows failed attempt number `attempt` (from 1).
///
/// Exponential, capped, with a random share taken off ("equal jitter" generalised;
/// see the AWS architecture blog, "Exponential Backoff And Jitter"). `random` is any
/// number; the same number gives the same wait.
#[must_use]
pub fn backoff(policy: &RetryPolicy, attempt: u32, random: u32) -> Duration {
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
