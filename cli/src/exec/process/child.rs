//! One command: started, watched, stopped.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, process::ExitStatusExt},
    },
    path::Path,
    process::ExitStatus,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use bytestring::ByteString;
use forebay_messages::Timestamp;
use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitOptions, kill_process_group, waitpid},
};

use super::{
    capture::Capture,
    launch::{Launched, Launcher},
    link::Start,
};
use crate::exec::report::{End, Report};

/// How long an output may stay open after its command has ended and its group is killed: only
/// processes outside of the group can still hold it.
const DRAIN: Duration = Duration::from_millis(500);

/// A started command.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) serial: u64,
    pub(super) pid: Pid,
    /// Readable when the command has ended.
    handle: OwnedFd,
    pub(super) stdout: Capture,
    pub(super) stderr: Capture,
    started_at: Timestamp,
    canceled: bool,
    timeout: Timeout,
    /// When SIGKILL will be sent.
    kill_at: Option<Instant>,
    /// When it was paused; its deadlines wait.
    paused_at: Option<Instant>,
    ended: Option<Ending>,
}

/// Time limit of a command.
#[derive(Debug)]
struct Timeout {
    after: Duration,
    /// Time between SIGTERM and SIGKILL.
    grace: Duration,
    /// `None` without a limit, and after it has passed.
    at: Option<Instant>,
    has_passed: bool,
}

impl Timeout {
    /// Starts now.
    fn of(start: &Start) -> Self {
        let after = Duration::from_millis(start.timeout_ms);
        // A time too far away for an `Instant` never comes.
        let at = (start.timeout_ms > 0).then(|| Instant::now().checked_add(after)).flatten();
        let grace = Duration::from_millis(start.grace_ms);
        Self { after, grace, at, has_passed: false }
    }
}

#[derive(Debug)]
struct Ending {
    status: ExitStatus,
    at: Timestamp,
    /// Deadline for the outputs to close.
    drained_by: Instant,
}

impl Running {
    /// Starts a command. Long outputs go to files in `spill`, named by its serial.
    pub(super) fn start(start: &Start, launcher: &mut Launcher, spill: &Path) -> io::Result<Self> {
        let started_at = now();
        let Launched { pid, handle, stdout, stderr } = launcher.launch(start)?;
        let path = |stream: &str| spill.join(format!("{}.{stream}", start.serial));
        // The command must not run without being watched.
        let watched = || -> io::Result<_> {
            let stdout = Capture::new(stdout, path("stdout"))?;
            Ok((stdout, Capture::new(stderr, path("stderr"))?))
        };
        match watched() {
            Ok((stdout, stderr)) => Ok(Self {
                serial: start.serial,
                pid,
                handle,
                stdout,
                stderr,
                started_at,
                canceled: false,
                timeout: Timeout::of(start),
                kill_at: None,
                paused_at: None,
                ended: None,
            }),
            Err(error) => {
                let _ = kill_process_group(pid, Signal::KILL);
                let _ = wait_for(pid);
                Err(error)
            }
        }
    }

