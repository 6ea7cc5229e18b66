//! From the items of the input to stored entries: new ones are stored, items of earlier runs are
//! found.
//!
//! Must always hold: an item is in the run's book before it is stored, and stored before it is
//! waited for; a stored item is found even if its scope and key have changed.

use bilrost::{Message, OwnedMessage};
use forebay::{EnqueueError, Entry, Outcome, RuntimeError, error::BacklogFull};
use forebay_actors::access::EntryTarget;
use forebay_api::EntryView;
use forebay_messages::{EntryId, command::EntryAction};

use super::{ExecError, Run, gate::Known, print::end_of};
use crate::exec::{
    feed::Fed,
    item::{Job, Prepared},
    runs::{
        RunId,
        items::{ASIDE, ENDED, ItemIndex, NAMED, STORED},
    },
};

/// Maximum number of duplicates reported one by one.
const DUPLICATES_REPORTED_MAX: u64 = 3;

impl Run {
    /// Stores the items that were read; returns the error of the input, if there is one.
    pub(super) async fn take(&mut self, batch: Vec<Fed>) -> Result<Option<String>, ExecError> {
        let mut items = Vec::with_capacity(batch.len());
        let mut broke = None;
        // Held until these items are stored; the next ones are read meanwhile.
        let mut ahead = Vec::with_capacity(batch.len());
        for fed in batch {
            match fed {
                Fed::Item(item, share) => {
                    items.push(*item);
                    ahead.push(share);
                }
                Fed::Bad(reason) => self.skip(&reason),
                Fed::Note(note) => self.note(&note),
                Fed::Inside => self.summary.inside += 1,
                Fed::Broken(reason) => broke = Some(reason),
            }
        }
        self.name(items).await?;
        self.store().await?;
        drop(ahead);
        Ok(broke)
    }

    /// The input names these items: stored items of earlier runs are found, the others will be
    /// stored.
    pub(super) async fn name(&mut self, items: Vec<Prepared>) -> Result<(), ExecError> {
        let mut back: Vec<(usize, EntryView)> = Vec::new();
        for item in items {
            let own = &mut self.served[0].items;
            let known = own.find(&item.id.uuid);
            let place = own.find_or_add(item.id);
            if !own.set(place, NAMED) {
                self.report_duplicate(&item);
                continue;
            }
            self.summary.accepted += 1;
            let found = match known {
                Some(_) => self.look(self.served[0].items.id(place))?,
                None => None,
            };
            let found = match found {
                None => self.look_before(place, &item)?,
                found => found,
            };
            match found {
                Some(view) => back.extend(self.meet(place, view, Some(item)).await?),
                None => {
                    self.served[0].items.moved(place, item.id.partition_key);
                    self.served[0].items.unset(place, STORED);
                    self.waits.push(place);
                    self.room.hold(item);
                }
            }
        }
        self.put_all_back(back).await
    }

    pub(super) async fn put_all_back(
        &mut self,
        back: Vec<(usize, EntryView)>,
    ) -> Result<(), ExecError> {
        for which in 0..self.served.len() {
            let of = back.iter().filter(|(of, _)| *of == which);
            let views: Vec<EntryView> = of.map(|(_, view)| view.clone()).collect();
            self.put_back(which, &views).await?;
        }
        Ok(())
    }

    pub(super) fn look(&self, id: EntryId) -> Result<Option<EntryView>, ExecError> {
        Ok(self.runtime.node().inspect().entry(id).map_err(RuntimeError::from)?)
    }

    /// The entry that a version without runs made from an item: ended, or waiting in this
    /// directory.
    fn look_before(
        &self,
        place: ItemIndex,
        item: &Prepared,
    ) -> Result<Option<EntryView>, ExecError> {
        let Some(id) = item.before.filter(|_| self.has_before) else { return Ok(None) };
        let Some(view) = self.look(id)? else { return Ok(None) };
        if view.finished_at.is_some() {
            return Ok(Some(view));
        }
        debug_assert!(self.served[0].items.has(place, NAMED), "an item is looked for once");
        let payload = self.runtime.node().inspect().payload(id).map_err(RuntimeError::from)?;
        let job = Job::decode(payload.unwrap_or_default()).unwrap_or_default();
        Ok((job.directory == item.job.directory).then_some(view))
    }

