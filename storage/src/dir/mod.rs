//! The data directory: its ownership and format, and the lock that lets only one process use it.
//!
//! Owns: `FORMAT` and `LOCK` in it, and the names of the other files. Must always hold: nothing is
//! written into a directory that is not forebay's; while a [`DataDir`] lives, there is no other one
//! of the same directory in any process.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use thiserror::Error;

use crate::{Fault, FaultKind, sync};

/// Newest version of the directory's layout that this code knows.
pub const DIR_FORMAT: u32 = 2;
/// Format of a new directory. It is raised when rows are written that an older forebay must not
/// ignore: see [`DataDir::raise_format`].
const FIRST_FORMAT: u32 = 1;
/// The node is, or was, a member of consensus groups.
pub(crate) const CONSENSUS_FORMAT: u32 = 2;

pub(crate) const FORMAT_FILE: &str = "FORMAT";
const FORMAT_FILE_NEW: &str = "FORMAT.new";
pub(crate) const LOCK_FILE: &str = "LOCK";
const FORMAT_PREFIX: &str = "forebay data directory, version ";
/// A format file is one short line; a longer file is not one.
const FORMAT_LEN_MAX: u64 = 256;
/// Mode of a new directory, whatever the umask: the directory will contain payloads and results. An
/// existing directory keeps its mode.
const NEW_DIR_MODE: u32 = 0o700;
/// Interval between attempts to lock a directory in use, while there is time left to wait.
const LOCK_TRIED_EVERY: Duration = Duration::from_millis(10);
/// Names that may exist before forebay's first start: made by an interrupted first start, or by
/// mkfs.
const MAY_PRECEDE: [&str; 3] = [FORMAT_FILE_NEW, LOCK_FILE, "lost+found"];

/// Why a data directory cannot be used.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process uses it.
    #[error(
        "the data directory {path} is in use by {who}: stop that one first, or choose another \
         directory",
        path = path.display(),
        who = pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Its process id, if it could be read.
        pid: Option<u32>,
    },
    /// Another runtime of this process uses it.
    #[error(
        "the data directory {path} is {how}",
        path = path.display(),
        how = match is_closing {
            true => "still being closed by a runtime of this process: wait until its shutdown \
                     has returned and its last handle is dropped",
            false => "in use by another runtime of this process: use a clone of that one, or \
                      shut it down and drop all of its handles first",
        }
    )]
    InUseHere {
        /// The directory.
        path: PathBuf,
        /// Whether the other runtime is shutting down.
        is_closing: bool,
    },
    /// A newer forebay wrote it.
    #[error(
        "the data directory {path} has format {found}, this forebay knows formats up to \
         {DIR_FORMAT}: use a newer forebay",
        path = path.display()
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// The format found.
        found: u32,
    },
    /// It is a file, or a part of its path is one.
    #[error(
        "the data directory {path} cannot be used: {file} is a file; name a directory, new or \
         forebay's",
        path = path.display(), file = file.display()
    )]
    NotADirectory {
        /// The given path.
        path: PathBuf,
        /// The part of it that is a file.
        file: PathBuf,
    },
    /// A file that forebay writes is a symbolic link, which is never followed.
    #[error(
        "the data directory {path} cannot be used: `{name}` in it is a symbolic link; remove \
         the link",
        path = path.display()
    )]
    Link {
        /// The directory.
        path: PathBuf,
        /// The file's name.
        name: &'static str,
    },
    /// It contains other files.
    #[error(
        "{path} is not a forebay data directory (it holds `{found}` and no readable FORMAT \
         file): choose an empty or a new directory",
        path = path.display()
    )]
    NotForebay {
        /// The directory.
        path: PathBuf,
        /// One of those files.
        found: String,
    },
    /// It, or a file in it, is not writable.
    #[error(
        "forebay cannot write to the data directory {path}: make it writable for this user, or \
         choose another ({source})",
        path = path.display()
    )]
    ReadOnly {
        /// The directory.
        path: PathBuf,
        /// The error of the operating system.
        source: Fault,
    },
    /// Any other fault.
    #[error(transparent)]
    Fault(Fault),
}

/// A data directory held exclusively by this process until the value is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Holds the advisory lock: closing the file releases the directory. Opened with close-on-exec,
    /// so that children do not keep it.
    lock: Option<File>,
}

