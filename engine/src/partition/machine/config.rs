//! The configuration of a replica.

use forebay_messages::{Incarnation, NodeId, PartitionKey};

/// Number of idle vqueues that a partition keeps active by default: about 12 MiB.
pub const IDLE_VQUEUES_MAX: usize = 8_192;
/// Number of vqueues of a partition with an actor, about 40 MiB; those with permits have one beyond
/// that.
pub const ACTIVE_VQUEUES_MAX: usize = 16_384;
/// Number of cold vqueues whose wake-up a partition keeps in memory by default, about 10 MiB;
/// vqueues that wake later are found again in time.
pub const SLEEPERS_MAX: usize = 65_536;

/// Configuration of a replica.
#[derive(Clone, Copy, Debug)]
pub struct PartitionConfig {
    /// The node of this replica.
    pub node: NodeId,
    /// First key of its range.
    pub key_first: PartitionKey,
    /// Last key of its range.
    pub key_last: PartitionKey,
    /// Whether a leader here starts entries; otherwise it only accepts commands.
    pub dispatches: bool,
    /// Limits of its vqueues in memory.
    pub vqueues: VQueueLimits,
    /// Largest record accepted by its log, in bytes as stored.
    pub record_len_max: usize,
    /// If the rows may be a copy of an earlier state, the incarnation of its messages from now on;
    /// the default otherwise.
    pub incarnation: Incarnation,
    /// With this many messages to one partition in the outbox, further calls and sends to it wait.
    pub outbox_per_target_max: usize,
}

/// Limits of a partition's vqueues in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VQueueLimits {
    /// With this many active, further vqueues that wait for a permit do so without an actor.
    pub active_max: usize,
    /// This many idle vqueues stay active, for at most [`IDLE_MS_MAX`](super::IDLE_MS_MAX).
    pub idle_max: usize,
    /// Number of cold vqueues with a future head whose time is kept; at least 1.
    pub sleepers_max: usize,
}

impl Default for VQueueLimits {
    fn default() -> Self {
        Self {
            active_max: ACTIVE_VQUEUES_MAX,
            idle_max: IDLE_VQUEUES_MAX,
            sleepers_max: SLEEPERS_MAX,
        }
    }
}