    /// An item is already stored: it has ended, or is waited for. Returns it if it was set aside
    /// and must be put back.
    pub(super) async fn meet(
        &mut self,
        mut place: ItemIndex,
        view: EntryView,
        item: Option<Prepared>,
    ) -> Result<Option<(usize, EntryView)>, ExecError> {
        let items = &mut self.served[0].items;
        if view.id != items.id(place) {
            // An entry of another run, or of a version without runs.
            place = items.find_or_add(view.id);
            items.moved(place, view.id.partition_key);
            items.set(place, NAMED);
        }
        items.set(place, STORED);
        if let (Some(item), Some(_)) = (item, view.finished_at) {
            self.known.insert(place, Known { job: item.job, ran: None });
        }
        let ended_at = view.finished_at.filter(|at| *at < self.began_at);
        if ended_at.is_some() && self.ended_earlier(place, &view).await? {
            return Ok(None);
        }
        self.waits.push(place);
        self.runner.progress().accepted();
        if view.finished_at.is_some() {
            return Ok(None);
        }
        let run = RunId::of_service(&view.service).unwrap_or_else(RunId::before);
        let which = self.serve(run)?;
        if self.is_open {
            self.open(which).await?;
        }
        let of = &self.served[which].items;
        let is_aside = of.find(&view.id.uuid).is_some_and(|place| of.has(place, ASIDE));
        Ok(is_aside.then_some((which, view)))
    }

