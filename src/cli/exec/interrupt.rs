//! Ctrl-C and its like.

use std::io;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// How a run is to stop. Only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stop {
    /// Not at all.
    #[default]
    No,
    /// Start nothing more, let what runs end.
    Finish,
    /// End what runs, too.
    Kill,
}

impl Stop {
    /// What one more signal makes of it.
    #[must_use]
    fn escalated(self) -> Self {
        match self {
            Self::No => Self::Finish,
            Self::Finish | Self::Kill => Self::Kill,
        }
    }
}

/// Takes SIGINT, SIGTERM and SIGHUP from now on: the first asks to finish, the second
/// to kill. The task ends with the last receiver.
///
/// # Errors
/// When signals cannot be taken.
pub(crate) fn on_signals() -> io::Result<watch::Receiver<Stop>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let (sender, receiver) = watch::channel(Stop::No);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hang_up.recv() => {}
                () = sender.closed() => return,
            }
            sender.send_modify(|stop| *stop = stop.escalated());
        }
    });
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};

    use super::{Stop, on_signals};

    #[tokio::test]
    async fn the_second_signal_kills() {
        let mut stop = on_signals().unwrap();
        assert_eq!(*stop.borrow(), Stop::No);
        for (signal, expected) in
            [(Signal::INT, Stop::Finish), (Signal::TERM, Stop::Kill), (Signal::HUP, Stop::Kill)]
        {
            kill_process(getpid(), signal).unwrap();
            stop.changed().await.unwrap();
            assert_eq!(*stop.borrow_and_update(), expected);
        }
    }
}
