//! The port to the metadata for everything above the storage: futures, so that a store on other
//! nodes fits behind it.
//!
//! Providers: one node's own store (`local`, or `memory`), run on threads that may block, and the
//! metadata of a cluster.

use std::{future::Future, pin::Pin, slice};

use bytes::Bytes;

use super::{KeyWrite, MetaKey, MetadataError, OnChange, Precondition, Version, Versioned, Watch};

/// A call in progress.
pub type MetadataFuture<'a, T> =
    Pin<Box<dyn Future<Output = Result<T, MetadataError>> + Send + 'a>>;

/// A small, strongly consistent, versioned key-value store.
///
/// Reads return every change that was acknowledged before they began, except for
/// [`MetadataStore::get_applied`].
///
/// Cancel safety: dropping a read has no effect. A change whose future is dropped after its first
/// poll may be made, as after [`MetadataError::OutcomeUnknown`], [`MetadataError::Interrupted`] and
/// [`MetadataError::Fault`]. After every other error of a change nothing was changed.
pub trait MetadataStore: Send + Sync {
    /// The values of several keys, in their order, as of one moment.
    ///
    /// # Errors
    /// [`MetadataError::Corrupt`], [`MetadataError::Fault`], [`MetadataError::Unavailable`].
    fn get_all<'a>(&'a self, keys: &'a [MetaKey]) -> MetadataFuture<'a, Vec<Option<Versioned>>>;

    /// The value of a key as this node knows it. In a cluster it may be old, and it can be read
    /// while no majority is reached.
    ///
    /// # Errors
    /// See [`Self::get_all`].
    fn get_applied<'a>(&'a self, key: &'a MetaKey) -> MetadataFuture<'a, Option<Versioned>>;

    /// The keys that begin with a prefix and have a value, in order.
    ///
    /// # Errors
    /// See [`Self::get_all`].
    fn list<'a>(&'a self, prefix: &'a str) -> MetadataFuture<'a, Vec<(MetaKey, Versioned)>>;

    /// Makes all of these changes, of different keys, or none. Durable when it returns the versions
    /// of the keys, in order.
    ///
    /// # Errors
    /// [`MetadataError::PreconditionFailed`], [`MetadataError::Refused`], and see above.
    fn put_all(&self, writes: Vec<KeyWrite>) -> MetadataFuture<'_, Vec<Version>>;

    /// Calls `on_change` with the key's present value (if it was ever written), then with later
    /// ones, in version order, until the [`Watch`] is dropped. The present value was reported when
    /// this returns. In a cluster that is the value that this node has applied, and values that it
    /// skips while it copies are not reported; the newest one always is. `on_change` runs on the
    /// thread that applies the change: it must be short and must not call the store.
    ///
    /// # Errors
    /// See [`Self::get_all`].
    fn watch<'a>(&'a self, key: &'a MetaKey, on_change: OnChange) -> MetadataFuture<'a, Watch>;

    /// Maximum number of bytes of the keys and values of one change.
    fn write_bytes_max(&self) -> usize {
        usize::MAX
    }

    /// Whether nodes in other processes change it too.
    fn is_shared(&self) -> bool {
        false
    }

    /// The value of a key.
    ///
    /// # Errors
    /// See [`Self::get_all`].
    fn get<'a>(&'a self, key: &'a MetaKey) -> MetadataFuture<'a, Option<Versioned>> {
        Box::pin(async move { Ok(self.get_all(slice::from_ref(key)).await?.pop().flatten()) })
    }

    /// Writes a value and returns its new version.
    ///
    /// # Errors
    /// See [`Self::put_all`].
    fn put<'a>(
        &'a self,
        key: &'a MetaKey,
        value: Bytes,
        precondition: Precondition,
    ) -> MetadataFuture<'a, Version> {
        let write = KeyWrite { key: key.clone(), value: Some(value), precondition };
        Box::pin(async move {
            let versions = self.put_all(vec![write]).await?;
            Ok(versions.first().copied().unwrap_or_default())
        })
    }

    /// Deletes a value; the deletion is a change with its own version. Deleting a missing value
    /// changes nothing.
    ///
    /// # Errors
    /// See [`Self::put_all`].
    fn delete<'a>(
        &'a self,
        key: &'a MetaKey,
        precondition: Precondition,
    ) -> MetadataFuture<'a, ()> {
        let write = KeyWrite { key: key.clone(), value: None, precondition };
        Box::pin(async move { self.put_all(vec![write]).await.map(drop) })
    }
}
