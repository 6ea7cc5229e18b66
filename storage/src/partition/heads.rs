//! The heads of many inboxes at once: who may start, and who sleeps until when.
//!
//! Must always hold: a read steps over a bounded number of tombstones; where it would
//! have to step over more it says that it does not know.

use forebay_messages::{EntryKey, VQueueId};

use super::{
    PartitionStore, StoreError,
    inbox::SKIP_MAX,
    rows::bounded,
    tables::{after_prefix, inbox::Inbox},
};
use crate::medium::would_block;

/// What is first in an inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// This row.
    Row(EntryKey),
    /// There is no row.
    Empty,
    /// It lies behind more tombstones than this reader steps over.
    Unknown,
}

impl PartitionStore {
    /// The first row of the inbox of each of these vqueues, which must be in id order
    /// (as [`Self::vqueues_after`] gives them). Blocks on disk.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn inbox_heads(&self, vqueues: &[VQueueId]) -> Result<Vec<Head>, StoreError> {
        let (Some(first), Some(last)) = (vqueues.first(), vqueues.last()) else {
            return Ok(Vec::new());
        };
        assert!(vqueues.is_sorted(), "heads are read in id order");
        // Rows that are in memory only would not be seen.
        self.settle()?;
        let mut options = bounded(Inbox::prefix(*first), after_prefix(Inbox::prefix(*last)));
        options.set_max_skippable_internal_keys(SKIP_MAX);
        options.set_background_purge_on_iterator_cleanup(true);
        let mut rows = self.shared.db.raw_iterator_cf_opt(&self.family()?, options);
        let mut heads = Vec::with_capacity(vqueues.len());
        for vqueue in vqueues {
            rows.seek(Inbox::prefix(*vqueue));
            let Some((key, row)) = rows.item() else {
                heads.push(match rows.status() {
                    Ok(()) => Head::Empty,
                    Err(error) if would_block(&error) => Head::Unknown,
                    Err(error) => return Err(self.read_error::<Inbox>(error)),
                });
                continue;
            };
            let ((found, place), ()) = self.decode::<Inbox>(key, row)?;
            heads.push(if found == *vqueue { Head::Row(place) } else { Head::Empty });
        }
        Ok(heads)
    }
}
