//! Applying changes: all-or-nothing batches, each change with a precondition.
//!
//! Must always hold (the version contract): a created or recreated rule takes the new book version;
//! so does one whose limits or `disabled` changed; a change of the description alone updates only
//! `last_modified`; a change without effect updates nothing; a batch raises the book's version by
//! at most one. Must not know: how a book is stored.

use std::collections::BTreeMap;

use bytestring::ByteString;
use forebay_messages::{
    RuleId, Timestamp,
    rule::{Limits, Pattern},
};

use super::{
    BookVersion, Change, ChangeError, DESCRIPTION_LEN_MAX, PersistedRule, Precondition, RuleBook,
    RuleChange, RulePatch,
};

/// The result of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The resulting book.
    pub book: RuleBook,
    /// Whether it differs from the book before, and so has the next version.
    pub changed: bool,
}

impl RuleBook {
    /// Applies a batch: all of it or, with an error, none of it.
    ///
    /// `now` becomes `last_modified` of every changed rule; `rules_max` is the cap
    /// ([`super::MAX_RULES_PER_BOOK`]).
    ///
    /// # Errors
    /// The first [`ChangeError`] of the batch.
    pub fn apply(
        &self,
        batch: &[RuleChange],
        now: Timestamp,
        rules_max: usize,
    ) -> Result<Applied, ChangeError> {
        let mut evolving = Batch::new(self, now, rules_max, Pattern::rule_id);
        for change in batch {
            evolving.apply(change)?;
        }
        Ok(evolving.finish())
    }

    /// The change that applies this patch to the rule of `pattern`, creating it if missing, and
    /// leaves other rules alone.
    #[must_use]
    pub fn upsert(&self, pattern: Pattern, patch: RulePatch) -> RuleChange {
        let change = match self.get(&pattern) {
            Some(_) => Change::Patch(patch),
            None => Change::Create(patch),
        };
        RuleChange::new(pattern, change)
    }
}

/// A batch while it is applied.
struct Batch<'a> {
    before: &'a RuleBook,
    rules: BTreeMap<RuleId, PersistedRule>,
    /// Ids of the rules touched, and whether the present rule was created by this batch.
    touched: BTreeMap<RuleId, bool>,
    /// The version of the book if anything changes.
    version: BookVersion,
    now: Timestamp,
    rules_max: usize,
    /// Injected so that a test can make two patterns collide.
    id_of: fn(&Pattern) -> RuleId,
}

impl<'a> Batch<'a> {
    fn new(
        before: &'a RuleBook,
        now: Timestamp,
        rules_max: usize,
        id_of: fn(&Pattern) -> RuleId,
    ) -> Self {
        let (rules, version) = (before.rules.clone(), before.version.next());
        Self { before, rules, touched: BTreeMap::new(), version, now, rules_max, id_of }
    }

    fn apply(&mut self, change: &RuleChange) -> Result<(), ChangeError> {
        let pattern = &change.pattern;
        let id = (self.id_of)(pattern);
        let there = self.rules.get(&id).filter(|rule| rule.pattern == *pattern);
        check_precondition(change, there.map(|rule| rule.version))?;
        match (&change.change, there) {
            (Change::Create(_), Some(rule)) => {
                Err(ChangeError::AlreadyExists { pattern: pattern.clone(), version: rule.version })
            }
            (Change::Patch(_) | Change::Delete, None) => {
                Err(ChangeError::UnknownRule { pattern: pattern.clone() })
            }
            (Change::Create(patch), None) => self.create(id, pattern, patch),
            (Change::Patch(patch), Some(_)) => self.patch(id, pattern, patch),
            (Change::Delete, Some(_)) => {
                self.rules.remove(&id);
                self.touched.insert(id, false);
                Ok(())
            }
        }
    }

    fn create(
        &mut self,
        id: RuleId,
        pattern: &Pattern,
        patch: &RulePatch,
    ) -> Result<(), ChangeError> {
        if let Some(existing) = self.rules.get(&id) {
            let existing = existing.pattern.clone();
            return Err(ChangeError::IdCollision { pattern: pattern.clone(), existing, id });
        }
        if self.rules.len() >= self.rules_max {
            let rules_max = self.rules_max;
            return Err(ChangeError::TooManyRules { pattern: pattern.clone(), rules_max });
        }
        let mut rule = PersistedRule {
            pattern: pattern.clone(),
            version: self.version,
            limits: Limits::default(),
            description: ByteString::new(),
            disabled: false,
            only_pauses: patch.limits.keeps_limits() && patch.limits.paused == Some(true),
            last_modified: self.now,
        };
        edit(&mut rule, patch)?;
        self.rules.insert(id, rule);
        self.touched.insert(id, true);
        Ok(())
    }