    /// Becomes readable when the command ends; `None` after that.
    pub(super) fn handle(&self) -> Option<BorrowedFd<'_>> {
        self.ended.is_none().then(|| self.handle.as_fd())
    }

    /// The handle is readable: the command has ended. Kills the rest of its group, while its number
    /// still belongs to it.
    pub(super) fn on_end(&mut self, buffer: &mut Vec<u8>) -> io::Result<()> {
        let _ = kill_process_group(self.pid, Signal::KILL);
        let status = wait_for(self.pid)?;
        self.ended = Some(Ending { status, at: now(), drained_by: Instant::now() + DRAIN });
        self.kill_at = None;
        self.stdout.read(buffer);
        self.stderr.read(buffer);
        Ok(())
    }

    /// Reads its standard output.
    pub(super) fn read_stdout(&mut self, buffer: &mut Vec<u8>) {
        self.stdout.read(buffer);
        self.kill_if_lost();
    }

    /// Reads its standard error.
    pub(super) fn read_stderr(&mut self, buffer: &mut Vec<u8>) {
        self.stderr.read(buffer);
        self.kill_if_lost();
    }

    /// A command whose output cannot be kept will run again: it need not continue.
    fn kill_if_lost(&mut self) {
        if self.stdout.is_lost() || self.stderr.is_lost() {
            self.kill();
        }
    }

    /// Asks it to stop and kills it after `grace`; the earliest deadline wins.
    pub(super) fn stop(&mut self, grace: Duration) {
        if self.ended.is_none() {
            self.canceled = true;
            self.terminate(grace);
        }
    }

    fn terminate(&mut self, grace: Duration) {
        if grace.is_zero() {
            self.kill();
            return;
        }
        self.resume();
        // A time too far away for an `Instant` never comes.
        let deadline = Instant::now().checked_add(grace);
        if self.kill_at.is_none() {
            let _ = kill_process_group(self.pid, Signal::TERM);
            // A stopped group would keep the signal pending until it is continued.
            let _ = kill_process_group(self.pid, Signal::CONT);
        }
        self.kill_at = match (self.kill_at, deadline) {
            (Some(set), Some(deadline)) => Some(set.min(deadline)),
            (set, deadline) => set.or(deadline),
        };
    }

    /// Kills its whole group.
    pub(super) fn kill(&mut self) {
        if self.ended.is_none() {
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
        self.kill_at = None;
        self.timeout.at = None;
    }

    /// Stops its whole group, as SIGSTOP does. Its deadlines wait.
    pub(super) fn pause(&mut self) {
        if self.ended.is_none() && self.paused_at.is_none() {
            let _ = kill_process_group(self.pid, Signal::STOP);
            self.paused_at = Some(Instant::now());
        }
    }

    /// Continues its group after [`Self::pause`].
    pub(super) fn resume(&mut self) {
        let Some(since) = self.paused_at.take() else { return };
        let later = |at: Instant| at.checked_add(since.elapsed());
        self.kill_at = self.kill_at.and_then(later);
        self.timeout.at = self.timeout.at.and_then(later);
        if self.ended.is_none() {
            let _ = kill_process_group(self.pid, Signal::CONT);
        }
    }

    /// When [`Self::on_deadline`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.ended {
            Some(ending) => Some(ending.drained_by),
            None if self.paused_at.is_some() => None,
            None => self.kill_at.into_iter().chain(self.timeout.at).min(),
        }
    }

    /// Time has passed.
    pub(super) fn on_deadline(&mut self, now: Instant) {
        if self.ended.is_some() || self.paused_at.is_some() {
            return;
        }
        if self.timeout.at.is_some_and(|at| at <= now) {
            (self.timeout.at, self.timeout.has_passed) = (None, true);
            self.terminate(self.timeout.grace);
        }
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill();
        }
    }

    /// Whether it has ended and its outputs are closed (or their time is over).
    pub(super) fn is_over(&self, now: Instant) -> bool {
        let closed = self.stdout.pipe().is_none() && self.stderr.pipe().is_none();
        self.ended.as_ref().is_some_and(|ending| closed || ending.drained_by <= now)
    }

    /// Waits until it has ended. Only after a kill.
    pub(super) fn wait(self) {
        let _ = wait_for(self.pid);
    }

    /// Its report.
    pub(super) fn into_report(self) -> Report {
        let ending = self.ended.expect("asked for when it is over");
        let end = match (ending.status.code(), ending.status.signal()) {
            (Some(code), _) => End::Exit(code),
            (None, Some(signal)) => End::Signal(signal),
            (None, None) => End::NotStarted(ByteString::from_static("no status")),
        };
        Report {
            job: None,
            end: Some(end),
            canceled: self.canceled,
            started_at: self.started_at,
            ended_at: ending.at,
            stdout: self.stdout.finish(),
            stderr: self.stderr.finish(),
            timed_out_after_ms: self
                .timeout
                .has_passed
                .then(|| u64::try_from(self.timeout.after.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

/// The report of a command that was asked to stop before it started.
pub(super) fn stopped_before() -> Report {
    let reason = End::NotStarted(ByteString::from_static("asked to stop before it started"));
    Report { end: Some(reason), canceled: true, ..Report::default() }
}

/// Whether a command could not be started because forebay lacks something, and not because of the
/// command: descriptors, processes, memory.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    let lacks = [Errno::MFILE, Errno::NFILE, Errno::AGAIN, Errno::NOMEM, Errno::NOBUFS];
    Errno::from_io_error(error).is_some_and(|errno| lacks.contains(&errno))
}

/// The report of a command that could not be started.
pub(super) fn not_started(start: &Start, error: &io::Error) -> Report {
    let at = now();
    let reason = End::NotStarted(ByteString::from(why_not(start, error)));
    Report { end: Some(reason), started_at: at, ended_at: at, ..Report::default() }
}

fn why_not(start: &Start, error: &io::Error) -> String {
    let empty = Bytes::new();
    let program = String::from_utf8_lossy(start.argv.first().unwrap_or(&empty));
    let directory = Path::new(OsStr::from_bytes(&start.directory));
    match error.kind() {
        _ if !start.directory.is_empty() && !directory.is_dir() => {
            format!("cannot start `{program}`: there is no directory {}", directory.display())
        }
        io::ErrorKind::NotFound if program.contains('/') => {
            format!("cannot start `{program}`: it (or its interpreter) does not exist")
        }
        io::ErrorKind::NotFound => format!("cannot start `{program}`: not found in PATH"),
        io::ErrorKind::PermissionDenied => {
            format!("cannot start `{program}`: it is not an executable file")
        }
        io::ErrorKind::ArgumentListTooLong => {
            format!("cannot start `{program}`: its arguments are longer than the system takes")
        }
        _ => format!("cannot start `{program}`: {error}"),
    }
}

/// Waits until a child has ended, and reaps it: its number is free then.
fn wait_for(pid: Pid) -> io::Result<ExitStatus> {
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(ExitStatus::from_raw(status.as_raw())),
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::default().after(since)
}
