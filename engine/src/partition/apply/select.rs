//! The entries or vqueues that a command applies to.
//!
//! Must always hold: a command changes the entries it names, if they also match its filter, and
//! nothing else; without names it changes nothing. Each is changed once, however often the client
//! named it, and at most [`ENTRIES_PER_COMMAND_MAX`] are; filters are resolved before, by reading,
//! so that the cost of applying a record is proportional to its changes.

use std::collections::BTreeSet;

use bytestring::ByteString;
use forebay_messages::{
    EntryId, Timestamp, VQueueId,
    command::{EntryAction, EntrySelector, VQueueSelector},
};

use super::{
    super::{
        rows::{EntryRow, FinishedRow, Stage, VQueueMeta},
        store::Tables,
    },
    Acted, ApplyError, Context, ENTRIES_PER_COMMAND_MAX, Skip,
    act::{check, check_finished},
};

/// The same in the same order, without duplicates.
fn unique<T: Copy + Ord>(named: &[T]) -> Vec<T> {
    let mut seen = BTreeSet::new();
    named.iter().copied().filter(|id| seen.insert(*id)).collect()
}

/// Whether a selector in a record may match by its service. A family (`exec.*`) is only for
/// listings: in a record it has never matched anything, and a replay must not differ.
fn is_plain(service: Option<&ByteString>) -> bool {
    service.is_none_or(|service| !service.ends_with(".*"))
}

/// Number of journal rows and messages after which a command about entries stops: the entries named
/// after that are skipped. The first entry is always processed completely.
const JOURNAL_ROWS_PER_COMMAND_MAX: usize = 16_384;

/// A named entry.
pub(super) enum Named {
    /// It has not ended.
    Live(Box<EntryRow>),
    /// It has ended.
    Ended(Box<FinishedRow>),
}

impl<T: Tables> Context<'_, T> {
    fn matches(
        &self,
        selector: &EntrySelector,
        (vqueue, stage, created_at): (VQueueId, Stage, Timestamp),
    ) -> Result<bool, ApplyError> {
        let fits = selector.matches_row(stage, created_at);
        if !selector.names_vqueues() || !fits {
            return Ok(fits);
        }
        let is_plain = is_plain(selector.service.as_ref());
        Ok(is_plain && selector.matches_name(&self.meta(vqueue)?.name))
    }

    /// Applies a change to each entry that is named, matches, and has not ended.
    pub(super) fn each_entry(
        &mut self,
        selector: &EntrySelector,
        action: EntryAction,
        mut change: impl FnMut(&mut Self, EntryId, EntryRow) -> Result<(), ApplyError>,
    ) -> Result<Acted, ApplyError> {
        self.each(&selector.entries, |context, id| {
            let Some(row) = context.tables.entry(id)? else {
                let has_ended = context.tables.finished(id)?.is_some();
                return Ok(Err(if has_ended { Skip::Finished } else { Skip::Unknown }));
            };
            if let Err(skip) = check(action, &row) {
                return Ok(Err(skip));
            }
            let is_suspended = row.stage == Stage::Suspended;
            if action == EntryAction::Pause && is_suspended && !selector.includes_suspended {
                return Ok(Err(Skip::Suspended));
            }
            if !context.matches(selector, (row.vqueue, row.stage, row.created_at))? {
                return Ok(Err(Skip::NoMatch));
            }
            change(context, id, row).map(Ok)
        })
    }

    /// Applies a change to each entry that is named, matches, and has ended. The change may return
    /// another reason to skip it.
    pub(super) fn each_finished(
        &mut self,
        selector: &EntrySelector,
        action: EntryAction,
        mut change: impl FnMut(&mut Self, EntryId, FinishedRow) -> Result<Result<(), Skip>, ApplyError>,
    ) -> Result<Acted, ApplyError> {
        self.each(&selector.entries, |context, id| {
            let Some(row) = context.tables.finished(id)? else {
                let is_live = context.tables.entry(id)?.is_some();
                return Ok(Err(if is_live { Skip::NotFinished } else { Skip::Unknown }));
            };
            if let Err(skip) = check_finished(action, &row) {
                return Ok(Err(skip));
            }
            if !context.matches(selector, (row.vqueue, Stage::Finished, row.created_at))? {
                return Ok(Err(Skip::NoMatch));
            }
            change(context, id, row)
        })
    }

    /// Applies a change to each entry that is named and matches, ended or not. The change may
    /// return a reason to skip it.
    pub(super) fn each_named(
        &mut self,
        selector: &EntrySelector,
        mut change: impl FnMut(&mut Self, EntryId, Named) -> Result<Result<(), Skip>, ApplyError>,
    ) -> Result<Acted, ApplyError> {
        self.each(&selector.entries, |context, id| {
            let (named, known) = match context.tables.entry(id)? {
                Some(row) => {
                    let known = (row.vqueue, row.stage, row.created_at);
                    (Named::Live(Box::new(row)), known)
                }
                None => match context.tables.finished(id)? {
                    None => return Ok(Err(Skip::Unknown)),
                    Some(row) => {
                        let known = (row.vqueue, Stage::Finished, row.created_at);
                        (Named::Ended(Box::new(row)), known)
                    }
                },
            };
            if !context.matches(selector, known)? {
                return Ok(Err(Skip::NoMatch));
            }
            change(context, id, named)
        })
    }

    /// Whether this record has visited its maximum number of journal rows.
    pub(super) fn is_exhausted(&self) -> bool {
        self.swept + self.sent >= JOURNAL_ROWS_PER_COMMAND_MAX
    }

    fn each<I: Copy + Ord>(
        &mut self,
        named: &[I],
        mut change: impl FnMut(&mut Self, I) -> Result<Result<(), Skip>, ApplyError>,
    ) -> Result<Acted<I>, ApplyError> {
        let mut acted = Acted::default();
        for (index, id) in unique(named).into_iter().enumerate() {
            let over = index >= ENTRIES_PER_COMMAND_MAX || self.is_exhausted();
            match if over { Err(Skip::OverLimit) } else { change(self, id)? } {
                Ok(()) => acted.changed += 1,
                Err(skip) => acted.skipped.push((id, skip)),
            }
        }
        Ok(acted)
    }

    /// Applies a change to each vqueue that is named, matches, and is known. The change may return
    /// another reason to skip it.
    pub(super) fn each_vqueue(
        &mut self,
        selector: &VQueueSelector,
        mut change: impl FnMut(&mut Self, VQueueId, VQueueMeta) -> Result<(), Skip>,
    ) -> Result<Acted<VQueueId>, ApplyError> {
        self.each(&selector.vqueues, |context, vqueue| {
            let Some(meta) = context.tables.vqueue_meta(vqueue)? else {
                return Ok(Err(Skip::Unknown));
            };
            let is_plain = is_plain(selector.service.as_ref());
            if !is_plain || !selector.matches_name(&meta.name) {
                return Ok(Err(Skip::NoMatch));
            }
            Ok(change(context, vqueue, meta))
        })
    }
}
