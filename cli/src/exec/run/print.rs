//! The reports on an ended item: its output, its line, its message.
//!
//! Must always hold: the book records an end as reported only after all of it was written to the
//! requested place; until then everything needed for that is kept. Only the last write can be
//! repeated.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt, path::Path};

use bilrost::OwnedMessage;
use bytes::Bytes;
use forebay::{Outcome, ResultError, RuntimeError, Timestamp};
use forebay_api::EntryView;
use forebay_messages::{EntryId, FailureKind, VQueueName, outcome::Failure};

use super::{ExecError, Run, stop::is_down, waits::ItemEnd};
use crate::{
    exec::{
        item::Job,
        report::{Output, Report},
        results::{Ended, keep_outputs, kept, line},
        runner::report_of,
        runs::items::ItemIndex,
    },
    show::command_line,
};

/// Identifies an end of an item, in milliseconds since 1970.
pub(super) fn end_of(outcome: &Outcome, finished_at: Option<u64>) -> u64 {
    let report = report_of(outcome);
    // Without a command's report: it was ended from outside.
    if report.end.is_some() { report.ended_at.0 } else { finished_at.unwrap_or_default() }
}

impl Run {
    /// Creates the directory of long outputs that are kept, and removes those of entries that were
    /// purged before they were printed.
    pub(super) fn prepare_kept(&self) -> Result<(), ExecError> {
        let path = self.kept_dir.join("output");
        let at = |source| ExecError::Kept { path: path.clone(), source };
        fs::create_dir_all(&path).map_err(at)?;
        for file in fs::read_dir(&path).map_err(at)? {
            let file = file.map_err(at)?;
            let name = file.file_name();
            let id = name.to_str().and_then(|name| name.split('.').next()?.parse().ok());
            if let Some(id) = id
                && self.look(id)?.is_none()
            {
                fs::remove_file(file.path()).map_err(at)?;
            }
        }
        Ok(())
    }

    /// Counts an item that ended in this run, and reports it.
    pub(super) fn ended(&mut self, end: ItemEnd) -> Result<(), ExecError> {
        let outcome = match end.outcome {
            Ok(outcome) => outcome,
            Err(ResultError::Node(error)) => return Err(RuntimeError::Node(error).into()),
            Err(error) => return Err(ExecError::Broken(error.to_string())),
        };
        let succeeded = outcome.is_success();
        let (how, count) = match &outcome {
            Outcome::Success(_) => ("succeeded", &mut self.summary.succeeded),
            Outcome::Failure(Failure { kind: FailureKind::Canceled, .. }) => {
                ("canceled", &mut self.summary.canceled)
            }
            Outcome::Failure(Failure { kind: FailureKind::Killed, .. }) => {
                ("killed", &mut self.summary.killed)
            }
            Outcome::Failure(_) => ("failed", &mut self.summary.failed),
        };
        *count += 1;
        let elapsed = self.runner.elapsed();
        self.runner.progress().ended(elapsed, succeeded);
        self.halt_if_due();
        if let Outcome::Failure(failure) = &outcome {
            let id = self.served[0].items.id(end.place);
            let job = self.job(end.place, id, None)?;
            let what = command_line(&job.argv);
            let text = format!("{how}: {what}: {} ({id})\n", failure.message);
            self.screen.message(text.as_bytes());
        }
        self.over(end.place, Some(outcome))
    }

    /// The job of an item. Stored payloads of successful entries are gone: their reports contain
    /// the job.
    fn job(&self, place: ItemIndex, id: EntryId, reported: Option<Job>) -> Result<Job, ExecError> {
        if let Some(job) = self.known.get(&place).map(|known| known.job.clone()).or(reported) {
            return Ok(job);
        }
        let payload = self.runtime.node().inspect().payload(id).map_err(RuntimeError::from)?;
        Ok(payload.and_then(|payload| Job::decode(payload).ok()).unwrap_or_default())
    }

    /// Reports an ended item, and with `--keep-order` the ended ones after it; or none, until the
    /// ones before it have ended.
    pub(super) fn over(
        &mut self,
        place: ItemIndex,
        mut outcome: Option<Outcome>,
    ) -> Result<(), ExecError> {
        self.waits.ended(&mut self.served[0].items, place);
        if self.is_cut {
            return Ok(());
        }
        if !self.keep_order {
            self.print(place, outcome)?;
            while self.waits.pop_ended(&self.served[0].items).is_some() {}
            return Ok(());
        }
        // After the shutdown of the runtime, outcomes cannot be looked up.
        if self.is_stopping
            && let Some(outcome) = outcome.take()
        {
            self.behind.insert(place, outcome);
        }
        while let Some(first) = self.waits.pop_ended(&self.served[0].items) {
            let known = if first == place { outcome.take() } else { None };
            let known = known.or_else(|| self.behind.remove(&first));
            match self.print(first, known) {
                Err(error) if self.is_stopping && is_down(&error) => {
                    self.is_cut = true;
                    return Ok(());
                }
                result => result?,
            }
        }
        Ok(())
    }

