//! The limits of a group.

/// Limits and times of a group. All members use the same ones.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Ticks without a leader after which a member starts an election.
    pub election_ticks: u64,
    /// Maximum weight of a segment's entries before it is rolled.
    pub segment_bytes_max: usize,
    /// Maximum number of a segment's entries before it is rolled.
    pub segment_entries_max: u64,
    /// Maximum number of entries that are proposed and not decided.
    pub undecided_entries_max: usize,
    /// The same in bytes.
    pub undecided_bytes_max: usize,
    /// Maximum size of a block.
    pub block_bytes_max: usize,
    /// A peer that lacks more decided bytes than this copies blocks first.
    pub sync_bytes_max: usize,
    /// Bytes of one answer to a copying peer. Only one answer is in flight, so the peer catches up
    /// only if this exceeds the bytes decided within a round trip.
    pub copy_bytes_max: usize,
    /// Maximum number of messages that wait for a sync, per peer and direction; one more ends the
    /// session.
    pub held_messages_max: usize,
    /// Maximum number of reads that wait for a barrier.
    pub reads_max: usize,
    /// Maximum number of copying nodes that a leader tracks.
    pub learners_max: usize,
    /// Maximum number of peers stored on disk; above it, a peer without a vote is removed.
    pub peers_max: usize,
    /// Maximum number of bytes that an added member may lack when a seal names it.
    pub ready_lag_bytes_max: usize,
    /// Election timeouts without a decision after which a leader with requests gives up leadership.
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
