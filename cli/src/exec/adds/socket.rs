//! The path of the socket, with access only for its user, however long the path is.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::AsRawFd,
        unix::{
            fs::{DirBuilderExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use super::SOCKET_NAME;

/// Binds the socket of a directory that this process owns. Replaces a socket left by a dead
/// process.
///
/// # Errors
/// When files in the directory cannot be created.
pub(super) fn bind(dir: &Path) -> io::Result<UnixListener> {
    // It is bound in a directory that only this user can access, and moved once its mode is set.
    let fresh = dir.join("add.new");
    match fs::remove_dir_all(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => DirBuilder::new().mode(0o700).create(&fresh)?,
    }
    let (path, _held) = short(&fresh)?;
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    fs::rename(fresh.join(SOCKET_NAME), dir.join(SOCKET_NAME))?;
    fs::remove_dir(&fresh)?;
    Ok(listener)
}

/// Connects to the socket of a directory.
///
/// # Errors
/// When no process listens there, or the directory cannot be read.
pub(super) fn connect(dir: &Path) -> io::Result<UnixStream> {
    let (path, _held) = short(dir)?;
    UnixStream::connect(path)
}

/// A path of the socket that fits into an address (107 bytes), through the open file of its
/// directory; valid while that is open.
fn short(dir: &Path) -> io::Result<(PathBuf, File)> {
    let held = File::open(dir)?;
    let short = Path::new("/proc/self/fd").join(held.as_raw_fd().to_string());
    Ok((short.join(SOCKET_NAME), held))
}
