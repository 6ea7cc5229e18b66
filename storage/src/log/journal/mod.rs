//! The journal in front of the log's database: two files that are overwritten alternately, with one
//! sync per block.
//!
//! Purpose: RocksDB's own write-ahead log grows with every write, so that every sync also waits for
//! the file system's metadata; and it cannot recycle its files in the recovery mode that the log
//! needs. A block contains what RocksDB would have logged: the bytes of one write batch.
//!
//! Must always hold:
//! - a block is acknowledged only when it is on disk, and before the next one is begun: at most one
//!   block, the last, can be incomplete;
//! - each block's batch also puts its sequence into the database (the *mark*), so that the database
//!   knows which blocks are in its files; a file is overwritten only once the database has all of
//!   its blocks in files;
//! - sequences only grow, beyond everything ever seen in a file: the remains of a block that was
//!   never acknowledged are never mistaken for a part of a later one.
//!
//! Must not know: the contents of a block, or which database it serves.

mod cell;
mod file;
mod recover;
#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};

use crate::{Fault, direct::Buffer};

use cell::{CELL_LEN, cells_of};
use file::{JournalFile, sync_dir};
pub(super) use recover::{Replay, recover};

/// Names of the files.
const FILES: [&str; 2] = ["0", "1"];

/// File sizes in bytes. The first file is small, each next one is `growth` times as large until
/// `max`: a log with few writes uses little disk space.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) first: u64,
    pub(crate) growth: u64,
    pub(crate) max: u64,
}

/// A start replays at most two full files.
pub(super) const SIZES: Sizes = Sizes { first: 1 << 20, growth: 4, max: 32 << 20 };

/// Flushes the database's memory to its files. Blocks.
pub(super) type FlushDatabase = Arc<dyn Fn() -> Result<(), Fault> + Send + Sync>;

/// A file that a thread is freeing and extending.
type Freed = JoinHandle<Result<JournalFile, Fault>>;

/// The journal of a database.
pub(super) struct Journal {
    dir: PathBuf,
    sizes: Sizes,
    flush: FlushDatabase,
    /// Sequence of the next block.
    next: u64,
    /// The file being written, and the position in it; `None` before the first block.
    active: Option<(JournalFile, u32)>,
    /// The other file: its blocks are being flushed.
    other: Option<Freed>,
    scratch: Buffer,
    /// Why nothing can be appended: the disk was full when it was opened.
    refused: Option<Fault>,
    #[cfg(any(test, feature = "testkit"))]
    faults: Option<Arc<crate::fault::JournalFaults>>,
}

impl Journal {
    /// A journal whose files contain only blocks that the database has in files.
    fn new(dir: PathBuf, sizes: Sizes, flush: FlushDatabase, next: u64) -> Self {
        Self {
            dir,
            sizes,
            flush,
            next,
            active: None,
            other: None,
            scratch: Buffer::default(),
            refused: None,
            #[cfg(any(test, feature = "testkit"))]
            faults: None,
        }
    }

    #[cfg(any(test, feature = "testkit"))]
    pub(super) fn set_faults(&mut self, faults: Arc<crate::fault::JournalFaults>) {
        self.faults = Some(faults);
    }

    /// Sequence of the next block, which must be put into the database with it.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Appends a block. It is on disk when this returns.
    ///
    /// # Errors
    /// Any fault. Whether the block was written is only known after the journal was opened again;
    /// nothing more may be appended.
    pub(super) fn append(&mut self, block: &[u8]) -> Result<(), Fault> {
        if let Some(fault) = &self.refused {
            return Err(fault.clone());
        }
        let cells = cells_of(block.len());
        let bytes = self.scratch.take(cells as usize * CELL_LEN);
        cell::encode(self.next, block, bytes);
        let (mut file, at) = match self.active.take() {
            Some((file, at)) if cells <= file.cells - at => (file, at),
            full => self.turn(full, cells)?,
        };
        self.write(&mut file, at)?;
        self.active = Some((file, at + cells));
        self.next += 1;
        self.scratch.shrink();
        Ok(())
    }

    /// Writes the cells in the buffer.
    #[cfg(not(any(test, feature = "testkit")))]
    fn write(&self, file: &mut JournalFile, at: u32) -> Result<(), Fault> {
        file.write(self.scratch.bytes(), at)
    }