/// The directories held by this process, and whether they are being closed. Locked while one is
/// taken or released, so that the two always agree.
static HERE: Mutex<BTreeMap<PathBuf, bool>> = Mutex::new(BTreeMap::new());

fn here() -> MutexGuard<'static, BTreeMap<PathBuf, bool>> {
    sync::lock(&HERE)
}

impl Drop for DataDir {
    fn drop(&mut self) {
        // If root inspects another user's directory, it must leave no files that the owner cannot
        // open. No other process has the directory now. After a failure, the next drop by root
        // retries.
        let _ = give_to_owner(&self.path);
        let mut here = here();
        self.lock = None;
        here.remove(&self.path);
    }
}

impl DataDir {
    /// Takes the directory, creating it and its parents if necessary.
    ///
    /// # Errors
    /// [`OpenError`], each variant saying what to do about it. Nothing is written to a directory
    /// that is refused.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::open_within(path, Duration::ZERO)
    }

    /// Like [`Self::open`], but waits this long while it is in use: a process that only inspects a
    /// directory releases it soon. Blocks.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub fn open_within(path: impl AsRef<Path>, wait: Duration) -> Result<Self, OpenError> {
        let path = path.as_ref();
        if let Some(file) = file_on_the_way(path) {
            return Err(OpenError::NotADirectory { path: path.to_owned(), file });
        }
        create_dir(path).map_err(|error| fault(path, "create the directory", error))?;
        let path =
            fs::canonicalize(path).map_err(|error| fault(path, "resolve the path", error))?;
        // Before the lock file is created, which must not be left in an unrelated directory.
        let known = read_format(&path)?;
        if known.is_none() {
            check_empty(&path)?;
        }
        let lock = take_lock_within(&path, wait)?;
        let taken = Self { path, lock: Some(lock) };
        let path = &taken.path;
        // Again under the lock: two first starts may have raced.
        if read_format(path)?.is_none() {
            write_format(path, FIRST_FORMAT)
                .map_err(|error| fault(path, "write the format file", error))?;
        }
        Ok(taken)
    }

    /// Announces that the directory will be released soon: until then, errors of other openers say
    /// so.
    pub fn closes(&self) {
        if let Some(is_closing) = here().get_mut(&self.path) {
            *is_closing = true;
        }
    }

    /// Takes an existing data directory.
    ///
    /// # Errors
    /// [`OpenError`]; [`OpenError::NotForebay`] also when there is none.
    pub fn open_existing(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref();
        match read_format(path)? {
            Some(_) => Self::open(path),
            None => {
                let found = "no FORMAT file".to_owned();
                Err(OpenError::NotForebay { path: path.to_owned(), found })
            }
        }
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Raises the version in the format file, durably: from then on, an older forebay refuses the
    /// directory. The version is never lowered.
    pub(crate) fn raise_format(&self, format: u32) -> Result<(), OpenError> {
        let path = &self.path;
        if read_format(path)?.is_some_and(|found| found >= format) {
            return Ok(());
        }
        write_format(path, format).map_err(|error| fault(path, "write the format file", error))
    }

    /// Path of the node's local log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Path of the rows of the node's partitions.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.path.join("store")
    }

    /// Path of the node's metadata.
    #[must_use]
    pub fn metadata(&self) -> PathBuf {
        self.path.join("metadata")
    }

    /// Path of the socket used by the command line.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path.join("forebay.sock")
    }
}

/// Creates a directory and its parents.
fn create_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(NEW_DIR_MODE).create(path) {
        // Another first start created it first.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made,
    }
}

