//! Changing entries and vqueues from outside, named or found by a filter.
//!
//! Must always hold: an empty filter changes nothing, unless the caller asked for all entries; one
//! record changes a bounded number of entries; a dry run uses the same scan to report what would
//! change, and changes nothing. Must not know: which entries an action applies to (the engine
//! decides).

use std::collections::{BTreeMap, HashMap};

use forebay_api::{EntryFilter, FilterError};
use forebay_engine::partition::{
    apply::{
        Acted, ENTRIES_PER_COMMAND_MAX, NeverMatches, Reply, Skip, check, check_can_match,
        check_finished, is_for_finished, spares,
    },
    machine::Answer,
};
use forebay_messages::{
    EntryId, PartitionId, VQueueId,
    command::{Command, EntryAction, EntrySelector, VQueueSelector},
};

use crate::{
    error::NodeError,
    inspect::query::{selector, wants_outcome},
    peers::ReplicaRows,
};

use super::Access;

/// Maximum number of entries that a report names, changed and skipped ones each; all are counted.
pub const NAMED_MAX: usize = 1_000;
/// Approximate bytes of a record per named entry.
const NAME_LEN: usize = 32;

/// The entries that an action applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryTarget {
    /// These entries.
    Named(Vec<EntryId>),
    /// All entries that match; an empty filter is refused. The filter's limit is ignored.
    Matching(EntryFilter),
    /// All entries.
    All,
}

/// The result of an action.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActReport {
    /// Number of entries that were changed (or would be, in a dry run).
    pub changed: u64,
    /// Number of entries that were skipped, by reason.
    pub skipped: BTreeMap<Skip, u64>,
    /// The first [`NAMED_MAX`] changed entries.
    pub changed_named: Vec<EntryId>,
    /// The first [`NAMED_MAX`] skipped entries, with reasons.
    pub skipped_named: Vec<(EntryId, Skip)>,
}

impl ActReport {
    /// The report of an action on one entry.
    pub(super) fn of_one(id: EntryId, result: Result<(), Skip>) -> Self {
        let mut report = Self::default();
        match result {
            Ok(()) => report.changed(id),
            Err(skip) => report.skipped(id, skip),
        }
        report
    }

    fn changed(&mut self, id: EntryId) {
        self.changed += 1;
        if self.changed_named.len() < NAMED_MAX {
            self.changed_named.push(id);
        }
    }

    fn skipped(&mut self, id: EntryId, skip: Skip) {
        *self.skipped.entry(skip).or_default() += 1;
        if self.skipped_named.len() < NAMED_MAX {
            self.skipped_named.push((id, skip));
        }
    }

    /// Adds the result of a command for the named entries.
    fn add(&mut self, named: Vec<EntryId>, acted: &Acted) {
        let skipped: HashMap<EntryId, Skip> = acted.skipped.iter().copied().collect();
        for id in named {
            match skipped.get(&id) {
                None => self.changed(id),
                Some(skip) => self.skipped(id, *skip),
            }
        }
    }
}

/// The result of pausing or resuming vqueues.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VQueueReport {
    /// Number of vqueues that were changed (or would be).
    pub changed: u64,
    /// Skipped vqueues, with reasons.
    pub skipped: Vec<(VQueueId, Skip)>,
}

/// A page of entries found by a filter.
struct Found {
    /// Would change.
    matching: Vec<EntryId>,
    /// Match, but would not change.
    skipped: Vec<(EntryId, Skip)>,
    next: Option<EntryId>,
}

/// Scans a page of a partition's rows. Blocks.
fn find(
    partition: &ReplicaRows,
    action: EntryAction,
    filter: &EntryFilter,
    selector: &EntrySelector,
    after: Option<EntryId>,
) -> Result<Found, NodeError> {
    let mut found = Found { matching: Vec::new(), skipped: Vec::new(), next: None };
    let mut tell = |id, checked: Result<(), Skip>| match checked {
        Ok(()) => found.matching.push(id),
        Err(skip) => found.skipped.push((id, skip)),
    };
    if is_for_finished(action) {
        let page = partition.store.list_finished(selector, after, ENTRIES_PER_COMMAND_MAX)?;
        for listed in page.entries {
            let outcome = listed.row.outcome();
            if wants_outcome(filter, &outcome)
                && !spares(action, filter.outcome.is_some(), &outcome)
            {
                tell(listed.id, check_finished(action, &listed.row));
            }
        }
        found.next = page.next;
    } else {
        let page = partition.store.list_entries(selector, after, ENTRIES_PER_COMMAND_MAX)?;
        for listed in page.entries {
            tell(listed.id, check(action, &listed.row));
        }
        found.next = page.next;
    }
    Ok(found)
}

