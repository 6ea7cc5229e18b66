//! Numbers of a runtime, for monitoring.

use forebay_messages::PartitionId;
use serde::{Deserialize, Serialize};

use crate::{LimitView, ReplicaRole, ServiceCounts, UnservedView};

/// Numbers of a runtime since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricsView {
    /// Number of running handlers.
    pub running: u64,
    /// Maximum number of entries that run at once.
    pub running_max: Option<u32>,
    /// The partitions here.
    pub partitions: Vec<PartitionMetrics>,
    /// Entries by service and stage.
    pub services: Vec<ServiceCounts>,
    /// Services with waiting entries and without a handler.
    pub unserved: Vec<UnservedView>,
    /// The counters of the limits.
    pub limits: Vec<LimitView>,
    /// The log.
    pub log: LogMetrics,
}

/// Numbers of a partition, while this runtime led it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionMetrics {
    /// Its id.
    pub id: PartitionId,
    /// The role of the replica here.
    pub role: ReplicaRole,
    /// What it counted.
    pub counts: WorkCounts,
    /// LSN of the last applied record.
    pub applied: u64,
    /// LSN of the last record of its log.
    pub log_end: u64,
    /// Vqueues in memory.
    pub active_vqueues: u64,
    /// Vqueues that wait for a permit without an actor.
    pub waiting_vqueues: u64,
    /// How far its time is ahead of this machine's clock, in milliseconds.
    pub ahead_ms: u64,
}

/// Counted while a partition led, since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkCounts {
    /// Entries stored.
    pub enqueued: u64,
    /// Attempts started.
    pub started: u64,
    /// Entries that succeeded.
    pub succeeded: u64,
    /// Entries whose handler reported that a retry is useless.
    pub failed: u64,
    /// Entries that used up their attempts.
    pub dead_letters: u64,
    /// Entries that were canceled.
    pub canceled: u64,
    /// Entries that were killed.
    pub killed: u64,
}

/// Numbers of the log since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogMetrics {
    /// Records appended.
    pub records: u64,
    /// Calls that waited for the disk.
    pub syncs: u64,
    /// Bytes of records.
    pub bytes: u64,
}
