//! The items of a run in memory: a million of them in about 45 MB.
//!
//! Owns: the entry of an item, whether this input has named it, whether it has ended, and whether
//! its output was printed. Must always hold: an item has one row, found by its identity. Must not
//! know: where rows come from.

use forebay_messages::{EntryId, PartitionKey};
use hashbrown::HashTable;

/// The index of an item's row. Rows are never moved.
pub(crate) type ItemIndex = u32;

/// This input has named it.
pub(crate) const NAMED: u8 = 1;
/// It is stored, according to the book.
pub(crate) const STORED: u8 = 2;
/// This process has noticed its end.
pub(crate) const ENDED: u8 = 4;
/// This process waits for its end.
pub(crate) const ATTACHED: u8 = 8;
/// It was set aside by a run whose input did not name it.
pub(crate) const ASIDE: u8 = 16;

#[derive(Clone, Copy, Debug)]
struct Row {
    uuid: [u8; 16],
    partition_key: u64,
    /// The end that was printed, in milliseconds since 1970; 0 for none. The flags are above it: a
    /// separate byte would take eight.
    printed_at_and_flags: u64,
}

/// Position of the flags. Milliseconds reach it in the year 2,285,000.
const FLAGS_AT: u32 = 56;
const TOLD_AT_MAX: u64 = (1 << FLAGS_AT) - 1;

/// The items of a run.
#[derive(Debug, Default)]
pub(crate) struct Items {
    rows: Vec<Row>,
    index: HashTable<ItemIndex>,
}

fn bits(flags: u8) -> u64 {
    u64::from(flags) << FLAGS_AT
}

/// Identities are already hashes.
fn hash(uuid: &[u8; 16]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *uuid;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

impl Items {
    /// All indexes, in the order in which the items were added.
    pub(crate) fn places(&self) -> impl Iterator<Item = ItemIndex> + use<> {
        0..ItemIndex::try_from(self.rows.len()).unwrap_or(ItemIndex::MAX)
    }

    /// The item with this identity.
    pub(crate) fn find(&self, uuid: &[u8; 16]) -> Option<ItemIndex> {
        self.index.find(hash(uuid), |place| self.row(*place).uuid == *uuid).copied()
    }

    /// The item with this identity; a new one is the entry `id`.
    pub(crate) fn find_or_add(&mut self, id: EntryId) -> ItemIndex {
        if let Some(place) = self.find(&id.uuid) {
            return place;
        }
        let place =
            ItemIndex::try_from(self.rows.len()).expect("an input has fewer than 2^32 items");
        let row = Row { uuid: id.uuid, partition_key: id.partition_key.0, printed_at_and_flags: 0 };
        self.rows.push(row);
        let rows = &self.rows;
        self.index.insert_unique(hash(&id.uuid), place, |at| hash(&rows[*at as usize].uuid));
        place
    }

    fn row(&self, place: ItemIndex) -> &Row {
        &self.rows[place as usize]
    }

    /// The entry of an item.
    pub(crate) fn id(&self, place: ItemIndex) -> EntryId {
        let row = self.row(place);
        EntryId { partition_key: PartitionKey(row.partition_key), uuid: row.uuid }
    }

    /// The item is stored under another partition key.
    pub(crate) fn moved(&mut self, place: ItemIndex, partition_key: PartitionKey) {
        self.rows[place as usize].partition_key = partition_key.0;
    }

    /// Whether an item has any of these flags.
    pub(crate) fn has(&self, place: ItemIndex, flags: u8) -> bool {
        self.row(place).printed_at_and_flags & bits(flags) != 0
    }

    /// Sets flags of an item; whether it had none of them.
    pub(crate) fn set(&mut self, place: ItemIndex, flags: u8) -> bool {
        let row = &mut self.rows[place as usize];
        let is_new = row.printed_at_and_flags & bits(flags) == 0;
        row.printed_at_and_flags |= bits(flags);
        is_new
    }

    /// Clears flags of an item.
    pub(crate) fn unset(&mut self, place: ItemIndex, flags: u8) {
        self.rows[place as usize].printed_at_and_flags &= !bits(flags);
    }

    /// The printed end of an item, in milliseconds since 1970; 0 for none.
    pub(crate) fn printed_at(&self, place: ItemIndex) -> u64 {
        self.row(place).printed_at_and_flags & TOLD_AT_MAX
    }

    /// This end of an item was printed.
    pub(crate) fn set_printed(&mut self, place: ItemIndex, ended_at: u64) {
        let row = &mut self.rows[place as usize];
        row.printed_at_and_flags =
            row.printed_at_and_flags & !TOLD_AT_MAX | ended_at.min(TOLD_AT_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_has_one_row_and_a_row_few_bytes() {
        assert!(size_of::<Row>() <= 32);
        let mut items = Items::default();
        let id = |n: u8| EntryId { partition_key: PartitionKey(7), uuid: [n; 16] };
        let places: Vec<_> = (0..100).map(|n| items.find_or_add(id(n))).collect();
        assert_eq!(places, (0..100).collect::<Vec<_>>());
        assert_eq!((items.find_or_add(id(5)), items.places().count()), (5, 100));
        assert_eq!((items.find(&[200; 16]), items.id(9)), (None, id(9)));
        assert!(items.set(9, NAMED) && !items.set(9, NAMED));
        items.unset(9, NAMED);
        assert!(!items.has(9, NAMED | ENDED));
        items.set(9, ASIDE);
        items.set_printed(9, 1_796_035_664_859);
        assert_eq!((items.printed_at(9), items.has(9, ASIDE)), (1_796_035_664_859, true));
    }
}
