//! Durable, flow-controlled work queues that run inside your own process.
//!
//! Owns: the public API. Contains no logic of scheduling or limits: it connects the actors and
//! re-exports. The README follows.
#![doc = ""]
#![doc = include_str!("../README.md")]
#![cfg_attr(test, allow(clippy::unwrap_used))]

/// The guide's examples are doc tests.
#[cfg(doctest)]
#[doc = include_str!("../docs/calls.md")]
pub struct CallsGuide;

pub mod aliases;
mod attempt;
pub mod client;
#[cfg(feature = "cluster")]
pub mod cluster {
    //! Nodes of a cluster, and the metadata that they share.
    //!
    //! ```no_run
    //! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    //! use std::time::Duration;
    //!
    //! use forebay::cluster::{ClusterNode, ClusterNodeConfig, Expected};
    //!
    //! let node = ClusterNode::start(ClusterNodeConfig {
    //!     name: "a".to_owned(),
    //!     data_dir: "./data-a".into(),
    //!     listen: "127.0.0.1:7001".to_owned(),
    //!     advertise: None,
    //!     peers: vec![("b".to_owned(), "127.0.0.1:7002".to_owned())],
    //!     ..ClusterNodeConfig::default()
    //! })
    //! .await?;
    //! let within = Duration::from_secs(5);
    //! let version = node.metadata().put("key", "value".into(), Expected::Absent, within).await?;
    //! assert_eq!(version, 1);
    //! node.shutdown().await?;
    //! # Ok(()) }
    //! ```
    pub use forebay_actors::consensus::{
        AUTHORITY_DAYS, BundleError, Change, ClusterError, ClusterNode, ClusterNodeConfig,
        ClusterStore, DEAD_AFTER, Expected, InvalidCommand, Listed, Metadata, MetadataCallError,
        MetadataWatch, NodeName, Recovery, RemoteConfig, RemoteNode, Row, init_tls, recover,
    };
}
pub mod control;
mod environment;
pub mod error;
pub mod events {
    //! Events of a runtime: the types returned by [`Runtime::events`](crate::Runtime::events).
    pub use forebay_actors::events::{EVENTS_KEPT, EventStream, NextEvent};
    pub use forebay_api::{Event, EventEntry, EventKind};
}
pub mod executor;
pub mod explain {
    //! Why entries wait: the types returned by [`Runtime::explain`](crate::Runtime::explain),
    //! [`Runtime::limits`](crate::Runtime::limits) and [`Rules::test`](crate::Rules::test).
    pub use forebay_api::{
        BlockView, BytesView, EntryDetails, EntryView, ExplainView, FailedAttemptView,
        GovernedView, GovernsView, HOLDERS_MAX, HolderView, KeyImpact, LimitView, RankView, Reason,
        RuleRefView, RulesImpact,
    };
}
pub mod handler;
#[cfg(feature = "http")]
pub mod http;
mod journal;
pub mod metrics {
    //! Numbers of a runtime: the types returned by
    //! [`Runtime::metrics`](crate::Runtime::metrics).
    pub use forebay_api::{LogMetrics, MetricsView, PartitionMetrics, WorkCounts};
}
mod operations;
pub mod partitions;
pub mod rules;
pub mod runtime;
pub mod snapshot {
    //! Snapshots: taken with [`Runtime::snapshot`](crate::Runtime::snapshot), checked and
    //! restored here.
    //!
    //! ```no_run
    //! # async fn example(runtime: forebay::Runtime) -> Result<(), Box<dyn std::error::Error>> {
    //! runtime.snapshot("/backup/monday").await?;
    //! // Later, elsewhere: the new directory must be empty.
    //! forebay::snapshot::restore("/backup/monday".as_ref(), "./data".as_ref(), None)?;
    //! # Ok(()) }
    //! ```
    pub use forebay_actors::snapshot::{
        FileSum, Manifest, PartitionSum, SNAPSHOT_FORMAT, SnapshotError, restore, verify,
    };
}
#[cfg(feature = "testkit")]
pub mod testkit;
#[cfg(feature = "http")]
mod workers;

pub use aliases::Aliases;
pub use client::{Entries, Entry, EntryHandle, VQueueControl};
pub use error::{
    ActError, EncodeError, EnqueueError, ErrorKind, NodeError, PromiseError, ResultError,
    RuntimeError,
};
pub use executor::{Executor, ExecutorOptions};
pub use forebay_actors::log_writer::TrimLog;
pub use forebay_actors::{access::ActReport, cluster::SharedLog, node::Candidacy};
pub use forebay_api::{
    BytesView, EntryCount, EntryCursor, EntryDetails, EntryOutcome, EntryPage, EntryView,
    ExplainView, FilterError, LimitView, PartitionView, ReplicaRole, TreeEntryView, TreeView,
};
pub use forebay_engine::partition::apply::Skip;
pub use forebay_messages::journal::{JournalFailureKind, JournalKey, KeyError, StepId};
pub use forebay_messages::{
    EntryId, PartitionId, PartitionKey, RuleId, Stage, Timestamp, VQueueId, VQueueName,
    command::{EntryAction, RetryPolicy},
    rule::{Limits, Pattern, PatternError, RATE_PERIOD_MS_MAX, Rate},
};
pub use forebay_messages::{FailureKind, Outcome};
pub use handler::{Context, HandlerError, HandlerOptions, Json, MismatchPolicy};
pub use journal::{
    Branch, Join, List, Member, OneOf2, OneOf3, OneOf4, OperationError, Select, Together,
};
pub use partitions::Partitions;
pub use rules::Rules;
pub use runtime::{
    Builder, Drain, PARTITIONS_MAX, PartitionSpec, Runtime, THREADS_MAX, WeakRuntime,
};
