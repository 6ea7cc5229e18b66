//! The rule book: reading it, changing it, testing changes; aliases of services.

use forebay_messages::rule::{Limits, LimitsPatch};
use serde::{Deserialize, Serialize};

/// The effect of a change of the rules on concurrency limits and pauses of patterns. Rate limits,
/// pauses of services, the node's capacity and `run_at` are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesImpact {
    /// The rule that governs each level of the requested key, scope first.
    pub governs: Vec<GovernsView>,
    /// Number of running entries, of all keys with a scope.
    pub running: u64,
    /// Number of waiting entries.
    pub waiting: u64,
    /// Number of entries that could start at once under the rules in force.
    pub start_now: u64,
    /// Number of entries that could start at once under the changed rules.
    pub start_then: u64,
    /// Running and waiting entries, by key; the most affected keys first.
    pub keys: Vec<KeyImpact>,
}

/// The rule that governs one level, before and after the change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GovernsView {
    /// The key: `scope`, `scope/l1` or `scope/l1/l2`.
    pub key: String,
    /// The rule in force.
    pub now: Option<RuleRefView>,
    /// The rule after the change.
    pub then: Option<RuleRefView>,
}

/// A rule, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleRefView {
    /// Its id, `rul_…`.
    pub rule: String,
    /// Its pattern.
    pub pattern: String,
    /// Its limits.
    #[serde(flatten)]
    pub limits: Limits,
}

/// The effect of a change on the entries of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyImpact {
    /// `scope`, `scope/l1` or `scope/l1/l2`.
    pub key: String,
    /// Number of running entries.
    pub running: u64,
    /// Number of waiting entries.
    pub waiting: u64,
    /// Number of entries that could start at once under the rules in force.
    pub start_now: u64,
    /// Number of entries that could start at once under the changed rules; the others would wait.
    pub start_then: u64,
    /// Number of running entries above a changed limit: they continue, and nothing starts until the
    /// number is below the limit.
    pub over_then: u64,
}

/// The change of a rule. Absent fields stay unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleEdit {
    /// Delete the rule.
    #[serde(default)]
    pub delete: bool,
    /// Its limits.
    #[serde(flatten)]
    pub limits: LimitsPatch,
    /// A text for users.
    #[serde(default)]
    pub description: Option<String>,
    /// A disabled rule counts as absent.
    #[serde(default)]
    pub disabled: Option<bool>,
}

/// A rule, for display.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleView {
    /// Its id, `rul_…`.
    pub id: String,
    /// Its pattern.
    pub pattern: String,
    /// Its version.
    pub version: u64,
    /// Its limits.
    #[serde(flatten)]
    pub limits: Limits,
    /// A text for users.
    pub description: String,
    /// A disabled rule counts as absent.
    pub disabled: bool,
    /// When it was last changed (milliseconds since 1970).
    pub last_modified: u64,
}

/// An alias, for display.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasView {
    /// The service.
    pub service: String,
    /// The name of the handler that serves it.
    pub handler: String,
}

/// A rule book, for display.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BookView {
    /// Its version.
    pub version: u64,
    /// Its rules, by pattern.
    pub rules: Vec<RuleView>,
    /// Its author; only in the history.
    pub author: Option<String>,
    /// When it was made (milliseconds since 1970); only in the history.
    pub at: Option<u64>,
}
