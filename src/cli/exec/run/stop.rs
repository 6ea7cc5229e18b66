//! The end of a run: what runs may end, everything is taken down, the summary.
//!
//! Must always hold: whatever goes wrong, the runtime is shut down and the spawner closed,
//! so that what was cut short goes back uncounted.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use forebay::{Drain, RuntimeError};
use forebay_actors::node::NodeError;
use tokio::sync::{mpsc, watch};

use super::{ExecError, Run, waits::ItemEnd};
use crate::cli::exec::{
    interrupt::{Exit, How, Stop},
    runner::Runner,
};

/// How long a run that was asked to finish waits for its commands.
const FINISH_WITHIN: Duration = Duration::from_secs(365 * 24 * 3600);
/// When no command runs any more, how long to wait for attempts that are just beginning.
const ABORT_EVERY: Duration = Duration::from_millis(50);

/// Waits until no attempt runs, nor is about to.
async fn nothing_runs(runner: &Runner) {
    runner.idle().await;
    tokio::time::sleep(ABORT_EVERY).await;
}

fn is_down(error: &ExecError) -> bool {
    matches!(error, ExecError::Runtime(RuntimeError::Node(NodeError::ShutDown)))
}

impl Run {
    /// Lets what runs end, or ends it, as it is asked; and takes everything down.
    pub(super) async fn stop(
        &mut self,
        stops: &mut watch::Receiver<Stop>,
        broken: &mut mpsc::UnboundedReceiver<String>,
    ) -> Result<(), ExecError> {
        let (runtime, runner) = (self.runtime.clone(), self.runner.clone());
        let is_asked = stops.borrow().how != How::No;
        let within = if is_asked { FINISH_WITHIN } else { Duration::ZERO };
        let mut down = pin!(runtime.shutdown(Drain::within(within)));
        let mut reached = How::No;
        let mut failed = None;
        let stopped = loop {
            let asked = *stops.borrow_and_update();
            if asked.how > reached {
                reached = asked.how;
                self.stop_commands(asked);
            }
            // What the commands were for is left to the next run.
            let ends_all = reached >= How::Terminate;
            tokio::select! {
                stopped = &mut down => break stopped,
                Some(note) = self.notes.recv() => self.noted(note),
                end = self.waits.next() => self.ended_late(end, &mut failed),
                Ok(()) = stops.changed() => {}
                // What the commands were for is left to the next run.
                () = nothing_runs(&runner), if ends_all || runner.current().is_none() => {
                    runtime.node().executor().abort_all();
                }
                Some(reason) = broken.recv() => {
                    failed.get_or_insert(ExecError::Broken(reason));
                    runtime.node().executor().abort_all();
                }
            }
        };
        while !self.waits.is_idle() {
            let end = self.waits.next().await;
            self.ended_late(end, &mut failed);
        }
        self.summary.left += self.waits.open();
        if let Some(spawner) = self.runner.end() {
            spawner.close().await;
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(stopped?),
        }
    }

    /// Tells of an item that ended while the run stops, or counts it as left.
    fn ended_late(&mut self, end: ItemEnd, failed: &mut Option<ExecError>) {
        if end.outcome.is_err() || failed.is_some() {
            return;
        }
        let before = self.summary.clone();
        match self.ended(end) {
            Ok(()) => {}
            // It ended too late to be looked up: the next run tells of it.
            Err(error) if is_down(&error) => {
                self.summary = before;
                self.summary.left += 1;
            }
            Err(error) => *failed = Some(error),
        }
    }

    /// Goes one step further, and says what the next one is.
    fn stop_commands(&self, asked: Stop) {
        let running = self.runner.progress().running();
        let grace = self.grace;
        let again = if asked.signal.is_some() { "again " } else { "" };
        let text = match asked.how {
            How::No => return,
            How::Finish => match asked.finish_by {
                Some(by) => {
                    let left = by.into_std().saturating_duration_since(Instant::now());
                    let left = left.as_secs_f64().round();
                    format!("they have {left} s to end, then they get SIGTERM")
                }
                None => format!("Ctrl-C {again}ends them (SIGTERM)"),
            },
            How::Terminate => {
                self.runner.current().into_iter().for_each(|spawner| spawner.stop_all(grace));
                format!(
                    "they got SIGTERM and are killed after {grace:?}; Ctrl-C {again}kills them now"
                )
            }
            How::Kill => {
                let spawner = self.runner.current().into_iter();
                spawner.for_each(|spawner| spawner.stop_all(Duration::ZERO));
                "they are killed".to_owned()
            }
        };
        if running > 0 {
            self.screen.message(format!("stopping: {running} running; {text}\n").as_bytes());
        }
    }

    /// Ends the run when too many items have failed (`--halt`).
    pub(super) fn halt_if_due(&mut self) {
        let (failed, items) = (self.summary.failed, self.summary.accepted);
        let Some(halt) = self.halt.take_if(|halt| halt.is_due(failed, items)) else { return };
        self.screen.message(format!("halted: {failed} failed (--halt {halt})\n").as_bytes());
        let how = if halt.is_now { How::Terminate } else { How::Finish };
        self.stopper.ask(how, None);
    }

    pub(super) fn conclude(mut self, stop: Stop) -> Result<Exit, ExecError> {
        let elapsed = self.runner.elapsed();
        self.summary.elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        self.summary.signal = stop.signal;
        if self.json {
            self.screen.line(&self.summary.to_json())?;
        } else if !self.quiet {
            self.screen.message(format!("{}\n", self.summary).as_bytes());
        }
        Ok(match stop.signal {
            Some(signal) => Exit::Signal(signal),
            None => Exit::Code(self.summary.exit_code()),
        })
    }
}
