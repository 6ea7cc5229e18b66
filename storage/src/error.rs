//! What a failed read or write of files means for whoever runs forebay.
//!
//! Owns: the mapping from the words of RocksDB and the operating system to a closed
//! set of kinds, each with what to do about it. Must always hold: the cause is kept.

use std::{error::Error as StdError, fmt, io, path::Path, path::PathBuf, sync::Arc};

/// What kind of fault it is, as far as that changes what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// No space (or quota) is left.
    DiskFull,
    /// The files may not be written.
    ReadOnly,
    /// Somebody else has the files open.
    InUse,
    /// The files do not hold what was written to them.
    Corrupt,
    /// Anything else.
    Other,
}

/// The cause of a fault: an error of RocksDB, of the operating system, or one that a
/// test injected. Shared, so that everybody who waited for a write can be told.
pub type Cause = Arc<dyn StdError + Send + Sync>;

/// A read or write of files failed.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What kind of fault.
    pub kind: FaultKind,
    /// What was being done, as a verb phrase ("append to the log").
    pub action: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// What the layer below said.
    pub cause: Cause,
}

impl Fault {
    /// The fault that an error of the operating system means.
    pub fn from_io(action: &'static str, path: &Path, error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => FaultKind::DiskFull,
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                FaultKind::ReadOnly
            }
            io::ErrorKind::WouldBlock => FaultKind::InUse,
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => FaultKind::Corrupt,
            _ => FaultKind::Other,
        };
        Self { kind, action, path: path.to_owned(), cause: Arc::new(error) }
    }

    /// The fault that an error of RocksDB means.
    pub fn from_rocksdb(action: &'static str, path: &Path, error: rocksdb::Error) -> Self {
        let kind = classify(&error);
        Self { kind, action, path: path.to_owned(), cause: Arc::new(error) }
    }
}

/// RocksDB has no error codes, only words: those of `strerror` after its own.
fn classify(error: &rocksdb::Error) -> FaultKind {
    let text: &str = error.as_ref();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    // A full disk first: it may also be what cut a file short.
    if says(&["No space left on device", "Disk quota exceeded", "File too large"]) {
        FaultKind::DiskFull
    } else if says(&["lock hold by current process", "LOCK: Resource temporarily unavailable"]) {
        FaultKind::InUse
    } else if says(&["Read-only file system", "Permission denied", "Operation not permitted"]) {
        FaultKind::ReadOnly
    } else if error.kind() == rocksdb::ErrorKind::Corruption {
        FaultKind::Corrupt
    } else {
        FaultKind::Other
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        write!(f, "cannot {} at {path}: ", self.action)?;
        f.write_str(match self.kind {
            FaultKind::DiskFull => {
                "no space is left on the disk; free some and start again, nothing that was \
                 acknowledged is lost"
            }
            FaultKind::ReadOnly => "the files may not be written; check owner, mode and mount",
            FaultKind::InUse => "somebody else has the files open; stop the other process",
            FaultKind::Corrupt => {
                "the files are damaged; restore a snapshot (forebay snapshot restore)"
            }
            FaultKind::Other => "the storage below failed",
        })?;
        write!(f, " ({})", self.cause)
    }
}

impl StdError for Fault {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(os_error: i32) -> FaultKind {
        Fault::from_io("test", Path::new("/x"), io::Error::from_raw_os_error(os_error)).kind
    }

    #[test]
    fn os_errors_map_to_kinds() {
        // ENOSPC, EDQUOT, EFBIG; EROFS, EACCES, EPERM; EIO (Linux).
        for full in [28, 122, 27] {
            assert_eq!(kind(full), FaultKind::DiskFull);
        }
        for refused in [30, 13, 1] {
            assert_eq!(kind(refused), FaultKind::ReadOnly);
        }
        assert_eq!(kind(5), FaultKind::Other);
    }

    #[test]
    fn a_fault_names_the_place_the_remedy_and_the_cause() {
        let fault = Fault::from_io(
            "append to the log",
            Path::new("/data/log"),
            io::Error::from_raw_os_error(28),
        );
        let text = fault.to_string();
        assert!(text.contains("append to the log") && text.contains("/data/log"), "{text}");
        assert!(text.contains("free some") && text.contains("No space left"), "{text}");
        assert!(fault.source().is_some());
    }
}
