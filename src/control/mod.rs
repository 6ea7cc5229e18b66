//! Looking at and changing a data directory from another process: a local socket in
//! the directory, one JSON request per connection, answered by one line of JSON or, where
//! the request asks for it, by several.
//!
//! Owns: the socket, and the answers. What can be asked, and what answers look like, is
//! `forebay-api`. Must always hold: the same request gives the same answer
//! through the socket of a running process and directly on the directory.

mod act;
mod answer;
mod client;
mod pages;
mod parts;
mod server;
mod socket;

pub use answer::{answer, snapshot_view};
pub use client::{Control, ControlError};
pub use pages::Pages;
pub(crate) use server::Server;

pub use forebay_api::{
    ActView, AliasView, BookView, JobsView, NodeView, NotChangedView, RateView, Request, Response,
    RuleEdit, RuleView, SkippedView, SnapshotFileView, SnapshotPartitionView, SnapshotView, Target,
};

use std::time::Duration;

/// Name of the socket in the data directory.
pub const SOCKET_NAME: &str = "control.sock";
/// For how long a directory that somebody else has is waited for: who only looks at it
/// leaves it soon, and who starts has a socket soon.
pub(crate) const IN_USE_WAIT: Duration = Duration::from_secs(2);
/// Longest line of a response, in bytes.
pub const MESSAGE_LEN_MAX: u64 = 256 << 20;
/// Longest request, in bytes: room for some 20,000 named entries.
pub const REQUEST_LEN_MAX: u64 = 1 << 20;
/// Most connections to the socket of one process.
pub const CONNECTIONS_MAX: usize = 64;
/// How long a connection may take to send its request, and to go on reading its answer.
pub const IDLE_MAX: Duration = Duration::from_secs(5);
/// How often a process that works on a long request gives a sign of life.
pub(crate) const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// For how long a process that was asked may be silent: several signs of life, and more
/// than any short request takes.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);
