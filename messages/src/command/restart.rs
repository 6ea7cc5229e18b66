//! `Restart` and `EndRun`: a run of an entry ends and the next one begins, at the request of a user
//! or of the handler.

use bilrost::{Message, Oneof};
use bytes::Bytes;
use bytestring::ByteString;

use crate::{AttemptToken, EntryId, journal::JournalKey};

use super::EntrySelector;

/// Restarts entries with a new run, in any stage. Called children that have not answered are
/// canceled if their rows are removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct Restart {
    /// The entries. An ended one is redriven, if its payload was kept.
    #[bilrost(1)]
    pub selector: EntrySelector,
    /// Rows that finished before this one are kept; without it none is. An entry without this row
    /// is skipped.
    #[bilrost(2)]
    pub from: Option<JournalKey>,
}

/// An attempt ends its run, or stops because it cannot continue it.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
pub struct EndRun {
    /// The entry.
    #[bilrost(1)]
    pub entry: EntryId,
    /// The attempt; ignored unless it runs.
    #[bilrost(2)]
    pub token: AttemptToken,
    /// The next step; absent only when written by a newer format.
    #[bilrost(oneof(3-5))]
    pub then: Option<AfterRun>,
}

/// The step after an attempt that ended its run.
#[derive(Clone, Debug, PartialEq, Eq, Oneof)]
pub enum AfterRun {
    /// The entry is paused with this as its last failure; the run continues when it is resumed
    /// (journal mismatch, policy `pause`).
    #[bilrost(3)]
    Pause(ByteString),
    /// The next run begins with an empty journal and the same payload; this is the last
    /// failure (journal mismatch, policy `restart`).
    #[bilrost(4)]
    Restart(ByteString),
    /// The next run begins with an empty journal and this payload.
    #[bilrost(5)]
    ContinueWith(Bytes),
}
