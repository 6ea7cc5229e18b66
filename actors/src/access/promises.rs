//! Settling the promises of entries, and restarting an entry from an operation of its journal.
//!
//! Must always hold: a caller learns whether the promise has its value. Must not know: which
//! operations wait for a promise.

use forebay_engine::partition::{
    apply::{Reply, Skip, Stale},
    machine::Answer,
    store::JournalRows as _,
};
use forebay_messages::{
    EntryId,
    command::{Command, EntrySelector, Restart, SettlePromise},
    journal::{JournalKey, JournalOutcome, NAME_LEN_MAX},
};

use crate::{error::NodeError, peers::ReplicaRows};

use super::{Access, act::ActReport};

/// Rows of a journal read at a time.
const PAGE_LEN: usize = 1_024;

/// The key of the operation of an entry that is printed like this, or why there is none. Blocks.
fn operation(
    rows: &ReplicaRows,
    entry: EntryId,
    printed: &str,
) -> Result<Result<JournalKey, Skip>, NodeError> {
    let mut after: Option<JournalKey> = None;
    loop {
        let page = rows.store.journal_after(entry, after.as_ref(), PAGE_LEN)?;
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        let mut keys = page.into_iter().map(|(key, _)| key);
        if let Some(found) = keys.find(|key| key.to_string() == printed) {
            return Ok(Ok(found));
        }
    }
    let is_known = rows.store.entry(entry)?.is_some() || rows.store.finished(entry)?.is_some();
    Ok(Err(if is_known { Skip::NoSuchOperation } else { Skip::Unknown }))
}

impl Access {
    /// Resolves (`Success`) or rejects (`Failure`) a promise of an entry. The result is stored even
    /// if the entry does not wait for it yet. Not cancel-safe: a dropped call may have settled the
    /// promise.
    ///
    /// # Errors
    /// [`NodeError::PromiseSettled`], [`NodeError::UnknownEntry`], [`NodeError::EntryEnded`],
    /// [`NodeError::TooManyPromises`], [`NodeError::PromiseName`]. After `LostLeadership` it may
    /// have been done: a repeated call then reports `PromiseSettled`.
    pub async fn settle_promise(
        &self,
        entry: EntryId,
        name: &str,
        outcome: JournalOutcome,
    ) -> Result<(), NodeError> {
        if !(1..=NAME_LEN_MAX).contains(&name.len()) {
            return Err(NodeError::PromiseName { len: name.len() });
        }
        let weight = outcome.len();
        let command = SettlePromise { entry, name: name.into(), outcome: Some(outcome) };
        let command = Command::SettlePromise(command);
        match self.propose(entry.partition_key, command, weight).await? {
            Answer::Reply(Reply::Changed(_)) => Ok(()),
            Answer::Reply(Reply::Stale(Stale::Unknown)) => Err(NodeError::UnknownEntry(entry)),
            Answer::Reply(Reply::Stale(Stale::Finished)) => Err(NodeError::EntryEnded(entry)),
            Answer::Reply(Reply::Stale(Stale::AlreadySettled)) => {
                Err(NodeError::PromiseSettled { entry, name: name.to_owned() })
            }
            Answer::Reply(Reply::Stale(Stale::TooManyPromises)) => {
                Err(NodeError::TooManyPromises(entry))
            }
            other => Err(NodeError::unexpected(other)),
        }
    }

    /// Restarts an entry in a new run that keeps the operations finished before a given one, which
    /// is named as it is printed. Not cancel-safe: a dropped call may have restarted it.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn restart_from(
        &self,
        entry: EntryId,
        printed: &str,
    ) -> Result<ActReport, NodeError> {
        let partition = self.registry.route(entry.partition_key)?;
        let (rows, text) = (self.registry.newest_rows(partition)?, printed.to_owned());
        let found = self.registry.blocking(move || operation(&rows, entry, &text)).await??;
        let from = match found {
            Ok(from) => from,
            Err(why) => return Ok(ActReport::of_one(entry, Err(why))),
        };
        let selector = EntrySelector { entries: vec![entry], ..EntrySelector::default() };
        let command = Command::Restart(Restart { selector, from: Some(from) });
        match self.propose(entry.partition_key, command, printed.len()).await? {
            Answer::Reply(Reply::Acted(acted)) => {
                let skip = acted.skipped.first().map(|(_, skip)| *skip);
                Ok(ActReport::of_one(entry, skip.map_or(Ok(()), Err)))
            }
            other => Err(NodeError::unexpected(other)),
        }
    }
}
