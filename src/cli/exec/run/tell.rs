//! What users see of an item that ended: its output, its line, its message.

use forebay::{EntryHandle, Outcome, Timestamp};
use forebay_messages::{FailureKind, outcome::Failure};

use super::{ExecError, ItemEnd, Run};
use crate::cli::exec::{
    item::Prepared,
    results::{Ended, line},
    runner::report_of,
};

impl Run {
    /// Tells of an item that ended in this run.
    pub(super) fn ended(&mut self, end: ItemEnd) -> Result<(), ExecError> {
        let outcome = match end.outcome {
            Ok(outcome) => outcome,
            Err(error) => return Err(ExecError::Broken(error.to_string())),
        };
        let succeeded = outcome.is_success();
        let is_stopped = matches!(
            &outcome,
            Outcome::Failure(Failure { kind: FailureKind::Canceled | FailureKind::Killed, .. })
        );
        match (succeeded, is_stopped) {
            (true, _) => self.summary.succeeded += 1,
            (false, true) => self.summary.canceled += 1,
            (false, false) => self.summary.failed += 1,
        }
        let elapsed = self.runner.elapsed();
        self.runner.progress().ended(elapsed, succeeded);
        self.halt_if_due();
        if let Outcome::Failure(failure) = &outcome {
            let what = end.item.job.argv.iter().map(|arg| String::from_utf8_lossy(arg));
            let what = what.collect::<Vec<_>>().join(" ");
            let how = if is_stopped { "canceled" } else { "failed" };
            let text = format!("{how}: {what}: {} ({})\n", failure.message, end.handle.id());
            self.screen.message(text.as_bytes());
        }
        self.write_result(&end.handle, &end.item, &outcome, true)
    }

    /// Writes the line of an item that has none yet; without a results directory prints
    /// what the item said, if it ended in this run.
    pub(super) fn write_result(
        &mut self,
        handle: &EntryHandle,
        item: &Prepared,
        outcome: &Outcome,
        ended_now: bool,
    ) -> Result<(), ExecError> {
        let mut report = report_of(outcome);
        if !self.json && self.results.is_none() {
            let tag = self.tag.then(|| item.job.item());
            return if ended_now { Ok(self.screen.outputs(&report, tag)?) } else { Ok(()) };
        }
        let (id, vqueue, job) = (handle.id(), &item.vqueue, &item.job);
        let view = self.runtime.node().entry(id).map_err(forebay::RuntimeError::from)?;
        if report.end.is_none() {
            // No command told how it ended: it was ended from outside.
            let finished_at = view.as_ref().and_then(|view| view.finished_at);
            report.ended_at = Timestamp(finished_at.unwrap_or_default());
        }
        let failure = match outcome {
            Outcome::Success(_) => None,
            Outcome::Failure(failure) => Some(failure),
        };
        let attempts = view.map_or(0, |view| view.attempts);
        let ended = Ended { id, vqueue, job, attempts, report: &report, failure };
        match &mut self.results {
            Some(results) if ended_now || results.lacks(id, report.ended_at) => {
                results.write(&ended)?;
            }
            None if ended_now => self.screen.line(&line(&ended, None))?,
            _ => {}
        }
        Ok(())
    }
}
