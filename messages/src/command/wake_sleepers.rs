//! `WakeSleepers`: ends sleeps.

use bilrost::Message;

use crate::Timestamp;

/// Ends sleeps. The leader proposes it by the partition's time; a sleep ends when it is applied,
/// never by a clock.
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
