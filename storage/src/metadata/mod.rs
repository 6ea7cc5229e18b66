//! The metadata store: a small, strongly consistent, versioned key-value store.
//!
//! Owns: the ports [`MetadataStore`] (futures, for one node or a cluster) and [`BlockingMetadata`]
//! (one node), the providers for one node, and the names of the well-known keys. Must always hold:
//! the version of a key only grows, even over its deletion and return; a change is durable before
//! it is announced. Must not know: the meaning of the values, async runtimes.

mod epoch;
mod key;
mod local;
mod memory;
mod port;
mod watch;

use std::path::Path;

use bytes::Bytes;
use thiserror::Error;

use crate::Fault;

pub use epoch::{last_epoch, next_epoch};
pub use key::{KEY_LEN_MAX, KeyError, MetaKey};
pub use local::LocalMetadata;
pub use memory::MemoryMetadata;
pub use port::{MetadataFuture, MetadataStore};
pub use watch::{OnChange, Watch};

/// Version of a key: 1 for the first value, one more with every change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A value with its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The version.
    pub version: Version,
    /// The value, opaque here.
    pub value: Bytes,
}

/// A condition on a key under which a change is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// No condition.
    None,
    /// The key has no value (it was never written, or it was deleted).
    DoesNotExist,
    /// The key has a value of exactly this version.
    MatchesVersion(Version),
}

/// A change of a key that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyWrite {
    /// The key.
    pub key: MetaKey,
    /// Its new value; `None` deletes it.
    pub value: Option<Bytes>,
    /// What must hold of the key.
    pub precondition: Precondition,
}

/// A change of a key, as reported to watchers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: MetaKey,
    /// Its version after the change.
    pub version: Version,
    /// Its value; `None` when it was deleted.
    pub value: Option<Bytes>,
}

/// Why a metadata operation failed.
#[derive(Clone, Debug, Error)]
pub enum MetadataError {
    /// The precondition does not hold; nothing was changed.
    #[error("metadata key `{key}`: expected {expected:?}, found version {found:?}")]
    PreconditionFailed {
        /// The key.
        key: MetaKey,
        /// What was expected.
        expected: Precondition,
        /// The version of the current value; `None` if there is none.
        found: Option<Version>,
    },
    /// The stored row is damaged.
    #[error("metadata key `{key}` in {path} is damaged: {reason}")]
    Corrupt {
        /// The key.
        key: String,
        /// The directory.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// An earlier write failed; open the store again.
    #[error("the metadata store accepts no writes after one failed: {first}")]
    Broken {
        /// The fault that broke it.
        #[source]
        first: Fault,
    },
    /// The store has no files to copy.
    #[error("the metadata are kept in memory: there is nothing to take a snapshot of")]
    InMemory,
    /// A change cannot be made by any store.
    #[error("{0}")]
    Refused(String),
    /// The nodes that decide about the metadata were not reached; nothing was changed.
    #[error("the metadata of the cluster are not available: {0}")]
    Unavailable(String),
    /// The process stops, or a bug was met; a change may have been made.
    #[error("a call of the metadata was interrupted: {0}")]
    Interrupted(String),
    /// No answer came in time: the change may have been made, or may be made later.
    #[error(
        "the metadata of the cluster did not answer in time: the change may have been made; look \
         before you repeat it"
    )]
    OutcomeUnknown,
    /// Files could not be read or written. After a failed write the outcome is unknown.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// The metadata of one node. Calls block.
pub trait BlockingMetadata: Send + Sync {
    /// The current value.
    ///
    /// # Errors
    /// [`MetadataError::Corrupt`] or [`MetadataError::Fault`].
    fn get(&self, key: &MetaKey) -> Result<Option<Versioned>, MetadataError>;

    /// The version of the current value.
    ///
    /// # Errors
    /// See [`Self::get`].
    fn get_version(&self, key: &MetaKey) -> Result<Option<Version>, MetadataError> {
        Ok(self.get(key)?.map(|found| found.version))
    }

    /// The keys that begin with a prefix and have a value, in order.
    ///
    /// # Errors
    /// See [`Self::get`].
    fn list(&self, prefix: &str) -> Result<Vec<(MetaKey, Versioned)>, MetadataError>;

