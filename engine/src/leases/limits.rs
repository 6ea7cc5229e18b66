//! Limits of a lease book.

use super::Millis;

/// Maximum length of the names of workers and requests, in bytes.
pub const NAME_LEN_MAX: usize = 128;
/// Maximum number of services in one poll.
pub const SERVICES_PER_POLL_MAX: usize = 64;

/// Limits of a lease book.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseLimits {
    /// How long a lease holds without a heartbeat.
    pub lease: Millis,
    /// Maximum number of leases in one answer.
    pub leases_per_poll_max: usize,
    /// Maximum number of leases together, also the ones that were taken back from their workers.
    pub leases_max: usize,
    /// Maximum number of waiting polls.
    pub polls_max: usize,
    /// Maximum number of services that workers ask for.
    pub services_max: usize,
    /// Maximum number of attempts that wait for a worker.
    pub offers_max: usize,
    /// How long an attempt waits for a worker before it is given back.
    pub offer_wait: Millis,
    /// How long after the last poll a service is closed.
    pub close_after: Millis,
    /// How long answers and ends are remembered for repetitions.
    pub remembered: Millis,
    /// Maximum number of remembered answers, and of remembered ends.
    pub remembered_max: usize,
}

impl Default for LeaseLimits {
    fn default() -> Self {
        Self {
            lease: 30_000,
            leases_per_poll_max: 100,
            leases_max: 65_536,
            polls_max: 4_096,
            services_max: 1_024,
            offers_max: 1_024,
            offer_wait: 10_000,
            close_after: 10_000,
            remembered: 120_000,
            remembered_max: 16_384,
        }
    }
}

/// Identifies a report of an end, for [`LeaseBook::end`](super::LeaseBook::end).
#[must_use]
pub fn digest(kind: u8, parts: &[&[u8]]) -> u64 {
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    hash.update(&[kind]);
    for part in parts {
        hash.update(&part.len().to_le_bytes());
        hash.update(part);
    }
    hash.digest()
}
