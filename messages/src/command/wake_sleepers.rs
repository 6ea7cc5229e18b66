//! `WakeSleepers`: the time of sleeps has come.

use bilrost::Message;

use crate::Timestamp;

/// Sleeps that are over. Proposed by the leader by the partition's time; that this is
/// applied ends them, never a clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Message)]
pub struct WakeSleepers {
    /// All that end up to this time, the earliest first.
    #[bilrost(1)]
    pub until: Timestamp,
    /// At most so many in one command; 0 means, and more counts as,
    /// [`crate::journal::SLEEPERS_PER_RECORD_MAX`].
    #[bilrost(2)]
    pub count_max: u32,
}
