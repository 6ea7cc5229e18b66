//! Requests to a data directory and their answers, as JSON: requests, answers, views, filters.
//!
//! Owns: the wire format of the control socket. Must always hold: a field keeps its name and
//! meaning, because processes of other versions read it; a new one has a default. Must not know:
//! how a request is answered, how an answer is printed.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod act;
mod bytes_view;
mod cluster;
mod details;
mod entries;
mod event;
mod explain;
mod limits;
mod metrics;
mod queues;
mod request;
mod rules;
mod snapshot;
mod status;
mod token;
mod tree;

pub use act::{ActView, NotChangedView, SkippedView, Target};
pub use bytes_view::BytesView;
pub use cluster::{
    ClusterEventView, ClusterNodeView, ClusterRequest, ClusterResponse, ClusterView, GroupView,
    KeyView, MemberView, NodeStateView, RefusedView,
};
pub use details::{DETAIL_BYTES_MAX, EntryDetails, FailedAttemptView, RetryView};
pub use entries::{
    EntryCount, EntryCursor, EntryFilter, EntryOutcome, EntryPage, EntryView, FilterError,
    LISTED_BYTES_MAX, PAGE_ENTRIES_MAX,
};
pub use event::{Event, EventEntry, EventKind};
pub use explain::{
    BlockView, ExplainView, GovernedView, HOLDERS_MAX, HolderView, RankView, Reason,
};
pub use limits::LimitView;
pub use metrics::{LogMetrics, MetricsView, PartitionMetrics, WorkCounts};
pub use queues::{ServiceCounts, UnservedView, VQueueView};
pub use request::{Request, Response};
pub use rules::{
    AliasView, BookView, GovernsView, KeyImpact, RuleEdit, RuleRefView, RuleView, RulesImpact,
};
pub use snapshot::{SnapshotFileView, SnapshotPartitionView, SnapshotView};
pub use status::{JobsView, NodeView, PartitionView, ReplicaRole, StatusView};
pub use token::{TokenRole, TokenView};
pub use tree::{TREE_ENTRIES_MAX, TreeEntryView, TreeView, WAITS_SHOWN_MAX};