/// As root, gives everything in a directory that belongs to root to the directory's owner. Links
/// are not followed.
fn give_to_owner(path: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = fs::metadata(path)?;
    if owner.uid() == 0 {
        return Ok(());
    }
    let mut dirs = vec![path.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let found = entry.metadata()?;
            if found.uid() == 0 {
                let (uid, gid) = (Some(owner.uid()), Some(owner.gid()));
                std::os::unix::fs::lchown(entry.path(), uid, gid)?;
            }
            if found.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    Ok(())
}

fn fault(path: &Path, action: &'static str, error: io::Error) -> OpenError {
    let fault = Fault::from_io(action, path, error);
    match fault.kind {
        FaultKind::ReadOnly => OpenError::ReadOnly { path: path.to_owned(), source: fault },
        _ => OpenError::Fault(fault),
    }
}

/// The format recorded in the directory; `None` if there is none.
pub(crate) fn read_format(path: &Path) -> Result<Option<u32>, OpenError> {
    let mut text = String::new();
    let file = match File::open(path.join(FORMAT_FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fault(path, "open the format file", error)),
    };
    let read = file.take(FORMAT_LEN_MAX).read_to_string(&mut text);
    let version = match read {
        Ok(_) => text.strip_prefix(FORMAT_PREFIX).and_then(|rest| rest.trim_end().parse().ok()),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => None,
        Err(error) => return Err(fault(path, "read the format file", error)),
    };
    match version {
        Some(found) if found > DIR_FORMAT => Err(OpenError::Newer { path: path.to_owned(), found }),
        Some(found) => Ok(Some(found)),
        None => Err(OpenError::NotForebay { path: path.to_owned(), found: FORMAT_FILE.to_owned() }),
    }
}

/// The nearest existing part of a path, if it is not a directory.
fn file_on_the_way(path: &Path) -> Option<PathBuf> {
    let there = path.ancestors().find(|part| fs::metadata(part).is_ok())?;
    (!there.is_dir()).then(|| there.to_owned())
}

fn check_empty(path: &Path) -> Result<(), OpenError> {
    let names = fs::read_dir(path)
        .and_then(|entries| {
            entries.map(|e| e.map(|e| e.file_name())).collect::<Result<Vec<OsString>, _>>()
        })
        .map_err(|error| fault(path, "list the directory", error))?;
    let foreign = names.iter().find(|name| !MAY_PRECEDE.iter().any(|known| *name == known));
    match foreign {
        None => Ok(()),
        Some(name) => Err(OpenError::NotForebay {
            path: path.to_owned(),
            found: name.to_string_lossy().into_owned(),
        }),
    }
}

fn take_lock_within(path: &Path, wait: Duration) -> Result<File, OpenError> {
    let until = Instant::now() + wait;
    loop {
        match take_lock(path) {
            Err(OpenError::InUse { .. } | OpenError::InUseHere { .. })
                if Instant::now() < until =>
            {
                std::thread::sleep(LOCK_TRIED_EVERY);
            }
            taken => return taken,
        }
    }
}

/// Opening a symbolic link fails instead of opening its target.
pub(crate) fn no_follow() -> i32 {
    rustix::fs::OFlags::NOFOLLOW.bits().cast_signed()
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink())
}

fn take_lock(path: &Path) -> Result<File, OpenError> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(no_follow())
        .open(path.join(LOCK_FILE))
        .map_err(|error| match is_link(&path.join(LOCK_FILE)) {
            true => OpenError::Link { path: path.to_owned(), name: LOCK_FILE },
            false => fault(path, "open the lock file", error),
        })?;
    let mut here = here();
    match file.try_lock() {
        Ok(()) => {
            here.insert(path.to_owned(), false);
        }
        Err(TryLockError::WouldBlock) => {
            if let Some(is_closing) = here.get(path) {
                let (path, is_closing) = (path.to_owned(), *is_closing);
                return Err(OpenError::InUseHere { path, is_closing });
            }
            let mut text = String::new();
            // The holder may not have written its id yet: then the id is unknown.
            let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(OpenError::InUse { path: path.to_owned(), pid });
        }
        Err(TryLockError::Error(error)) => return Err(fault(path, "lock the directory", error)),
    }
    let write_pid = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    if let Err(error) = write_pid(&mut file) {
        here.remove(path);
        return Err(fault(path, "write the lock file", error));
    }
    Ok(file)
}

/// Turns a directory with complete contents into a data directory.
pub(crate) fn mark(path: &Path) -> Result<(), Fault> {
    write_format(path, FIRST_FORMAT)
        .map_err(|error| Fault::from_io("write the format file", path, error))
}

/// Creates an empty file in place of one left by an interrupted run. A symbolic link is replaced;
/// its target is never written.
pub(crate) fn create_fresh(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::create_new(path)
}

/// Writes a new file and renames it, so that a crash leaves no half-written format file.
fn write_format(path: &Path, format: u32) -> io::Result<()> {
    let fresh = path.join(FORMAT_FILE_NEW);
    let mut file = create_fresh(&fresh)?;
    writeln!(file, "{FORMAT_PREFIX}{format}")?;
    file.sync_all()?;
    fs::rename(&fresh, path.join(FORMAT_FILE))?;
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests;
