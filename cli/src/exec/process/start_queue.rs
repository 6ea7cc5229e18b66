//! Commands that cannot start yet because forebay itself lacks something: descriptors, processes,
//! memory.
//!
//! Must always hold: they are started in the order of their arrival; a shortage never counts
//! against a command. While others run, it is waited for without limit, because each that ends
//! frees something; when nothing runs, for [`SHORTAGE_MAX`]. Must not know: how commands are
//! started.

use std::{
    collections::VecDeque,
    fs, io,
    time::{Duration, Instant},
};

use super::link::Start;

/// Maximum duration of a shortage while nothing runs that could end it.
const SHORTAGE_MAX: Duration = Duration::from_secs(5);
/// Interval of retries of a failed start.
const AGAIN_EVERY: Duration = Duration::from_millis(100);
/// Descriptors of a command: a handle, two pipes, and two files for long outputs.
const DESCRIPTORS_EACH: u64 = 5;
/// Descriptors needed temporarily to start one command, and some to spare.
const DESCRIPTORS_SPARE: u64 = 16;

/// The commands that cannot start yet.
#[derive(Debug)]
pub(super) struct StartQueue {
    waiting: VecDeque<Start>,
    /// Maximum number of running commands, by the limit of open files.
    running_max: usize,
    open_files_max: u64,
    lack: Option<Shortage>,
    /// Whether waiting commands were reported.
    is_reported: bool,
}

/// A shortage.
#[derive(Debug)]
struct Shortage {
    /// When it began, or the last time that something ran.
    since: Instant,
    again_at: Instant,
}

impl StartQueue {
    /// An empty queue for a process that may open this many files.
    pub(super) fn new(open_files_max: Option<u64>) -> Self {
        let open_files_max = open_files_max.unwrap_or(u64::MAX);
        let open = fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64);
        let free = open_files_max.saturating_sub(open + DESCRIPTORS_SPARE);
        let running_max = usize::try_from(free / DESCRIPTORS_EACH).unwrap_or(usize::MAX).max(1);
        Self {
            waiting: VecDeque::new(),
            running_max,
            open_files_max,
            lack: None,
            is_reported: false,
        }
    }

    /// Adds a command to be started.
    pub(super) fn push(&mut self, start: Start) {
        self.waiting.push_back(start);
    }

    /// The next one, if it may be tried now with this many running.
    pub(super) fn next(&mut self, running: usize, now: Instant) -> Option<Start> {
        let is_time = self.lack.as_ref().is_none_or(|lack| lack.again_at <= now);
        if running < self.running_max && is_time { self.waiting.pop_front() } else { None }
    }

    /// Ends the shortage: the command was started, or failed for its own reasons.
    pub(super) fn is_past(&mut self) {
        self.lack = None;
    }

    /// Reports a shortage. Returns whether to wait for its end; otherwise the command is given up.
    pub(super) fn lacks(&mut self, start: Start, running: usize, now: Instant) -> bool {
        let since = match &self.lack {
            Some(lack) if running == 0 => lack.since,
            _ => now,
        };
        self.lack = Some(Shortage { since, again_at: now + AGAIN_EVERY });
        let is_worth_it = now < since + SHORTAGE_MAX;
        if is_worth_it {
            self.waiting.push_front(start);
        }
        is_worth_it
    }

    /// Called when a command has ended and freed something.
    pub(super) fn has_room(&mut self, now: Instant) {
        if let Some(lack) = &mut self.lack {
            lack.again_at = now;
        }
    }

    /// When to call [`Self::next`] even if nothing has happened.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let is_needed = !self.waiting.is_empty();
        self.lack.as_ref().filter(|_| is_needed).map(|lack| lack.again_at)
    }

    /// The message about waiting starts, returned once.
    pub(super) fn notice(&mut self, running: usize, lack: Option<&io::Error>) -> Option<String> {
        if self.waiting.is_empty() || self.is_reported {
            return None;
        }
        self.is_reported = true;
        let why = match lack {
            Some(error) => format!("{error}"),
            None => format!("at most {} files may be open (ulimit -n)", self.open_files_max),
        };
        Some(format!("{running} commands run, the others wait: {why}"))
    }

    /// Removes one; whether it was there.
    pub(super) fn remove(&mut self, serial: u64) -> bool {
        let found = self.waiting.iter().position(|start| start.serial == serial);
        found.is_some_and(|at| self.waiting.remove(at).is_some())
    }

    /// Removes all.
    pub(super) fn clear(&mut self) -> impl Iterator<Item = Start> + use<> {
        std::mem::take(&mut self.waiting).into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(serial: u64) -> Start {
        Start { serial, ..Start::default() }
    }

    #[test]
    fn commands_wait_for_descriptors_in_their_order() {
        let mut queue = StartQueue::new(None);
        queue.running_max = 2;
        let now = Instant::now();
        (1..=3).for_each(|serial| queue.push(numbered(serial)));
        assert_eq!(queue.next(0, now).map(|start| start.serial), Some(1));
        assert_eq!(queue.next(1, now).map(|start| start.serial), Some(2));
        assert_eq!(queue.next(2, now), None);
        assert!(queue.notice(2, None).is_some_and(|text| text.contains("2 commands run")));
        assert_eq!(queue.notice(2, None), None, "it is said once");
        assert!(queue.remove(3) && !queue.remove(3));
    }

    #[test]
    fn a_shortage_is_fatal_only_if_nothing_runs_that_could_end_it() {
        let mut queue = StartQueue::new(None);
        let begun = Instant::now();
        queue.push(numbered(1));
        let first = queue.next(1, begun).unwrap();
        assert!(queue.lacks(first, 1, begun));
        assert_eq!(queue.next(1, begun), None, "not at once");
        let later = begun + 100 * SHORTAGE_MAX;
        let again = queue.next(1, later).unwrap();
        assert!(queue.lacks(again, 1, later), "one runs");
        queue.has_room(later);
        let again = queue.next(0, later).unwrap();
        assert!(queue.lacks(again, 0, later), "nothing runs since now");
        let last = queue.next(0, later + SHORTAGE_MAX).unwrap();
        assert!(!queue.lacks(last, 0, later + SHORTAGE_MAX));
    }

    #[test]
    fn a_small_limit_of_open_files_allows_fewer_commands() {
        assert_eq!(StartQueue::new(Some(1)).running_max, 1);
        assert!(StartQueue::new(Some(1_000)).running_max > 100);
    }
}
