//! Checks whether a program exists, before ten thousand items fail.

use std::{
    env,
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};
use thiserror::Error;

/// Why a command cannot run at all.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum ProgramError {
    /// Not in the search path.
    #[error("command `{0}` not found in PATH; install it, or give its path")]
    NotFound(String),
    /// The given path is not an executable file.
    #[error("command `{0}` is not an executable file; check its path and permissions")]
    NotExecutable(String),
}

/// Checks that `program` can be run: a path directly, a name in the search path.
///
/// # Errors
/// [`ProgramError`] when it cannot.
pub(crate) fn check_program(program: &[u8]) -> Result<(), ProgramError> {
    let search = env::var_os("PATH").unwrap_or_else(|| OsString::from(PATH_WITHOUT_PATH));
    check_program_in(program, env::split_paths(&search))
}

/// Directories that execvp searches if the environment has no `PATH` (the C library's `_CS_PATH`).
const PATH_WITHOUT_PATH: &str = "/bin:/usr/bin";

fn check_program_in(
    program: &[u8],
    mut search: impl Iterator<Item = PathBuf>,
) -> Result<(), ProgramError> {
    let name = OsStr::from_bytes(program);
    let shown = || name.to_string_lossy().into_owned();
    if program.contains(&b'/') {
        return if is_executable(Path::new(name)) {
            Ok(())
        } else {
            Err(ProgramError::NotExecutable(shown()))
        };
    }
    if !program.is_empty() && search.any(|dir| is_executable(&dir.join(name))) {
        return Ok(());
    }
    Err(ProgramError::NotFound(shown()))
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && access(path, Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

    use super::{ProgramError, check_program, check_program_in};

    #[test]
    fn programs_are_found_as_the_system_finds_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tool");
        fs::write(&path, "#!/bin/sh\n").unwrap();
        let search = || [PathBuf::from("/no/such"), dir.path().to_owned()].into_iter();
        let not_found = Err(ProgramError::NotFound("tool".to_owned()));
        assert_eq!(check_program_in(b"tool", search()), not_found);
        let by_path = path.to_str().unwrap();
        let not_executable = Err(ProgramError::NotExecutable(by_path.to_owned()));
        assert_eq!(check_program_in(by_path.as_bytes(), search()), not_executable);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(check_program_in(b"tool", search()), Ok(()));
        assert_eq!(check_program_in(by_path.as_bytes(), search()), Ok(()));
        assert!(check_program_in(dir.path().to_str().unwrap().as_bytes(), search()).is_err());
        assert!(check_program_in(b"", search()).is_err());
        assert_eq!(check_program(b"sh"), Ok(()));
    }
}
