//! Texts of `forebay explain` and `forebay limits`.
//!
//! Must not know: where the data comes from; times are of this machine's clock.

use std::fmt::Write as _;

use forebay::{
    Stage, Timestamp,
    explain::{
        BlockView, ExplainView, GovernedView, HolderView, LimitView, RankView, Reason, RuleRefView,
        RulesImpact,
    },
};
use forebay_actors::shell::{Clock, WallClock};

use super::show::{
    allowed,
    format::{finish, or_dash, or_none, span, table, time},
    safe, work,
};

/// Why an entry does not run.
pub(crate) fn explanation(explained: &ExplainView) -> String {
    let ExplainView { entry, ahead, blocked_by, rules, rank, holders } = explained;
    let now = WallClock.now();
    let mut text = format!("{}: {}\n", entry.id, state(explained));
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<10} {value}");
    };
    let parts = [&entry.scope, &entry.limit_key].map(Option::as_deref);
    let key: Vec<&str> = parts.into_iter().flatten().collect();
    line("vqueue", &format!("{} of service {}", entry.vqueue, entry.service));
    line(
        "limits",
        &if key.is_empty() { "no scope: no rule applies".to_owned() } else { key.join("/") },
    );
    if let Some(key) = &entry.key {
        line("key", key);
    }
    let (work, directory) = work(entry);
    if work != "-" {
        line(if directory.is_some() { "command" } else { "payload" }, &work);
    }
    if let Some(directory) = directory {
        line("directory", &directory);
    }
    line("enqueued", &time(entry.created_at));
    if let Some(ahead) = ahead {
        line("position", &format!("{} ({ahead} ahead in its vqueue)", ahead + 1));
    }
    if entry.attempts > 0 {
        line("attempts", &entry.attempts.to_string());
    }
    if let Some(failure) = &entry.failure {
        line("failure", failure);
    }
    for (index, block) in blocked_by.iter().enumerate() {
        let name = if entry.stage == Stage::Suspended { "waits for" } else { "blocked by" };
        line(if index == 0 { name } else { "" }, &blocked(block, now));
    }
    if let Some(rank) = rank {
        line("rank", &ranked(rank));
    }
    for (index, holder) in holders.iter().enumerate() {
        let HolderView { entry, service, started_at } = holder;
        let text = format!("{entry} of service {service}, for {}", span(*started_at, now.0));
        line(if index == 0 { "running" } else { "" }, &text);
    }
    for (index, rule) in rules.iter().enumerate() {
        line(if index == 0 { "rules" } else { "" }, &governed(rule));
    }
    text
}

/// Its state, in a sentence.
fn state(explained: &ExplainView) -> String {
    let entry = &explained.entry;
    match (entry.stage, &entry.outcome) {
        (Stage::Running, _) => {
            format!("runs since {}", entry.started_at.map_or_else(String::new, time))
        }
        (Stage::Finished, Some(outcome)) => format!("has ended: {outcome}"),
        (Stage::Inbox, _) if explained.blocked_by.is_empty() => {
            "nothing blocks it: it starts next".to_owned()
        }
        (Stage::Inbox, _) => "waits".to_owned(),
        (stage, _) => format!("is {stage}"),
    }
}

fn blocked(block: &BlockView, now: Timestamp) -> String {
    let reason = reason(&block.reason);
    match block.since {
        None => reason,
        Some(since) => format!("{reason}, for {}", span(since, now.0)),
    }
}

