//! A process and its partitions.

use std::fmt;

use forebay_messages::PartitionId;
use serde::{Deserialize, Serialize};

use crate::UnservedView;

/// A partition, for display.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    /// Its id.
    pub id: PartitionId,
    /// First and last key of its range.
    pub range: (u64, u64),
    /// Its role.
    pub role: ReplicaRole,
    /// Its leader epoch.
    pub epoch: u64,
    /// Why it stopped.
    pub stopped: Option<String>,
    /// LSN of the last applied record.
    pub applied: u64,
    /// Version of the rule book that it has applied.
    #[serde(default)]
    pub rules: u64,
    /// LSN of the last record of its log.
    pub log_end: u64,
    /// Number of active vqueues.
    pub active_vqueues: usize,
    /// Number of vqueues that wait for a permit without an actor.
    #[serde(default)]
    pub waiting_vqueues: usize,
    /// Number of messages that arrived too late.
    pub stale: u64,
    /// How far the partition's time is ahead of this machine's clock, in milliseconds. More than
    /// some seconds: the clock was set back.
    pub ahead_ms: u64,
}

/// A replica of a partition, for display.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionView {
    /// Its id.
    pub id: PartitionId,
    /// First and last key of its range.
    pub range: (u64, u64),
    /// The replica's node.
    pub node: u32,
    /// Its role.
    pub role: ReplicaRole,
    /// Whether it accepts commands.
    pub open: bool,
    /// Epoch of the newest leader known to it.
    pub epoch: u64,
    /// Why it stopped.
    pub stopped: Option<String>,
    /// LSN of the last record applied.
    pub applied: u64,
    /// LSN up to which rows are in files and survive a crash.
    pub durable: u64,
    /// LSN of the first record that the log still has.
    pub log_first: u64,
    /// LSN of the last record of the log.
    pub log_end: u64,
    /// Number of vqueues with rows.
    pub vqueues: u64,
    /// Entries in inboxes.
    pub inbox: u64,
    /// Entries that run.
    pub running: u64,
    /// Entries that are paused or suspended.
    pub parked: u64,
    /// Results that are kept.
    pub finished: u64,
}

/// A running process, for display.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// The process that has the data directory open; absent when there is none and the directory
    /// was read directly.
    pub pid: Option<u32>,
    /// Version of forebay.
    pub version: String,
    /// Number of running handlers.
    pub running: usize,
    /// The partitions.
    pub partitions: Vec<StatusView>,
    /// Services with waiting entries and without a handler in the process.
    #[serde(default)]
    pub unserved: Vec<UnservedView>,
}

/// Number of entries that run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobsView {
    /// Number of running entries.
    pub running: usize,
    /// The maximum.
    pub running_max: Option<u32>,
    /// The maximum before this request; absent when it changed nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u32>,
}

/// The role of a replica of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ReplicaRole {
    /// Applies the records of the leader.
    Follower,
    /// Is about to lead.
    Candidate,
    /// Leads.
    Leader,
    /// Stopped after an error.
    Stopped,
}

impl fmt::Display for ReplicaRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
            Self::Stopped => "stopped",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_serialized_as_displayed() {
        let roles = [
            ReplicaRole::Follower,
            ReplicaRole::Candidate,
            ReplicaRole::Leader,
            ReplicaRole::Stopped,
        ];
        for role in roles {
            assert_eq!(serde_json::to_value(role).unwrap(), role.to_string());
        }
    }
}
