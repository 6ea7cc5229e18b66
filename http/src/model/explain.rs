//! Why an entry waits.

use forebay_api::{ExplainView, GovernedView, Reason};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{Entry, Time, rules::LimitsBody};

/// Fields of a reason that are times.
const TIMES: [&str; 3] = ["until", "run_at", "next_token"];

/// Why an entry does not run, or that it does.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Explained {
    /// The entry.
    entry: Entry,
    /// Number of entries before it in its queue; absent when it is not in the inbox.
    ahead: Option<u64>,
    /// All current reasons why it does not run.
    blocked_by: Vec<Block>,
    /// The rules that govern it, scope first.
    rules: Vec<Governed>,
    /// The position of its queue among all that wait for the same limit, if it waits for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    rank: Option<Rank>,
    /// Entries that run under the first used-up concurrency limit, the ones that have run longest,
    /// at most 20.
    holders: Vec<Holder>,
}

/// The position of a queue among all that wait for the same limit.
#[derive(Debug, Serialize, ToSchema)]
struct Rank {
    /// The counted key; absent if only a slot of the node is missing.
    key: Option<String>,
    /// Number of queues that began to wait earlier.
    ahead: u32,
    /// Number of waiting queues, this one included.
    waiting: u32,
}

/// An entry that runs under a used-up limit.
#[derive(Debug, Serialize, ToSchema)]
struct Holder {
    /// The entry.
    id: String,
    /// Its service.
    service: String,
    /// When its attempt started.
    started_at: Time,
}

/// A reason why an entry does not run.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Block {
    /// The reason: `paused`, `run_at`, `behind`, `lock`, `concurrency`, `rate`, `capacity`,
    /// `no_handler` and others, as `forebay explain --json` names them.
    reason: String,
    /// When it began to apply to this entry, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Time>,
    /// What belongs to the reason, like `key`, `pattern`, `usage` and `limit`.
    #[serde(flatten)]
    fields: Map<String, Value>,
}

impl Block {
    pub(crate) fn of(reason: &Reason, since: Option<u64>) -> Self {
        let Ok(Value::Object(mut fields)) = serde_json::to_value(reason) else {
            unreachable!("a reason is an object with a tag");
        };
        let name = fields.remove("reason");
        for time in TIMES {
            if let Some(value) = fields.get_mut(time)
                && let Some(millis) = value.as_u64()
            {
                *value = Time(millis).to_string().into();
            }
        }
        let reason = name.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned();
        Self { reason, since: since.map(Time), fields }
    }
}

/// The rule that governs one level of an entry's key.
#[derive(Debug, Serialize, ToSchema)]
struct Governed {
    /// The key: `scope`, `scope/l1` or `scope/l1/l2`.
    key: String,
    /// The rule, `rul_…`.
    rule: String,
    /// Its pattern.
    pattern: String,
    /// Its limits.
    #[serde(flatten)]
    limits: LimitsBody,
}

impl From<&GovernedView> for Governed {
    fn from(view: &GovernedView) -> Self {
        Self {
            key: view.key.clone(),
            rule: view.rule.clone(),
            pattern: view.pattern.clone(),
            limits: view.limits.into(),
        }
    }
}

impl From<&ExplainView> for Explained {
    fn from(view: &ExplainView) -> Self {
        Self {
            entry: (&view.entry).into(),
            ahead: view.ahead,
            blocked_by: view
                .blocked_by
                .iter()
                .map(|block| Block::of(&block.reason, block.since))
                .collect(),
            rules: view.rules.iter().map(Into::into).collect(),
            rank: view.rank.as_ref().map(|rank| Rank {
                key: rank.key.clone(),
                ahead: rank.ahead,
                waiting: rank.waiting,
            }),
            holders: view
                .holders
                .iter()
                .map(|holder| Holder {
                    id: holder.entry.to_string(),
                    service: holder.service.clone(),
                    started_at: Time(holder.started_at),
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_reasons_are_iso_8601() {
        let block = Block::of(&Reason::RunAt { run_at: 1_700_000_000_000 }, Some(0));
        let json = serde_json::to_string(&block).unwrap();
        assert_eq!(
            json,
            r#"{"reason":"run_at","since":"1970-01-01T00:00:00Z","run_at":"2023-11-14T22:13:20Z"}"#
        );
    }
}
