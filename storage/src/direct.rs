//! Writing past the page cache: nothing is copied, and nothing is left for the system to
//! write later. Not every file system can do it; who wants it asks.
//!
//! Must not know: what is written.

use std::{
    fs::{File, OpenOptions},
    path::Path,
};

/// Opens a file that is there for writes past the page cache, each of them synced. `None`:
/// that cannot be had.
pub(crate) fn open(path: &Path) -> Option<File> {
    open_as(OpenOptions::new().write(true), path)
}

/// Whether files in a directory can be written past the page cache.
pub(crate) fn is_possible(dir: &Path) -> bool {
    let path = dir.join("direct");
    let opened = open_as(OpenOptions::new().write(true).create(true), &path);
    // What a crash leaves of it is empty, and is taken the next time.
    let _ = std::fs::remove_file(&path);
    opened.is_some()
}

#[cfg(target_os = "linux")]
fn open_as(options: &mut OpenOptions, path: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::DIRECT | rustix::fs::OFlags::DSYNC;
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
        let is_possible = is_possible(dir.path());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let path = dir.path().join("file");
        std::fs::write(&path, "there").unwrap();
        assert_eq!(open(&path).is_some(), is_possible);
        assert!(!super::is_possible(&dir.path().join("missing")));
    }
}
