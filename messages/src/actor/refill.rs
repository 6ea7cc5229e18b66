//! Messages to refill workers, and their answers.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::{EntryKey, VQueueId};

/// Distinguishes the refills of one vqueue incarnation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefillId(pub u64);

/// Set by the vqueue when it no longer wants the rows; the worker checks it between rows.
#[derive(Clone, Debug, Default)]
pub struct CancelRefill(Arc<AtomicBool>);

impl CancelRefill {
    /// Asks the worker to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the refill was canceled.
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
    /// Returned with the answer.
    pub id: RefillId,
    /// The vqueue.
    pub vqueue: VQueueId,
    /// Only rows after this key.
    pub after: Option<EntryKey>,
    /// At most this many rows.
    pub limit: usize,
    /// Set when the rows are no longer wanted.
    pub cancel: CancelRefill,
}

/// Rows of an inbox, in key order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefillDone {
    /// Id of the request.
    pub id: RefillId,
    /// The rows' keys.
    pub rows: Vec<EntryKey>,
    /// Nothing was stored above the last row when the snapshot was taken.
    pub reached_end: bool,
}

/// The scan failed or was canceled; the vqueue retries later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefillFailed {
    /// Id of the request.
    pub id: RefillId,
    /// Why, for the log; empty when canceled.
    pub reason: String,
}
