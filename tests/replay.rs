//! Compares the rows of a data directory with a fresh replay of its log.
//!
//! Must not know: which program wrote them.

use std::path::Path;

use forebay_engine::partition::{apply::apply, state::PartitionState};
use forebay_messages::{Lsn, PartitionId};
use forebay_storage::{
    DataDir, Medium,
    log::{LocalLog, LogStore},
    partition::{Digest, PartitionStore, Store},
};

/// Records applied in one batch.
const BATCH_LEN: usize = 512;

/// Applies the records of a partition up to an LSN to rows in memory.
fn replayed(log: &LocalLog, id: PartitionId, through: Lsn) -> Digest {
    let rows = Store::open(Path::new("/replay"), &Medium::memory().unwrap()).unwrap();
    let rows = rows.partition(id).unwrap();
    replay_onto(&rows, log, through);
    rows.digest().unwrap()
}

/// Applies the records of a log that the rows lack, up to an LSN.
pub(crate) fn replay_onto(rows: &PartitionStore, log: &LocalLog, through: Lsn) {
    let mut state = PartitionState::load(&rows.begin().unwrap()).unwrap();
    while state.applied_lsn < through {
        let left = usize::try_from(through.0 - state.applied_lsn.0).unwrap();
        let next = state.applied_lsn.next();
        let records = log.read(rows.id(), next, left.min(BATCH_LEN), usize::MAX).unwrap();
        let mut batch = rows.begin().unwrap();
        let mut applied = Vec::new();
        for (lsn, record) in records {
            apply(&mut state, &mut batch, lsn, &record, &mut applied).unwrap();
        }
        batch.commit(state.applied_lsn).unwrap();
    }
}

/// Fails unless the rows of every partition equal a replay of its log from the first record. The
/// directory must not be in use, and its log must not have been trimmed. Returns the number of
/// records.
pub(crate) fn check_rows(data_dir: &Path) -> u64 {
    let dir = DataDir::open_existing(data_dir).unwrap();
    let medium = Medium::disk();
    let log = LocalLog::open(&dir.log(), &medium).unwrap();
    let store = Store::open(&dir.store(), &medium).unwrap();
    let mut records = 0;
    for id in store.partitions() {
        let rows = store.partition(id).unwrap();
        assert_eq!(log.trimmed(id), Lsn(0), "there is nothing to compare with");
        let found = rows.digest().unwrap();
        assert_eq!(found, replayed(&log, id, found.applied), "partition {id} as it was found");
        // The rows that the next start will have.
        replay_onto(&rows, &log, log.end(id));
        let found = rows.digest().unwrap();
        assert_eq!(found, replayed(&log, id, log.end(id)), "partition {id} at the log's end");
        records += log.end(id).0;
    }
    records
}
