//! Metadata in memory, for tests and for runtimes without persistence.

use std::{collections::BTreeMap, sync::Mutex};

use bytes::Bytes;

use super::{
    BlockingMetadata, KeyWrite, MetaKey, MetadataError, OnChange, Precondition, Row, Version,
    Versioned, Watch, changed_rows, watch::Watchers,
};
use crate::sync;

/// Metadata in memory. Share it (in an `Arc`) among the runtimes of a test.
#[derive(Default)]
pub struct MemoryMetadata {
    rows: Mutex<BTreeMap<MetaKey, Row>>,
    watchers: Watchers,
}

impl MemoryMetadata {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn change(
        &self,
        key: &MetaKey,
        value: Option<Bytes>,
        precondition: Precondition,
    ) -> Result<Version, MetadataError> {
        let mut rows = sync::lock(&self.rows);
        let row = rows.entry(key.clone()).or_default();
        let changed = row.change(key, value, precondition)?;
        if changed.value.is_none() && row.value.is_none() {
            return Ok(Version(row.version));
        }
        *row = changed;
        self.watchers.notify(&row.as_change(key));
        Ok(Version(row.version))
    }
}

impl BlockingMetadata for MemoryMetadata {
    fn get(&self, key: &MetaKey) -> Result<Option<Versioned>, MetadataError> {
        Ok(sync::lock(&self.rows).get(key).cloned().and_then(Row::versioned))
    }

    fn list(&self, prefix: &str) -> Result<Vec<(MetaKey, Versioned)>, MetadataError> {
        let rows = sync::lock(&self.rows);
        let all = rows.iter().filter(|(key, _)| key.as_str().starts_with(prefix));
        Ok(all.filter_map(|(key, row)| Some((key.clone(), row.clone().versioned()?))).collect())
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
        let mut rows = sync::lock(&self.rows);
        let row_of = |key: &MetaKey| Ok(rows.get(key).cloned().unwrap_or_default());
        let changed = changed_rows(writes, row_of)?;
        let versions = changed.iter().map(|(_, row, _)| Version(row.version)).collect();
        for (key, row, is_changed) in changed {
            if is_changed {
                let change = row.as_change(key);
                rows.insert(key.clone(), row);
                self.watchers.notify(&change);
            }
        }
        Ok(versions)
    }

    fn delete(&self, key: &MetaKey, precondition: Precondition) -> Result<(), MetadataError> {
        self.change(key, None, precondition).map(|_| ())
    }

    fn watch(&self, key: &MetaKey, on_change: OnChange) -> Result<Watch, MetadataError> {
        let rows = sync::lock(&self.rows);
        let now = rows.get(key).filter(|row| row.version > 0).map(|row| row.as_change(key));
        Ok(self.watchers.add(key, on_change, now))
    }
}
