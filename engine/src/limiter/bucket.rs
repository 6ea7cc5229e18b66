//! A token bucket: how many entries may start per time under one counter.
//!
//! Must always hold: the number of tokens is a function of elapsed time alone (whole milliseconds),
//! exact to a fraction of a token; it never exceeds the burst. Must not know: what the tokens are
//! taken for.
//!
//! Credit is counted in token-milliseconds: a token costs the length of the period, and every
//! millisecond adds as much credit as a period adds tokens. So nothing is rounded, whatever the
//! rate. Nothing overflows either, for any stored rule: the credit stays below 2^96 (a `u32` times
//! a `u64`), a sum of two credits below 2^97.

use forebay_messages::{Timestamp, rule::Rate};

#[derive(Debug)]
pub(super) struct Bucket {
    /// Every field at least 1.
    rate: Rate,
    /// At most `full()`.
    credit: u128,
    /// When `credit` was last computed.
    at: Timestamp,
    /// Since when there has been no token (meaningful only while there is none).
    dry_since: Timestamp,
    /// The counter's key in the timer index.
    pub(super) timer: Option<Timestamp>,
}

impl Bucket {
    /// A full bucket. A zero in the rate counts as one: to stop work, pause it.
    pub(super) fn new(rate: Rate, now: Timestamp) -> Self {
        let rate = normal(rate);
        let mut bucket = Self { rate, credit: 0, at: now, dry_since: now, timer: None };
        bucket.credit = bucket.full();
        bucket
    }

    /// Whether this bucket has the given rate. Setting it again would change nothing.
    pub(super) fn has_rate(&self, rate: Rate) -> bool {
        self.rate == normal(rate)
    }

    /// Changes the rate. Existing tokens stay, up to the new burst; a full bucket stays full (and
    /// so does one that was forgotten because it was full).
    pub(super) fn set_rate(&mut self, rate: Rate, now: Timestamp) {
        self.advance_to(now);
        let was_full = self.credit == self.full();
        let before = u128::from(self.rate.period_ms);
        self.rate = normal(rate);
        // The product of the credit and a period may overflow, so whole tokens and the fraction are
        // scaled separately: the result is the same.
        let (tokens, fraction) = (self.credit / before, self.credit % before);
        let after = u128::from(self.rate.period_ms);
        let credit = tokens * after + fraction * after / before;
        self.credit = if was_full { self.full() } else { credit.min(self.full()) };
    }

    pub(super) fn tokens(&self, now: Timestamp) -> u32 {
        let tokens = self.credit_at(now) / u128::from(self.rate.period_ms);
        u32::try_from(tokens).expect("the burst is a u32")
    }

    /// Takes available tokens.
    pub(super) fn take(&mut self, count: u32, now: Timestamp) {
        self.advance_to(now);
        let cost = self.cost(count);
        self.credit = self.credit.checked_sub(cost).expect("took an unavailable token");
        if self.tokens(now) == 0 {
            self.dry_since = now;
        }
    }

    /// Puts back tokens of permits that were never used.
    pub(super) fn put(&mut self, count: u32, now: Timestamp) {
        self.advance_to(now);
        self.credit = (self.credit + self.cost(count)).min(self.full());
    }

    /// When the next token is available; `now` if one is available.
    pub(super) fn next_token(&self, now: Timestamp) -> Timestamp {
        self.time_of(u128::from(self.rate.period_ms), now)
    }

    /// When the bucket will be full and can be dropped.
    pub(super) fn full_at(&self, now: Timestamp) -> Timestamp {
        self.time_of(self.full(), now)
    }

    pub(super) fn dry_since(&self) -> Timestamp {
        self.dry_since
    }

    fn time_of(&self, credit: u128, now: Timestamp) -> Timestamp {
        let missing = credit.saturating_sub(self.credit_at(now));
        let millis = missing.div_ceil(u128::from(self.rate.tokens));
        Timestamp(now.0.saturating_add(u64::try_from(millis).unwrap_or(u64::MAX)))
    }

    fn advance_to(&mut self, now: Timestamp) {
        self.credit = self.credit_at(now);
        self.at = now;
    }

    fn credit_at(&self, now: Timestamp) -> u128 {
        let elapsed = u128::from(now.0.saturating_sub(self.at.0));
        (self.credit + elapsed * u128::from(self.rate.tokens)).min(self.full())
    }

