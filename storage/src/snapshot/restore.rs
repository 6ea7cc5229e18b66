//! Creating a data directory from a snapshot, or from a snapshot and a log.

use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use forebay_messages::{Incarnation, Lsn, PartitionId};

use super::{LOG, METADATA, Manifest, STORE, SnapshotError, check_gap, files, look_at, manifest};
use crate::{
    DataDir, Fault, Medium,
    dir::mark,
    log::LocalLog,
    metadata::{BlockingMetadata, LocalMetadata, MetaKey, MetadataError, Precondition},
};

/// Checks every file of a snapshot against its manifest.
///
/// # Errors
/// [`SnapshotError`]: the first problem found.
pub fn verify(snapshot: &Path) -> Result<Manifest, SnapshotError> {
    let manifest = manifest::read(snapshot)?;
    manifest.files.iter().try_for_each(|file| files::check(snapshot, file, None))?;
    Ok(manifest)
}

/// Creates a data directory from a snapshot. With `log_of`, another data directory that no process
/// uses, its log (and metadata, if they can be opened) replace those of the snapshot: if that log
/// is whole, everything acknowledged is restored.
///
/// `to` must not exist or be empty. The last step makes it a data directory: an interrupted restore
/// leaves a directory that cannot be opened.
///
/// # Errors
/// [`SnapshotError`].
pub fn restore(
    snapshot: &Path,
    to: &Path,
    log_of: Option<&Path>,
) -> Result<Manifest, SnapshotError> {
    let manifest = manifest::read(snapshot)?;
    let old = log_of.map(DataDir::open_existing).transpose()?;
    if let Some(old) = &old {
        // Before the copy, which takes long.
        check_log(&manifest, &old.log())?;
    }
    files::make_empty(to)?;
    for file in &manifest.files {
        let is_replaced = old.is_some() && file.path.starts_with(&format!("{LOG}/"));
        files::check(snapshot, file, (!is_replaced).then_some(to))?;
    }
    if let Some(old) = &old {
        files::copy_database(&old.log(), &to.join(LOG))?;
        if LocalMetadata::open(&old.metadata(), &Medium::disk()).is_ok() {
            let target = to.join(METADATA);
            std::fs::remove_dir_all(&target)
                .map_err(|error| Fault::from_io("replace the metadata", &target, error))?;
            files::copy_database(&old.metadata(), &target)?;
        }
    }
    check_rows(&manifest, to)?;
    begin_incarnation(&LocalMetadata::open(&to.join(METADATA), &Medium::disk())?)?;
    for dir in [STORE, LOG, METADATA].map(|name| to.join(name)).into_iter().chain([to.to_owned()]) {
        files::sync(&dir).map_err(|error| Fault::from_io("sync the directory", &dir, error))?;
    }
    mark(to)?;
    Ok(manifest)
}

/// Messages of the restored partitions must not be taken for messages that they sent after the
/// snapshot: each restore has a higher incarnation than the ones before.
fn begin_incarnation(metadata: &LocalMetadata) -> Result<(), SnapshotError> {
    let before = restored(metadata)?.0;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let value = Bytes::copy_from_slice(&now.max(before + 1).to_be_bytes());
    metadata.put(&MetaKey::restored(), value, Precondition::None)?;
    Ok(())
}

/// The incarnation of partitions whose data was restored; the default if it never was.
///
/// # Errors
/// When the metadata cannot be read.
pub fn restored(metadata: &dyn BlockingMetadata) -> Result<Incarnation, MetadataError> {
    let found = metadata.get(&MetaKey::restored())?;
    let bytes = found.and_then(|found| found.value.as_ref().try_into().ok());
    Ok(Incarnation(bytes.map_or(0, u64::from_be_bytes)))
}

fn check_log(manifest: &Manifest, path: &Path) -> Result<(), SnapshotError> {
    let log = LocalLog::open(path, &Medium::disk())?;
    manifest.partitions.iter().try_for_each(|partition| {
        check_gap(PartitionId(partition.id), Lsn(partition.applied), &log, path)
    })
}

/// Checks that the restored rows open and match the manifest.
fn check_rows(manifest: &Manifest, to: &Path) -> Result<(), SnapshotError> {
    for (found, expected) in look_at(to)?.iter().zip(&manifest.partitions) {
        if (found.id, found.applied, &found.hash) != (expected.id, expected.applied, &expected.hash)
        {
            return Err(SnapshotError::Damaged {
                path: to.to_owned(),
                file: STORE.to_owned(),
                reason: format!("partition {} differs from the manifest", expected.id),
            });
        }
    }
    Ok(())
}
