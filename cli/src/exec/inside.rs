//! Items that are files of the data directory itself.
//!
//! `find . -type f | forebay exec …` finds the data directory too, once it exists. Its files change
//! while they are processed, and every run would find different ones.
//!
//! Must not know: what is done with such items.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

/// Recognizes files of the data directory.
#[derive(Clone, Debug)]
pub(crate) struct Inside {
    directory: PathBuf,
    data_dir: PathBuf,
}

impl Inside {
    /// For paths relative to `directory`; both are absolute.
    pub(crate) fn new(directory: &Path, data_dir: &Path) -> Self {
        Self { directory: directory.to_owned(), data_dir: plain(data_dir) }
    }

    /// Whether one of these arguments is the data directory or something in it.
    pub(crate) fn has_one_of(&self, args: &[Vec<u8>]) -> bool {
        args.iter().any(|arg| self.has(arg))
    }

    fn has(&self, arg: &[u8]) -> bool {
        let name = self.data_dir.file_name().map_or(&b""[..], OsStr::as_bytes);
        // Most items are ruled out without parsing a path.
        if name.is_empty() || !arg.windows(name.len()).any(|part| part == name) {
            return false;
        }
        let path = self.directory.join(OsStr::from_bytes(arg));
        plain(&path).starts_with(&self.data_dir)
    }
}

/// A path without `.` and `..`, resolved as text.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            component => plain.push(component),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Inside;

    #[test]
    fn files_of_the_data_directory_are_recognized() {
        let inside = Inside::new(Path::new("/w"), Path::new("/w/./forebay-data"));
        let has = |arg: &str| inside.has_one_of(&[b"x".to_vec(), arg.as_bytes().to_vec()]);
        for arg in
            ["forebay-data", "./forebay-data/db/1.sst", "/w/forebay-data/", "a/../forebay-data"]
        {
            assert!(has(arg), "{arg}");
        }
        for arg in
            ["forebay-data.txt", "a/forebay-data", "../forebay-data", "about forebay-data", ""]
        {
            assert!(!has(arg), "{arg}");
        }
    }
}
