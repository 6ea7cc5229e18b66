//! The files of a snapshot: their checksums, and copying them.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
};

use xxhash_rust::xxh3::Xxh3;

use super::{SnapshotError, manifest::FileSum};
use crate::{Fault, dir};

/// Number of bytes read at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Creates a directory, which must be empty if it exists.
pub(super) fn make_empty(path: &Path) -> Result<(), SnapshotError> {
    fs::create_dir_all(path)
        .map_err(|error| Fault::from_io("create the directory", path, error))?;
    let mut entries =
        fs::read_dir(path).map_err(|error| Fault::from_io("list the directory", path, error))?;
    match entries.next() {
        None => Ok(()),
        Some(found) => {
            let name = found.map(|found| found.file_name().to_string_lossy().into_owned());
            Err(SnapshotError::NotEmpty {
                path: path.to_owned(),
                found: name.unwrap_or_else(|error| error.to_string()),
            })
        }
    }
}

/// Every file below a directory, by path.
pub(super) fn sums(dir: &Path) -> Result<Vec<FileSum>, SnapshotError> {
    let mut found = Vec::new();
    list(dir, "", &mut found).map_err(|error| Fault::from_io("list the directory", dir, error))?;
    found.sort();
    found
        .into_iter()
        .map(|path| {
            let at = dir.join(&path);
            let (len, xxh3) = sum(&at, None)
                .map_err(|error| Fault::from_io("read a file of the snapshot", &at, error))?;
            Ok(FileSum { path, len, xxh3 })
        })
        .collect()
}

fn list(dir: &Path, below: &str, found: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(dir.join(below))? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().ok_or(io::ErrorKind::InvalidData)?;
        let path = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
        match entry.file_type()?.is_dir() {
            true => list(dir, &path, found)?,
            // RocksDB's own text logs and locks are not part of the data.
            false if name == "LOCK" || name.starts_with("LOG") => {}
            false => found.push(path),
        }
    }
    Ok(())
}

/// Length and hash of a file, which is also copied if `to` is given.
fn sum(from: &Path, to: Option<&Path>) -> io::Result<(u64, String)> {
    let mut file = File::open(from)?;
    let mut copy = to.map(dir::create_fresh).transpose()?;
    let (mut hash, mut len) = (Xxh3::new(), 0);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            break;
        }
        hash.update(&chunk[..read]);
        len += read as u64;
        if let Some(copy) = &mut copy {
            copy.write_all(&chunk[..read])?;
        }
    }
    if let Some(copy) = copy {
        copy.sync_all()?;
    }
    Ok((len, format!("{:032x}", hash.digest128())))
}

/// Checks a file against the manifest, and copies it if `to` is given.
pub(super) fn check(
    snapshot: &Path,
    file: &FileSum,
    to: Option<&Path>,
) -> Result<(), SnapshotError> {
    let damaged = |reason: String| SnapshotError::Damaged {
        path: snapshot.to_owned(),
        file: file.path.clone(),
        reason,
    };
    if file.path.split('/').any(|name| name.is_empty() || name == "." || name == "..") {
        return Err(damaged("its path leads out of the snapshot".to_owned()));
    }
    let from = snapshot.join(&file.path);
    let to = to.map(|to| to.join(&file.path));
    if let Some(parent) = to.as_deref().and_then(Path::parent) {
        fs::create_dir_all(parent)
            .map_err(|error| Fault::from_io("create the directory", parent, error))?;
    }
    match sum(&from, to.as_deref()) {
        Ok((len, _)) if len != file.len => {
            Err(damaged(format!("it has {len} bytes instead of {}", file.len)))
        }
        Ok((_, xxh3)) if xxh3 != file.xxh3 => Err(damaged("its checksum is wrong".to_owned())),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !from.exists() => {
            Err(damaged("it is missing".to_owned()))
        }
        Err(error) => Err(Fault::from_io(
            "copy a file of the snapshot",
            to.as_deref().unwrap_or(&from),
            error,
        )
        .into()),
    }
}

/// Copies the files of a closed database.
pub(super) fn copy_database(from: &Path, to: &Path) -> Result<(), SnapshotError> {
    let copy = || -> io::Result<()> {
        fs::create_dir_all(to)?;
        let mut found = Vec::new();
        list(from, "", &mut found)?;
        for path in found {
            let target = to.join(&path);
            target.parent().map_or(Ok(()), fs::create_dir_all)?;
            sum(&from.join(&path), Some(&target))?;
        }
        sync(to)
    };
    copy().map_err(|error| Fault::from_io("copy the log", to, error).into())
}

/// Makes the names in a directory and its subdirectories durable.
pub(super) fn sync(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync(&entry.path())?;
        }
    }
    File::open(dir)?.sync_all()
}
