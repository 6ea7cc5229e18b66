//! Rules.

use std::num::NonZeroU32;

use forebay_api::{BookView, GovernsView, KeyImpact, RuleRefView, RuleView, RulesImpact};
use forebay_messages::rule::{Limits, Rate};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Span, Time};
use crate::problem::Problem;

/// A rate: this many starts in each period.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RateBody {
    /// Number of starts.
    #[schema(minimum = 1)]
    count: u32,
    /// In each period of this length.
    per: Span,
    /// Number of starts at once, after a time without any; absent: `count`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    burst: Option<u32>,
}

/// Limits. An absent one is no limit.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub(crate) struct LimitsBody {
    /// Maximum number of entries that run at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency: Option<u32>,
    /// Maximum rate of starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<RateBody>,
    /// Maximum number of entries waiting in inboxes.
    #[serde(skip_serializing_if = "Option::is_none")]
    backlog: Option<u32>,
    /// Share of the node's capacity relative to other scopes.
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<u32>,
    /// Nothing starts until it is resumed.
    paused: bool,
}

impl From<Limits> for LimitsBody {
    fn from(limits: Limits) -> Self {
        Self {
            concurrency: limits.concurrency.map(NonZeroU32::get),
            rate: limits.rate.map(Into::into),
            backlog: limits.backlog.map(NonZeroU32::get),
            weight: limits.weight.map(NonZeroU32::get),
            paused: limits.paused,
        }
    }
}

impl From<Rate> for RateBody {
    fn from(rate: Rate) -> Self {
        let burst = Some(rate.burst).filter(|burst| *burst != rate.tokens);
        Self { count: rate.tokens, per: Span::millis(rate.period_ms), burst }
    }
}

impl RateBody {
    fn rate(self) -> Result<Rate, Problem> {
        if self.count == 0 || self.per.0.is_zero() || self.burst == Some(0) {
            return Err(Problem::bad_input("rate: count, per and burst are greater than 0"));
        }
        let rate = Rate::per(self.count, self.per.0);
        Ok(self.burst.map_or(rate, |burst| rate.with_burst(burst)))
    }
}

/// All limits of a rule: absent ones are removed.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RuleBody {
    /// Maximum number of entries that run at the same time.
    #[schema(minimum = 1)]
    concurrency: Option<u32>,
    /// Maximum rate of starts.
    rate: Option<RateBody>,
    /// Maximum number of entries waiting in inboxes.
    #[schema(minimum = 1)]
    backlog: Option<u32>,
    /// Share of the node's capacity relative to other scopes.
    #[schema(minimum = 1)]
    weight: Option<u32>,
    /// Nothing starts until it is resumed.
    paused: bool,
    /// A text for users.
    pub(crate) description: Option<String>,
    /// A disabled rule counts as absent; absent: unchanged. Only for a rule that exists.
    pub(crate) disabled: Option<bool>,
}

impl RuleBody {
    pub(crate) fn limits(&self) -> Result<Limits, Problem> {
        Ok(Limits {
            concurrency: at_least_one("concurrency", self.concurrency)?,
            rate: self.rate.map(RateBody::rate).transpose()?,
            backlog: at_least_one("backlog", self.backlog)?,
            weight: at_least_one("weight", self.weight)?,
            paused: self.paused,
            ..Limits::default()
        })
    }
}

fn at_least_one(name: &str, limit: Option<u32>) -> Result<Option<NonZeroU32>, Problem> {
    let not_zero = |limit| {
        NonZeroU32::new(limit).ok_or_else(|| {
            Problem::bad_input(format!("{name} is at least 1; to stop work, set paused"))
        })
    };
    limit.map(not_zero).transpose()
}

/// Which rules to read.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RulesQuery {
    /// Only the rule with this pattern; `ETag` is then its version.
    pub(crate) pattern: Option<String>,
}

/// Which rule to change.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RuleQuery {
    /// The pattern of the rule: `scope`, `scope/l1`, `scope/l1/l2`, each part a name or `*`, or
    /// `service:NAME`.
    pub(crate) pattern: String,
}

/// A rule.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Rule {
    /// Its id, `rul_…`.
    id: String,
    /// Its pattern.
    pub(crate) pattern: String,
    /// Its version, for `If-Match`.
    pub(crate) version: u64,
    /// Its limits.
    #[serde(flatten)]
    limits: LimitsBody,
    /// A text for users.
    description: String,
    /// A disabled rule counts as absent.
    disabled: bool,
    /// When it was last changed.
    last_modified: Time,
}

