//! A node of a cluster: requests to it, its answers and its status.

use serde::{Deserialize, Serialize};

/// A request to the process of `forebay node`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cluster", rename_all = "snake_case")]
pub enum ClusterRequest {
    /// The node and its cluster.
    Status,
    /// Make a cluster of this node and its peers.
    Provision {
        /// Peers that need not be reached.
        absent: Vec<String>,
    },
    /// Remove a node.
    Remove {
        /// Its name.
        node: String,
        /// How long to wait for its removal.
        within_ms: u64,
    },
    /// What happened on the node, since it started.
    Events {
        /// Events after this number.
        after: u64,
        /// How long to wait until there are some.
        within_ms: u64,
    },
    /// Let a member lead.
    Transfer {
        /// The log: `metadata`.
        log: String,
        /// The member's name.
        node: String,
        /// How long to wait until it leads.
        within_ms: u64,
    },
    /// Let a node lead nothing, or lead again.
    Drain {
        /// Its name.
        node: String,
        /// Whether it is to be drained.
        on: bool,
        /// How long to wait until it leads nothing.
        within_ms: u64,
    },
    /// Raise the format of what the nodes share to the newest one.
    Finalize {
        /// How long to try.
        within_ms: u64,
    },
    /// Wait until a key has another version.
    Watch {
        /// The key.
        key: String,
        /// A version newer than this one.
        after: u64,
        /// How long to wait; the answer is no key then.
        within_ms: u64,
    },
    /// Read a key of the metadata.
    Get {
        /// The key.
        key: String,
        /// How long to try.
        within_ms: u64,
    },
    /// List keys of the metadata.
    List {
        /// Keys that begin with it.
        prefix: String,
        /// Keys after this one.
        after: Option<String>,
        /// How long to try.
        within_ms: u64,
    },
    /// Write a key of the metadata, or delete it.
    Put {
        /// The key.
        key: String,
        /// The value; `None` deletes it.
        value: Option<String>,
        /// Only if the key has a value of this version; 0: only if it has none.
        if_version: Option<u64>,
        /// How long to try.
        within_ms: u64,
    },
}

/// An answer of the process of `forebay node`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum ClusterResponse {
    /// To `Status`.
    ClusterStatus {
        /// The status.
        status: Box<ClusterView>,
    },
    /// To `Provision`.
    Provisioned {
        /// The id of the cluster.
        cluster: String,
    },
    /// To `Events`.
    Events {
        /// In their order.
        events: Vec<ClusterEventView>,
    },
    /// To `Finalize`.
    Finalized {
        /// The format now.
        format: u32,
    },
    /// To `Get` and `Watch`.
    Key {
        /// The key; `None` when it was never written, or nothing newer came.
        key: Option<KeyView>,
    },
    /// To `List`.
    Keys {
        /// In order.
        keys: Vec<KeyView>,
        /// There are more after the last one.
        more: bool,
    },
    /// To `Put`.
    Written {
        /// The version of the key now.
        version: u64,
    },
    /// The request is done.
    Done,
    /// The request failed.
    Error {
        /// The reason.
        message: String,
        /// The request, not the node, is at fault.
        usage: bool,
    },
}

/// Something that happened on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterEventView {
    /// Counts them, from 1 for each start of the node.
    pub number: u64,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// A word.
    pub kind: String,
    /// Something may have to be done.
    pub is_warning: bool,
    /// The segment of the metadata group, if one runs.
    pub segment: Option<u64>,
    /// In words.
    pub text: String,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberView {
    /// The node.
    pub name: String,
    /// The id of its data directory, in hexadecimal.
    pub storage: String,
}

/// A key of the metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyView {
    /// The key.
    pub key: String,
    /// Its version.
    pub version: u64,
    /// Its value, if it is not deleted and is text.
    pub value: Option<String>,
    /// Length of the value in bytes; `None` when it is deleted.
    pub bytes: Option<u64>,
}

