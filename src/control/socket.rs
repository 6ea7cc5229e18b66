//! Addresses of sockets with long paths.

use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

/// Maximum length of a path in a socket address, in bytes.
const ADDRESS_LEN_MAX: usize = 107;

/// A path for binding or connecting to a socket. Valid while this value lives.
///
/// A path that is too long for an address is replaced by one through an open file of its directory,
/// `/proc/self/fd/N/NAME`, which is short and leads to the same place.
pub(super) struct SocketPath {
    path: PathBuf,
    _directory: Option<File>,
}

impl SocketPath {
    /// # Errors
    /// When the path is long and its directory cannot be opened.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let directory = path.parent().filter(|_| path.as_os_str().len() > ADDRESS_LEN_MAX);
        let (Some(directory), Some(name)) = (directory, path.file_name()) else {
            return Ok(Self { path: path.to_owned(), _directory: None });
        };
        let directory = File::open(directory)?;
        let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string());
        Ok(Self { path: short.join(name), _directory: Some(directory) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}
