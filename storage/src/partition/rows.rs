//! Reading rows: one by key, or many in key order.
//!
//! Must always hold: every iterator is bounded below and above, so that it never has to skip
//! another table's tombstones.

use std::marker::PhantomData;

use forebay_engine::partition::rows::FsmSlot;
use forebay_messages::Lsn;
use rocksdb::{
    AsColumnFamilyRef, DB, DBRawIteratorWithThreadMode, ReadOptions, SnapshotWithThreadMode,
};
use xxhash_rust::xxh3::Xxh3;

use super::{
    Digest, PartitionStore, StoreError,
    tables::{Table, fsm::Fsm},
};

/// Readahead of RocksDB when everything is read, in bytes.
const DIGEST_READAHEAD_BYTES: usize = 1 << 20;

/// Rows of a table, in key order. Ends after the first error.
pub(super) struct StoredRows<'a, T> {
    rows: Option<DBRawIteratorWithThreadMode<'a, DB>>,
    store: &'a PartitionStore,
    /// Skipped if it is the first key found.
    after: Option<Vec<u8>>,
    table: PhantomData<T>,
}

impl PartitionStore {
    /// Reads a row from RocksDB.
    pub(super) fn get_stored<T: Table>(
        &self,
        family: &impl AsColumnFamilyRef,
        key: &T::Key,
    ) -> Result<Option<T::Row>, StoreError> {
        let key = T::key_bytes(key);
        let found = self.shared.db.get_pinned_cf_opt(family, &key, &self.shared.read);
        let found = found.map_err(|error| self.read_error::<T>(error))?;
        found.map(|bytes| T::row(&bytes).map_err(|why| self.row_error::<T>(&key, why))).transpose()
    }

    /// All rows of a table in RocksDB after a key: call [`Self::spill_all`] first.
    pub(super) fn rows_in<'a, T: Table>(
        &'a self,
        family: &impl AsColumnFamilyRef,
        after: Option<&T::Key>,
    ) -> StoredRows<'a, T> {
        self.rows_before::<T>(family, after, T::end())
    }

    /// The same, up to this key (as bytes).
    pub(super) fn rows_before<'a, T: Table>(
        &'a self,
        family: &impl AsColumnFamilyRef,
        after: Option<&T::Key>,
        end: Vec<u8>,
    ) -> StoredRows<'a, T> {
        let after = after.map(T::key_bytes);
        let mut options = bounded(after.clone().unwrap_or_else(|| T::KIND.to_vec()), end);
        options.set_background_purge_on_iterator_cleanup(true);
        let mut rows = self.shared.db.raw_iterator_cf_opt(family, options);
        rows.seek_to_first();
        StoredRows { rows: Some(rows), store: self, after, table: PhantomData }
    }

    pub(super) fn read_error<T: Table>(&self, error: rocksdb::Error) -> StoreError {
        StoreError::Read {
            partition: self.id,
            table: T::NAME,
            source: self.shared.fault("read the partition store", error),
        }
    }

    pub(super) fn row_error<T: Table>(&self, key: &[u8], reason: String) -> StoreError {
        StoreError::Row {
            path: self.shared.path.clone(),
            partition: self.id,
            table: T::NAME,
            key: key.iter().map(|byte| format!("{byte:02x}")).collect(),
            reason,
        }
    }

    fn key_error<T: Table>(&self, key: &[u8]) -> StoreError {
        self.row_error::<T>(key, "the key does not belong to this table".to_owned())
    }

    pub(super) fn decode<T: Table>(
        &self,
        key: &[u8],
        row: &[u8],
    ) -> Result<(T::Key, T::Row), StoreError> {
        let typed = T::key(&key[T::KIND.len()..]).ok_or_else(|| self.key_error::<T>(key))?;
        let row = T::row(row).map_err(|reason| self.row_error::<T>(key, reason))?;
        Ok((typed, row))
    }
}

/// A forward-moving position in a table, over the rows of one moment. A row is decoded only on
/// request.
pub(super) struct Seeker<'a, T> {
    rows: DBRawIteratorWithThreadMode<'a, DB>,
    store: &'a PartitionStore,
    table: PhantomData<T>,
}

