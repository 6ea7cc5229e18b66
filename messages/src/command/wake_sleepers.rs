//! `WakeSleepers`: sleeps are over.

use bilrost::Message;

use crate::Timestamp;

/// Sleeps that are over. Proposed by the leader, by the partition's time; applying it ends them,
/// never a clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Message)]
pub struct WakeSleepers {
    /// All that end up to this time, the earliest first.
    #[bilrost(1)]
    pub until: Timestamp,
    /// Maximum number of sleeps for one command; 0, and any higher number, means
    /// [`crate::journal::SLEEPERS_PER_RECORD_MAX`].
    #[bilrost(2)]
    pub count_max: u32,
}
