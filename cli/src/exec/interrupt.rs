//! Early ends of a run: Ctrl-C and similar signals. And Ctrl-Z, which suspends it.
//!
//! Must always hold: a stop only becomes stronger; a signal that was ignored when this process
//! started (nohup, a script's `&`) stays ignored. Must not know: how commands are stopped.
//!
//! The first SIGINT lets running commands end, the second stops them with SIGTERM (and SIGKILL
//! after the grace period), the third with SIGKILL. SIGTERM and SIGHUP usually come from senders
//! that do not wait: the first lets running commands end too, but only within the grace period.

use std::{fs, future::pending, io, sync::Arc, time::Duration};

use signal_hook::{consts, low_level::emulate_default_handler};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use super::runner::Runner;

/// Maximum time for the spawner to stop the commands before this process stops itself. If it were
/// too short on a busy machine, the commands would continue while this process is stopped.
const PAUSE_WITHIN: Duration = Duration::from_secs(10);
/// Maximum wait for the SIGCONT that continued this process. There is none if the system did not
/// stop it (an orphaned process group); then the commands continue after this time.
const RESUME_WITHIN: Duration = Duration::from_secs(2);

/// How a run must stop. It only becomes stronger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum How {
    /// Not at all.
    #[default]
    No,
    /// Start nothing more, let running commands end.
    Finish,
    /// Stop running commands: SIGTERM, and SIGKILL after the grace period.
    Terminate,
    /// Kill running commands.
    Kill,
}

/// How a run must stop, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stop {
    pub(crate) how: How,
    /// The first signal that requested it.
    pub(crate) signal: Option<i32>,
    /// Deadline for running commands; absent without a limit.
    pub(crate) finish_by: Option<Instant>,
}

impl Stop {
    /// The effect of another signal.
    fn escalate(&mut self, signal: i32, grace: Duration) {
        self.how = match self.how {
            How::No => How::Finish,
            How::Finish => How::Terminate,
            How::Terminate | How::Kill => How::Kill,
        };
        if self.how == How::Finish && signal != consts::SIGINT {
            // A time too far away for an `Instant` never comes.
            self.finish_by = Instant::now().checked_add(grace);
        }
        self.signal.get_or_insert(signal);
    }
}

/// Requests that a run stop. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Stopper(watch::Sender<Stop>);

impl Stopper {
    /// Handles SIGINT, SIGTERM and SIGHUP from now on, as described in the module. The task ends
    /// with the last receiver.
    ///
    /// # Errors
    /// When signals cannot be handled.
    pub(crate) fn on_signals(grace: Duration) -> io::Result<(Self, watch::Receiver<Stop>)> {
        let ignored = Ignored::now()?;
        let mut interrupt = ignored.unless(SignalKind::interrupt())?;
        let mut terminate = ignored.unless(SignalKind::terminate())?;
        let mut hang_up = ignored.unless(SignalKind::hangup())?;
        let (sender, receiver) = watch::channel(Stop::default());
        let stopper = Self(sender.clone());
        tokio::spawn(async move {
            loop {
                let Stop { how, finish_by, .. } = *sender.borrow();
                let limited = finish_by.filter(|_| how == How::Finish);
                let signal = tokio::select! {
                    signal = next(&mut interrupt, consts::SIGINT) => signal,
                    signal = next(&mut terminate, consts::SIGTERM) => signal,
                    signal = next(&mut hang_up, consts::SIGHUP) => signal,
                    () = at(limited) => {
                        sender.send_modify(|stop| stop.how = stop.how.max(How::Terminate));
                        continue;
                    }
                    () = sender.closed() => return,
                };
                sender.send_modify(|stop| stop.escalate(signal, grace));
            }
        });
        Ok((stopper, receiver))
    }

    /// Requests a stop without a signal, or as if by one.
    pub(crate) fn ask(&self, how: How, signal: Option<i32>) {
        self.0.send_if_modified(|stop| {
            let grows = how > stop.how;
            stop.how = stop.how.max(how);
            stop.signal = stop.signal.or(signal);
            grows
        });
    }
}

/// The next signal of one kind; never one that is ignored.
async fn next(signals: &mut Option<Signal>, number: i32) -> i32 {
    match signals {
        Some(signals) => {
            signals.recv().await;
            number
        }
        None => pending().await,
    }
}

