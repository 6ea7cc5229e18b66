//! Writes that bypass the page cache: no copy, and nothing left for the kernel to write later. Not
//! every file system supports them; callers check.
//!
//! Must not know: the content of the writes.

mod buffer;

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
};

pub(crate) use buffer::Buffer;

/// Number of bytes written to test for support.
const PROBE_LEN: usize = 4 << 10;

/// Opens an existing file for synced writes past the page cache. `None` if that is not supported.
pub(crate) fn open(path: &Path) -> Option<File> {
    open_as(OpenOptions::new().write(true), path)
}

/// Whether files in a directory can be written past the page cache: creates, writes and removes
/// one. Fails on a full disk.
pub(crate) fn is_possible(dir: &Path) -> bool {
    let path = dir.join("direct");
    let opened = open_as(OpenOptions::new().write(true).create(true), &path);
    let mut buffer = Buffer::default();
    let is_written =
        opened.is_some_and(|file| file.write_all_at(buffer.take(PROBE_LEN), 0).is_ok());
    // A leftover after a crash is overwritten next time.
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
    fn the_probe_leaves_no_file_and_agrees_with_open() {
        let dir = tempfile::tempdir().unwrap();
        let answer = is_possible(dir.path());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let path = dir.path().join("file");
        std::fs::write(&path, "there").unwrap();
        assert_eq!(open(&path).is_some(), answer);
        assert!(!is_possible(&dir.path().join("missing")));
    }
}
