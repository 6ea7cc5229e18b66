//! The end of a run: what runs may end, everything is taken down, the summary.

use std::{pin::pin, process::ExitCode, time::Duration};

use forebay::Drain;
use futures_util::StreamExt;
use tokio::sync::watch;

use super::{ExecError, Run};
use crate::cli::exec::interrupt::Stop;

/// How long a run that was asked to finish waits for its commands.
const FINISH_WITHIN: Duration = Duration::from_secs(365 * 24 * 3600);

impl Run {
    /// Lets what runs end (a second signal kills it), and takes everything down.
    pub(super) async fn stop(
        &mut self,
        mut signals: watch::Receiver<Stop>,
    ) -> Result<(), ExecError> {
        let runtime = self.runtime.clone();
        let interrupted = *signals.borrow() != Stop::No;
        let within = if interrupted { FINISH_WITHIN } else { Duration::ZERO };
        if interrupted && !self.waiting.is_empty() {
            let running = runtime.node().executor().running();
            let text = format!("stopping: {running} running; once more (Ctrl-C) to kill them\n");
            self.screen.message(text.as_bytes());
        }
        let mut down = pin!(runtime.shutdown(Drain::within(within)));
        let mut killed = false;
        let stopped = loop {
            tokio::select! {
                stopped = &mut down => break stopped,
                Some(end) = self.waiting.next() => {
                    if end.outcome.is_ok() {
                        self.ended(end)?;
                    } else {
                        self.summary.left += 1;
                    }
                }
                _ = signals.wait_for(|stop| *stop == Stop::Kill), if !killed => {
                    killed = true;
                    runtime.node().executor().abort_all();
                }
            }
        };
        while let Some(end) = self.waiting.next().await {
            match end.outcome {
                Ok(_) => self.ended(end)?,
                Err(_) => self.summary.left += 1,
            }
        }
        if let Some(spawner) = self.runner.end() {
            spawner.close().await;
        }
        Ok(stopped?)
    }

    pub(super) fn conclude(mut self) -> Result<ExitCode, ExecError> {
        let elapsed = self.runner.elapsed();
        self.summary.elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        if self.json {
            self.screen.line(&self.summary.to_json())?;
        } else if !self.quiet {
            self.screen.message(format!("{}\n", self.summary).as_bytes());
        }
        Ok(ExitCode::from(self.summary.exit_code()))
    }
}
