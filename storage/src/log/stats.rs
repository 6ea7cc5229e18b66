//! Counters of a log's writes.

use std::sync::atomic::{AtomicU64, Ordering};

/// What was written since a log was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Calls that waited for the disk.
    pub fsyncs: u64,
    /// Bytes of framed records.
    pub bytes: u64,
    /// Records.
    pub records: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    fsyncs: AtomicU64,
    bytes: AtomicU64,
    records: AtomicU64,
}

impl Counters {
    pub(super) fn wrote(&self, records: u64, bytes: u64) {
        self.fsyncs.fetch_add(1, Ordering::Relaxed);
        self.records.fetch_add(records, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> LogStats {
        LogStats {
            fsyncs: self.fsyncs.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            records: self.records.load(Ordering::Relaxed),
        }
    }
}