    /// Writes the output of an item, or its line, unless that was done.
    fn print(&mut self, place: ItemIndex, outcome: Option<Outcome>) -> Result<(), ExecError> {
        let id = self.served[0].items.id(place);
        let outcome = match outcome {
            Some(outcome) => Some(outcome),
            None => self.runtime.node().inspect().outcome(id).map_err(RuntimeError::from)?,
        };
        // It was purged meanwhile.
        let Some(outcome) = outcome else {
            self.known.remove(&place);
            return Ok(());
        };
        let mut report = report_of(&outcome);
        let job = self.job(place, id, report.job.take())?;
        let ran = self.known.remove(&place).and_then(|known| known.ran);
        let has_line = self.json || self.results.is_some();
        let needs_view = report.end.is_none() || has_line && ran.is_none();
        let view = if needs_view { self.look(id)? } else { None };
        if report.end.is_none() {
            let finished_at = view.as_ref().and_then(|view| view.finished_at);
            report.ended_at = Timestamp(finished_at.unwrap_or_default());
        }
        let ended_at = report.ended_at;
        let is_printed = self.served[0].items.printed_at(place) == ended_at.0;
        let is_wanted = match &self.results {
            Some(results) => results.lacks(id, ended_at),
            None => !is_printed,
        };
        if !is_wanted {
            return Ok(());
        }
        self.find_outputs(id, &mut report);
        let written = if has_line {
            let ran = ran.or_else(|| view.as_ref().map(|view| (name(view), view.attempts)));
            self.write_line(id, ran.unwrap_or_default(), &job, &outcome, &mut report)?
        } else {
            let tag = self.tag.then(|| job.item());
            self.screen.outputs(&report, tag)?
        };
        if written && !is_printed {
            self.served[0].book.set_printed(id, ended_at.0)?;
            self.served[0].items.set_printed(place, ended_at.0);
        }
        if written && self.results.is_none() {
            [&report.stdout, &report.stderr].into_iter().for_each(remove_file);
        }
        Ok(())
    }

    /// Finds long outputs that are not where they were kept, because the data directory was moved.
    /// Losses are reported.
    fn find_outputs(&self, id: EntryId, report: &mut Report) {
        for (stream, output) in [("stdout", &mut report.stdout), ("stderr", &mut report.stderr)] {
            let Some(file) = &output.file else { continue };
            if Path::new(OsStr::from_bytes(file)).exists() {
                continue;
            }
            let here = kept(&self.kept_dir, id, stream);
            if here.exists() {
                output.file = Some(Bytes::copy_from_slice(here.as_os_str().as_bytes()));
                continue;
            }
            let (len, head) = (output.len, output.head.len());
            let text = format!(
                "forebay: {stream} of {id}: only the first {head} of {len} bytes are left, {} is \
                 gone\n",
                String::from_utf8_lossy(file)
            );
            self.screen.message(text.as_bytes());
            output.file = None;
        }
    }

    /// Writes the line of an item to the results or to standard output; whether it was written.
    fn write_line(
        &mut self,
        id: EntryId,
        (vqueue, attempts): (VQueueName, u32),
        job: &Job,
        outcome: &Outcome,
        report: &mut Report,
    ) -> Result<bool, ExecError> {
        let failure = match outcome {
            Outcome::Success(_) => None,
            Outcome::Failure(failure) => Some(failure),
        };
        if let Some(results) = &self.results
            && [&report.stdout, &report.stderr].iter().any(|output| output.file.is_some())
        {
            // A run that printed outputs may have kept them elsewhere.
            keep_outputs(results.dir(), id, report)?;
        }
        let ended = Ended { id, vqueue: &vqueue, job, attempts, report, failure };
        match &mut self.results {
            None => Ok(self.screen.line(&line(&ended, None))?),
            Some(results) => {
                results.write(&ended)?;
                Ok(true)
            }
        }
    }
}

fn name(view: &EntryView) -> VQueueName {
    let text = |text: &Option<String>| text.as_deref().map(Into::into);
    let (l1, l2) = match view.limit_key.as_deref().map(|key| key.split_once('/').ok_or(key)) {
        None => (None, None),
        Some(Err(l1)) => (Some(l1.into()), None),
        Some(Ok((l1, l2))) => (Some(l1.into()), Some(l2.into())),
    };
    VQueueName {
        service: view.service.as_str().into(),
        scope: text(&view.scope),
        l1,
        l2,
        object_key: text(&view.key),
    }
}

fn remove_file(output: &Output) {
    if let Some(path) = &output.file {
        // On failure the file is removed with its entry.
        let _ = fs::remove_file(Path::new(OsStr::from_bytes(path)));
    }
}
