//! Compares `explain` with the observations of clients and handlers.
//!
//! Must always hold: it is called only when there is nothing left to do, in runs without faults and
//! with instant writes. Must not know: how anything is counted internally.

use std::collections::BTreeSet;

use forebay::{
    EntryId, Stage, Timestamp,
    explain::{ExplainView, Reason},
};

use super::{
    clients::id_of,
    journal::{Journal, SERVICE, concurrency, governing, is_paused, path},
};

/// A full level: key, running entries, limit.
type Full = (String, u32, u32);

impl Journal {
    /// Entries that are stored according to the clients.
    pub(super) fn known(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.observed.len()).filter(|number| self.observed[*number].acked.is_some())
    }

    /// Checks the explanation of an entry.
    pub(super) fn explained(&mut self, now: Timestamp, entry: usize, view: &ExplainView) {
        let wrong = self.disagreements(now, entry, view);
        for text in wrong {
            let reported = format!("#{entry} is explained wrongly: {text}: {view:?}");
            self.violation(now, reported);
        }
    }

    #[expect(clippy::too_many_lines, reason = "one check per reason")]
    fn disagreements(&self, now: Timestamp, entry: usize, view: &ExplainView) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut demand = |holds: bool, text: &str| {
            if !holds {
                wrong.push(text.to_owned());
            }
        };
        let runs = self.running.keys().any(|(run, _)| run.entry == entry);
        let stage = view.entry.stage;
        demand(runs == (stage == Stage::Running), "its handler runs, or not");
        demand(
            self.observed[entry].outcome.is_none() || stage == Stage::Finished,
            "its end was reported",
        );
        demand(stage != Stage::Paused || self.observed[entry].was_paused, "it was not paused");
        if stage != Stage::Inbox {
            return wrong;
        }
        demand(!view.blocked_by.is_empty(), "it waits without a reason");
        let reasons: Vec<&Reason> = view.blocked_by.iter().map(|block| &block.reason).collect();
        let has = |found: fn(&Reason) -> bool| reasons.iter().any(|reason| found(reason));

        // Rules and usage, recomputed.
        if let Some(expected) = self.full(entry) {
            let reported: BTreeSet<Full> =
                reasons.iter().filter_map(|reason| full_of(reason)).collect();
            demand(reported == expected, &format!("full are {expected:?}"));
        }
        if let Some(expected) = self.pauses(entry) {
            let reported: BTreeSet<String> =
                reasons.iter().filter_map(|reason| paused_of(reason)).collect();
            demand(reported == expected, &format!("paused are {expected:?}"));
        }
        let all = self.running.len() as u32;
        let used_up = self.running_max.is_some_and(|max| all >= max);
        let says_capacity = has(|reason| matches!(reason, Reason::Capacity { .. }));
        demand(used_up == says_capacity, &format!("{all} of {:?} run", self.running_max));
        for block in &view.blocked_by {
            demand(block.since.is_none_or(|since| since <= now.0), "it began in the future");
        }

        // Its vqueue: which entries go first, and which holds the lock.
        let same_vqueue: Vec<usize> = self
            .known_or_asked()
            .filter(|other| *other != entry && self.is_same_vqueue(*other, entry))
            .filter(|other| self.observed[*other].outcome.is_none())
            .collect();
        let ahead = view.ahead.unwrap_or(u64::MAX);
        demand(ahead <= same_vqueue.len() as u64, &format!("{} may go first", same_vqueue.len()));
        demand((ahead > 0) == has(|reason| matches!(reason, Reason::Behind { .. })), "its place");
        let has_key = self.specs[entry].key.is_some();
        let other_runs =
            same_vqueue.iter().any(|other| self.running.keys().any(|(run, _)| run.entry == *other));
        let locked = has(|reason| matches!(reason, Reason::Lock { .. }));
        demand(!(has_key && other_runs) || locked, "one of its key runs");
        demand(has_key || !locked, "it has no key");
        for reason in reasons {
            if let Reason::Lock { holder } = reason {
                let is_same_vqueue =
                    |id: EntryId| same_vqueue.iter().any(|other| self.id(*other) == id);
                demand(holder.is_some_and(is_same_vqueue), "no entry of its key holds the lock");
            }
            if let Reason::RunAt { run_at } = reason {
                demand(*run_at > now.0, "its time has come");
            }
        }
        wrong
    }

    fn id(&self, entry: usize) -> EntryId {
        id_of(&self.specs[entry], entry)
    }

    /// Entries that a client requested to store.
    pub(super) fn known_or_asked(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.observed.len()).filter(|number| self.observed[*number].asked.is_some())
    }

    /// The full levels of an entry; `None` while rules are being changed.
    fn full(&self, entry: usize) -> Option<BTreeSet<Full>> {
        let (_, rules) = self.in_force()?;
        let own = path(&self.specs[entry]);
        let levels = (1..=own.len()).filter_map(|depth| {
            let key = &own[..depth];
            let limit = governing(rules, key).and_then(concurrency)?;
            let under = |run: usize| path(&self.specs[run]).starts_with(key);
            let usage = self.running.keys().filter(|(run, _)| under(run.entry)).count() as u32;
            (usage >= limit).then(|| (key.join("/"), usage, limit))
        });
        Some(levels.collect())
    }
}

impl Journal {
    /// The paused levels of an entry, and its service; `None` while rules are being changed.
    fn pauses(&self, entry: usize) -> Option<BTreeSet<String>> {
        let paused = self.paused_in_force()?;
        let own = path(&self.specs[entry]);
        let levels = (1..=own.len()).map(|depth| &own[..depth]);
        let levels = levels.filter(|key| is_paused(paused, key)).map(|key| key.join("/"));
        let service = paused.get(SERVICE).map(ToString::to_string);
        Some(levels.chain(service).collect())
    }
}

fn paused_of(reason: &Reason) -> Option<String> {
    match reason {
        Reason::PausedByRule { key, .. } => Some(key.clone()),
        Reason::ServicePausedByRule { pattern, .. } => Some(pattern.clone()),
        _ => None,
    }
}

fn full_of(reason: &Reason) -> Option<Full> {
    match reason {
        Reason::Concurrency { key, usage, limit, .. } => Some((key.clone(), *usage, *limit)),
        _ => None,
    }
}
