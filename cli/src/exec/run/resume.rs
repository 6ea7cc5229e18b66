//! `exec --resume`: serves the rest of interrupted runs, run by run, oldest first.
//!
//! Must always hold: the rest of a run is waited for, reported and served as if its input had been
//! read again. Must not know: the inputs.

use std::collections::BTreeSet;

use forebay::{RuntimeError, Stage};
use forebay_api::{EntryFilter, EntryView};
use tokio::sync::{mpsc, watch};

use super::{ExecError, Run, gate::Served, waits::Waits};
use crate::exec::{
    interrupt::{How, Stop},
    runs::{
        RunId,
        book::{self, Book},
        items::NAMED,
    },
};

/// Number of items found at a time.
const FOUND_AT_A_TIME: usize = 1_000;

impl Run {
    /// Serves one run, or all with unfinished items (an empty name).
    pub(super) async fn resume(
        &mut self,
        which: &str,
        broken: &mut mpsc::UnboundedReceiver<String>,
        signals: watch::Receiver<Stop>,
    ) -> Result<(), ExecError> {
        let runs = self.chosen(which)?;
        if runs.is_empty() {
            self.screen.message(b"forebay: nothing waits\n");
        }
        for id in runs {
            if signals.borrow().how != How::No {
                return Ok(());
            }
            self.begin(&id).await?;
            // No input: its sender is gone.
            let (_, fed) = mpsc::channel(1);
            self.run(fed, broken, signals.clone()).await?;
        }
        Ok(())
    }

    /// The requested runs, oldest first.
    fn chosen(&self, which: &str) -> Result<Vec<RunId>, ExecError> {
        let mut runs: Vec<RunId> =
            book::list(&self.data_dir)?.into_iter().map(|run| run.id).collect();
        let listed: BTreeSet<RunId> = runs.iter().cloned().collect();
        let stored = self.counts.iter().filter_map(|counts| RunId::of_service(&counts.service));
        // From versions without books, or with removed books.
        runs.splice(0..0, stored.filter(|id| !listed.contains(id)).collect::<Vec<_>>());
        if which.is_empty() {
            let mut left = Vec::new();
            for id in runs {
                let is_unprinted =
                    || Ok::<_, ExecError>(listed.contains(&id) && self.has_unprinted(&id)?);
                if self.left_of(&id.service()) > 0 || is_unprinted()? {
                    left.push(id);
                }
            }
            return Ok(left);
        }
        runs.retain(|id| id.to_string().starts_with(which));
        match runs.len() {
            1 => Ok(runs),
            0 => Err(ExecError::NoRun(which.to_owned())),
            count => Err(ExecError::ManyRuns { name: which.to_owned(), count }),
        }
    }

    /// Whether an item of a run has ended without its output being written.
    fn has_unprinted(&self, id: &RunId) -> Result<bool, ExecError> {
        let items = book::items(&self.data_dir, id)?;
        for place in items.places().filter(|place| items.printed_at(*place) == 0) {
            if self.look(items.id(place))?.is_some_and(|view| view.finished_at.is_some()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Names all unfinished items of a run, in the order of its book; then the items missing from
    /// the book.
    async fn begin(&mut self, id: &RunId) -> Result<(), ExecError> {
        let mut served = Served::new(id.clone(), Book::of(&self.data_dir, id)?);
        served.is_open = self.served.iter().any(|other| other.id == *id && other.is_open);
        let service = served.service.clone();
        self.served = vec![served];
        (self.waits, self.is_open, self.aside) = (Waits::default(), false, 0);
        self.known.clear();
        let places: Vec<_> = self.served[0].items.places().collect();
        for some in places.chunks(FOUND_AT_A_TIME) {
            let mut back = Vec::new();
            for place in some {
                let Some(view) = self.look(self.served[0].items.id(*place))? else { continue };
                let is_printed = self.served[0].items.printed_at(*place) > 0;
                if view.finished_at.is_none() || !is_printed {
                    self.served[0].items.set(*place, NAMED);
                    self.summary.accepted += 1;
                    back.extend(self.meet(*place, view, None).await?);
                }
            }
            self.put_all_back(back).await?;
        }
        for stage in [Stage::Running, Stage::Inbox, Stage::Paused] {
            self.name_stored(&service, stage).await?;
        }
        Ok(())
    }

    async fn name_stored(&mut self, service: &str, stage: Stage) -> Result<(), ExecError> {
        let service = Some(service.to_owned());
        let filter = EntryFilter { stage: Some(stage), service, ..EntryFilter::default() };
        let mut from = None;
        loop {
            let page = self.runtime.node().inspect().entry_page(&filter, from).await;
            let page = page.map_err(RuntimeError::from)?;
            let mut back: Vec<(usize, EntryView)> = Vec::new();
            for view in page.entries {
                let place = self.served[0].items.find_or_add(view.id);
                if self.served[0].items.set(place, NAMED) {
                    self.summary.accepted += 1;
                    back.extend(self.meet(place, view, None).await?);
                }
            }
            self.put_all_back(back).await?;
            from = page.next;
            if from.is_none() {
                return Ok(());
            }
        }
    }
}
