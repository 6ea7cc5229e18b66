//! The number of waiting entries of each key, and whether there is room for more.
//!
//! Owns: the counts of keys at the depths (scope, l1, l2) where a rule limits the backlog; without
//! such a rule there are none. Must always hold: the counts equal the inbox counts of the stored
//! vqueues, so that every replica, including a restarted one, refuses the same commands. Everything
//! in an inbox counts as waiting, including entries that are not due and retries. Only new entries
//! are refused: an entry that returns to an inbox (a retry, a resumed or redriven entry) always has
//! room. Must not know: which replica leads, which entries run.

use std::collections::BTreeMap;

use bytestring::ByteString;
use forebay_messages::{
    RuleId, VQueueName,
    rule::{Pattern, RuleUpdate},
};
use thiserror::Error;

use crate::rules::{RuleBook, RuleLookup};

use super::store::{Rows, TablesError};

/// Number of vqueues read at a time when counting.
const PAGE_LEN: usize = 1_024;

/// The backlog of a key is full: a new entry is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{key} has {waiting} entries waiting, rule `{pattern}` allows {limit}: wait until some have \
     started, or raise its backlog"
)]
pub struct BacklogFull {
    /// `scope`, `scope/l1` or `scope/l1/l2`.
    pub key: String,
    /// The rule that limits it.
    pub rule: RuleId,
    /// Its pattern.
    pub pattern: Pattern,
    /// Number of waiting entries.
    pub waiting: u64,
    /// The limit.
    pub limit: u32,
}

type Key = Vec<ByteString>;

/// Additional waiting entries, by key, that are not counted yet.
pub(super) type More = BTreeMap<Key, u64>;

/// The number of waiting entries of each key with a limited backlog.
#[derive(Debug)]
pub(super) struct Backlog {
    rules: RuleLookup,
    /// Bit `d` is set if a rule limits the backlog of keys of `d` components.
    depths: u8,
    /// Keys without waiting entries are left out.
    counts: BTreeMap<Key, u64>,
}

/// The levels of a name's key, from the scope down.
fn levels(name: &VQueueName) -> impl DoubleEndedIterator<Item = Key> + use<> {
    let all = [&name.scope, &name.l1, &name.l2];
    let key: Key = all.into_iter().map_while(Clone::clone).collect();
    (1..=key.len()).map(move |depth| key[..depth].to_vec())
}

fn depths(rules: &[RuleUpdate]) -> u8 {
    rules.iter().fold(0, |depths, rule| match rule {
        RuleUpdate::Upsert { pattern, limits } if limits.backlog.is_some() => {
            depths | 1 << pattern.depth()
        }
        _ => depths,
    })
}

impl Backlog {
    /// The backlog under a book; `None` if no rule limits any. Counts only what `before` did not
    /// count.
    pub(super) fn under(
        book: &RuleBook,
        before: Option<Self>,
        tables: &impl Rows,
    ) -> Result<Option<Self>, TablesError> {
        let rules = book.diff_from_empty();
        let depths = depths(&rules);
        if depths == 0 {
            return Ok(None);
        }
        let rules = RuleLookup::from_updates(&rules);
        match before {
            Some(before) if depths & !before.depths == 0 => {
                let mut counts = before.counts;
                counts.retain(|key, _| depths & 1 << key.len() != 0);
                Ok(Some(Self { rules, depths, counts }))
            }
            _ => {
                let mut backlog = Self { rules, depths, counts: BTreeMap::new() };
                backlog.count(tables)?;
                Ok(Some(backlog))
            }
        }
    }

    fn count(&mut self, tables: &impl Rows) -> Result<(), TablesError> {
        let mut after = None;
        loop {
            let page = tables.vqueues_after(after, PAGE_LEN)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(*last);
            for (_, meta) in page.into_iter().filter(|(_, meta)| meta.inbox > 0) {
                for key in self.counted(&meta.name) {
                    *self.counts.entry(key).or_default() += meta.inbox;
                }
            }
        }
    }

    fn counted(&self, name: &VQueueName) -> impl DoubleEndedIterator<Item = Key> + use<> {
        let depths = self.depths;
        levels(name).filter(move |key| depths & 1 << key.len() != 0)
    }

    /// An entry of this name moved out of an inbox, into one, or both.
    pub(super) fn moved(&mut self, name: &VQueueName, out: bool, into: bool) {
        if out && !into {
            self.left(name);
        } else if into && !out {
            self.entered(name);
        }
    }

    /// An entry was added to an inbox.
    fn entered(&mut self, name: &VQueueName) {
        for key in self.counted(name) {
            *self.counts.entry(key).or_default() += 1;
        }
    }

    /// An entry left an inbox. Panics if none was counted.
    fn left(&mut self, name: &VQueueName) {
        for key in self.counted(name) {
            let count =
                self.counts.get_mut(&key).expect("an entry that leaves an inbox was counted");
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&key);
            }
        }
    }

    /// Why an entry of this name is refused while `more` are pending; reports the deepest full
    /// level.
    pub(super) fn refusal(&self, name: &VQueueName, more: &More) -> Option<BacklogFull> {
        self.counted(name).rev().find_map(|key| {
            let level: Vec<&str> = key.iter().map(|component| &**component).collect();
            let rule = self.rules.governing(&level)?;
            let limit = rule.limits.backlog?.get();
            let waiting = self.counts.get(&key).copied().unwrap_or(0);
            let waiting = waiting + more.get(&key).copied().unwrap_or(0);
            (waiting >= u64::from(limit)).then(|| BacklogFull {
                key: level.join("/"),
                rule: rule.id,
                pattern: rule.pattern.clone(),
                waiting,
                limit,
            })
        })
    }

    /// Counts a pending entry.
    pub(super) fn expect(&self, name: &VQueueName, more: &mut More) {
        for key in self.counted(name) {
            *more.entry(key).or_default() += 1;
        }
    }
}
