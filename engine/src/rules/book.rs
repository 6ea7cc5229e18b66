//! The book itself: rules by id, its version, and the difference between two books.
//!
//! Must always hold: a rule is stored under the id of its own pattern; no rule has a version above
//! the book's. Must not know: how a change is checked (`change`).

use std::{collections::BTreeMap, fmt};

use bytestring::ByteString;
use forebay_messages::{
    RuleId, Timestamp,
    rule::{Limits, Pattern, RuleUpdate},
};

/// Version of a rule book or a rule. A rule's is the version of the book that last changed what the
/// runtime sees of it. 0 is the empty book that was never written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BookVersion(pub u64);

impl BookVersion {
    /// The version after this one. Panics on overflow, which cannot happen in practice.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("the rule book's version overflowed"))
    }
}

impl fmt::Display for BookVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One stored rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersistedRule {
    /// The keys it governs.
    pub pattern: Pattern,
    /// The book version that last changed what the runtime sees of this rule.
    pub version: BookVersion,
    /// The limits it sets.
    pub limits: Limits,
    /// For users; the runtime never reads it.
    pub description: ByteString,
    /// A disabled rule counts as absent. Not `enabled`: this way an active rule is the empty state
    /// and costs nothing on the wire.
    pub disabled: bool,
    /// It was created by a pause and sets no limits: less specific rules limit its keys, and it is
    /// deleted on resume.
    pub only_pauses: bool,
    /// When anything in it last changed, including the description.
    pub last_modified: Timestamp,
}

impl PersistedRule {
    /// The identity of this rule.
    #[must_use]
    pub fn id(&self) -> RuleId {
        self.pattern.rule_id()
    }
}

/// The versioned set of rules of a cluster.
///
/// A value: a change creates a new book ([`RuleBook::apply`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleBook {
    pub(super) version: BookVersion,
    /// Ordered by id, so that equal books have equal bytes and equal differences.
    pub(super) rules: BTreeMap<RuleId, PersistedRule>,
}

impl RuleBook {
    /// Its version. A newer book has a greater one.
    #[must_use]
    pub fn version(&self) -> BookVersion {
        self.version
    }

    /// Number of rules, including disabled ones.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether it has no rules.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// All rules, ordered by id.
    pub fn rules(&self) -> impl Iterator<Item = &PersistedRule> {
        self.rules.values()
    }

    /// The rule with this pattern.
    #[must_use]
    pub fn get(&self, pattern: &Pattern) -> Option<&PersistedRule> {
        self.rules.get(&pattern.rule_id()).filter(|rule| rule.pattern == *pattern)
    }

    /// The rule with this id.
    #[must_use]
    pub fn get_id(&self, id: RuleId) -> Option<&PersistedRule> {
        self.rules.get(&id)
    }

    /// The changes for the runtime from `previous` to this book, removals first.
    ///
    /// Presence and the version of each rule decide; a disabled rule counts as absent.
    #[must_use]
    pub fn diff(&self, previous: &Self) -> Vec<RuleUpdate> {
        let removed = previous
            .active()
            .filter(|(id, _)| self.active_rule(**id).is_none())
            .map(|(_, rule)| RuleUpdate::Remove { pattern: rule.pattern.clone() });
        let upserted = self
            .active()
            .filter(|(id, rule)| {
                previous.active_rule(**id).is_none_or(|before| before.version != rule.version)
            })
            .map(|(_, rule)| upsert(rule));
        removed.chain(upserted).collect()
    }

    /// All active rules, as changes to an empty book: the seed of a new limiter.
    #[must_use]
    pub fn diff_from_empty(&self) -> Vec<RuleUpdate> {
        self.active().map(|(_, rule)| upsert(rule)).collect()
    }

    /// Whether it contains anything that a forebay without pauses cannot understand.
    pub(super) fn has_pauses(&self) -> bool {
        self.rules.values().any(|rule| rule.limits.paused || rule.pattern.service().is_some())
    }

    fn active(&self) -> impl Iterator<Item = (&RuleId, &PersistedRule)> {
        self.rules.iter().filter(|(_, rule)| !rule.disabled)
    }

    fn active_rule(&self, id: RuleId) -> Option<&PersistedRule> {
        self.rules.get(&id).filter(|rule| !rule.disabled)
    }

    /// Panics if the book breaks its invariants. For tests and simulation.
    pub fn check(&self) {
        for (id, rule) in &self.rules {
            assert_eq!(*id, rule.id(), "rule `{}` is stored under another id", rule.pattern);
            assert!(
                rule.version > BookVersion(0) && rule.version <= self.version,
                "rule `{}` has version {} in a book of version {}",
                rule.pattern,
                rule.version,
                self.version,
            );
            let pause = Limits::default().paused();
            assert!(
                !rule.only_pauses || rule.limits == pause,
                "rule `{}` exists only for a pause but has limits",
                rule.pattern
            );
        }
    }
}

fn upsert(rule: &PersistedRule) -> RuleUpdate {
    if rule.only_pauses {
        return RuleUpdate::Pause { pattern: rule.pattern.clone() };
    }
    RuleUpdate::Upsert { pattern: rule.pattern.clone(), limits: rule.limits }
}