/// The state of a node in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeStateView {
    /// Part of no cluster.
    Uninitialized,
    /// Named when the cluster was provisioned, and not joined yet.
    Absent,
    /// It copies the entries that it lacks, and does not vote.
    Learner,
    /// It has everything, and does not vote: it can become a member at once.
    Standby,
    /// It votes.
    Member,
    /// It was removed.
    Removed,
}

impl std::fmt::Display for NodeStateView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Uninitialized => "uninitialized",
            Self::Absent => "absent",
            Self::Learner => "learner",
            Self::Standby => "standby",
            Self::Member => "member",
            Self::Removed => "removed",
        })
    }
}

/// The metadata group, as a node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupView {
    /// `leader`, `follower` or `learner`.
    pub role: String,
    /// The leader, if one is known.
    pub leader: Option<String>,
    /// Number of the segment.
    pub segment: u64,
    /// Index of its first entry.
    pub base: u64,
    /// Everything below is decided.
    pub decided: u64,
    /// Everything below is applied.
    pub applied: u64,
    /// Everything below is accepted.
    pub accepted: u64,
    /// Everything below is on this node's disk.
    pub durable: u64,
    /// Bytes of entries in memory.
    pub log_bytes: u64,
    /// Bytes of the metadata.
    pub state_bytes: u64,
    /// The members of the segment.
    pub members: Vec<MemberView>,
    /// How many of them must be connected.
    pub quorum: u64,
    /// Changes of the leader that were seen since the node started.
    pub elections: u64,
    /// Messages that did not match the group.
    pub dropped: u64,
    /// Why this node last gave up leadership.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub yielded: Option<String>,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterNodeView {
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: NodeStateView,
    /// The id of its data directory, in hexadecimal; empty when it has not joined.
    pub storage: String,
    /// The address at which it is reached.
    pub address: String,
    /// This node has a session with it, or is it.
    pub is_connected: bool,
    /// The end of the entries on its disk, as it last reported.
    pub durable: Option<u64>,
    /// Entries that it lacks.
    pub lag: Option<u64>,
    /// It was drained: it leads only if no other member can.
    #[serde(default)]
    pub is_drained: bool,
    /// How far its clock is ahead of the majority's, in milliseconds; negative: behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_ms: Option<i64>,
    /// Why it cannot be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A connection that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedView {
    /// The other node, or the address it came from.
    pub who: String,
    /// Why, and what to do.
    pub why: String,
}

impl RefusedView {
    /// The text of a refusal by another node begins with this.
    pub const BY_OTHERS: &str = "the other node refuses this one";

    /// Another node refused this one, and not the reverse.
    #[must_use]
    pub fn is_of_this_node(&self) -> bool {
        self.why.starts_with(Self::BY_OTHERS)
    }
}

/// Of a node that does not say it.
fn first_format() -> u32 {
    1
}

/// A node and its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    /// In words; the reason first.
    pub health: String,
    /// No problem is known.
    pub is_healthy: bool,
    /// A leader is known and a majority is connected: the metadata can be read and written.
    pub serves: bool,
    /// This node's name.
    pub node: String,
    /// Its state.
    pub state: NodeStateView,
    /// The id of its data directory, in hexadecimal.
    pub storage: String,
    /// Number of its starts.
    pub boot: u64,
    /// The address that it listens on.
    pub address: Option<String>,
    /// The id of the cluster, in hexadecimal.
    pub cluster: Option<String>,
    /// Incremented when the cluster is recovered by hand.
    pub incarnation: Option<u32>,
    /// The format of what the nodes share.
    pub format: Option<u32>,
    /// The newest format that this node knows.
    #[serde(default = "first_format")]
    pub format_max: u32,
    /// The metadata group.
    pub group: Option<GroupView>,
    /// The nodes, by name.
    pub nodes: Vec<ClusterNodeView>,
    /// Connections that this node refused, and its own that others refused.
    pub refused: Vec<RefusedView>,
    /// Days until the certificate ends; `None` without TLS.
    pub certificate_days: Option<i64>,
}
