//! Snapshots of the metadata on disk: the state with which a segment begins.
//!
//! Files are called `cluster/metadata-N`, where N is the number of the segment. Must always hold:
//! a file appears whole and synced, under its name; older ones are deleted after that. The bytes
//! are the snapshot's own.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use forebay_engine::consensus::DecodeError;
use forebay_engine::metadata::{Snapshot, SnapshotError};

use super::ConsensusError;
use crate::{DataDir, Fault};

const DIRECTORY: &str = "cluster";
const PREFIX: &str = "metadata-";
const PARTIAL: &str = "partial";

/// The snapshots of a data directory.
#[derive(Clone, Debug)]
pub struct Bases {
    path: PathBuf,
}

impl Bases {
    /// The snapshots of this directory. Nothing is created.
    #[must_use]
    pub fn of(dir: &DataDir) -> Self {
        Self { path: dir.path().join(DIRECTORY) }
    }

    fn file(&self, segment: u64) -> PathBuf {
        self.path.join(format!("{PREFIX}{segment}"))
    }

    fn numbers(&self) -> Result<Vec<u64>, ConsensusError> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(fault("list the snapshots", &self.path, error)),
        };
        let mut numbers = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| fault("list the snapshots", &self.path, error))?;
            let name = entry.file_name();
            let number: Option<u64> =
                name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
            numbers.extend(number);
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Whether there is one: the directory belongs to a node of a cluster. Blocks.
    ///
    /// # Errors
    /// [`ConsensusError::Fault`].
    pub fn exist(&self) -> Result<bool, ConsensusError> {
        Ok(!self.numbers()?.is_empty())
    }

    /// The newest snapshot and its length in bytes; `None` if there is none. Blocks.
    ///
    /// # Errors
    /// [`ConsensusError::DamagedBase`], [`ConsensusError::Newer`], [`ConsensusError::Fault`].
    pub fn newest(&self) -> Result<Option<(Snapshot, u64)>, ConsensusError> {
        let Some(newest) = self.numbers()?.pop() else { return Ok(None) };
        let path = self.file(newest);
        let bytes = fs::read(&path).map_err(|error| fault("read a snapshot", &path, error))?;
        let len = bytes.len() as u64;
        let damaged = |reason: String| ConsensusError::DamagedBase { path: path.clone(), reason };
        let snapshot = Snapshot::decode(bytes.into()).map_err(|error| match error {
            SnapshotError::Decode(DecodeError::NewerFormat(found)) => {
                ConsensusError::Newer { row: path.display().to_string(), found }
            }
            error => damaged(error.to_string()),
        })?;
        if snapshot.segment.number != newest {
            return Err(damaged(format!("it is of segment {}", snapshot.segment.number)));
        }
        Ok(Some((snapshot, len)))
    }

    /// Writes a snapshot durably, then deletes older ones. Returns its length. Blocks.
    ///
    /// # Errors
    /// [`ConsensusError::Fault`].
    pub fn write(&self, snapshot: &Snapshot) -> Result<u64, ConsensusError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.path);
        made.map_err(|error| fault("create the directory of snapshots", &self.path, error))?;
        let bytes = snapshot.encode();
        let (partial, path) = (self.path.join(PARTIAL), self.file(snapshot.segment.number));
        let write = || -> io::Result<()> {
            let mut options = OpenOptions::new();
            let mut file =
                options.write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&partial, &path)?;
            sync_directory(&self.path)?;
            self.path.parent().map_or(Ok(()), sync_directory)
        };
        write().map_err(|error| fault("write a snapshot", &path, error))?;
        for older in self.numbers()? {
            if older < snapshot.segment.number {
                // Remaining files are deleted next time.
                let _ = fs::remove_file(self.file(older));
            }
        }
        Ok(bytes.len() as u64)
    }

    /// At most `len_max` bytes of a snapshot from `offset` on; none at its end. Blocks.
    ///
    /// # Errors
    /// [`ConsensusError::Fault`], also when a newer snapshot has replaced it.
    pub fn read(&self, segment: u64, offset: u64, len_max: usize) -> Result<Bytes, ConsensusError> {
        let path = self.file(segment);
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(&path)?;
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = Vec::new();
            file.take(len_max as u64).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read().map(Bytes::from).map_err(|error| fault("read a snapshot", &path, error))
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn fault(action: &'static str, path: &Path, error: io::Error) -> ConsensusError {
    Fault::from_io(action, path, error).into()
}

#[cfg(test)]
mod tests {
    use forebay_engine::{
        consensus::{Member, Segment, StorageId},
        metadata::State,
    };

    use super::*;

    fn snapshot(number: u64) -> Snapshot {
        let member = Member { name: "a".into(), storage: StorageId(1) };
        let segment = Segment { number, ..Segment::first(1, 1, vec![member]) };
        Snapshot { cluster: 1, incarnation: 1, segment, state: State::default() }
    }

    #[test]
    fn the_newest_snapshot_replaces_the_others() {
        let place = tempfile::tempdir().unwrap();
        let dir = DataDir::open(place.path()).unwrap();
        let bases = Bases::of(&dir);
        assert!(bases.newest().unwrap().is_none());
        assert!(!place.path().join("cluster").exists(), "a look creates nothing");
        for number in [1, 9, 10] {
            let len = bases.write(&snapshot(number)).unwrap();
            assert_eq!(bases.newest().unwrap(), Some((snapshot(number), len)));
        }
        assert_eq!(bases.numbers().unwrap(), [10]);
        let bytes = snapshot(10).encode();
        assert_eq!(bases.read(10, 3, 5).unwrap(), bytes.slice(3..8));
        assert!(bases.read(10, bytes.len() as u64, 5).unwrap().is_empty());
        assert!(bases.read(9, 0, 5).is_err());
    }

    #[test]
    fn a_damaged_snapshot_names_its_file() {
        let place = tempfile::tempdir().unwrap();
        let dir = DataDir::open(place.path()).unwrap();
        let bases = Bases::of(&dir);
        bases.write(&snapshot(3)).unwrap();
        let path = place.path().join("cluster/metadata-3");
        let mut bytes = fs::read(&path).unwrap();
        bytes[20] ^= 1;
        fs::write(&path, bytes).unwrap();
        let error = bases.newest().unwrap_err().to_string();
        assert!(error.contains("metadata-3") && error.contains("empty"), "{error}");
    }
}
