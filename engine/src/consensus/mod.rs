//! Agreement of several nodes on one sequence of entries, by OmniPaxos.
//!
//! Owns: consensus groups (members, segments, entries) and the machine [`Group`] that drives the
//! crate `omnipaxos`. Must always hold: data that a promise or acceptance depends on is durable
//! before it is sent; a decided entry is the same on every member. Must not know: disks, networks,
//! clocks, and the contents of a block.

mod chain;
mod codec;
mod entry;
mod group;
mod input;
mod limits;
mod message;
mod rows;
mod store;

pub use chain::{ChainHash, Member, Segment, StorageId};
pub use codec::{DecodeError, FORMAT};
pub(crate) use codec::{Put, Reader, put_segment, read_segment};
pub use entry::{Barrier, Entry, RunningHash, Seal};
pub use group::{Group, OpenError};
pub use input::{
    Answer, Effect, Input, Leadership, ProposalRefusal, Reason, RequestId, Term, Write,
};
pub use limits::Limits;
pub use message::{
    BallotNumber, Body, Envelope, Heartbeat, Hello, PeerMemory, Row, Session, Standing,
};
pub use rows::{GroupRows, Identity, Recovered};
