//! The journal in front of the log's database: two files that are written in turn, over
//! and over, and one sync per block.
//!
//! What it is for: RocksDB's own write-ahead log grows with every write, so that every
//! sync waits for the file system's metadata as well; and it cannot recycle its files in
//! the recovery mode that the log needs. A block is what RocksDB would have logged: the
//! bytes of one write batch.
//!
//! Must always hold:
//! - a block is acknowledged only when it is on disk, and before the next one is begun:
//!   at most one block, the last, can be incomplete;
//! - each block's batch puts its sequence into the database too (the *mark*), so that the
//!   database says which blocks it has in files; a file is written over only once the
//!   database has all of its blocks in files;
//! - sequences only grow, beyond everything that was ever seen in a file: what is left of
//!   a block that was never acknowledged is never taken for a part of a later one.
//!
//! Must not know: what is in a block, or whose database it is.

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

/// How large the files are, in bytes. The first is small, each next one is `growth` times
/// as large until `max`: whoever writes little takes little of the disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) first: u64,
    pub(super) growth: u64,
    pub(super) max: u64,
}

/// Two full files are what a start replays at most.
pub(super) const SIZES: Sizes = Sizes { first: 1 << 20, growth: 4, max: 32 << 20 };

/// Writes what the database has in memory to its files. Blocks.
pub(super) type FlushDatabase = Arc<dyn Fn() -> Result<(), Fault> + Send + Sync>;

/// A file being made free, and larger, by a thread of its own.
type Freed = JoinHandle<Result<JournalFile, Fault>>;

/// The journal. See the module's documentation.
pub(super) struct Journal {
    dir: PathBuf,
    sizes: Sizes,
    flush: FlushDatabase,
    /// Sequence of the next block.
    next: u64,
    /// The file being written, and where in it; `None` before the first block.
    active: Option<(JournalFile, u32)>,
    /// The other one: its blocks are being flushed.
    other: Option<Freed>,
    scratch: Buffer,
    /// Why nothing can be appended: the disk was full when it was opened.
    refused: Option<Fault>,
}

impl Journal {
    /// A journal whose files hold nothing that the database has not in files.
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
        }
    }

    /// Sequence of the next block, which must be put into the database with it.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Appends a block. It is on disk when this returns.
    ///
    /// # Errors
    /// Any fault. Whether the block is there is found out by opening the journal again;
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
        file.write(self.scratch.bytes(), at)?;
        self.active = Some((file, at + cells));
        self.next += 1;
        self.scratch.shrink();
        Ok(())
    }

    /// Turns to the other file, and lets what is in the full one be flushed.
    fn turn(
        &mut self,
        full: Option<(JournalFile, u32)>,
        cells: u32,
    ) -> Result<(JournalFile, u32), Fault> {
        let mut file = self.take_other()?;
        // A block that is larger than any file.
        file.extend(u64::from(cells) * CELL_LEN as u64)?;
        if let Some((full, _)) = full {
            self.free(full, self.larger_than(file.cells))?;
        }
        Ok((file, 0))
    }

    /// The file that is not being written, free to be.
    fn take_other(&mut self) -> Result<JournalFile, Fault> {
        let Some(other) = self.other.take() else { return self.begin() };
        other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Makes both files, or takes those of before; the larger one is written first.
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
        // So that the other one is there, and large enough, once it is needed.
        let bytes = self.larger_than(one.cells);
        let job = move || other.extend_if_there_is_room(bytes).map(|()| other);
        self.other = Some(spawn(job, &self.dir)?);
        Ok(one)
    }

    fn larger_than(&self, cells: u32) -> u64 {
        (u64::from(cells) * CELL_LEN as u64 * self.sizes.growth).min(self.sizes.max)
    }

    /// Lets the database flush what is in a full file, and makes it so large.
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
        // It uses the database. What it failed at is found out by the next start.
        if let Some(other) = self.other.take() {
            let _ = other.join();
        }
    }
}

/// Makes an empty journal beside a copy of a database that has everything in files.
pub(super) fn leave_empty(dir: &Path) -> Result<(), Fault> {
    let made = std::fs::create_dir_all(dir);
    made.map_err(|error| Fault::from_io("create the directory", dir, error))?;
    for name in FILES {
        JournalFile::open(dir.join(name), true)?;
    }
    sync_dir(dir)
}