    fn patch(
        &mut self,
        id: RuleId,
        pattern: &Pattern,
        patch: &RulePatch,
    ) -> Result<(), ChangeError> {
        let Some(rule) = self.rules.get_mut(&id) else {
            unreachable!("rule `{pattern}` was found just now");
        };
        let before = rule.clone();
        edit(rule, patch)?;
        if rule.only_pauses && !rule.limits.paused {
            // It only held a pause. Without the pause it would govern, and lift the limits of less
            // specific rules.
            self.rules.remove(&id);
            self.touched.insert(id, false);
            return Ok(());
        }
        // The version is raised at once, so that a later change of this batch that expects the old
        // version is refused.
        if runtime_sees(rule) != runtime_sees(&before) {
            rule.version = self.version;
        }
        self.touched.entry(id).or_insert(false);
        Ok(())
    }

    /// Settles versions and times against the book before the batch: patches that cancel each other
    /// out leave no trace.
    fn finish(mut self) -> Applied {
        let mut changed = false;
        for (id, made_here) in &self.touched {
            let before = self.before.rules.get(id);
            let Some(after) = self.rules.get_mut(id) else {
                changed |= before.is_some();
                continue;
            };
            let Some(before) = before.filter(|_| !made_here) else {
                changed = true;
                continue;
            };
            let is_visible = runtime_sees(after) != runtime_sees(before);
            let described = after.description != before.description;
            after.version = if is_visible { self.version } else { before.version };
            after.last_modified =
                if is_visible || described { self.now } else { before.last_modified };
            changed |= is_visible || described;
        }
        let version = if changed { self.version } else { self.before.version };
        Applied { book: RuleBook { version, rules: self.rules }, changed }
    }
}

fn runtime_sees(rule: &PersistedRule) -> (Limits, bool, bool) {
    (rule.limits, rule.disabled, rule.only_pauses)
}

fn check_precondition(change: &RuleChange, found: Option<BookVersion>) -> Result<(), ChangeError> {
    let holds = match change.precondition {
        Precondition::None => true,
        Precondition::DoesNotExist => found.is_none(),
        Precondition::Matches(version) => found == Some(version),
    };
    if holds {
        return Ok(());
    }
    let (pattern, expected) = (change.pattern.clone(), change.precondition);
    Err(ChangeError::PreconditionFailed { pattern, expected, found })
}

fn edit(rule: &mut PersistedRule, patch: &RulePatch) -> Result<(), ChangeError> {
    if let Some(description) = &patch.description {
        let len = description.len();
        if len > DESCRIPTION_LEN_MAX {
            return Err(ChangeError::DescriptionTooLong { pattern: rule.pattern.clone(), len });
        }
        rule.description = description.clone();
    }
    rule.limits = patch.limits.applied_to(rule.limits);
    rule.only_pauses &= patch.limits.keeps_limits();
    rule.disabled = patch.disabled.unwrap_or(rule.disabled);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_patterns_with_one_id_are_refused_and_neither_is_mistaken_for_the_other() {
        let everything_collides = |_: &Pattern| RuleId(7);
        let (a, b): (Pattern, Pattern) = ("a".parse().unwrap(), "b".parse().unwrap());
        let book = RuleBook::default();
        let mut batch = Batch::new(&book, Timestamp(1), 10, everything_collides);
        let change = |pattern: &Pattern, change| RuleChange::new(pattern.clone(), change);
        batch.apply(&change(&a, Change::Create(RulePatch::default()))).unwrap();
        let refused = batch.apply(&change(&b, Change::Create(RulePatch::default())));
        let error = refused.unwrap_err();
        assert_eq!(
            error,
            ChangeError::IdCollision { pattern: b.clone(), existing: a, id: RuleId(7) }
        );
        assert!(error.to_string().contains("rul_00000000007"), "{error}");
        let refused = batch.apply(&change(&b, Change::Delete));
        assert_eq!(refused, Err(ChangeError::UnknownRule { pattern: b }));
    }
}