impl<'a, T: Table> Seeker<'a, T> {
    /// Has no position before [`Self::seek`].
    pub(super) fn new(
        store: &'a PartitionStore,
        family: &impl AsColumnFamilyRef,
        moment: &'a SnapshotWithThreadMode<'a, DB>,
    ) -> Self {
        let mut options = bounded(T::KIND.to_vec(), T::end());
        options.set_background_purge_on_iterator_cleanup(true);
        let rows = moment.raw_iterator_cf_opt(family, options);
        Self { rows, store, table: PhantomData }
    }

    /// Moves to the first key whose bytes after the kind are greater than or equal to these.
    pub(super) fn seek(&mut self, body: &[u8]) {
        self.rows.seek([&T::KIND, body].concat());
    }

    /// Moves to the next key.
    pub(super) fn advance(&mut self) {
        self.rows.next();
    }

    /// The current key; `None` after the last row.
    pub(super) fn key(&self) -> Result<Option<T::Key>, StoreError> {
        let Some(key) = self.rows.key() else {
            let status = self.rows.status();
            return status.map(|()| None).map_err(|error| self.store.read_error::<T>(error));
        };
        let typed = T::key(&key[T::KIND.len()..]);
        typed.map(Some).ok_or_else(|| self.store.key_error::<T>(key))
    }

    /// The current row, if any.
    pub(super) fn row(&self) -> Result<Option<T::Row>, StoreError> {
        let Some((key, row)) = self.rows.item() else { return Ok(None) };
        T::row(row).map(Some).map_err(|why| self.store.row_error::<T>(key, why))
    }
}

/// Options of an iterator over `[from, to)`.
pub(super) fn bounded(from: Vec<u8>, to: Vec<u8>) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(from);
    options.set_iterate_upper_bound(to);
    options
}

impl<T: Table> Iterator for StoredRows<'_, T> {
    type Item = Result<(T::Key, T::Row), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rows = self.rows.as_mut()?;
        if let Some(after) = self.after.take()
            && rows.key() == Some(&after[..])
        {
            rows.next();
        }
        let Some((key, row)) = rows.item() else {
            let status = rows.status();
            self.rows = None;
            return status.err().map(|error| Err(self.store.read_error::<T>(error)));
        };
        let found = self.store.decode::<T>(key, row);
        match found {
            Ok(_) => rows.next(),
            Err(_) => self.rows = None,
        }
        Some(found)
    }
}

/// See [`PartitionStore::digest`].
pub(super) fn digest(store: &PartitionStore) -> Result<Digest, StoreError> {
    store.spill_all()?;
    let family = store.family()?;
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    options.set_readahead_size(DIGEST_READAHEAD_BYTES);
    let mut rows = store.shared.db.raw_iterator_cf_opt(&family, options);
    rows.seek_to_first();
    let applied_key = Fsm::key_bytes(&FsmSlot::AppliedLsn);
    let mut digest = Digest { applied: Lsn(0), rows: 0, hash: 0 };
    let mut hash = Xxh3::new();
    while let Some((key, row)) = rows.item() {
        if key == applied_key {
            let bytes = row.try_into().map_err(|_| {
                store.row_error::<Fsm>(key, format!("{} bytes instead of 8", row.len()))
            })?;
            digest.applied = Lsn(u64::from_be_bytes(bytes));
        }
        for part in [key, row] {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        digest.rows += 1;
        rows.next();
    }
    rows.status()
        .map_err(|error| StoreError::from(store.shared.fault("read the partition store", error)))?;
    digest.hash = hash.digest128();
    Ok(digest)
}

/// See [`PartitionStore::raw_rows`].
#[cfg(any(test, feature = "testkit"))]
pub(super) fn raw_rows(store: &PartitionStore) -> Result<super::RawRows, StoreError> {
    store.spill_all()?;
    let family = store.family()?;
    let mut rows = store.shared.db.raw_iterator_cf_opt(&family, ReadOptions::default());
    rows.seek_to_first();
    let mut found = Vec::new();
    while let Some((key, row)) = rows.item() {
        found.push((key.to_vec(), row.to_vec()));
        rows.next();
    }
    rows.status()
        .map_err(|error| StoreError::from(store.shared.fault("read the partition store", error)))?;
    Ok(found)
}