    /// Writes the cells in the buffer, with the fault that a test planned.
    #[cfg(any(test, feature = "testkit"))]
    fn write(&self, file: &mut JournalFile, at: u32) -> Result<(), Fault> {
        let cells = self.scratch.bytes();
        let Some(faults) = &self.faults else { return file.write(cells, at) };
        let Some(fault) = faults.next() else { return file.write(cells, at) };
        let mut is_whole = true;
        for (index, cell) in (0..).zip(cells.chunks(CELL_LEN)) {
            match fault.writes(index) {
                true => file.write(cell, at + index)?,
                false => is_whole = false,
            }
        }
        faults.wrote(is_whole);
        match fault.succeeds() {
            true => Ok(()),
            false => Err(crate::fault::injected("append to the log", &file.path)),
        }
    }

    /// Switches to the other file, and starts to flush the contents of the full one.
    fn turn(
        &mut self,
        full: Option<(JournalFile, u32)>,
        cells: u32,
    ) -> Result<(JournalFile, u32), Fault> {
        let mut file = self.take_other()?;
        // Only for a block that is larger than any file.
        file.extend(u64::from(cells) * CELL_LEN as u64)?;
        if let Some((full, _)) = full {
            self.free(full, self.larger_than(file.cells))?;
        }
        Ok((file, 0))
    }

    /// The file that is not being written, free to be overwritten.
    fn take_other(&mut self) -> Result<JournalFile, Fault> {
        let Some(other) = self.other.take() else { return self.begin() };
        other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Creates both files, or reuses existing ones; the larger one is written first.
    fn begin(&mut self) -> Result<JournalFile, Fault> {
        let made = std::fs::create_dir_all(&self.dir);
        made.map_err(|error| Fault::from_io("create the directory", &self.dir, error))?;
        let [one, other] = FILES.map(|name| JournalFile::open(self.dir.join(name), true));
        let (mut one, mut other) = (one?, other?);
        if other.cells > one.cells {
            std::mem::swap(&mut one, &mut other);
        }
        one.extend(self.sizes.first)?;
        sync_dir(&self.dir)?;
        sync_dir(self.dir.parent().unwrap_or(Path::new(".")))?;
        // So that the other file exists and is large enough when it is needed.
        let bytes = self.larger_than(one.cells);
        let job = move || other.extend_if_there_is_room(bytes).map(|()| other);
        self.other = Some(spawn(job, &self.dir)?);
        Ok(one)
    }

    fn larger_than(&self, cells: u32) -> u64 {
        (u64::from(cells) * CELL_LEN as u64 * self.sizes.growth).min(self.sizes.max)
    }

    /// Starts to flush a full file's blocks and to extend the file to this size.
    fn free(&mut self, mut full: JournalFile, bytes: u64) -> Result<(), Fault> {
        let (flush, max) = (Arc::clone(&self.flush), self.sizes.max);
        let job = move || {
            flush()?;
            full.cut(max)?;
            full.extend_if_there_is_room(bytes)?;
            Ok(full)
        };
        self.other = Some(spawn(job, &self.dir)?);
        Ok(())
    }
}

fn spawn(
    job: impl FnOnce() -> Result<JournalFile, Fault> + Send + 'static,
    dir: &Path,
) -> Result<Freed, Fault> {
    let spawned = std::thread::Builder::new().name("forebay-journal".to_owned()).spawn(job);
    spawned.map_err(|error| Fault::from_io("start a thread for the log's journal", dir, error))
}

impl Drop for Journal {
    fn drop(&mut self) {
        // The thread uses the database. The next start reports its failure.
        if let Some(other) = self.other.take() {
            let _ = other.join();
        }
    }
}

/// Creates an empty journal next to a copy of a database that has everything in files.
pub(super) fn leave_empty(dir: &Path) -> Result<(), Fault> {
    let made = std::fs::create_dir_all(dir);
    made.map_err(|error| Fault::from_io("create the directory", dir, error))?;
    for name in FILES {
        JournalFile::open(dir.join(name), true)?;
    }
    sync_dir(dir)
}
