//! `SettlePromise`: a promise of an entry is resolved or rejected.

use bilrost::Message;
use bytestring::ByteString;

use crate::{EntryId, journal::JournalOutcome};

/// A promise is resolved (`Success`) or rejected (`Failure`, kind `Rejected`). The first
/// one stands; it is kept until the entry is purged, whether somebody waits or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct SettlePromise {
    /// The entry.
    #[bilrost(1)]
    pub entry: EntryId,
    /// The promise.
    #[bilrost(2)]
    pub name: ByteString,
    /// With what; absent means resolved with no bytes.
    #[bilrost(oneof(14, 15))]
    pub outcome: Option<JournalOutcome>,
}