/// Why it does not run, in a sentence.
#[expect(clippy::too_many_lines, reason = "one arm per reason")]
pub(super) fn reason(reason: &Reason) -> String {
    match reason {
        Reason::NotLed { partition, why } => {
            format!("no process leads partition {partition}: {why}")
        }
        Reason::NoHandler { service } => {
            format!("no handler for service {service} here: register one, or see `forebay alias`")
        }
        Reason::Paused => "it is paused, see `forebay resume`".to_owned(),
        Reason::Suspended => "it is suspended".to_owned(),
        Reason::Child { child, operation, stage, outcome } => {
            let state = match (stage, outcome) {
                (_, Some(outcome)) => format!("has ended: {outcome}; its answer is on its way"),
                (Some(stage), None) => format!("{stage}"),
                (None, None) => "not stored (on its way, or purged)".to_owned(),
            };
            format!("call {} of {child}: {state}", safe(operation))
        }
        Reason::Promise { name, .. } => {
            format!("promise {}, see `forebay resolve`", safe(name))
        }
        Reason::Sleep { until, operation } => {
            format!("sleep {} until {}", safe(operation), time(*until))
        }
        Reason::OutboxFull { partition, calls, messages } => {
            let calls =
                if *calls == 1 { "1 call waits".to_owned() } else { format!("{calls} calls wait") };
            format!(
                "{calls} for partition {partition}, which is down or overloaded: {messages} \
                 messages to it are not delivered yet"
            )
        }
        Reason::VqueuePaused { vqueue } => format!("its vqueue {vqueue} is paused"),
        Reason::RunAt { run_at } => format!("its time has not come: {}", time(*run_at)),
        Reason::Behind { entries: 1 } => "1 entry of its vqueue goes first".to_owned(),
        Reason::Behind { entries } => format!("{entries} entries of its vqueue go first"),
        Reason::Lock { holder: Some(holder) } => {
            format!("the lock of its vqueue is held by {holder}")
        }
        Reason::Lock { holder: None } => "the lock of its vqueue is changing hands".to_owned(),
        Reason::PausedByRule { key, rule, pattern } => {
            format!("{key} is paused by rule `{pattern}` ({rule})")
        }
        Reason::ServicePausedByRule { service, rule, pattern } => {
            format!("service {service} is paused by rule `{pattern}` ({rule})")
        }
        Reason::Concurrency { key, rule, pattern, usage, limit } => {
            format!("{key} is full: {usage} of {limit} run, by rule `{pattern}` ({rule})")
        }
        Reason::Rate { key, rule, pattern, next_token } => {
            format!("{key} has no token before {}, by rule `{pattern}` ({rule})", time(*next_token))
        }
        Reason::NoSlot { service, running } => {
            format!(
                "no executor asks for more of service {service} ({running} of its partition run)"
            )
        }
        Reason::Capacity { running, running_max, .. } => format!(
            "this process runs as many as it may: {running_max} ({running} of its partition)"
        ),
        // A new reason without a text.
        other => format!("{other:?}"),
    }
}

/// The position of its vqueue, in words.
fn ranked(RankView { key, ahead, waiting }: &RankView) -> String {
    let of = match key {
        Some(key) => format!("{waiting} vqueues that wait for {}", safe(key)),
        None => format!("{waiting} vqueues of its partition that wait for a slot"),
    };
    format!("{} of {of}", ahead + 1)
}

fn governed(rule: &GovernedView) -> String {
    format!("{}: {} by `{}` ({})", rule.key, allowed(&rule.limits), rule.pattern, rule.rule)
}

/// The effect of a change of the rules.
pub(crate) fn impact(impact: &RulesImpact) -> String {
    let mut text = String::new();
    let rule = |rule: Option<&RuleRefView>| match rule {
        None => "no rule".to_owned(),
        Some(rule) => format!("`{}` ({})", rule.pattern, allowed(&rule.limits)),
    };
    for level in &impact.governs {
        let (now, then) = (rule(level.now.as_ref()), rule(level.then.as_ref()));
        let _ = match now == then {
            true => writeln!(text, "{}: governed by {now}, unchanged", level.key),
            false => writeln!(text, "{}: governed by {now} now, by {then} then", level.key),
        };
    }
    let RulesImpact { running, waiting, start_now, start_then, .. } = impact;
    let _ = writeln!(
        text,
        "{running} run, {waiting} wait; of those could start now {start_now}, then {start_then}"
    );
    let mut table =
        table(&["KEY", "RUNNING", "WAITING", "START NOW", "START THEN", "WAIT THEN", "OVER THEN"]);
    for key in &impact.keys {
        table.add_row([
            key.key.clone(),
            key.running.to_string(),
            key.waiting.to_string(),
            key.start_now.to_string(),
            key.start_then.to_string(),
            (key.waiting - key.start_then.min(key.waiting)).to_string(),
            key.over_then.to_string(),
        ]);
    }
    if !impact.keys.is_empty() {
        text += &finish(&table, impact.keys.len(), "keys");
    }
    text
}

/// The counters, as a table.
pub(crate) fn limits(limits: &[LimitView]) -> String {
    let mut table = table(&[
        "KEY",
        "USAGE",
        "LIMIT",
        "TOKENS",
        "WAITING VQUEUES",
        "BACKLOG",
        "PAUSED BY",
        "PATTERN",
        "RULE",
        "PARTITION",
    ]);
    for limit in limits {
        table.add_row([
            limit.key.clone(),
            limit.usage.to_string(),
            or_none(limit.limit),
            limit.tokens.map_or_else(|| "-".to_owned(), |tokens| tokens.to_string()),
            limit.waiters.to_string(),
            match (limit.backlog, limit.backlog_limit) {
                (Some(waiting), Some(most)) => format!("{waiting}/{most}"),
                _ => "-".to_owned(),
            },
            or_dash(limit.paused.as_ref()),
            or_dash(limit.pattern.as_ref()),
            or_dash(limit.rule.as_ref()),
            limit.partition.to_string(),
        ]);
    }
    finish(&table, limits.len(), "limits in use")
}
