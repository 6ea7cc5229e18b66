//! The lifeline: a locked file that every command inherits, so that the lock is held while any
//! of them runs; and the list of running processes, which survives kill -9.
//!
//! Files, in the directory of `forebay exec` inside the data directory:
//! - `lifeline`: locked (flock) by the spawner, its children and theirs. Created by each spawner,
//!   so that having it open means belonging to one run.
//! - `running`: the running processes. A boot id (36 bytes), then 24 bytes per slot: process id
//!   (4), four bytes of zero, and the two moments between which it was started (8 and 8, clock
//!   ticks since boot), all little-endian. A slot of zeros is free.
//!
//! Must always hold: when [`Lifeline::hold`] returns, no process of an earlier run that inherited
//! its lifeline is alive. A process is killed only if it has the lifeline open, or is in the
//! session of a recorded process whose number and start time both match (numbers are reused).

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::{Errno, FdFlags, fcntl_setfd},
};
use thiserror::Error;

use super::procfs;

/// Maximum time for orphans of an earlier run to end after they are killed.
const ORPHANS_GONE: Duration = Duration::from_secs(20);
/// Interval of checks for it.
const CHECK_INTERVAL: Duration = Duration::from_millis(10);
/// Bytes of a boot id.
const BOOT_ID_BYTES: usize = 36;
/// Bytes of a slot.
const SLOT_BYTES: usize = 24;
/// Maximum number of orphans named in an error.
const NAMED_MAX: usize = 3;

/// Why the lifeline cannot be held.
#[derive(Debug, Error)]
pub(super) enum LifelineError {
    /// One of its files cannot be used.
    #[error("cannot use {}: {source}", .path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `/proc` cannot be read.
    #[error("cannot read /proc, which lists running processes: {0}")]
    Proc(io::Error),
    /// Orphans that do not die.
    #[error(
        "commands of an earlier run are still running after {ORPHANS_GONE:?}: {named}; \
         end them, then run the same command line again"
    )]
    Orphans {
        /// Process ids and command lines of some.
        named: String,
    },
}

/// The start time of something: between these two moments, in clock ticks since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StartedBetween {
    /// Not before.
    pub(super) from_ticks: u64,
    /// Not after.
    pub(super) until_ticks: u64,
}

impl StartedBetween {
    /// Runs `start` and records its time. Cheaper than reading the time of each start from `/proc`.
    pub(super) fn note<T>(start: impl FnOnce() -> T) -> (T, Self) {
        let from_ticks = ticks_since_boot();
        let started = start();
        (started, Self { from_ticks, until_ticks: ticks_since_boot() })
    }

    /// One tick of tolerance, because the kernel rounds differently.
    fn holds(self, ticks: u64) -> bool {
        (self.from_ticks.saturating_sub(1)..=self.until_ticks + 1).contains(&ticks)
    }
}

fn ticks_since_boot() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let per_second = rustix::param::clock_ticks_per_second();
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds * per_second + nanos * per_second / 1_000_000_000
}

/// The locked file and the list of running processes.
#[derive(Debug)]
pub(super) struct Lifeline {
    lock: File,
    running: File,
    /// Number of killed processes of an earlier run.
    pub(super) orphans_killed: u64,
}

impl Lifeline {
    /// Ends the rest of earlier runs in `dir` and holds the lifeline from now on. Blocks until they
    /// are gone.
    pub(super) fn hold(dir: &Path) -> Result<Self, LifelineError> {
        let (lock_path, running_path) = (dir.join("lifeline"), dir.join("running"));
        let at = |path: &Path| {
            let path = path.to_owned();
            |source| LifelineError::File { path, source }
        };
        let mut orphans_killed = 0;
        if lock_path.exists() {
            // Opened for reading: processes that have it open for writing have inherited it, and
            // are killed by a spawner that is just ending.
            let lock = File::open(&lock_path).map_err(at(&lock_path))?;
            orphans_killed = end_orphans(&lock, &running_path)?;
            fs::remove_file(&lock_path).map_err(at(&lock_path))?;
        }
        let lock = File::create_new(&lock_path).map_err(at(&lock_path))?;
        let locked = flock(&lock, FlockOperation::NonBlockingLockExclusive);
        locked.map_err(io::Error::from).map_err(at(&lock_path))?;
        // Everything started from here on inherits it.
        let inherit = fcntl_setfd(&lock, FdFlags::empty());
        inherit.map_err(io::Error::from).map_err(at(&lock_path))?;
        let running = create_file(&running_path).map_err(at(&running_path))?;
        let boot = procfs::boot_id().map_err(LifelineError::Proc)?;
        running.write_all_at(boot.as_bytes(), 0).map_err(at(&running_path))?;
        Ok(Self { lock, running, orphans_killed })
    }

    /// Makes room on the list for a process before it is started: a process that is not on the list
    /// and has closed the lifeline would not be found after a crash.
    pub(super) fn reserve(&self, slot: usize) -> io::Result<()> {
        self.running.write_all_at(&[0; SLOT_BYTES], slot_at(slot))
    }

    /// Puts a process on the list, in its slot from [`Self::reserve`]. A failure does not concern
    /// the command: it is also found by its open lifeline.
    pub(super) fn record(&self, slot: usize, pid: i32, started: StartedBetween) {
        let mut bytes = [0; SLOT_BYTES];
        bytes[..4].copy_from_slice(&pid.to_le_bytes());
        bytes[8..16].copy_from_slice(&started.from_ticks.to_le_bytes());
        bytes[16..].copy_from_slice(&started.until_ticks.to_le_bytes());
        let _ = self.running.write_all_at(&bytes, slot_at(slot));
    }

