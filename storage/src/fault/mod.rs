//! Injected faults, for tests of the layers above (feature `testkit`).
//!
//! Owns: wrappers that fail, tear, delay or fence a chosen call, and a copy of open files as kill
//! -9 leaves them. Must always hold: a wrapper without planned faults changes nothing.

mod error;
mod journal;
mod log;
mod store;

pub use error::Injected;
pub(crate) use error::injected;
pub use journal::{JournalFault, JournalFaults};
pub use log::{FaultLog, LogFault};
pub use store::{StoreFault, StoreFaults};

use std::{fs, io, path::Path};

/// Copies a directory with open files, as kill -9 would leave it. Nothing may write to it during
/// the copy.
///
/// # Errors
/// When a file cannot be read or written.
pub fn copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if !kind.is_dir() && !kind.is_file() {
            // A socket.
            continue;
        }
        match kind.is_dir() {
            true => copy_dir(&entry.path(), &target)?,
            // A background flush may remove a file meanwhile: then it is not needed.
            false => match fs::copy(entry.path(), &target) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                copied => drop(copied?),
            },
        }
    }
    Ok(())
}
