//! Follows signals (and `--halt`, and a closed standard output) even while the run is busy.
//!
//! Must always hold: nothing here waits for a reader of standard output, where the run may block
//! forever; a run that has to stop its commands ends within the grace period, and outputs that are
//! not printed by then are not marked as printed. Must not know: items.

use std::{pin::pin, time::Duration};

use forebay::{Drain, Runtime};
use signal_hook::consts::SIGPIPE;
use tokio::{
    sync::watch,
    task::{JoinHandle, block_in_place},
    time::{Instant, timeout},
};

use crate::exec::{
    interrupt::{How, Stop, at, die_of},
    runner::Runner,
    screen::Screen,
};

/// How long a run that was asked to finish waits for its commands.
pub(super) const FINISH_WITHIN: Duration = Duration::from_secs(365 * 24 * 3600);
/// When no command runs any more, the wait for attempts that are just starting.
const ABORT_EVERY: Duration = Duration::from_millis(50);
/// Time for the last outputs, after the last command, before the run is given up.
const PRINT_WITHIN: Duration = Duration::from_secs(2);
/// Time for a message, as standard error may have no reader.
const MESSAGE_WITHIN: Duration = Duration::from_millis(500);

/// Parts needed to stop a run.
pub(super) struct SignalHandler {
    pub(super) runtime: Runtime,
    pub(super) runner: std::sync::Arc<Runner>,
    pub(super) screen: Screen,
    pub(super) grace: Duration,
}

impl SignalHandler {
    /// Runs until it is aborted.
    pub(super) async fn handle(self, mut stops: watch::Receiver<Stop>) {
        if stops.wait_for(|stop| stop.how != How::No).await.is_err() {
            return;
        }
        let mut down = pin!(self.runtime.shutdown(Drain::within(FINISH_WITHIN)));
        let (mut reached, mut is_down, mut give_up_at) = (How::No, false, None);
        loop {
            let asked = *stops.borrow_and_update();
            if asked.how > reached {
                reached = asked.how;
                self.advance_to(asked);
                let wait = match reached {
                    How::No | How::Finish => None,
                    How::Terminate => Some(self.grace.saturating_add(PRINT_WITHIN)),
                    How::Kill => Some(PRINT_WITHIN),
                };
                give_up_at = wait.and_then(|wait| Instant::now().checked_add(wait));
            }
            // The rest is left to the next run.
            let ends_all = reached >= How::Terminate || self.runner.current().is_none();
            tokio::select! {
                _ = &mut down, if !is_down => is_down = true,
                Ok(()) = stops.changed() => {}
                () = self.nothing_runs(), if !is_down && ends_all => {
                    self.runtime.node().executor().abort_all();
                }
                () = at(give_up_at), if is_down && asked.signal.is_some() => {
                    self.give_up(asked.signal.unwrap_or_default()).await;
                    give_up_at = None;
                }
            }
        }
    }

    /// Waits until no attempt runs or is about to.
    async fn nothing_runs(&self) {
        self.runner.idle().await;
        tokio::time::sleep(ABORT_EVERY).await;
    }

    /// Takes the next step, and announces the one after it.
    fn advance_to(&self, asked: Stop) {
        let (running, grace) = (self.runner.progress().running(), self.grace);
        let again = if asked.signal.is_some() { "again " } else { "" };
        let stop_all = |grace| {
            self.runner.current().into_iter().for_each(|spawner| spawner.stop_all(grace));
        };
        let next = match asked.how {
            How::No => return,
            How::Finish => match asked.finish_by {
                Some(by) => {
                    let left = by.saturating_duration_since(Instant::now()).as_secs_f64().round();
                    format!("they have {left} s to end, then they get SIGTERM")
                }
                None => format!("Ctrl-C {again}ends them (SIGTERM)"),
            },
            How::Terminate => {
                stop_all(grace);
                format!(
                    "they got SIGTERM and are killed after {grace:?}; Ctrl-C {again}kills them now"
                )
            }
            How::Kill => {
                stop_all(Duration::ZERO);
                "they are killed".to_owned()
            }
        };
        let why = match asked {
            Stop { how: How::Finish, signal: Some(SIGPIPE), .. } => {
                "forebay: the output was closed; the same command line prints the rest\n"
            }
            _ => "",
        };
        let text = match running {
            0 => why.to_owned(),
            _ => format!("{why}stopping: {running} running; {next}\n"),
        };
        if !text.is_empty() {
            self.write_message(text);
        }
    }

    /// Writes a message; this may block forever.
    fn write_message(&self, text: String) -> JoinHandle<()> {
        let screen = self.screen.clone();
        tokio::spawn(async move { block_in_place(|| screen.message(text.as_bytes())) })
    }

    /// Ends this process although outputs wait for a reader: they are not marked as printed.
    async fn give_up(&self, signal: i32) {
        let text = "forebay: the output is not read; the same command line prints the rest\n";
        let _ = timeout(MESSAGE_WITHIN, self.write_message(text.to_owned())).await;
        // Does not return, unless the system refuses.
        let _ = die_of(signal);
    }
}