    /// Stores held items durably, as far as there is room.
    pub(super) async fn store(&mut self) -> Result<(), ExecError> {
        while !self.room.is_empty() {
            let fresh = self.room.fresh();
            self.served[0].book.store(fresh)?;
            let entries: Vec<Entry> = self.room.batch().map(|item| self.entry(item)).collect();
            let count = entries.len();
            match self.runtime.enqueue_batch(entries).await {
                Ok(handles) => {
                    let items = self.room.stored(count);
                    for (item, handle) in items.into_iter().zip(handles) {
                        self.stored(item, handle.was_existing()).await?;
                    }
                }
                Err(EnqueueError::BacklogFull(full)) => {
                    if !self.room.refused(count) {
                        self.report_room(&full);
                        break;
                    }
                }
                // One of them, or all together: items that are too large alone are reported.
                Err(
                    error @ (EnqueueError::TooLarge { .. } | EnqueueError::PayloadTooLarge { .. }),
                ) => {
                    if count == 1 {
                        self.drop_too_large(&error);
                    } else {
                        self.room.refused(count);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn drop_too_large(&mut self, error: &EnqueueError) {
        if let Some(item) = self.room.drop_first() {
            if let Some(place) = self.served[0].items.find(&item.id.uuid) {
                self.waits.ended(&mut self.served[0].items, place);
            }
            self.skip(&format!("item {}: {error}", item.job.number));
        }
    }

    /// Reports a line that cannot be run.
    fn skip(&mut self, reason: &str) {
        self.summary.skipped += 1;
        self.screen.message(format!("error: {reason}; skipped\n").as_bytes());
    }

    /// Reports something that is not an error, unless only errors are wanted.
    fn note(&self, text: &str) {
        if !self.quiet {
            self.screen.message(format!("forebay: {text}\n").as_bytes());
        }
    }

    /// Reports the first few duplicates in the input, and counts all.
    fn report_duplicate(&mut self, item: &Prepared) {
        self.summary.duplicates += 1;
        // The client gets the number of duplicates.
        if self.adds.are_named() {
            return;
        }
        let number = item.job.number;
        match self.summary.duplicates {
            1..DUPLICATES_REPORTED_MAX => {
                let text = format!("item {number} came before in this input: it runs once");
                self.note(&text);
            }
            DUPLICATES_REPORTED_MAX => {
                let text = format!(
                    "item {number} came before in this input, too; further ones are only counted"
                );
                self.note(&text);
            }
            _ => {}
        }
    }

    fn entry(&self, item: &Prepared) -> Entry {
        let options = &self.options;
        let mut entry = Entry::to(&item.vqueue.service)
            .uuid(item.id.uuid)
            .partition_key(item.id.partition_key)
            .payload(item.job.encode_to_vec())
            .retry(options.retry);
        if let Some(retention) = options.retention {
            entry = entry.retention(retention);
        }
        if let Some(scope) = &item.vqueue.scope {
            entry = entry.scope(scope);
        }
        if item.vqueue.l1.is_some() {
            entry = entry.limit_key(&item.vqueue.limit_key());
        }
        if let Some(key) = &item.vqueue.object_key {
            entry = entry.key(key);
        }
        entry
    }

    /// Reports once that reading the input waits.
    fn report_room(&mut self, full: &BacklogFull) {
        if !std::mem::replace(&mut self.has_reported_room, true) {
            let BacklogFull { key, pattern, waiting, limit, .. } = full;
            let text = format!(
                "the rest of the input waits for room: {waiting} items of {key} wait, rule \
                 `{pattern}` allows {limit}\n"
            );
            self.screen.message(text.as_bytes());
        }
    }

    /// An item is stored. If it was stored before although the book did not have it (a power
    /// failure, an `id` that another command has used), it is treated as found.
    async fn stored(&mut self, item: Prepared, existed: bool) -> Result<(), ExecError> {
        let items = &mut self.served[0].items;
        let place = items.find_or_add(item.id);
        items.set(place, STORED);
        if !existed {
            self.runner.progress().accepted();
            return Ok(());
        }
        let Some(view) = self.look(item.id)? else { return Ok(()) };
        if view.created_at >= self.began_at {
            // By this run, in a batch of which another part was refused.
            self.runner.progress().accepted();
            return Ok(());
        }
        // It has another position in the order.
        self.waits.ended(&mut self.served[0].items, place);
        self.served[0].items.unset(place, ENDED);
        let back = self.meet(place, view, Some(item)).await?;
        self.put_all_back(back.into_iter().collect()).await
    }

    /// When the end of an entry of another run was reported, if it was.
    fn printed_elsewhere(
        &mut self,
        view: &EntryView,
        outcome: &Outcome,
    ) -> Result<Option<u64>, ExecError> {
        if view.service == self.served[0].service {
            return Ok(None);
        }
        match RunId::of_service(&view.service) {
            // A version without runs has printed it.
            Some(id) if id.is_before() => Ok(Some(end_of(outcome, view.finished_at))),
            Some(id) => {
                let which = self.serve(id)?;
                let items = &self.served[which].items;
                Ok(items.find(&view.id.uuid).map(|place| items.printed_at(place)))
            }
            None => Ok(None),
        }
    }

    /// An item that had ended when this run began. Returns whether that is final: it will not be
    /// retried.
    async fn ended_earlier(
        &mut self,
        place: ItemIndex,
        view: &EntryView,
    ) -> Result<bool, ExecError> {
        let found = self.runtime.node().inspect().outcome(view.id);
        let Some(outcome) = found.map_err(RuntimeError::from)? else { return Ok(false) };
        if !outcome.is_success() && self.retry_failed {
            let target = EntryTarget::Named(vec![view.id]);
            let redriven =
                self.runtime.node().access().act(EntryAction::Redrive, &target, false).await;
            let report = redriven.map_err(RuntimeError::from)?;
            return match report.skipped_named.first() {
                None => Ok(false),
                Some((id, why)) => Err(ExecError::Broken(format!("cannot retry {id}: {why}"))),
            };
        }
        match outcome.is_success() {
            true => self.summary.succeeded_earlier += 1,
            false => self.summary.failed_earlier += 1,
        }
        self.runner.progress().ended_earlier();
        if let Some(printed_at) = self.printed_elsewhere(view, &outcome)? {
            self.served[0].items.set_printed(place, printed_at);
        }
        self.waits.push(place);
        self.over(place, Some(outcome))?;
        Ok(true)
    }
}