    /// Removes a process from the list.
    pub(super) fn forget(&self, slot: usize) {
        let _ = self.running.write_all_at(&[0; SLOT_BYTES], slot_at(slot));
    }

    /// Kills every process that has the lifeline open, except this one.
    pub(super) fn kill_holders(&self) {
        if let Ok(sought) = Sought::new(&self.lock, Vec::new()) {
            let _ = sought.kill_all();
        }
    }

    /// Releases it although a started process may have the file open: after a run that ended
    /// normally there is nothing for the next to wait for.
    pub(super) fn release(self) {
        let _ = flock(&self.lock, FlockOperation::Unlock);
    }
}

/// `O_NOFOLLOW`: a symbolic link in place of one of these files is refused, because its target
/// would be overwritten.
pub(crate) const NO_FOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();

/// Creates an empty file, or empties the existing one. Does not follow symbolic links.
pub(crate) fn create_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).custom_flags(NO_FOLLOW).open(path)
}

fn slot_at(slot: usize) -> u64 {
    (BOOT_ID_BYTES + slot * SLOT_BYTES) as u64
}

/// Kills the rest of an earlier run and waits until it is gone. Returns the number.
fn end_orphans(lock: &File, running_path: &Path) -> Result<u64, LifelineError> {
    let deadline = Instant::now() + ORPHANS_GONE;
    let mut killed = 0;
    loop {
        let locked = match flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => true,
            Err(Errno::WOULDBLOCK | Errno::INTR) => false,
            Err(error) => return Err(LifelineError::Proc(error.into())),
        };
        let recorded = recorded(running_path);
        if locked && recorded.is_empty() {
            return Ok(killed);
        }
        let sought = Sought::new(lock, recorded)
            .map_err(|source| LifelineError::File { path: running_path.to_owned(), source })?;
        let found = sought.kill_all().map_err(LifelineError::Proc)?;
        killed = killed.max(found.len() as u64);
        if locked && found.is_empty() {
            return Ok(killed);
        }
        if Instant::now() >= deadline {
            let name = |pid: &i32| format!("{pid} ({})", procfs::command_line(*pid));
            let named: Vec<String> = found.iter().take(NAMED_MAX).map(name).collect();
            return Err(LifelineError::Orphans { named: named.join(", ") });
        }
        std::thread::sleep(CHECK_INTERVAL);
    }
}

/// The processes on the list; none if it is of another boot, or damaged.
fn recorded(path: &Path) -> Vec<(i32, StartedBetween)> {
    let bytes = fs::read(path).unwrap_or_default();
    let Some((boot, slots)) = bytes.split_at_checked(BOOT_ID_BYTES) else {
        return Vec::new();
    };
    if procfs::boot_id().ok().as_deref().map(str::as_bytes) != Some(boot) {
        return Vec::new();
    }
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte));
    slots
        .chunks_exact(SLOT_BYTES)
        .map(|slot| {
            let pid = i32::try_from(number(&slot[..4])).unwrap_or(0);
            let (from_ticks, until_ticks) = (number(&slot[8..16]), number(&slot[16..]));
            (pid, StartedBetween { from_ticks, until_ticks })
        })
        .filter(|(pid, _)| *pid > 0)
        .collect()
}

/// Identifies processes of an earlier run.
#[derive(Debug)]
struct Sought {
    device: u64,
    inode: u64,
    recorded: Vec<(i32, StartedBetween)>,
}

impl Sought {
    fn new(lifeline: &File, recorded: Vec<(i32, StartedBetween)>) -> io::Result<Self> {
        let file = lifeline.metadata()?;
        Ok(Self { device: file.dev(), inode: file.ino(), recorded })
    }

    /// Kills all that are found, except this process. Returns the ones that were still alive.
    fn kill_all(&self) -> io::Result<Vec<i32>> {
        let own = i32::try_from(std::process::id()).expect("a pid is an i32");
        let mut found = Vec::new();
        for pid in procfs::pids()? {
            let Some(stat) = procfs::stat(pid) else { continue };
            if pid == own || matches!(stat.state, b'Z' | b'X') {
                continue;
            }
            let ours = self.is_recorded(stat.session)
                || procfs::has_open_for_writing(pid, self.device, self.inode);
            if ours {
                procfs::kill(pid, stat);
                found.push(pid);
            }
        }
        Ok(found)
    }

    /// Whether a session belongs to a recorded process that is still alive.
    fn is_recorded(&self, session: i32) -> bool {
        self.recorded.iter().any(|(pid, started)| {
            *pid == session
                && procfs::stat(session).is_some_and(|stat| started.holds(stat.started_ticks))
        })
    }
}

/// Marks this directory as used by one `forebay exec`; not inherited.
#[derive(Debug)]
pub(super) struct Owner {
    _lock: File,
}

impl Owner {
    /// Creates the directory and locks it. `None` when another process has it.
    pub(super) fn take(dir: &Path) -> io::Result<Option<Self>> {
        fs::create_dir_all(dir)?;
        let mut options = OpenOptions::new();
        options.create(true).append(true).custom_flags(NO_FOLLOW);
        let lock = options.open(dir.join("owner"))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _lock: lock })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
