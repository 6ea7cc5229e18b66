//! `Restart` and `EndRun`: a run of an entry ends and the next one begins, as people or the
//! handler want it.

use bilrost::{Message, Oneof};
use bytes::Bytes;
use bytestring::ByteString;

use crate::{AttemptToken, EntryId, journal::JournalKey};

use super::EntrySelector;

/// Entries begin again with a new run, whatever they do. Children of the rows that go, if
/// they were called and have not answered, are canceled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct Restart {
    /// The entries. One that ended is redriven, if its payload was kept.
    #[bilrost(1)]
    pub selector: EntrySelector,
    /// Rows that finished before this one stay; without it none does. An entry without
    /// this row is skipped.
    #[bilrost(2)]
    pub from: Option<JournalKey>,
}

/// An attempt ends its run, or stops because it cannot go on with it.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
pub struct EndRun {
    /// The entry.
    #[bilrost(1)]
    pub entry: EntryId,
    /// The attempt; unless it runs, this is void.
    #[bilrost(2)]
    pub token: AttemptToken,
    /// What follows; absent only when written by a newer format.
    #[bilrost(oneof(3-5))]
    pub then: Option<AfterRun>,
}

/// What follows an attempt that ended its run.
#[derive(Clone, Debug, PartialEq, Eq, Oneof)]
pub enum AfterRun {
    /// The entry is paused with this as its last failure; the run goes on when it is
    /// resumed (journal mismatch, policy `pause`).
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