    /// Writes a value and returns its new version. Durable when it returns.
    ///
    /// # Errors
    /// [`MetadataError::PreconditionFailed`] if nothing was changed, else see [`MetadataError`].
    fn put(
        &self,
        key: &MetaKey,
        value: Bytes,
        precondition: Precondition,
    ) -> Result<Version, MetadataError>;

    /// Makes all of these changes, of different keys, in one step, or none. Returns the versions of
    /// the keys, in order.
    ///
    /// # Errors
    /// See [`Self::put`]; [`MetadataError::Refused`] when a key stands in it twice. After an error
    /// nothing was changed, as far as is known.
    fn put_all(&self, writes: &[KeyWrite]) -> Result<Vec<Version>, MetadataError>;

    /// Deletes a value; the deletion is a change with its own version. Deleting a missing value
    /// changes nothing.
    ///
    /// # Errors
    /// See [`Self::put`].
    fn delete(&self, key: &MetaKey, precondition: Precondition) -> Result<(), MetadataError>;

    /// Copies everything into a database in a directory that does not exist yet.
    ///
    /// # Errors
    /// [`MetadataError::InMemory`] or [`MetadataError::Fault`].
    fn checkpoint(&self, _to: &Path) -> Result<(), MetadataError> {
        Err(MetadataError::InMemory)
    }

    /// Calls `on_change` with the key's current value at once (if it was ever written), then with
    /// every change, in version order, until the [`Watch`] is dropped. `on_change` runs on the
    /// thread that makes the change: it must be short and must not call the store.
    ///
    /// # Errors
    /// See [`Self::get`].
    fn watch(&self, key: &MetaKey, on_change: OnChange) -> Result<Watch, MetadataError>;
}

/// The stored row of a key: its last version, even if it has no value.
#[derive(Clone, Debug, Default, PartialEq, Eq, bilrost::Message)]
struct Row {
    #[bilrost(1)]
    version: u64,
    #[bilrost(2)]
    value: Option<Bytes>,
}

impl Row {
    fn versioned(self) -> Option<Versioned> {
        let version = Version(self.version);
        self.value.map(|value| Versioned { version, value })
    }

    fn live_version(&self) -> Option<Version> {
        self.value.as_ref().map(|_| Version(self.version))
    }

    /// The row after a change to `value`, if the precondition holds.
    fn change(
        &self,
        key: &MetaKey,
        value: Option<Bytes>,
        expected: Precondition,
    ) -> Result<Self, MetadataError> {
        let found = self.live_version();
        let holds = match expected {
            Precondition::None => true,
            Precondition::DoesNotExist => found.is_none(),
            Precondition::MatchesVersion(version) => found == Some(version),
        };
        match holds {
            true => Ok(Self { version: self.version + 1, value }),
            false => Err(MetadataError::PreconditionFailed { key: key.clone(), expected, found }),
        }
    }

    fn as_change(&self, key: &MetaKey) -> Change {
        Change { key: key.clone(), version: Version(self.version), value: self.value.clone() }
    }
}

/// The rows after several changes, in their order, and whether each is to be written: deleting a
/// missing value changes nothing. Fails if a precondition does not hold.
fn changed_rows(
    writes: &[KeyWrite],
    row_of: impl Fn(&MetaKey) -> Result<Row, MetadataError>,
) -> Result<Vec<(&MetaKey, Row, bool)>, MetadataError> {
    for (at, write) in writes.iter().enumerate() {
        if writes[..at].iter().any(|other| other.key == write.key) {
            let key = &write.key;
            return Err(MetadataError::Refused(format!("the key `{key}` is changed twice")));
        }
    }
    let mut rows = Vec::with_capacity(writes.len());
    for KeyWrite { key, value, precondition } in writes {
        let row = row_of(key)?;
        let changed = row.change(key, value.clone(), *precondition)?;
        rows.push(match changed.value.is_none() && row.value.is_none() {
            true => (key, row, false),
            false => (key, changed, true),
        });
    }
    Ok(rows)
}

#[cfg(test)]
mod differential;
#[cfg(test)]
mod tests;