impl Access {
    /// Changes entries, or with `dry_run` only reports what would change.
    ///
    /// Entries found by a filter are changed in steps of [`ENTRIES_PER_COMMAND_MAX`]; each step is
    /// durable when the next one begins. Entries enqueued meanwhile may be changed or not. Not
    /// cancel-safe: a dropped call may have done part of the work.
    ///
    /// # Errors
    /// [`NodeError::Filter`] before anything is changed; other errors may come after part of the
    /// work was done. Repeating the call is safe.
    pub async fn act(
        &self,
        action: EntryAction,
        target: &EntryTarget,
        dry_run: bool,
    ) -> Result<ActReport, NodeError> {
        match target {
            EntryTarget::Named(ids) => self.act_on_named(action, ids, dry_run).await,
            EntryTarget::Matching(filter) if filter.is_empty() => Err(FilterError::Empty.into()),
            EntryTarget::Matching(filter) => self.act_on_matching(action, filter, dry_run).await,
            EntryTarget::All => {
                self.act_on_matching(action, &EntryFilter::default(), dry_run).await
            }
        }
    }

    async fn act_on_named(
        &self,
        action: EntryAction,
        ids: &[EntryId],
        dry_run: bool,
    ) -> Result<ActReport, NodeError> {
        let mut report = ActReport::default();
        let mut by_partition: BTreeMap<PartitionId, Vec<EntryId>> = BTreeMap::new();
        for id in ids {
            match self.registry.route(id.partition_key) {
                Ok(partition) => by_partition.entry(partition).or_default().push(*id),
                Err(NodeError::NoPartition(_)) => report.skipped(*id, Skip::Unknown),
                Err(error) => return Err(error),
            }
        }
        for (partition, mut ids) in by_partition {
            ids.sort_unstable();
            ids.dedup();
            for some in ids.chunks(ENTRIES_PER_COMMAND_MAX) {
                let selector = EntrySelector { entries: some.to_vec(), ..Default::default() };
                if dry_run {
                    self.would_act(action, partition, some, &mut report).await?;
                } else {
                    let acted = self.propose_act(partition, action, selector).await?;
                    report.add(some.to_vec(), &acted);
                }
            }
        }
        Ok(report)
    }

    async fn act_on_matching(
        &self,
        action: EntryAction,
        filter: &EntryFilter,
        dry_run: bool,
    ) -> Result<ActReport, NodeError> {
        let can_match = check_can_match(action, filter.stage, filter.outcome.is_some());
        can_match
            .map_err(|NeverMatches { action, of }| FilterError::NeverMatches { action, of })?;
        let selector = selector(filter)?;
        let mut report = ActReport::default();
        for (id, partition) in self.registry.all_newest_rows()? {
            let mut after = None;
            loop {
                let (reader, filter, wanted) =
                    (partition.clone(), filter.clone(), selector.clone());
                let found = self
                    .registry
                    .blocking(move || find(&reader, action, &filter, &wanted, after))
                    .await??;
                for (entry, skip) in found.skipped {
                    report.skipped(entry, skip);
                }
                if dry_run {
                    found.matching.into_iter().for_each(|entry| report.changed(entry));
                } else if !found.matching.is_empty() {
                    // Records contain the services' own names, without aliases; the service of an
                    // entry never changes.
                    let service = selector.service.clone().filter(|name| !name.ends_with(".*"));
                    let entries = found.matching.clone();
                    let named = EntrySelector { entries, service, ..selector.clone() };
                    let acted = self.propose_act(id, action, named).await?;
                    report.add(found.matching, &acted);
                }
                match found.next {
                    Some(_) => after = found.next,
                    None => break,
                }
            }
        }
        Ok(report)
    }