/// Sleeps until this time; forever without one.
pub(crate) async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

/// Signals that this process was started to ignore.
#[derive(Clone, Copy, Debug)]
struct Ignored(u64);

impl Ignored {
    /// Reads them from the kernel. Must be called before any of them is handled.
    fn now() -> io::Result<Self> {
        let status = fs::read_to_string("/proc/self/status")?;
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.map(Self).ok_or_else(|| io::Error::other("/proc/self/status has no SigIgn"))
    }

    fn has(self, kind: SignalKind) -> bool {
        self.0 >> (kind.as_raw_value() - 1) & 1 == 1
    }

    /// Handles a signal, unless it is ignored.
    fn unless(self, kind: SignalKind) -> io::Result<Option<Signal>> {
        if self.has(kind) { Ok(None) } else { signal(kind).map(Some) }
    }
}

/// Makes Ctrl-Z stop the commands too, which have their own sessions, and `fg` or `bg` continue
/// them. The task ends with the tokio runtime.
///
/// # Errors
/// When signals cannot be handled.
pub(crate) fn on_suspend(runner: &Arc<Runner>) -> io::Result<()> {
    let Some(mut suspend) = Ignored::now()?.unless(SignalKind::from_raw(consts::SIGTSTP))? else {
        return Ok(());
    };
    let mut resume = signal(SignalKind::from_raw(consts::SIGCONT))?;
    let runner = Arc::downgrade(runner);
    tokio::spawn(async move {
        while suspend.recv().await.is_some() {
            let Some(spawner) = runner.upgrade().map(|runner| runner.current()) else { return };
            if let Some(spawner) = &spawner
                && timeout(PAUSE_WITHIN, spawner.pause(true)).await.is_err()
            {
                tracing::warn!("commands are not stopped yet");
            }
            // After a failure this process keeps running, and so must the commands.
            let _ = emulate_default_handler(consts::SIGTSTP);
            // This process was stopped and continued in between.
            let _ = timeout(RESUME_WITHIN, resume.recv()).await;
            if let Some(spawner) = &spawner {
                spawner.pause(false).await;
            }
        }
    });
    Ok(())
}

/// How a run ended, for its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// With this code.
    Code(u8),
    /// This signal ended it.
    Signal(i32),
}

/// Ends this process like an unhandled signal: a shell or a script that waits for it sees that it
/// was interrupted.
pub(crate) fn die_of(signal: i32) -> io::Result<()> {
    emulate_default_handler(signal)
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    #[tokio::test]
    async fn each_signal_asks_for_more() {
        let ignored = Ignored::now().unwrap();
        for kind in [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::terminate()] {
            assert!(!ignored.has(kind), "{kind:?} is ignored here (nohup?): use `make test`");
        }
        let (stopper, mut stop) = Stopper::on_signals(Duration::from_secs(3600)).unwrap();
        assert_eq!(*stop.borrow(), Stop::default());
        for (signal, expected) in
            [(Signal::INT, How::Finish), (Signal::TERM, How::Terminate), (Signal::HUP, How::Kill)]
        {
            kill_process(getpid(), signal).unwrap();
            stop.changed().await.unwrap();
            let seen = *stop.borrow_and_update();
            assert_eq!((seen.how, seen.signal), (expected, Some(consts::SIGINT)));
            assert_eq!(seen.finish_by, None, "Ctrl-C sets no limit");
        }
        stopper.ask(How::Finish, None);
        assert_eq!(stop.borrow().how, How::Kill, "it only grows");
    }

    #[test]
    fn ignored_signals_are_read_from_the_mask() {
        let ignored = Ignored(0b101);
        assert!(ignored.has(SignalKind::hangup()) && !ignored.has(SignalKind::interrupt()));
        assert!(Ignored::now().unwrap().has(SignalKind::from_raw(consts::SIGPIPE)), "Rust's own");
    }

    #[test]
    fn a_first_sigterm_has_a_limit() {
        let mut stop = Stop::default();
        stop.escalate(consts::SIGTERM, Duration::from_secs(5));
        assert!(stop.how == How::Finish && stop.finish_by.is_some());
        stop.escalate(consts::SIGTERM, Duration::from_secs(5));
        assert_eq!((stop.how, stop.signal), (How::Terminate, Some(consts::SIGTERM)));
    }
}