    fn full(&self) -> u128 {
        self.cost(self.rate.burst)
    }

    fn cost(&self, tokens: u32) -> u128 {
        u128::from(tokens) * u128::from(self.rate.period_ms)
    }
}

fn normal(rate: Rate) -> Rate {
    Rate { tokens: rate.tokens.max(1), period_ms: rate.period_ms.max(1), burst: rate.burst.max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_tokens_per_ten_milliseconds_arrive_after_four_seven_and_ten() {
        let mut bucket = Bucket::new(Rate { tokens: 3, period_ms: 10, burst: 2 }, Timestamp(0));
        bucket.take(2, Timestamp(0));
        assert_eq!(bucket.next_token(Timestamp(0)), Timestamp(4));
        for (millis, tokens) in [(3, 0), (4, 1), (6, 1), (7, 2), (1_000_000, 2)] {
            assert_eq!(bucket.tokens(Timestamp(millis)), tokens, "after {millis} ms");
        }
        bucket.take(1, Timestamp(4));
        assert_eq!(bucket.next_token(Timestamp(4)), Timestamp(7), "the fraction is kept");
        assert_eq!(bucket.full_at(Timestamp(4)), Timestamp(10));
    }

    #[test]
    fn a_changed_rate_keeps_available_tokens() {
        let mut bucket = Bucket::new(Rate { tokens: 1, period_ms: 100, burst: 10 }, Timestamp(0));
        bucket.set_rate(Rate { tokens: 1, period_ms: 7, burst: 20 }, Timestamp(0));
        assert_eq!(bucket.tokens(Timestamp(0)), 20, "a full bucket stays full");
        bucket.take(17, Timestamp(0));
        bucket.set_rate(Rate { tokens: 1, period_ms: 9, burst: 20 }, Timestamp(0));
        assert_eq!(bucket.tokens(Timestamp(0)), 3);
        bucket.set_rate(Rate { tokens: 1, period_ms: 9, burst: 2 }, Timestamp(0));
        bucket.take(2, Timestamp(0));
        bucket.put(1, Timestamp(0));
        assert_eq!(bucket.tokens(Timestamp(0)), 1);
    }

    #[test]
    fn a_changed_rate_keeps_the_fraction_of_a_token() {
        let mut bucket = Bucket::new(Rate { tokens: 1, period_ms: 100, burst: 10 }, Timestamp(0));
        bucket.take(8, Timestamp(0));
        bucket.set_rate(Rate { tokens: 1, period_ms: 10, burst: 10 }, Timestamp(50));
        bucket.take(2, Timestamp(50));
        assert_eq!(bucket.next_token(Timestamp(50)), Timestamp(55), "half a token was there");
    }

    #[test]
    fn a_bucket_is_dry_since_its_last_token_was_taken() {
        let mut bucket = Bucket::new(Rate { tokens: 1, period_ms: 100, burst: 2 }, Timestamp(0));
        bucket.take(1, Timestamp(3));
        bucket.take(1, Timestamp(7));
        assert_eq!(bucket.dry_since(), Timestamp(7));
    }

    /// Regression: changing a rate multiplied the credit by the new period, which overflowed.
    #[test]
    fn the_largest_storable_rates_are_exact() {
        let huge = Rate { tokens: u32::MAX, period_ms: u64::MAX, burst: u32::MAX };
        let last = Timestamp(u64::MAX);
        let mut bucket = Bucket::new(huge, Timestamp(0));
        assert_eq!(bucket.tokens(Timestamp(0)), u32::MAX);
        bucket.take(3, Timestamp(0));
        assert!(!bucket.has_rate(Rate { burst: 7, ..huge }));
        for period_ms in [u64::MAX - 1, 1, u64::MAX] {
            bucket.set_rate(Rate { period_ms, ..huge }, Timestamp(0));
            assert_eq!(bucket.tokens(Timestamp(0)), u32::MAX - 3, "period {period_ms}");
        }
        bucket.put(1, Timestamp(0));
        assert_eq!(bucket.tokens(Timestamp(0)), u32::MAX - 2);
        assert_eq!(bucket.tokens(last), u32::MAX);
        bucket.take(u32::MAX, last);
        assert_eq!((bucket.next_token(last), bucket.full_at(last)), (last, last), "it saturates");
    }
}
