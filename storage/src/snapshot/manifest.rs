//! The manifest of a snapshot: its origin and the contents of its files.
//!
//! A line `forebay snapshot, version V, xxh3 H`, then JSON whose hash is H. The version comes first
//! and in plain text, so that an older forebay can refuse a snapshot that it cannot read. Must
//! always hold: the manifest is written last and renamed into place.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::SnapshotError;
use crate::{Fault, dir::create_fresh};

/// Version of snapshots that this code writes.
pub const SNAPSHOT_FORMAT: u32 = 1;
/// Maximum length of a manifest, in bytes.
const MANIFEST_LEN_MAX: u64 = 64 << 20;

pub(super) const MANIFEST: &str = "MANIFEST.forebay";
const MANIFEST_NEW: &str = "MANIFEST.new";
const PREFIX: &str = "forebay snapshot, version ";

/// The contents of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the forebay that took it.
    pub forebay: String,
    /// When it was taken (milliseconds since 1970).
    pub created_at: u64,
    /// The state of each partition.
    pub partitions: Vec<PartitionSum>,
    /// Every file.
    pub files: Vec<FileSum>,
}

/// State of a partition in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionSum {
    /// Its id.
    pub id: u32,
    /// The last LSN applied to its rows.
    pub applied: u64,
    /// The first LSN in the copy of the log.
    pub log_first: u64,
    /// The last one.
    pub log_end: u64,
    /// Rows.
    pub rows: u64,
    /// Hash over all rows, in hexadecimal.
    pub hash: String,
}

/// A file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSum {
    /// Its path, with `/` between names.
    pub path: String,
    /// Its length in bytes.
    pub len: u64,
    /// xxh3-128 of its bytes, in hexadecimal.
    pub xxh3: String,
}

pub(super) fn write(dir: &Path, manifest: &Manifest) -> Result<(), Fault> {
    let fault = |error| Fault::from_io("write the manifest of the snapshot", dir, error);
    let body = serde_json::to_string_pretty(manifest).map_err(|e| fault(io::Error::other(e)))?;
    let hash = xxh3_128(body.as_bytes());
    let write = || -> io::Result<()> {
        let fresh = dir.join(MANIFEST_NEW);
        let mut file = create_fresh(&fresh)?;
        writeln!(file, "{PREFIX}{SNAPSHOT_FORMAT}, xxh3 {hash:032x}")?;
        file.write_all(body.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, dir.join(MANIFEST))?;
        File::open(dir)?.sync_all()
    };
    write().map_err(fault)
}

pub(super) fn read(dir: &Path) -> Result<Manifest, SnapshotError> {
    let path = dir.join(MANIFEST);
    let fault = |error| Fault::from_io("read the manifest of the snapshot", &path, error);
    let text = match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(SnapshotError::NotASnapshot { path: dir.to_owned() });
        }
        Err(error) => return Err(fault(error).into()),
        Ok(found) if found.len() > MANIFEST_LEN_MAX => {
            return Err(damaged(dir, format!("it has {} bytes", found.len())));
        }
        Ok(_) => fs::read(&path).map_err(fault)?,
    };
    let text = String::from_utf8(text).map_err(|error| damaged(dir, error.to_string()))?;
    let (head, body) = text.split_once('\n').unwrap_or((&text, ""));
    let (version, hash) = head
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.split_once(", xxh3 "))
        .and_then(|(version, hash)| Some((version.parse::<u32>().ok()?, hash)))
        .ok_or_else(|| damaged(dir, "its first line is not a header".to_owned()))?;
    if version > SNAPSHOT_FORMAT {
        return Err(SnapshotError::Newer { path: dir.to_owned(), found: version });
    }
    if format!("{:032x}", xxh3_128(body.as_bytes())) != hash {
        return Err(damaged(dir, "its checksum is wrong".to_owned()));
    }
    serde_json::from_str(body).map_err(|error| damaged(dir, error.to_string()))
}

fn damaged(dir: &Path, reason: String) -> SnapshotError {
    SnapshotError::Damaged { path: dir.to_owned(), file: MANIFEST.to_owned(), reason }
}
