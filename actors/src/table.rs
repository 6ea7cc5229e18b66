//! The partition table: which partition owns which keys. Persisted in the metadata store.
//!
//! Must always hold: ranges do not overlap; an id is never reused.

use bilrost::{Message, OwnedMessage};
use bytes::Bytes;
use forebay_engine::shuffle::Routes;
use forebay_messages::{PartitionId, PartitionKey, command::CheckedTable};
use forebay_storage::metadata::{MetaKey, MetadataStore, Precondition, Version, Versioned};

use crate::error::NodeError;

/// Inclusive range of the key space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key.
    pub first: PartitionKey,
    /// The last key.
    pub last: PartitionKey,
}

impl KeyRange {
    /// Whether it has this key.
    pub(crate) fn contains(self, key: PartitionKey) -> bool {
        self.first <= key && key <= self.last
    }
}

/// One partition of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
pub(crate) struct Row {
    #[bilrost(1)]
    pub(crate) id: PartitionId,
    #[bilrost(2)]
    pub(crate) first: PartitionKey,
    #[bilrost(3)]
    pub(crate) last: PartitionKey,
}

impl Row {
    /// Its keys.
    pub(crate) fn range(&self) -> KeyRange {
        KeyRange { first: self.first, last: self.last }
    }
}

/// The table as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub(crate) struct PartitionTable {
    #[bilrost(1)]
    pub(crate) rows: Vec<Row>,
    /// The id of the next new partition.
    #[bilrost(2)]
    next: u32,
}

impl PartitionTable {
    /// Equal ranges over the whole key space.
    pub(crate) fn equal(count: u32) -> Self {
        let step = u128::from(u64::MAX) + 1;
        let bound = |index: u32| step * u128::from(index) / u128::from(count);
        let key = |value: u128| PartitionKey(u64::try_from(value).unwrap_or(u64::MAX));
        let rows = (0..count)
            .map(|index| Row {
                id: PartitionId(index),
                first: key(bound(index)),
                last: key(bound(index + 1) - 1),
            })
            .collect();
        Self { rows, next: count }
    }

    /// Adds a partition.
    pub(crate) fn add(&mut self, range: KeyRange) -> Result<Row, NodeError> {
        let KeyRange { first, last } = range;
        if last < first {
            return Err(NodeError::EmptyRange { first, last });
        }
        if let Some(other) = self.rows.iter().find(|row| first <= row.last && row.first <= last) {
            return Err(NodeError::RangeOverlaps { first, last, partition: other.id });
        }
        let row = Row { id: PartitionId(self.next), first, last };
        self.next += 1;
        self.rows.push(row);
        self.rows.sort_by_key(|row| row.first);
        Ok(row)
    }

    /// Removes a partition.
    pub(crate) fn remove(&mut self, id: PartitionId) -> Result<(), NodeError> {
        let before = self.rows.len();
        self.rows.retain(|row| row.id != id);
        if self.rows.len() == before { Err(NodeError::UnknownPartition(id)) } else { Ok(()) }
    }

    /// The owner of a key.
    pub(crate) fn owner(&self, key: PartitionKey) -> Option<PartitionId> {
        let after = self.rows.partition_point(|row| row.first <= key);
        let row = self.rows.get(after.checked_sub(1)?)?;
        (key <= row.last).then_some(row.id)
    }

    /// Which keys belong to which partition.
    pub(crate) fn routes(&self) -> Routes {
        Routes::new(self.rows.iter().map(|row| (row.first, row.last, row.id)).collect())
    }

    /// Identifies the table to a partition whose calls were checked against it.
    pub(crate) fn checked(&self) -> CheckedTable {
        let rows = self.rows.iter();
        let bytes = rows.flat_map(|row| [row.id.0.into(), row.first.0, row.last.0]);
        let bytes: Vec<u8> = bytes.flat_map(u64::to_be_bytes).collect();
        let next = self.rows.iter().map(|row| row.id.0 + 1).max().unwrap_or(0);
        CheckedTable { hash: xxhash_rust::xxh3::xxh3_64(&bytes), next }
    }

