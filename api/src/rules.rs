//! The rule book: reading it, changing it, trying changes out; aliases of services.

use serde::{Deserialize, Serialize};

use crate::{LimitsView, RateView};

/// What a change of the rules would do, as far as concurrency limits and pauses of patterns
/// go: rate limits, pauses of services, the node's capacity and `run_at` are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesImpact {
    /// Which rule governs each level of the key that was asked for, scope first.
    pub governs: Vec<GovernsView>,
    /// Entries that run, of all keys with a scope.
    pub running: u64,
    /// Entries that wait.
    pub waiting: u64,
    /// How many of them could start at once under the rules in force.
    pub start_now: u64,
    /// How many of them could start at once under the changed rules.
    pub start_then: u64,
    /// What runs and waits, by key; those that the change affects most first.
    pub keys: Vec<KeyImpact>,
}

/// Which rule governs one level, now and then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GovernsView {
    /// The key: `scope`, `scope/l1` or `scope/l1/l2`.
    pub key: String,
    /// The rule in force.
    pub now: Option<RuleRefView>,
    /// The rule that would be.
    pub then: Option<RuleRefView>,
}

/// A rule, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleRefView {
    /// Its id, `rul_…`.
    pub rule: String,
    /// Its pattern.
    pub pattern: String,
    /// What it allows.
    #[serde(flatten)]
    pub limits: LimitsView,
}

/// What a change would do to the entries of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyImpact {
    /// `scope`, `scope/l1` or `scope/l1/l2`.
    pub key: String,
    /// Entries that run.
    pub running: u64,
    /// Entries that wait.
    pub waiting: u64,
    /// How many could start at once under the rules in force.
    pub start_now: u64,
    /// How many could start at once under the changed rules; the others would wait.
    pub start_then: u64,
    /// How many run above a changed limit: they run on, and nothing starts before they
    /// are fewer.
    pub over_then: u64,
}

/// What is changed of a rule. Fields that are absent stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleEdit {
    /// Delete the rule.
    #[serde(default)]
    pub delete: bool,
    /// `Some(None)` lifts the limit.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "doubled")]
    pub concurrency: Option<Option<u32>>,
    /// How many may start per time; `Some(None)` lifts the limit.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "doubled")]
    pub rate: Option<Option<RateView>>,
    /// Share of the capacity relative to others; `Some(None)` is 1.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "doubled")]
    pub weight: Option<Option<u32>>,
    /// How many entries may wait; `Some(None)` lifts the limit.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "doubled")]
    pub backlog: Option<Option<u32>>,
    /// What people read.
    #[serde(default)]
    pub description: Option<String>,
    /// A disabled rule counts as absent.
    #[serde(default)]
    pub disabled: Option<bool>,
}

/// `Option<Option<T>>` as an absent field, `null`, or a value.
mod doubled {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "the signature is serde's")]
    pub(super) fn serialize<T: Serialize, S: Serializer>(
        value: &Option<Option<T>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().and_then(Option::as_ref).serialize(serializer)
    }

    #[expect(clippy::option_option, reason = "absent, null and a value are three things")]
    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Option<T>>, D::Error> {
        Option::deserialize(deserializer).map(Some)
    }
}

/// A rule, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleView {
    /// Its id, `rul_…`.
    pub id: String,
    /// Its pattern.
    pub pattern: String,
    /// Its version.
    pub version: u64,
    /// What it allows.
    #[serde(flatten)]
    pub limits: LimitsView,
    /// What people read.
    pub description: String,
    /// A disabled rule counts as absent.
    pub disabled: bool,
    /// When it was last changed (milliseconds since 1970).
    pub last_modified: u64,
}

/// An alias, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasView {
    /// The service.
    pub service: String,
    /// The name of the handler that serves it.
    pub handler: String,
}

/// A rule book, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BookView {
    /// Its version.
    pub version: u64,
    /// Its rules, by pattern.
    pub rules: Vec<RuleView>,
    /// Who made it; only in the history.
    pub author: Option<String>,
    /// When it was made (milliseconds since 1970); only in the history.
    pub at: Option<u64>,
}
