//! A crash of in-memory files.

use super::*;

/// A simulated crash must lose all unflushed rows and no others.
#[test]
fn a_dropped_store_in_crashing_memory_keeps_flushed_rows() {
    for (medium, expected) in
        [(Medium::memory().unwrap(), 2), (Medium::crashing_memory().unwrap(), 1)]
    {
        let open = || Store::open(Path::new("/store"), &medium).unwrap().partition(P).unwrap();
        let store = open();
        store.begin().unwrap().commit(Lsn(1)).unwrap();
        assert_eq!(store.flush().unwrap(), Lsn(1));
        store.begin().unwrap().commit(Lsn(2)).unwrap();
        assert_eq!(store.applied_lsn().unwrap(), Lsn(2));
        // In a memtable: RocksDB flushes it on an orderly close.
        store.spill_all().unwrap();
        drop(store);
        assert_eq!(open().applied_lsn().unwrap(), Lsn(expected));
        assert_eq!(open().durable_lsn().unwrap(), Lsn(expected));
    }
}
