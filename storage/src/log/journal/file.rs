//! A file of the journal: fully allocated before the first block is written.
//!
//! Must always hold: writing a block changes bytes only, neither the file's length nor the location
//! of its sectors, so that a sync waits for one disk write and not also for the file system's own
//! journal (a median of 124 instead of 280 us, docs/decisions/0018).
//!
//! Blocks bypass the page cache if file system and disk allow it: one system call instead of two,
//! and no copy (205 instead of 285 us for 100 KiB, and half of the CPU time).

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::cell::CELL_LEN;
use crate::{Fault, FaultKind, dir::no_follow, direct};

/// Number of zero bytes written at a time: a page, so that the page cache keeps single pages if
/// blocks have to go through it. Of a file filled with larger writes it keeps folios of up to a
/// MiB, and counts a whole folio as written when one sector in it is (ext4, Linux 6.18).
const FILL_BYTES: usize = 4 << 10;
/// A file may grow to at most this fraction of the free disk space.
const ROOM_PARTS: u64 = 8;

/// A file of the journal.
#[derive(Debug)]
pub(super) struct JournalFile {
    /// For everything but blocks.
    file: File,
    /// The same file, past the page cache, with synced writes; `None` if not supported.
    direct: Option<File>,
    pub(super) path: PathBuf,
    /// Number of cells.
    pub(super) cells: u32,
}

impl JournalFile {
    /// Opens an existing file, or creates an empty one.
    pub(super) fn open(path: PathBuf, may_make: bool) -> Result<Self, Fault> {
        let open = OpenOptions::new()
            .read(true)
            .write(true)
            .create(may_make)
            .custom_flags(no_follow())
            .open(&path);
        let opened = open.and_then(|file| {
            let len = file.metadata()?.len();
            Ok((file, len))
        });
        let (file, len) = opened.map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                let lost = io::Error::new(io::ErrorKind::InvalidData, "the file is missing");
                return Fault::from_io("open the log's journal", &path, lost);
            }
            Fault::from_io("open the log's journal", &path, error)
        })?;
        let direct = direct::open(&path);
        Ok(Self { file, direct, path, cells: cells_in(len) })
    }

    /// Writes cells, which begin at a page in memory, and waits until they are on disk.
    pub(super) fn write(&mut self, cells: &[u8], at: u32) -> Result<(), Fault> {
        let offset = u64::from(at) * CELL_LEN as u64;
        let written = match self.write_direct(cells, offset) {
            Some(written) => written,
            None => self.file.write_all_at(cells, offset).and_then(|()| self.file.sync_data()),
        };
        written.map_err(|error| Fault::from_io("append to the log", &self.path, error))
    }

    /// `None` if the page cache is needed because the disk's sectors are larger than cells.
    fn write_direct(&mut self, cells: &[u8], offset: u64) -> Option<io::Result<()>> {
        let written = self.direct.as_ref()?.write_all_at(cells, offset);
        if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::InvalidInput) {
            self.direct = None;
            return None;
        }
        Some(written)
    }

    /// Extends the file to at least this many bytes, all of them on disk.
    ///
    /// # Errors
    /// If the disk is full; then the length is unchanged.
    pub(super) fn extend(&mut self, bytes: u64) -> Result<(), Fault> {
        let before = u64::from(self.cells) * CELL_LEN as u64;
        if bytes <= before {
            return Ok(());
        }
        let filled = self.fill(before, bytes);
        filled.map_err(|error| {
            // Frees what it allocated; a failure changes nothing.
            let _ = self.file.set_len(before);
            Fault::from_io("make room for the log's journal", &self.path, error)
        })?;
        self.cells = cells_in(bytes);
        Ok(())
    }

    /// Like [`Self::extend`], but uses only a fraction of the free disk space: the database needs
    /// space too.
    pub(super) fn extend_if_there_is_room(&mut self, bytes: u64) -> Result<(), Fault> {
        let room = rustix::fs::fstatvfs(&self.file)
            .map_err(|error| Fault::from_io("ask for room", &self.path, error.into()))?;
        if bytes > room.f_bavail.saturating_mul(room.f_frsize) / ROOM_PARTS {
            return Ok(());
        }
        match self.extend(bytes) {
            Err(fault) if fault.kind == FaultKind::DiskFull => Ok(()),
            done => done,
        }
    }

    fn fill(&self, mut at: u64, until: u64) -> io::Result<()> {
        let zeros = vec![0; FILL_BYTES];
        while at < until {
            let len = usize::try_from(until - at).unwrap_or(FILL_BYTES).min(FILL_BYTES);
            self.file.write_all_at(&zeros[..len], at)?;
            at += len as u64;
        }
        self.file.sync_all()?;
        if self.direct.is_some() {
            // A hint: without it, each block would evict the file's pages from the cache.
            let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed);
        }
        Ok(())
    }

    /// Truncates the file to this many bytes after an oversized block.
    pub(super) fn cut(&mut self, bytes: u64) -> Result<(), Fault> {
        if self.cells > cells_in(bytes) {
            let cut = self.file.set_len(bytes).and_then(|()| self.file.sync_all());
            cut.map_err(|error| Fault::from_io("cut the log's journal", &self.path, error))?;
            self.cells = cells_in(bytes);
        }
        Ok(())
    }

    /// Reads the first cells.
    pub(super) fn read(&self, into: &mut [u8]) -> Result<(), Fault> {
        self.file
            .read_exact_at(into, 0)
            .map_err(|error| Fault::from_io("read the log's journal", &self.path, error))
    }
}

fn cells_in(bytes: u64) -> u32 {
    u32::try_from(bytes / CELL_LEN as u64).unwrap_or(u32::MAX)
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(path: &Path) -> Result<(), Fault> {
    let synced = File::open(path).and_then(|dir| dir.sync_all());
    synced.map_err(|error| Fault::from_io("sync the directory", path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: blocks were written to the target of a link in a prepared directory.
    #[test]
    fn a_symbolic_link_is_not_opened() {
        let root = tempfile::tempdir().unwrap();
        let (target, path) = (root.path().join("target"), root.path().join("file"));
        std::fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(JournalFile::open(path.clone(), true).is_err());
        assert!(direct::open(&path).is_none());
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
    }
}
