//! Opens a database: replays blocks of the journal that its files do not contain.
//!
//! Must always hold: blocks are applied in order, each once.

use std::{path::Path, sync::Arc};

use forebay_messages::{Lsn, PartitionId};
use rocksdb::{DB, WriteBatch};

use super::{JOURNAL, MARK, unlogged};
use crate::{
    Fault,
    log::{
        Damage, LogError,
        journal::{self, Journal, Replay},
    },
};

/// Opens the journal and applies the blocks that the database does not have in files.
pub(super) fn open_journal(
    db: &Arc<DB>,
    path: &Path,
    sizes: journal::Sizes,
) -> Result<Journal, LogError> {
    let fault = |error| Fault::from_rocksdb("read the log", path, error);
    let mark = db.get(MARK).map_err(fault)?.map(|row| mark(&row, path)).transpose()?;
    let (of_journal, at) = (Arc::clone(db), path.to_owned());
    let flush = move || {
        of_journal.flush().map_err(|error| Fault::from_rocksdb("flush the log", &at, error))
    };
    let mut blocks = Blocks { db, path };
    Ok(journal::recover(&path.join(JOURNAL), sizes, mark, Arc::new(flush), &mut blocks)?)
}

/// Reads the mark: the last block in the database.
fn mark(row: &[u8], path: &Path) -> Result<u64, LogError> {
    let bytes = row.try_into().map_err(|_| LogError::Corrupt {
        log: path.display().to_string(),
        partition: PartitionId(0),
        lsn: Lsn(0),
        damage: Damage::Row { row: "mark", len: row.len() },
    })?;
    Ok(u64::from_be_bytes(bytes))
}

/// Applies blocks of the journal to the database.
struct Blocks<'a> {
    db: &'a DB,
    path: &'a Path,
}

impl Replay for Blocks<'_> {
    fn replay(&mut self, block: &[u8]) -> Result<(), Fault> {
        let written = self.db.write_opt(WriteBatch::from_data(block), &unlogged());
        written.map_err(|error| Fault::from_rocksdb("replay the log's journal", self.path, error))
    }

    fn finish(&mut self, mark: u64) -> Result<(), Fault> {
        let marked = self.db.put_opt(MARK, mark.to_be_bytes(), &unlogged());
        marked
            .and_then(|()| self.db.flush())
            .map_err(|error| Fault::from_rocksdb("replay the log's journal", self.path, error))
    }
}