    /// The keys without an owner.
    #[cfg(test)]
    pub(crate) fn unowned(&self) -> Vec<KeyRange> {
        let mut unowned = Vec::new();
        // The first key above all ranges so far; `None` above the last key there is.
        let mut next = Some(0);
        for row in &self.rows {
            if let Some(first) = next.filter(|first| *first < row.first.0) {
                let (first, last) = (PartitionKey(first), PartitionKey(row.first.0 - 1));
                unowned.push(KeyRange { first, last });
            }
            next = row.last.0.checked_add(1);
        }
        let last = PartitionKey(u64::MAX);
        unowned.extend(next.map(|first| KeyRange { first: PartitionKey(first), last }));
        unowned
    }

    /// The inverse of [`Self::encoded`].
    pub(crate) fn decoded(bytes: Bytes) -> Result<Self, NodeError> {
        Self::decode(bytes).map_err(|error| NodeError::PartitionTable(error.to_string()))
    }

    /// Its bytes in the metadata.
    pub(crate) fn encoded(&self) -> Bytes {
        Bytes::from(self.encode_to_vec())
    }

    fn of(found: Option<Versioned>) -> Result<Option<(Self, Version)>, NodeError> {
        found.map(|found| Ok((Self::decoded(found.value)?, found.version))).transpose()
    }

    /// Reads the stored table.
    pub(crate) async fn load(
        metadata: &dyn MetadataStore,
    ) -> Result<Option<(Self, Version)>, NodeError> {
        Self::of(metadata.get(&MetaKey::partition_table()).await?)
    }

    /// As [`Self::load`], but what this node knows: also without a majority of a cluster.
    pub(crate) async fn load_applied(
        metadata: &dyn MetadataStore,
    ) -> Result<Option<(Self, Version)>, NodeError> {
        Self::of(metadata.get_applied(&MetaKey::partition_table()).await?)
    }

    /// Stores the table, if the stored version is the one it was made from.
    pub(crate) async fn store(
        &self,
        metadata: &dyn MetadataStore,
        before: Option<Version>,
    ) -> Result<Version, NodeError> {
        let precondition = before.map_or(Precondition::DoesNotExist, Precondition::MatchesVersion);
        Ok(metadata.put(&MetaKey::partition_table(), self.encoded(), precondition).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_ranges_cover_every_key_once() {
        for count in [1, 2, 3, 7, 64] {
            let table = PartitionTable::equal(count);
            assert_eq!(table.unowned(), []);
            assert_eq!(table.rows[0].first, PartitionKey(0));
            assert_eq!(table.rows.last().map(|row| row.last), Some(PartitionKey(u64::MAX)));
            for pair in table.rows.windows(2) {
                assert_eq!(pair[0].last.0 + 1, pair[1].first.0);
            }
            for row in &table.rows {
                assert_eq!(table.owner(row.first), Some(row.id));
                assert_eq!(table.owner(row.last), Some(row.id));
            }
        }
    }

    #[test]
    fn ranges_do_not_overlap_and_ids_are_not_given_twice() {
        let mut table = PartitionTable::default();
        let key = PartitionKey;
        let range = |first, last| KeyRange { first: key(first), last: key(last) };
        let first = table.add(range(10, 20)).map(|row| row.id);
        assert!(matches!(first, Ok(PartitionId(0))));
        for other in [range(0, 10), range(20, 30), range(12, 13), range(0, 99)] {
            assert!(matches!(table.add(other), Err(NodeError::RangeOverlaps { .. })));
        }
        assert!(matches!(table.add(range(5, 4)), Err(NodeError::EmptyRange { .. })));
        assert!(table.owner(key(9)).is_none() && table.owner(key(21)).is_none());
        assert_eq!(table.unowned(), [range(0, 9), range(21, u64::MAX)]);
        assert!(table.remove(PartitionId(0)).is_ok());
        assert!(table.remove(PartitionId(0)).is_err());
        let second = table.add(range(10, 20)).map(|row| row.id);
        assert!(matches!(second, Ok(PartitionId(1))));
    }
}