    async fn would_act(
        &self,
        action: EntryAction,
        partition: PartitionId,
        ids: &[EntryId],
        report: &mut ActReport,
    ) -> Result<(), NodeError> {
        let (partition, ids) = (self.registry.newest_rows(partition)?, ids.to_vec());
        let checked = self.registry.blocking(move || {
            let tables = &partition.store;
            let check = |id| -> Result<Result<(), Skip>, NodeError> {
                Ok(match (tables.entry(id)?, tables.finished(id)?) {
                    (Some(row), _) => check(action, &row),
                    (None, Some(row)) => check_finished(action, &row),
                    (None, None) => Err(Skip::Unknown),
                })
            };
            ids.into_iter().map(|id| Ok((id, check(id)?))).collect::<Result<Vec<_>, NodeError>>()
        });
        for (id, checked) in checked.await?? {
            match checked {
                Ok(()) => report.changed(id),
                Err(skip) => report.skipped(id, skip),
            }
        }
        Ok(())
    }

    async fn propose_act(
        &self,
        partition: PartitionId,
        action: EntryAction,
        selector: EntrySelector,
    ) -> Result<Acted, NodeError> {
        let credit = self.credit(partition, selector.entries.len() * NAME_LEN).await?;
        match self.propose_under(credit, partition, action.command(selector)).await? {
            Answer::Reply(Reply::Acted(acted)) => Ok(acted),
            other => Err(NodeError::unexpected(other)),
        }
    }

    /// Pauses vqueues (nothing new starts; running entries continue) or resumes them; with
    /// `dry_run` only reports what would change. Not cancel-safe: a dropped call may have done part
    /// of the work.
    ///
    /// # Errors
    /// [`NodeError`]; part of the work may be done. Repeating the call is safe.
    pub async fn pause_vqueues(
        &self,
        ids: &[VQueueId],
        paused: bool,
        dry_run: bool,
    ) -> Result<VQueueReport, NodeError> {
        let mut report = VQueueReport::default();
        let mut by_partition: BTreeMap<PartitionId, Vec<VQueueId>> = BTreeMap::new();
        for id in ids {
            match self.registry.route(id.partition_key) {
                Ok(partition) => by_partition.entry(partition).or_default().push(*id),
                Err(NodeError::NoPartition(_)) => report.skipped.push((*id, Skip::Unknown)),
                Err(error) => return Err(error),
            }
        }
        for (partition, mut vqueues) in by_partition {
            vqueues.sort_unstable();
            vqueues.dedup();
            for some in vqueues.chunks(ENTRIES_PER_COMMAND_MAX) {
                let acted = match dry_run {
                    true => self.would_pause(partition, some.to_vec(), paused).await?,
                    false => self.propose_pause(partition, some.to_vec(), paused).await?,
                };
                report.changed += acted.changed;
                report.skipped.extend(acted.skipped);
            }
        }
        Ok(report)
    }

    async fn propose_pause(
        &self,
        partition: PartitionId,
        vqueues: Vec<VQueueId>,
        paused: bool,
    ) -> Result<Acted<VQueueId>, NodeError> {
        let credit = self.credit(partition, vqueues.len() * NAME_LEN).await?;
        let selector = VQueueSelector { vqueues, ..VQueueSelector::default() };
        let command = match paused {
            true => Command::PauseVQueue(selector),
            false => Command::ResumeVQueue(selector),
        };
        match self.propose_under(credit, partition, command).await? {
            Answer::Reply(Reply::VQueuesActed(acted)) => Ok(acted),
            other => Err(NodeError::unexpected(other)),
        }
    }

    async fn would_pause(
        &self,
        partition: PartitionId,
        vqueues: Vec<VQueueId>,
        paused: bool,
    ) -> Result<Acted<VQueueId>, NodeError> {
        let partition = self.registry.newest_rows(partition)?;
        let looked = self.registry.blocking(move || {
            let mut acted = Acted::default();
            for id in vqueues {
                let skip = match partition.store.vqueue(id)? {
                    None => Skip::Unknown,
                    Some(meta) if meta.is_paused && paused => Skip::AlreadyPaused,
                    Some(meta) if !meta.is_paused && !paused => Skip::NotPaused,
                    Some(_) => {
                        acted.changed += 1;
                        continue;
                    }
                };
                acted.skipped.push((id, skip));
            }
            Ok(acted)
        });
        looked.await?
    }
}
