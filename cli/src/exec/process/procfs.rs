//! Information about processes from `/proc`.

use std::{
    fs, io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::Path,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The needed parts of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    /// Z, R, S, …
    pub(super) state: u8,
    /// Its session.
    pub(super) session: i32,
    /// Its start: clock ticks since boot.
    pub(super) started_ticks: u64,
}

/// Reads `/proc/PID/stat`; `None` when there is no such process.
pub(super) fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in parentheses may contain anything, including parentheses: fields count from the last
/// one.
fn parse_stat(text: &[u8]) -> Option<Stat> {
    let end = text.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&text[end + 1..]).ok()?;
    // The first of these is field 3 of proc_pid_stat(5), the state.
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let session = fields.nth(2)?.parse().ok()?;
    let started_ticks = fields.nth(15)?.parse().ok()?;
    Some(Stat { state, session, started_ticks })
}

/// All existing processes.
pub(super) fn pids() -> io::Result<Vec<i32>> {
    let entries = fs::read_dir("/proc")?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// Whether a process has this very file open for writing. False without permission to check.
pub(super) fn has_open_for_writing(pid: i32, device: u64, inode: u64) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    // The permissions of the link show how the file was opened.
    let for_writing =
        |path: &Path| fs::symlink_metadata(path).is_ok_and(|link| link.mode() & 0o200 != 0);
    descriptors.flatten().map(|descriptor| descriptor.path()).any(|path| {
        let same = |file: fs::Metadata| (file.dev(), file.ino()) == (device, inode);
        fs::metadata(&path).is_ok_and(same) && for_writing(&path)
    })
}

/// The command line of a process, for display.
pub(super) fn command_line(pid: i32) -> String {
    let line = fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline"));
    let line = line.unwrap_or_default();
    let words = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    words.collect::<Vec<_>>().join(" ").trim_end().chars().take(80).collect()
}

/// Kills a process, unless its number has been reused. Returns whether a signal was sent.
pub(super) fn kill(pid: i32, expected: Stat) -> bool {
    let Some(pid_checked) = Pid::from_raw(pid) else { return false };
    let Ok(handle) = pidfd_open(pid_checked, PidfdFlags::empty()) else { return false };
    // From here on the handle refers to one process; is it the expected one?
    if stat(pid).map(|now| now.started_ticks) != Some(expected.started_ticks) {
        return false;
    }
    pidfd_send_signal(handle.as_fd(), Signal::KILL).is_ok()
}

/// The id of this boot.
pub(super) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Stat, parse_stat, pids, stat};

    #[test]
    fn names_with_parentheses_do_not_confuse() {
        let line = b"12 (a) (b) R) S 1 12 34 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2\n";
        let expected = Stat { state: b'S', session: 34, started_ticks: 98_765 };
        assert_eq!(parse_stat(line), Some(expected));
        assert_eq!(parse_stat(b"12 (x"), None);
        assert_eq!(parse_stat(b"12 (x) S 1"), None);
    }

    #[test]
    fn this_process_is_there() {
        let own = i32::try_from(std::process::id()).unwrap();
        let session = rustix::process::getsid(None).unwrap().as_raw_nonzero().get();
        assert_eq!(stat(own).unwrap().session, session);
        assert!(pids().unwrap().contains(&own));
    }
}
