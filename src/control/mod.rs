//! Reading and changing a data directory from another process: a local socket in the directory, one
//! JSON request per connection, answered by one line of JSON or, for some requests, by several.
//!
//! Owns: the socket, and the answers. Requests and the types of answers are in `forebay-api`. Must
//! always hold: the same request gets the same answer through the socket of a running process and
//! directly on the directory.

mod act;
mod answer;
mod calls;
mod client;
#[cfg(feature = "cluster")]
pub mod cluster;
mod pages;
mod parts;
mod server;
mod socket;
mod tokens;

pub(crate) use answer::try_answer;
pub use answer::{RequestError, answer, snapshot_view};
pub use client::{Control, ControlError};
pub use pages::Pages;
pub(crate) use server::{Backend, Server};
#[cfg(feature = "http")]
pub(crate) use tokens::role_view;

pub use forebay_api::{
    ActView, AliasView, BookView, JobsView, NodeView, NotChangedView, Request, Response, RuleEdit,
    RuleView, SkippedView, SnapshotFileView, SnapshotPartitionView, SnapshotView, Target,
    TokenRole, TokenView,
};

use std::time::Duration;

/// Name of the socket in the data directory.
pub const SOCKET_NAME: &str = "control.sock";
/// How long to wait for a directory that another process uses: a process that only reads releases
/// it soon, and one that starts opens a socket soon.
pub(crate) const IN_USE_WAIT: Duration = Duration::from_secs(2);
/// Maximum length of a response line, in bytes.
pub const MESSAGE_LEN_MAX: u64 = 256 << 20;
/// Maximum length of a request, in bytes: room for some 20,000 named entries.
pub const REQUEST_LEN_MAX: u64 = 1 << 20;
/// Maximum number of connections to the socket of one process.
pub const CONNECTIONS_MAX: usize = 64;
/// Maximum time for a connection to send its request, and between two reads of its answer.
pub const IDLE_MAX: Duration = Duration::from_secs(5);
/// Interval of signs of life from a process that is busy with a long request.
pub(crate) const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// Maximum time without a sign of life from a process: several of its intervals, and longer than
/// any short request takes.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);
