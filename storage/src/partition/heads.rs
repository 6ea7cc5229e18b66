//! The heads of many inboxes at once: which entries may start, and which are due when.
//!
//! Must always hold: a read skips a bounded number of tombstones; beyond that it answers "unknown".

use forebay_messages::{EntryKey, VQueueId};

use super::{
    PartitionStore, StoreError,
    inbox::SKIP_MAX,
    rows::bounded,
    tables::{after_prefix, inbox::Inbox},
};
use crate::medium::would_block;

/// The first row of an inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// This row.
    Row(EntryKey),
    /// There is no row.
    Empty,
    /// It is behind more tombstones than this reader skips.
    Unknown,
}

impl PartitionStore {
    /// The first inbox row of each of these vqueues, which must be in id order (as
    /// [`Self::vqueues_after`] returns them). Blocks on disk.
    /// # Errors
    /// See [`StoreError`].
    pub fn inbox_heads(&self, vqueues: &[VQueueId]) -> Result<Vec<Head>, StoreError> {
        let (Some(first), Some(last)) = (vqueues.first(), vqueues.last()) else {
            return Ok(Vec::new());
        };
        assert!(vqueues.is_sorted(), "heads are read in id order");
        // Rows in memory only would not be found.
        self.spill_all()?;
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
