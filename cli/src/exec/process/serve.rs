//! The spawner's process: a loop over readable files.
//!
//! Must always hold: it stays small (it opens no store and starts no thread); it sleeps when
//! nothing happens; it ends when the requesting process does, and kills everything it started.

use std::{
    io::{self, Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use bytestring::ByteString;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use super::{
    child::{Running, is_shortage, not_started, stopped_before},
    launch::Launcher,
    lifeline::{Lifeline, StartedBetween},
    link::{Ended, NotRun, Reply, Request, Start, Stop},
    start_queue::StartQueue,
};

/// First argument of a spawner process; the directory follows.
pub(crate) const SPAWNER_ARGUMENT: &str = "__spawner";

/// Bytes of one read of the socket.
const READ_BYTES: usize = 64 * 1024;
/// Bytes of replies that are sent together.
const REPLIES_BYTES_MAX: usize = 64 * 1024;

/// Serves until the end of the socket, which is standard input. `dir` is the directory of `forebay
/// exec` inside the data directory.
pub(crate) fn serve(dir: &Path) -> ExitCode {
    let Ok(socket) = io::stdin().as_fd().try_clone_to_owned() else {
        return ExitCode::FAILURE;
    };
    let mut socket = UnixStream::from(socket);
    let lifeline = match Lifeline::hold(dir) {
        Ok(lifeline) => lifeline,
        Err(error) => {
            let refused = Reply::Refused(ByteString::from(error.to_string()));
            let _ = socket.write_all(&refused.into_frame());
            return ExitCode::FAILURE;
        }
    };
    let ready = Reply::Ready(lifeline.orphans_killed);
    let (open_files, open_files_max) = raise_open_files();
    let Ok(launcher) = Launcher::new(open_files) else { return ExitCode::FAILURE };
    let mut spawner = Serving {
        socket,
        received: BytesMut::new(),
        buffer: Vec::new(),
        slots: Vec::new(),
        ended: Vec::new(),
        replies: Vec::new(),
        queue: StartQueue::new(open_files_max),
        is_paused: false,
        is_stopping: false,
        launcher,
        spill: dir.join("output"),
    };
    let served = spawner.prepare(ready).and_then(|()| spawner.run(&lifeline));
    spawner.end_all(&lifeline);
    lifeline.release();
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Raises the limit of open files of this process to its maximum. Returns the limit for commands,
/// if it differs now, and the limit of this process.
fn raise_open_files() -> (Option<libc::rlimit>, Option<u64>) {
    let given = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: given.maximum, ..given });
    let raised = getrlimit(Resource::Nofile);
    let value = |limit: Option<u64>| limit.unwrap_or(libc::RLIM_INFINITY);
    let of_commands =
        libc::rlimit { rlim_cur: value(given.current), rlim_max: value(given.maximum) };
    ((raised.current != given.current).then_some(of_commands), raised.current)
}

struct Serving {
    socket: UnixStream,
    received: BytesMut,
    buffer: Vec<u8>,
    /// The running commands; the index here is the slot in the lifeline's list.
    slots: Vec<Option<Running>>,
    /// Slots whose commands have ended, but that are still on the lifeline's list.
    ended: Vec<usize>,
    /// Frames to be sent.
    replies: Vec<u8>,
    queue: StartQueue,
    /// Commands are paused as by SIGSTOP, and none is started.
    is_paused: bool,
    /// All commands were asked to stop; none is started.
    is_stopping: bool,
    launcher: Launcher,
    spill: PathBuf,
}

/// A readable file.
#[derive(Clone, Copy, Debug)]
enum Readable {
    Socket,
    Handle(usize),
    Stdout(usize),
    Stderr(usize),
}

impl Serving {
    fn prepare(&mut self, ready: Reply) -> io::Result<()> {
        // Outputs left by an earlier run belong to items that will run again.
        match std::fs::remove_dir_all(&self.spill) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => std::fs::create_dir_all(&self.spill)?,
        }
        self.socket.write_all(&ready.into_frame())
    }

    fn run(&mut self, lifeline: &Lifeline) -> io::Result<()> {
        loop {
            let readable = self.wait()?;
            for source in readable {
                match source {
                    Readable::Socket => {
                        if !self.receive(lifeline)? {
                            return Ok(());
                        }
                    }
                    Readable::Handle(slot) => {
                        self.with(slot, |running, buffer| running.on_end(buffer))?
                    }
                    Readable::Stdout(slot) => self.with(slot, |running, buffer| {
                        running.read_stdout(buffer);
                        Ok(())
                    })?,
                    Readable::Stderr(slot) => self.with(slot, |running, buffer| {
                        running.read_stderr(buffer);
                        Ok(())
                    })?,
                }
            }
            self.settle()?;
            self.start_next(lifeline)?;
            self.forget_ended(lifeline);
            self.send()?;
        }
    }

    /// Removes ended commands from the list, unless their slot was reused.
    fn forget_ended(&mut self, lifeline: &Lifeline) {
        for slot in self.ended.drain(..) {
            if self.slots[slot].is_none() {
                lifeline.forget(slot);
            }
        }
    }

    fn with(
        &mut self,
        slot: usize,
        act: impl FnOnce(&mut Running, &mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.slots[slot].as_mut().map_or(Ok(()), |running| act(running, &mut self.buffer))
    }

    /// Sleeps until something is readable or a deadline has passed.
    fn wait(&self) -> io::Result<Vec<Readable>> {
        let mut sources = vec![Readable::Socket];
        let mut fds = vec![PollFd::new(&self.socket, PollFlags::IN)];
        let mut deadline = if self.is_paused { None } else { self.queue.deadline() };
        for (slot, running) in self.slots.iter().enumerate() {
            let Some(running) = running else { continue };
            let watched = [
                (running.handle(), Readable::Handle(slot)),
                (running.stdout.pipe(), Readable::Stdout(slot)),
                (running.stderr.pipe(), Readable::Stderr(slot)),
            ];
            for (fd, source) in watched {
                if let Some(fd) = fd {
                    fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
                    sources.push(source);
                }
            }
            deadline = deadline.into_iter().chain(running.deadline()).min();
        }
        let timeout = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        match poll(&mut fds, timeout.map(timespec).as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        let ready = fds.iter().zip(sources).filter(|(fd, _)| !fd.revents().is_empty());
        Ok(ready.map(|(_, source)| source).collect())
    }

    /// Reads the socket. False when the other end is gone.
    fn receive(&mut self, lifeline: &Lifeline) -> io::Result<bool> {
        self.buffer.resize(READ_BYTES, 0);
        let len = match self.socket.read(&mut self.buffer) {
            Ok(0) => return Ok(false),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
            Err(error) => return Err(error),
        };
        self.received.extend_from_slice(&self.buffer[..len]);
        while let Some(request) = Request::take(&mut self.received).map_err(io::Error::other)? {
            match request {
                Request::Start(start) => self.queue.push(start),
                Request::Stop(stop) => self.stop(&stop)?,
                Request::StopAll(grace_ms) => self.stop_all(Duration::from_millis(grace_ms))?,
                Request::Pause(pause) => self.pause(pause)?,
            }
            // One by one: a request about a command follows its start.
            self.start_next(lifeline)?;
        }
        Ok(true)
    }

    /// Starts as many commands as possible.
    fn start_next(&mut self, lifeline: &Lifeline) -> io::Result<()> {
        if self.is_paused {
            return Ok(());
        }
        let mut lack = None;
        while let Some(start) = self.queue.next(self.running(), Instant::now()) {
            if self.is_stopping {
                self.reply(Reply::Ended(Ended { serial: start.serial, report: stopped_before() }))?;
                continue;
            }
            let serial = start.serial;
            match self.start(&start, lifeline) {
                Ok(()) => self.queue.is_past(),
                Err(error) if is_shortage(&error) => {
                    if !self.queue.lacks(start, self.running(), Instant::now()) {
                        let reason = format!("no command can be started: {error}");
                        self.not_run(serial, &reason)?;
                    }
                    lack = Some(error);
                }
                Err(error) => {
                    self.queue.is_past();
                    let report = not_started(&start, &error);
                    self.reply(Reply::Ended(Ended { serial, report }))?;
                }
            }
        }
        match self.queue.notice(self.running(), lack.as_ref()) {
            Some(said) => self.reply(Reply::Waits(ByteString::from(said))),
            None => Ok(()),
        }
    }

    fn running(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    fn not_run(&mut self, serial: u64, reason: &str) -> io::Result<()> {
        self.reply(Reply::NotRun(NotRun { serial, reason: ByteString::from(reason) }))
    }

    /// Starts a command. An error concerns the command, unless it [is a shortage](is_shortage).
    fn start(&mut self, start: &Start, lifeline: &Lifeline) -> io::Result<()> {
        let free = self.slots.iter().position(Option::is_none);
        let slot = free.unwrap_or(self.slots.len());
        if free.is_none() {
            if let Err(error) = lifeline.reserve(slot) {
                let reason =
                    format!("cannot write the list of running processes: {error}; free some space");
                return self.not_run(start.serial, &reason);
            }
            self.slots.push(None);
        }
        let (started, between) =
            StartedBetween::note(|| Running::start(start, &mut self.launcher, &self.spill));
        let running = started?;
        lifeline.record(slot, running.pid.as_raw_nonzero().get(), between);
        self.slots[slot] = Some(running);
        Ok(())
    }

    fn stop(&mut self, stop: &Stop) -> io::Result<()> {
        let running = self.slots.iter_mut().flatten().find(|running| running.serial == stop.serial);
        if let Some(running) = running {
            running.stop(Duration::from_millis(stop.grace_ms));
        } else if self.queue.remove(stop.serial) {
            let report = stopped_before();
            self.reply(Reply::Ended(Ended { serial: stop.serial, report }))?;
        }
        Ok(())
    }

    /// Asks all to stop: running, waiting and future commands.
    fn stop_all(&mut self, grace: Duration) -> io::Result<()> {
        self.is_stopping = true;
        for start in self.queue.clear() {
            self.reply(Reply::Ended(Ended { serial: start.serial, report: stopped_before() }))?;
        }
        self.slots.iter_mut().flatten().for_each(|running| running.stop(grace));
        Ok(())
    }

    /// Pauses or continues all, as SIGSTOP and SIGCONT do.
    fn pause(&mut self, pause: bool) -> io::Result<()> {
        self.is_paused = pause;
        for running in self.slots.iter_mut().flatten() {
            if pause { running.pause() } else { running.resume() }
        }
        self.reply(Reply::Paused(pause))
    }

    /// Handles deadlines, and commands that are over.
    fn settle(&mut self) -> io::Result<()> {
        let now = Instant::now();
        for slot in 0..self.slots.len() {
            let Some(running) = &mut self.slots[slot] else { continue };
            running.on_deadline(now);
            if !running.is_over(now) {
                continue;
            }
            if let Some(running) = self.slots[slot].take() {
                self.ended.push(slot);
                self.queue.has_room(now);
                let (serial, report) = (running.serial, running.into_report());
                self.reply(Reply::Ended(Ended { serial, report }))?;
            }
        }
        Ok(())
    }

    /// Sends a reply with the next [`Self::send`], or now when many replies are waiting.
    fn reply(&mut self, reply: Reply) -> io::Result<()> {
        self.replies.extend_from_slice(&reply.into_frame());
        if self.replies.len() < REPLIES_BYTES_MAX { Ok(()) } else { self.send() }
    }

    fn send(&mut self) -> io::Result<()> {
        let sent = self.socket.write_all(&self.replies);
        self.replies.clear();
        sent
    }

    /// Kills everything that runs, and waits for it. If something did run, processes it has left
    /// outside of its group are killed too: the next run must not meet them.
    fn end_all(&mut self, lifeline: &Lifeline) {
        let mut running: Vec<Running> = self.slots.iter_mut().filter_map(Option::take).collect();
        if running.is_empty() {
            return;
        }
        for running in &mut running {
            running.kill();
        }
        lifeline.kill_holders();
        running.into_iter().for_each(Running::wait);
    }
}

fn timespec(duration: Duration) -> Timespec {
    // Rounded up, so that the deadline has passed when the sleep is over.
    let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).min(i64::MAX / 2) + 1;
    Timespec { tv_sec: millis / 1000, tv_nsec: (millis % 1000) * 1_000_000 }
}
