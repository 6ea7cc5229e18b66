//! What refill workers are told, and what they answer.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::{EntryKey, VQueueId};

/// Tells the refills of one vqueue incarnation apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefillId(pub u64);

/// Raised by the vqueue when it does not want the rows any more; the worker looks
/// between rows.
#[derive(Clone, Debug, Default)]
pub struct CancelRefill(Arc<AtomicBool>);

impl CancelRefill {
    /// Asks the worker to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked.
    #[must_use]
    pub fn is_canceled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl PartialEq for CancelRefill {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for CancelRefill {}

/// Read the inbox rows of a vqueue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefillRequest {
    /// Comes back with the answer.
    pub id: RefillId,
    /// Whose inbox.
    pub vqueue: VQueueId,
    /// Only rows after this key.
    pub after: Option<EntryKey>,
    /// At most this many rows.
    pub limit: usize,
    /// Raised when nobody waits any more.
    pub cancel: CancelRefill,
}

/// Rows of an inbox, in key order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefillDone {
    /// Of the request.
    pub id: RefillId,
    /// The rows' keys.
    pub rows: Vec<EntryKey>,
    /// Nothing was stored above the last row when the snapshot was taken.
    pub reached_end: bool,
}

/// The scan failed or was canceled; the vqueue tries again later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefillFailed {
    /// Of the request.
    pub id: RefillId,
    /// Why, for the log; empty when canceled.
    pub reason: String,
}
