//! From the items of the input to stored entries.
//!
//! Must always hold: an item is stored before it is waited for, and waited for once.

use bilrost::Message;
use forebay::{EnqueueError, Entry, EntryHandle, Timestamp, error::BacklogFull};
use forebay_actors::node::{EntryCommand, EntryTarget};

use super::{ExecError, ItemEnd, Run};
use crate::cli::exec::{
    feed::Fed,
    item::{Prepared, SERVICE},
};

/// Items named again that are told one by one.
const DUPLICATES_TOLD_MAX: u64 = 3;

impl Run {
    /// Stores what was read; what broke the input, if anything did.
    pub(super) async fn take(&mut self, batch: Vec<Fed>) -> Result<Option<String>, ExecError> {
        let mut items = Vec::with_capacity(batch.len());
        let mut broke = None;
        // Until they are stored: what comes next is read meanwhile.
        let mut ahead = Vec::with_capacity(batch.len());
        for fed in batch {
            match fed {
                Fed::Item(item, share) => {
                    items.push(*item);
                    ahead.push(share);
                }
                Fed::Bad(reason) => self.skip(&reason),
                Fed::Note(note) => self.note(&note),
                Fed::Broken(reason) => broke = Some(reason),
            }
        }
        self.store(items).await?;
        drop(ahead);
        Ok(broke)
    }

    /// Makes items durable, and those that were held back before them, as far as there
    /// is room.
    pub(super) async fn store(&mut self, items: Vec<Prepared>) -> Result<(), ExecError> {
        for item in items {
            if self.seen.insert(item.id.uuid) {
                self.room.hold(item);
            } else {
                self.tell_duplicate(&item);
            }
        }
        while !self.room.is_empty() {
            let entries: Vec<Entry> = self.room.batch().map(entry).collect();
            let count = entries.len();
            match self.runtime.enqueue_batch(entries).await {
                Ok(handles) => {
                    let items = self.room.stored(count);
                    self.stored(items, handles).await?;
                }
                Err(EnqueueError::BacklogFull(full)) => {
                    if !self.room.refused(count) {
                        self.tell_of_room(&full);
                        break;
                    }
                }
                // One of them, or all together: those that are too large alone are told.
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
            self.skip(&format!("item {}: {error}", item.job.number));
        }
    }

    /// Tells of a line that cannot be run.
    fn skip(&mut self, reason: &str) {
        self.summary.skipped += 1;
        self.screen.message(format!("error: {reason}; skipped\n").as_bytes());
    }

    /// Tells something that is not wrong, unless nothing but that is wanted.
    fn note(&self, text: &str) {
        if !self.quiet {
            self.screen.message(format!("forebay: {text}\n").as_bytes());
        }
    }

    /// Tells of the first few items that the input names again, and counts all.
    fn tell_duplicate(&mut self, item: &Prepared) {
        self.summary.duplicates += 1;
        let number = item.job.number;
        match self.summary.duplicates {
            1..DUPLICATES_TOLD_MAX => {
                let text = format!("item {number} came before in this input: it runs once");
                self.note(&text);
            }
            DUPLICATES_TOLD_MAX => {
                let text = format!(
                    "item {number} came before in this input, too; further ones are only counted"
                );
                self.note(&text);
            }
            _ => {}
        }
    }

    /// Says once that reading the input waits.
    fn tell_of_room(&mut self, full: &BacklogFull) {
        if !std::mem::replace(&mut self.told_of_room, true) {
            let BacklogFull { key, pattern, waiting, limit, .. } = full;
            let text = format!(
                "the rest of the input waits for room: {waiting} items of {key} wait, rule \
                 `{pattern}` allows {limit}\n"
            );
            self.screen.message(text.as_bytes());
        }
    }

    /// Begins to wait for the ends of items that are stored.
    async fn stored(
        &mut self,
        items: Vec<Prepared>,
        handles: Vec<EntryHandle>,
    ) -> Result<(), ExecError> {
        for (item, handle) in items.into_iter().zip(handles) {
            self.summary.accepted += 1;
            let earlier = handle.was_existing() && !self.stored_now(&handle, &item)?;
            if earlier && self.ended_earlier(&handle, &item).await? {
                continue;
            }
            self.runner.progress().accepted();
            self.waiting.push(Box::pin(async move {
                let outcome = handle.outcome().await;
                ItemEnd { handle, item, outcome }
            }));
        }
        Ok(())
    }

    /// Whether an item that is stored was stored by this run, with a batch of which
    /// another part was refused.
    fn stored_now(&self, handle: &EntryHandle, item: &Prepared) -> Result<bool, ExecError> {
        if !self.room.is_unsure(item) {
            return Ok(false);
        }
        let view = self.runtime.node().entry(handle.id()).map_err(forebay::RuntimeError::from)?;
        let began_at = Timestamp::from(self.began_at);
        Ok(view.is_some_and(|view| view.created_at >= began_at.0))
    }

    /// Whether an item that was stored before had ended when this run began, and is not to
    /// be tried again.
    async fn ended_earlier(
        &mut self,
        handle: &EntryHandle,
        item: &Prepared,
    ) -> Result<bool, ExecError> {
        let found = self.runtime.node().outcome(handle.id());
        let Some(outcome) = found.map_err(forebay::RuntimeError::from)? else {
            return Ok(false);
        };
        let view = self.runtime.node().entry(handle.id()).map_err(forebay::RuntimeError::from)?;
        let began_at = Timestamp::from(self.began_at);
        // What an earlier run left starts at once, and may end before it is read again.
        if view.and_then(|view| view.finished_at).is_some_and(|at| at >= began_at.0) {
            return Ok(false);
        }
        if !outcome.is_success() && self.retry_failed {
            let target = EntryTarget::Named(vec![handle.id()]);
            let redriven = self.runtime.node().act(EntryCommand::Redrive, &target, false).await;
            let report = redriven.map_err(forebay::RuntimeError::from)?;
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
        // A crash may have come between the end of an item and its line.
        self.write_result(handle, item, &outcome, false)?;
        Ok(true)
    }
}

fn entry(item: &Prepared) -> Entry {
    let mut entry = Entry::to(SERVICE).uuid(item.id.uuid).payload(item.job.encode_to_vec());
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