impl From<&RuleView> for Rule {
    fn from(view: &RuleView) -> Self {
        Self {
            id: view.id.clone(),
            pattern: view.pattern.clone(),
            version: view.version,
            limits: view.limits.into(),
            description: view.description.clone(),
            disabled: view.disabled,
            last_modified: Time(view.last_modified),
        }
    }
}

/// A rule book.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Book {
    /// Its version.
    pub(crate) version: u64,
    /// Its rules, by pattern.
    pub(crate) rules: Vec<Rule>,
    /// Its author; only in the history.
    #[serde(skip_serializing_if = "Option::is_none")]
    author: Option<String>,
    /// When it was made; only in the history.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<Time>,
}

impl From<&BookView> for Book {
    fn from(view: &BookView) -> Self {
        Self {
            version: view.version,
            rules: view.rules.iter().map(Into::into).collect(),
            author: view.author.clone(),
            at: view.at.map(Time),
        }
    }
}

/// Earlier rule books, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Books {
    /// The books.
    pub(crate) books: Vec<Book>,
}

/// The version to return to.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rollback {
    /// A version in the history.
    pub(crate) version: u64,
}

/// Rules to try.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RulesTest {
    /// The changed rules.
    pub(crate) rules: Vec<TestedRule>,
    /// Also report which rules govern this key.
    pub(crate) key: Option<String>,
    /// Maximum number of reported keys (default: 100, at most 10,000).
    #[schema(maximum = 10000)]
    pub(crate) limit: Option<usize>,
}

/// A changed rule. Only concurrency can be tested.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TestedRule {
    /// Its pattern.
    pub(crate) pattern: String,
    /// The concurrency limit; absent removes it.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub(crate) concurrency: Option<u32>,
}

/// The effect that changes would have.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Impact {
    /// The rule that governs each level of the requested key, scope first.
    governs: Vec<Governs>,
    /// Number of running entries, of all keys with a scope.
    running: u64,
    /// Number of waiting entries.
    waiting: u64,
    /// Number of entries that could start at once under the rules in force.
    start_now: u64,
    /// Number of entries that could start at once under the changed rules.
    start_then: u64,
    /// The most affected keys first.
    keys: Vec<KeyEffect>,
}

/// The rule that governs one level, before and after the change.
#[derive(Debug, Serialize, ToSchema)]
struct Governs {
    /// The key.
    key: String,
    /// The rule in force.
    now: Option<RuleRef>,
    /// The rule after the change.
    then: Option<RuleRef>,
}

/// A rule, in short.
#[derive(Debug, Serialize, ToSchema)]
struct RuleRef {
    /// Its id.
    rule: String,
    /// Its pattern.
    pattern: String,
    /// Its limits.
    #[serde(flatten)]
    limits: LimitsBody,
}

/// The effect on the entries of one key.
#[derive(Debug, Serialize, ToSchema)]
struct KeyEffect {
    /// The key.
    key: String,
    /// Number of running entries.
    running: u64,
    /// Number of waiting entries.
    waiting: u64,
    /// Number of entries that could start at once under the rules in force.
    start_now: u64,
    /// Number of entries that could start at once under the changed rules.
    start_then: u64,
    /// Number of running entries above a changed limit.
    over_then: u64,
}

impl From<&RulesImpact> for Impact {
    fn from(impact: &RulesImpact) -> Self {
        Self {
            governs: impact.governs.iter().map(Into::into).collect(),
            running: impact.running,
            waiting: impact.waiting,
            start_now: impact.start_now,
            start_then: impact.start_then,
            keys: impact.keys.iter().map(Into::into).collect(),
        }
    }
}

impl From<&GovernsView> for Governs {
    fn from(view: &GovernsView) -> Self {
        Self {
            key: view.key.clone(),
            now: view.now.as_ref().map(Into::into),
            then: view.then.as_ref().map(Into::into),
        }
    }
}

impl From<&RuleRefView> for RuleRef {
    fn from(view: &RuleRefView) -> Self {
        Self { rule: view.rule.clone(), pattern: view.pattern.clone(), limits: view.limits.into() }
    }
}

impl From<&KeyImpact> for KeyEffect {
    fn from(key: &KeyImpact) -> Self {
        Self {
            key: key.key.clone(),
            running: key.running,
            waiting: key.waiting,
            start_now: key.start_now,
            start_then: key.start_then,
            over_then: key.over_then,
        }
    }
}
