//! A temporary copy of a data directory that cannot be written, for inspection.
//!
//! Opening a data directory writes: locks, logs of RocksDB, the record of a new leader. If that is
//! impossible (the disk is full, the directory belongs to another user), a copy in a temporary
//! directory is opened instead. It is cheap: data files never change once written, so they are
//! hard-linked; only logs, journals and manifests are copied, without holes.
//!
//! Must always hold: nothing is written into the original; while a [`LookCopy`] lives, no process
//! opens the original; its files are removed with it.

use std::{
    env,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink},
    path::{Path, PathBuf},
};

use crate::{
    Fault,
    dir::{FORMAT_FILE, LOCK_FILE, OpenError, no_follow, read_format},
};

/// The parts of a data directory that are copied.
const PARTS: [&str; 3] = ["log", "store", "metadata"];
/// Files that RocksDB creates whenever it opens a database.
const LEFT_OUT: [&str; 2] = ["LOCK", "LOG"];
/// Directories to try, after the one named by the environment.
const TEMPORARY: [&str; 3] = ["/tmp", "/dev/shm", "/var/tmp"];
/// Maximum number of names to try in a directory.
const NAMES_MAX: u32 = 1_000;
/// Granularity in bytes of the search for holes.
const BLOCK: usize = 64 << 10;

/// A copy of a data directory. Its files are removed when it is dropped.
#[derive(Debug)]
pub struct LookCopy {
    files: Temporary,
    /// Holds the advisory lock of the original, if it has a lock file.
    _lock: Option<File>,
}

impl LookCopy {
    /// Copies a data directory that no process has open. Blocks.
    ///
    /// # Errors
    /// [`OpenError::InUse`], [`OpenError::NotForebay`], [`OpenError::Newer`]; and
    /// [`OpenError::Fault`] when it cannot be read, or no temporary directory can be written.
    pub fn of(original: &Path) -> Result<Self, OpenError> {
        let at = |action, source| OpenError::Fault(Fault::from_io(action, original, source));
        let original = fs::canonicalize(original).map_err(|error| at("resolve the path", error))?;
        if read_format(&original)?.is_none() {
            let found = "no FORMAT file".to_owned();
            return Err(OpenError::NotForebay { path: original, found });
        }
        let lock = take_lock(&original)?;
        let mut failed = None;
        let others = TEMPORARY.iter().map(PathBuf::from);
        for parent in [env::temp_dir()].into_iter().chain(others) {
            match Temporary::of(&original, &parent) {
                Ok(files) => return Ok(Self { files, _lock: lock }),
                Err(error) => failed = failed.or(Some((parent, error))),
            }
        }
        let (parent, error) = failed.unwrap_or_else(|| (original, io::ErrorKind::NotFound.into()));
        let action = "copy the data directory, which cannot be written, to a temporary directory \
                      (TMPDIR names another one)";
        Err(OpenError::Fault(Fault::from_io(action, &parent, error)))
    }

    /// Path of the copy.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.files.0
    }
}

/// A directory that is removed when dropped.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Remaining files are left to the system's cleanup of temporary directories.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Temporary {
    fn of(original: &Path, parent: &Path) -> io::Result<Self> {
        let copy = Self::new(parent)?;
        for part in PARTS {
            if original.join(part).is_dir() {
                copy_directory(&original.join(part), &copy.0.join(part))?;
            }
        }
        // Last, so that an incomplete copy is not a data directory.
        fs::copy(original.join(FORMAT_FILE), copy.0.join(FORMAT_FILE))?;
        Ok(copy)
    }

    /// An empty directory, readable by this user only.
    fn new(parent: &Path) -> io::Result<Self> {
        let parent = fs::canonicalize(parent)?;
        for n in 0..NAMES_MAX {
            let path = parent.join(format!("forebay-look-{}-{n}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => return made.map(|()| Self(path)),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

/// Takes the original's lock without writing to it. Without a lock file no process can hold it.
fn take_lock(original: &Path) -> Result<Option<File>, OpenError> {
    let at = |action, error| OpenError::Fault(Fault::from_io(action, original, error));
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(no_follow());
    let mut file = match options.open(original.join(LOCK_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|error| at("open the lock file", error))?,
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            Err(OpenError::InUse { path: original.to_owned(), pid })
        }
        Err(TryLockError::Error(error)) => Err(at("lock the directory", error)),
    }
}

/// Copies a directory of files and directories of files.
fn copy_directory(from: &Path, to: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_directory(&path, &copy)?;
        } else if !kind.is_file() || LEFT_OUT.contains(&&*name) || name.starts_with("LOG.old") {
            continue;
        } else if name.ends_with(".sst") {
            symlink(&path, &copy)?;
        } else {
            copy_file(&path, &copy)?;
        }
    }
    Ok(())
}

/// Copies a file. Blocks of zeros become holes: journals are preallocated.
fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let mut from = File::open(from)?;
    let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let len = from.metadata()?.len();
    let mut block = vec![0; BLOCK];
    let mut copied = 0;
    while copied < len {
        let read = from.read(&mut block)?;
        if read == 0 {
            break;
        }
        let bytes = &block[..read];
        if bytes.iter().any(|byte| *byte != 0) {
            to.seek(SeekFrom::Start(copied))?;
            to.write_all(bytes)?;
        }
        copied += read as u64;
    }
    to.set_len(copied)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DataDir;

    #[test]
    fn a_copy_links_rows_and_is_removed_when_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let original = dir.path().join("data");
        drop(DataDir::open(&original).unwrap());
        fs::create_dir_all(original.join("log/journal")).unwrap();
        fs::create_dir_all(original.join("exec")).unwrap();
        fs::write(original.join("log/000008.sst"), "rows").unwrap();
        fs::write(original.join("log/LOCK"), "").unwrap();
        let mut journal = vec![0; 3 * BLOCK];
        journal[2 * BLOCK] = 7;
        fs::write(original.join("log/journal/0"), &journal).unwrap();
        let copy = LookCopy::of(&original).unwrap();
        let path = copy.path().to_owned();
        assert!(fs::symlink_metadata(path.join("log/000008.sst")).unwrap().is_symlink());
        assert_eq!(fs::read(path.join("log/journal/0")).unwrap(), journal);
        assert!(!path.join("log/LOCK").exists() && !path.join("exec").exists());
        // No process can open the original in the meantime.
        assert!(matches!(DataDir::open(&original), Err(OpenError::InUse { .. })));
        drop(DataDir::open(&path).unwrap());
        drop(copy);
        assert!(!path.exists());
        assert_eq!(fs::read(original.join("log/000008.sst")).unwrap(), b"rows");
        let taken = DataDir::open(&original).unwrap();
        assert!(matches!(LookCopy::of(&original), Err(OpenError::InUse { pid: Some(_), .. })));
        drop(taken);
        fs::remove_file(original.join("FORMAT")).unwrap();
        assert!(matches!(LookCopy::of(&original), Err(OpenError::NotForebay { .. })));
    }
}
