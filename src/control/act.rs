//! Answering requests that change entries or vqueues.

use std::collections::{BTreeMap, BTreeSet};

use forebay_actors::{
    access::{ActReport, EntryTarget, NAMED_MAX, VQueueReport},
    node::Node,
};
use forebay_api::FilterError;
use forebay_engine::partition::apply::Skip;
use forebay_messages::{EntryId, VQueueId, command::EntryAction};

use super::{ActView, NotChangedView, SkippedView, Target, answer::Refused};

pub(super) async fn act(
    node: &Node,
    action: EntryAction,
    target: Target,
    dry_run: bool,
) -> Result<ActView, Refused> {
    if target.queues.is_empty() {
        let report = node.access().act(action, &entry_target(target)?, dry_run).await?;
        return Ok(view_act(dry_run, &report));
    }
    if target.all || !target.entries.is_empty() || !target.filter.is_empty() {
        return Err(Refused::Usage("name queues, or entries, not both".to_owned()));
    }
    let paused = match action {
        EntryAction::Pause => true,
        EntryAction::Resume => false,
        _ => {
            let text = "whole queues can be paused and resumed; filter by scope or service to \
                        reach the entries in them";
            return Err(Refused::Usage(text.to_owned()));
        }
    };
    let report = node.access().pause_vqueues(&target.queues, paused, dry_run).await?;
    Ok(view_queues(dry_run, &target.queues, &report))
}

fn entry_target(target: Target) -> Result<EntryTarget, Refused> {
    let Target { entries, filter, all, .. } = target;
    match (entries.is_empty(), filter.is_empty(), all) {
        (false, true, false) => Ok(EntryTarget::Named(entries)),
        (true, false, false) => Ok(EntryTarget::Matching(filter)),
        (true, true, true) => Ok(EntryTarget::All),
        (true, true, false) => Err(Refused::Usage(FilterError::Empty.to_string())),
        _ => Err(Refused::Usage("select entries by id, with a filter, or all of them".to_owned())),
    }
}

pub(super) fn view_act(dry_run: bool, report: &ActReport) -> ActView {
    let counted = report.skipped.iter();
    let skipped = counted.map(|(skip, count)| SkippedView { reason: *skip, count: *count });
    let named = report.skipped_named.iter();
    ActView {
        dry_run,
        changed: report.changed,
        not_changed: report.skipped.values().sum(),
        reasons: skipped.collect(),
        changed_ids: report.changed_named.iter().map(EntryId::to_string).collect(),
        not_changed_ids: named
            .map(|(id, skip)| NotChangedView { id: id.to_string(), reason: *skip })
            .collect(),
    }
}

fn view_queues(dry_run: bool, named: &[VQueueId], report: &VQueueReport) -> ActView {
    let mut counts: BTreeMap<Skip, u64> = BTreeMap::new();
    for (_, skip) in &report.skipped {
        *counts.entry(*skip).or_default() += 1;
    }
    let is_changed = |id: &&VQueueId| report.skipped.iter().all(|(skipped, _)| skipped != *id);
    let changed: BTreeSet<&VQueueId> = named.iter().filter(is_changed).collect();
    ActView {
        dry_run,
        changed: report.changed,
        not_changed: counts.values().sum(),
        reasons: counts
            .iter()
            .map(|(skip, count)| SkippedView { reason: *skip, count: *count })
            .collect(),
        changed_ids: changed.into_iter().take(NAMED_MAX).map(VQueueId::to_string).collect(),
        not_changed_ids: report
            .skipped
            .iter()
            .take(NAMED_MAX)
            .map(|(id, skip)| NotChangedView { id: id.to_string(), reason: *skip })
            .collect(),
    }
}
