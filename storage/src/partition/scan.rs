//! Scans over the rows of a table, in memory and in RocksDB.
//!
//! Must always hold: a row in memory hides the stored one; a scan of one entry's rows is
//! bounded to them, so that it never steps over the tombstones of others.

use std::cmp::Ordering;

use super::{
    Page, StoreError,
    rows::StoredRows,
    tables::{Table, after_prefix},
};

type IsWithin<T> = Box<dyn Fn(&<T as Table>::Key) -> bool>;

/// The rows to scan: those after a key, up to an end.
pub(super) struct Span<T: Table> {
    pub(super) after: Option<T::Key>,
    /// The first key bytes above the span.
    pub(super) end: Vec<u8>,
    /// Whether a key is below the end.
    pub(super) is_within: IsWithin<T>,
}

impl<T: Table> Span<T> {
    /// The rows after a key, to the end of the table.
    pub(super) fn after(after: Option<T::Key>) -> Self {
        Self { after, end: T::end(), is_within: Box::new(|_| true) }
    }

    /// The rows whose key bytes, after the kind, begin with these.
    pub(super) fn within(
        after: T::Key,
        prefix: &[u8],
        is_within: impl Fn(&T::Key) -> bool + 'static,
    ) -> Self {
        let end = after_prefix([&T::KIND[..], prefix].concat());
        Self { after: Some(after), end, is_within: Box::new(is_within) }
    }
}

/// Merges rows in memory, in key order, with the stored ones; at most `limit`.
pub(super) fn merge<'a, T: Table<Row: 'a, Key: 'a>>(
    here: impl Iterator<Item = (&'a T::Key, Option<&'a T::Row>)>,
    stored: StoredRows<'_, T>,
    limit: usize,
) -> Result<Page<T>, StoreError> {
    let (mut here, mut stored) = (here.peekable(), stored.peekable());
    let mut found = Vec::new();
    while found.len() < limit {
        if let Some(Err(error)) = stored.next_if(Result::is_err) {
            return Err(error);
        }
        let next_stored = stored.peek().and_then(|row| row.as_ref().ok()).map(|(key, _)| key);
        // Take the smaller key; a row in memory hides the stored one.
        let order = match (next_stored, here.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(stored), Some((here, _))) => stored.cmp(here),
        };
        if order.is_le() {
            let row = stored.next().transpose()?;
            if order.is_lt() {
                found.extend(row);
            }
        }
        if order.is_ge()
            && let Some((key, Some(row))) = here.next()
        {
            found.push((key.clone(), row.clone()));
        }
    }
    Ok(found)
}
