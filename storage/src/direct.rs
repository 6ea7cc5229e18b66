//! Writing past the page cache: nothing is copied, and nothing is left for the system to
//! write later. Not every file system can do it; who wants it asks.
//!
//! Must not know: what is written.

mod buffer;

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
};

pub(crate) use buffer::Buffer;

/// Bytes that are written to see whether they can be.
const PROBE_LEN: usize = 4 << 10;

/// Opens a file that is there for writes past the page cache, each of them synced. `None`:
/// that cannot be had.
pub(crate) fn open(path: &Path) -> Option<File> {
    open_as(OpenOptions::new().write(true), path)
}

/// Whether files in a directory can be written past the page cache: one is made, written and
/// removed. Not on a disk that is full.
pub(crate) fn is_possible(dir: &Path) -> bool {
    let path = dir.join("direct");
    let opened = open_as(OpenOptions::new().write(true).create(true), &path);
    let mut buffer = Buffer::default();
    let is_written =
        opened.is_some_and(|file| file.write_all_at(buffer.take(PROBE_LEN), 0).is_ok());
    // What a crash leaves of it is written over the next time.
    let _ = std::fs::remove_file(&path);
    is_written
}

#[cfg(target_os = "linux")]
fn open_as(options: &mut OpenOptions, path: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags =
        rustix::fs::OFlags::DIRECT | rustix::fs::OFlags::DSYNC | rustix::fs::OFlags::NOFOLLOW;
    let flags = i32::try_from(flags.bits()).ok()?;
    options.custom_flags(flags).open(path).ok()
}

#[cfg(not(target_os = "linux"))]
fn open_as(_: &mut OpenOptions, _: &Path) -> Option<File> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_leaves_nothing_and_says_what_opening_says() {
        let dir = tempfile::tempdir().unwrap();
        let answer = is_possible(dir.path());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let path = dir.path().join("file");
        std::fs::write(&path, "there").unwrap();
        assert_eq!(open(&path).is_some(), answer);
        assert!(!is_possible(&dir.path().join("missing")));
    }
}
