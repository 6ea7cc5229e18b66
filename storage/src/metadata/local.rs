//! Metadata of a single node: RocksDB, every change synced.
//!
//! | key | value |
//! |---|---|
//! | `m`, the key's text | bilrost: 1 version, 2 value (absent when deleted) |
//!
//! A deleted key keeps its row, so that its version continues when the key returns. Must always
//! hold: one writer at a time reads, checks, writes and notifies.

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
};

use bilrost::{Message, OwnedMessage};
use bytes::Bytes;
use rocksdb::{
    DB, DBRecoveryMode, Direction, IteratorMode, Options, WriteBatch, WriteOptions,
    checkpoint::Checkpoint,
};

use super::{
    BlockingMetadata, KeyWrite, MetaKey, MetadataError, OnChange, Precondition, Row, Version,
    Versioned, Watch, changed_rows, watch::Watchers,
};
use crate::{Fault, Medium, sync};

const KIND: u8 = b'm';
/// Metadata is small: a few keys, rarely written.
const MEMTABLE_BYTES: usize = 1 << 20;

/// Metadata of a single node on its own disk.
pub struct LocalMetadata {
    path: PathBuf,
    db: DB,
    /// Held from the check of a precondition until watchers were notified; contains the first fault
    /// of a write.
    writer: Mutex<Option<Fault>>,
    watchers: Watchers,
}

impl std::fmt::Debug for LocalMetadata {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalMetadata").field("path", &self.path).finish_non_exhaustive()
    }
}

fn options(medium: &Medium) -> Options {
    let mut options = medium.options();
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_write_buffer_size(MEMTABLE_BYTES);
    options.set_block_based_table_factory(&medium.tables());
    options
}

fn db_key(key: &MetaKey) -> Vec<u8> {
    [&[KIND], key.as_str().as_bytes()].concat()
}

impl LocalMetadata {
    /// Opens the store in a directory, creating it if necessary.
    ///
    /// # Errors
    /// [`MetadataError::Fault`] when files cannot be used.
    pub fn open(path: &Path, medium: &Medium) -> Result<Self, MetadataError> {
        medium.prepare(path)?;
        let db = DB::open(&options(medium), path)
            .map_err(|error| Fault::from_rocksdb("open the metadata store", path, error))?;
        let watchers = Watchers::default();
        Ok(Self { path: path.to_owned(), db, writer: Mutex::default(), watchers })
    }

    fn row(&self, key: &MetaKey) -> Result<Row, MetadataError> {
        let bytes = self
            .db
            .get(db_key(key))
            .map_err(|error| Fault::from_rocksdb("read the metadata store", &self.path, error))?;
        let Some(bytes) = bytes else { return Ok(Row::default()) };
        Row::decode(Bytes::from(bytes))
            .map_err(|error| self.damaged(key.as_str(), error.to_string()))
    }

    fn damaged(&self, key: &str, reason: String) -> MetadataError {
        let path = self.path.display().to_string();
        MetadataError::Corrupt { key: key.to_owned(), path, reason }
    }

    fn change(
        &self,
        key: &MetaKey,
        value: Option<Bytes>,
        precondition: Precondition,
    ) -> Result<Version, MetadataError> {
        let mut broken = sync::lock(&self.writer);
        let row = self.row(key)?;
        let changed = row.change(key, value, precondition)?;
        if changed.value.is_none() && row.value.is_none() {
            return Ok(Version(row.version));
        }
        let version = Version(changed.version);
        self.write(&mut broken, &[(key, changed)])?;
        Ok(version)
    }

    /// Writes all of these rows in one step and notifies watchers. The caller holds `writer`.
    fn write(
        &self,
        broken: &mut Option<Fault>,
        rows: &[(&MetaKey, Row)],
    ) -> Result<(), MetadataError> {
        if let Some(first) = broken {
            return Err(MetadataError::Broken { first: first.clone() });
        }
        let mut batch = WriteBatch::default();
        for (key, row) in rows {
            batch.put(db_key(key), row.encode_to_vec());
        }
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db.write_opt(batch, &options).map_err(|error| {
            let fault = Fault::from_rocksdb("write the metadata store", &self.path, error);
            *broken = Some(fault.clone());
            fault
        })?;
        for (key, row) in rows {
            self.watchers.notify(&row.as_change(key));
        }
        Ok(())
    }
}

impl BlockingMetadata for LocalMetadata {
    fn get(&self, key: &MetaKey) -> Result<Option<Versioned>, MetadataError> {
        self.row(key).map(Row::versioned)
    }

    fn list(&self, prefix: &str) -> Result<Vec<(MetaKey, Versioned)>, MetadataError> {
        let first = [&[KIND], prefix.as_bytes()].concat();
        let mut all = Vec::new();
        for found in self.db.iterator(IteratorMode::From(&first, Direction::Forward)) {
            let (key, row) = found.map_err(|error| {
                Fault::from_rocksdb("read the metadata store", &self.path, error)
            })?;
            if !key.starts_with(&first) {
                break;
            }
            let text = String::from_utf8_lossy(&key[1..]).into_owned();
            let damaged = |reason: String| self.damaged(&text, reason);
            let row = Row::decode(Bytes::from(row)).map_err(|error| damaged(error.to_string()))?;
            let key = MetaKey::new(text.clone()).map_err(|error| damaged(error.to_string()))?;
            all.extend(row.versioned().map(|found| (key, found)));
        }
        Ok(all)
    }

    fn put(
        &self,
        key: &MetaKey,
        value: Bytes,
        precondition: Precondition,
    ) -> Result<Version, MetadataError> {
        self.change(key, Some(value), precondition)
    }

    fn put_all(&self, writes: &[KeyWrite]) -> Result<Vec<Version>, MetadataError> {
        let mut broken = sync::lock(&self.writer);
        let rows = changed_rows(writes, |key| self.row(key))?;
        let versions = rows.iter().map(|(_, row, _)| Version(row.version)).collect();
        let changed = rows.into_iter().filter(|(_, _, is_changed)| *is_changed);
        let changed: Vec<_> = changed.map(|(key, row, _)| (key, row)).collect();
        if !changed.is_empty() {
            self.write(&mut broken, &changed)?;
        }
        Ok(versions)
    }

    fn delete(&self, key: &MetaKey, precondition: Precondition) -> Result<(), MetadataError> {
        self.change(key, None, precondition).map(|_| ())
    }

    fn checkpoint(&self, to: &Path) -> Result<(), MetadataError> {
        Checkpoint::new(&self.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(to))
            .map_err(|error| Fault::from_rocksdb("copy the metadata", to, error).into())
    }

    fn watch(&self, key: &MetaKey, on_change: OnChange) -> Result<Watch, MetadataError> {
        let _ordered = sync::lock(&self.writer);
        let row = self.row(key)?;
        let now = (row.version > 0).then(|| row.as_change(key));
        Ok(self.watchers.add(key, on_change, now))
    }
}
