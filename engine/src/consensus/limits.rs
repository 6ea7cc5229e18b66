//! The named limits of a group.

/// Limits and times of a group. All members use the same ones.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Ticks without its leader after which a member looks for another one.
    pub election_ticks: u64,
    /// A segment is rolled when its entries weigh more.
    pub segment_bytes_max: usize,
    /// A segment is rolled when it has more entries.
    pub segment_entries_max: u64,
    /// Entries proposed and not decided.
    pub undecided_entries_max: usize,
    /// The same in bytes.
    pub undecided_bytes_max: usize,
    /// A longer block is refused.
    pub block_bytes_max: usize,
    /// A peer that lacks more decided bytes copies blocks before it gets the rest.
    pub sync_bytes_max: usize,
    /// Bytes of one answer to a copying peer. One answer is under way at a time, so a peer
    /// catches up only when this is more than is decided within a round trip.
    pub copy_bytes_max: usize,
    /// Messages that wait for a sync, per peer and direction; more end the session.
    pub held_messages_max: usize,
    /// Reads that wait for a barrier.
    pub reads_max: usize,
    /// Copying nodes that a leader remembers.
    pub learners_max: usize,
    /// Peers that are remembered on disk; above it, one that has no vote is forgotten.
    pub peers_max: usize,
    /// Maximum number of bytes that a new member may lack when a seal names it.
    pub ready_lag_bytes_max: usize,
    /// Election timeouts without a decision after which an asked leader yields.
    pub yield_timeouts: u64,
    /// Election timeouts outside the accept phase after which a member campaigns.
    pub watchdog_timeouts: u64,
    /// Election timeouts that a roll may take before its leader counts as lost.
    pub roll_timeouts: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            election_ticks: 10,
            segment_bytes_max: 32 << 20,
            segment_entries_max: 1 << 16,
            undecided_entries_max: 1024,
            undecided_bytes_max: 4 << 20,
            block_bytes_max: 4 << 20,
            sync_bytes_max: 4 << 20,
            copy_bytes_max: 4 << 20,
            held_messages_max: 4096,
            reads_max: 4096,
            learners_max: 16,
            peers_max: 64,
            ready_lag_bytes_max: 1 << 20,
            yield_timeouts: 3,
            watchdog_timeouts: 4,
            roll_timeouts: 4,
        }
    }
}
