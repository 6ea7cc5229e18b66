//! What failed reads and writes mean for the operator.
//!
//! Owns: the mapping from error texts of RocksDB and the operating system to a closed set of kinds,
//! each with a remedy. Must always hold: the cause is kept.

use std::{error::Error as StdError, fmt, io, path::Path, path::PathBuf, sync::Arc};

/// Kinds of faults, distinguished by their remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// No space (or quota) is left.
    DiskFull,
    /// The files are not writable.
    ReadOnly,
    /// Another process has the files open.
    InUse,
    /// The files do not contain what was written to them.
    Corrupt,
    /// Anything else.
    Other,
}

/// The cause of a fault: an error of RocksDB, of the operating system, or one injected by a test.
/// Shared, so that every caller that waited for a write can be given it.
pub type Cause = Arc<dyn StdError + Send + Sync>;

/// A read or write of files failed.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Its kind.
    pub kind: FaultKind,
    /// The failed action, as a verb phrase ("append to the log").
    pub action: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// The error of the layer below.
    pub cause: Cause,
}

impl Fault {
    /// The fault for an error of the operating system.
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

    /// The fault for an error of RocksDB.
    pub fn from_rocksdb(action: &'static str, path: &Path, error: rocksdb::Error) -> Self {
        let kind = classify(&error);
        Self { kind, action, path: path.to_owned(), cause: Arc::new(error) }
    }
}

/// RocksDB has no error codes, only texts: the text of `strerror` follows its own.
fn classify(error: &rocksdb::Error) -> FaultKind {
    let text: &str = error.as_ref();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    // A full disk first, because it may also be why a file was cut short.
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
            FaultKind::ReadOnly => "the files are not writable; check owner, mode and mount",
            FaultKind::InUse => "another process has the files open; stop it first",
            FaultKind::Corrupt => {
                "the files are damaged; restore a snapshot (forebay snapshot restore)"
            }
            FaultKind::Other => "the underlying storage failed",
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
    fn a_fault_names_path_remedy_and_cause() {
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
