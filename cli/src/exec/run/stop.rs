//! The end of a run: running commands may end, everything is shut down, the summary is printed.
//!
//! Must always hold: after any error, the runtime is shut down and the spawner closed, so that
//! interrupted attempts do not count.

use std::{pin::pin, time::Duration};

use forebay::{Drain, EnqueueError, RuntimeError, rules::RulesError};
use tokio::sync::{mpsc, watch};

use super::{ExecError, Run, signals::FINISH_WITHIN, waits::ItemEnd};
use crate::exec::interrupt::{Exit, How, Stop};

/// The runtime was shut down before it had an answer.
pub(super) fn is_down(error: &ExecError) -> bool {
    let error = match error {
        ExecError::Runtime(RuntimeError::Node(error))
        | ExecError::Enqueue(EnqueueError::Node(error))
        | ExecError::Rules(RulesError::Node(error)) => error,
        _ => return false,
    };
    error.is_shut_down()
}

impl Run {
    /// Shuts everything down, once running commands have ended in the requested way.
    pub(super) async fn stop(
        &mut self,
        stops: &watch::Receiver<Stop>,
        broken: &mut mpsc::UnboundedReceiver<String>,
    ) -> Result<(), ExecError> {
        self.is_stopping = true;
        let runtime = self.runtime.clone();
        let is_asked = stops.borrow().how != How::No;
        let within = if is_asked { FINISH_WITHIN } else { Duration::ZERO };
        let mut down = pin!(runtime.shutdown(Drain::within(within)));
        let mut failed = None;
        let stopped = loop {
            tokio::select! {
                stopped = &mut down => break stopped,
                Some(note) = self.notes.recv() => self.noted(note),
                end = self.waits.next() => self.ended_late(end, &mut failed),
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

    /// Reports an item that ended while the run stops, or counts it as left.
    fn ended_late(&mut self, end: ItemEnd, failed: &mut Option<ExecError>) {
        if end.outcome.is_err() || failed.is_some() {
            return;
        }
        // Its job was noted before it ended.
        while let Ok(note) = self.notes.try_recv() {
            self.noted(note);
        }
        let before = self.summary.clone();
        match self.ended(end) {
            Ok(()) => {}
            // It ended too late to be looked up: the next run reports it.
            Err(error) if is_down(&error) => {
                self.summary = before;
                self.summary.left += 1;
            }
            Err(error) => *failed = Some(error),
        }
    }

    /// Stops the run when too many items have failed (`--halt`).
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
