//! `SettlePromise`: a promise of an entry is resolved or rejected.

use bilrost::Message;
use bytestring::ByteString;

use crate::{EntryId, journal::JournalOutcome};

/// A promise is resolved (`Success`) or rejected (`Failure`, kind `Rejected`). The first result
/// stands; it is kept until the entry is purged, even if nothing waits for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct SettlePromise {
    /// The entry.
    #[bilrost(1)]
    pub entry: EntryId,
    /// The promise.
    #[bilrost(2)]
    pub name: ByteString,
    /// The result; absent means resolved with no bytes.
    #[bilrost(oneof(14, 15))]
    pub outcome: Option<JournalOutcome>,
}
