//! `--results DIR`: the results of all items, for programs.
//!
//! Owns: `DIR/results.ndjson`, with one appended line per ended item; and
//! `DIR/output/ENTRY.stdout|stderr` for outputs too long for a line. An item that ran again has
//! several lines: the last one counts.
//!
//! Must always hold: an ended item is never missing after the next run with the same DIR. Long
//! outputs are moved here *before* the item's end is committed; the line is written afterwards.
//! Lines lost in a crash are written by the next run from the entries' stored results
//! ([`Results::lacks`]), which contain the first 64 KiB of each output. Must not know: how items
//! are run.

mod record;

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Seek, SeekFrom, Write},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use forebay_messages::{EntryId, Timestamp};
use thiserror::Error;

use super::{
    process::{NO_FOLLOW, create_file},
    report::{Output, Report},
};

pub(crate) use record::{Ended, line};

/// A file of the results cannot be used.
#[derive(Debug, Error)]
#[error("cannot use {}: {source}; check its permissions and free space", .path.display())]
pub(crate) struct ResultsError {
    /// Its path.
    path: PathBuf,
    /// Why.
    source: io::Error,
}

/// The results of a run, appended to the ones of earlier runs.
#[derive(Debug)]
pub(crate) struct Results {
    dir: PathBuf,
    lines: File,
    /// End times of the entries that have a line, in milliseconds.
    written: HashMap<EntryId, i64>,
}

impl Results {
    /// Opens or creates the directory. A last line that was cut off by a crash is removed.
    ///
    /// # Errors
    /// [`ResultsError`] when a file cannot be used.
    pub(crate) fn open(dir: &Path) -> Result<Self, ResultsError> {
        let path = dir.join("results.ndjson");
        let at = |source| ResultsError { path: path.clone(), source };
        fs::create_dir_all(dir.join("output")).map_err(at)?;
        let mut options = OpenOptions::new();
        options.create(true).append(true).read(true).custom_flags(NO_FOLLOW);
        let lines = options.open(&path);
        let mut lines = lines.map_err(at)?;
        let (written, whole_bytes) = written(&lines).map_err(at)?;
        lines.set_len(whole_bytes).map_err(at)?;
        lines.seek(SeekFrom::End(0)).map_err(at)?;
        Ok(Self { dir: dir.to_owned(), lines, written })
    }

    /// Its path.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether this end of an entry has no line yet.
    #[must_use]
    pub(crate) fn lacks(&self, id: EntryId, ended_at: Timestamp) -> bool {
        self.written.get(&id) != Some(&record::millis(ended_at))
    }

    /// Appends a line.
    ///
    /// # Errors
    /// [`ResultsError`] when it cannot be written; half a line is removed again.
    pub(crate) fn write(&mut self, ended: &Ended<'_>) -> Result<(), ResultsError> {
        let before = self.lines.metadata().map(|file| file.len());
        let mut line = line(ended, Some(&self.dir));
        line.push('\n');
        let written = self.lines.write_all(line.as_bytes());
        if let Err(source) = written {
            if let Ok(before) = before {
                let _ = self.lines.set_len(before);
            }
            return Err(ResultsError { path: self.dir.join("results.ndjson"), source });
        }
        self.written.insert(ended.id, record::millis(ended.report.ended_at));
        Ok(())
    }

    /// Makes the lines durable.
    ///
    /// # Errors
    /// [`ResultsError`] when that fails.
    pub(crate) fn sync(&self) -> Result<(), ResultsError> {
        let path = self.dir.join("results.ndjson");
        self.lines.sync_data().map_err(|source| ResultsError { path, source })
    }
}

/// The file of a long output that is kept in a directory.
pub(crate) fn kept(dir: &Path, id: EntryId, stream: &str) -> PathBuf {
    dir.join("output").join(format!("{id}.{stream}"))
}

/// Moves the long outputs of a report into the results directory `dir`. Must be called before the
/// item's end is committed, from any thread.
///
/// # Errors
/// [`ResultsError`]: then the item must not be committed as ended.
pub(crate) fn keep_outputs(
    dir: &Path,
    id: EntryId,
    report: &mut Report,
) -> Result<(), ResultsError> {
    keep_output(dir, id, "stdout", &mut report.stdout)?;
    keep_output(dir, id, "stderr", &mut report.stderr)
}

/// The place for long outputs of the items that a process runs.
#[derive(Debug)]
pub(crate) struct KeptOutputs {
    dir: PathBuf,
    /// The directory probably contains files. While it has none, short outputs replace none, and
    /// the system need not be asked about each.
    has_some: AtomicBool,
}

impl KeptOutputs {
    /// In this directory, which may not exist yet.
    pub(crate) fn new(dir: PathBuf) -> Self {
        let has_some = match fs::read_dir(dir.join("output")) {
            Ok(mut files) => files.next().is_some(),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        };
        Self { dir, has_some: AtomicBool::new(has_some) }
    }

    /// See [`keep_outputs`].
    ///
    /// # Errors
    /// [`ResultsError`] when a file cannot be moved.
    pub(crate) fn keep(&self, id: EntryId, report: &mut Report) -> Result<(), ResultsError> {
        let is_long = report.stdout.file.is_some() || report.stderr.file.is_some();
        if is_long {
            self.has_some.store(true, Ordering::Relaxed);
        }
        if is_long || self.has_some.load(Ordering::Relaxed) {
            keep_outputs(&self.dir, id, report)?;
        }
        Ok(())
    }
}

fn keep_output(
    dir: &Path,
    id: EntryId,
    stream: &str,
    output: &mut Output,
) -> Result<(), ResultsError> {
    let to = kept(dir, id, stream);
    let at = |source| ResultsError { path: to.clone(), source };
    match &output.file {
        Some(file) => {
            let from = Path::new(OsStr::from_bytes(file));
            relocate(from, &to).map_err(at)?;
            let to = OsString::from(to).into_vec();
            output.file = Some(Bytes::from(to));
        }
        // An earlier attempt may have had longer output.
        None => match fs::remove_file(&to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(error)),
            _ => {}
        },
    }
    Ok(())
}

/// Renames, or copies to another file system; there is never half a file at `to`.
fn relocate(from: &Path, to: &Path) -> io::Result<()> {
    if from == to {
        return Ok(());
    }
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            let part = to.with_added_extension("part");
            io::copy(&mut File::open(from)?, &mut create_file(&part)?)?;
            fs::rename(&part, to)?;
            fs::remove_file(from)
        }
        renamed => renamed,
    }
}

/// Entries that have a line, and the total bytes of whole lines. Invalid lines (a power failure may
/// leave some) are ignored.
fn written(lines: &File) -> io::Result<(HashMap<EntryId, i64>, u64)> {
    let mut reader = BufReader::new(lines);
    reader.seek(SeekFrom::Start(0))?;
    let (mut written, mut whole_bytes) = (HashMap::new(), 0);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        if line.last() != Some(&b'\n') {
            break;
        }
        whole_bytes += line.len() as u64;
        if let Some((id, ended_at)) = record::identify(&line) {
            written.insert(id, ended_at);
        }
        line.clear();
    }
    Ok((written, whole_bytes))
}

#[cfg(test)]
mod tests;
