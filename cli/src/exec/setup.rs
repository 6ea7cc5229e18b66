//! The effects of a run's options: how the input is read, when a failed item is retried, which
//! rules change.
//!
//! Must not know: how a run proceeds.

use std::{path::Path, time::Duration};

use forebay::RetryPolicy;
use forebay_engine::rules::{RuleBook, RuleChange, RulePatch};

use super::{
    input::{Format, Reading},
    item::{Plan, Templates},
    run::ExecError,
    runs::fresh_name,
    template::Offer,
};
use crate::args::{BackoffArg, DelimiterArg, ExecArgs};

/// Delay before the first retry of an item.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// Maximum delay between two attempts, unless the first one is longer.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(3600);

/// How items are written, where options say so.
pub(super) fn format(null: bool, ndjson: bool, delimiter: Option<DelimiterArg>) -> Option<Format> {
    match (null, ndjson, delimiter) {
        (true, _, _) | (_, _, Some(DelimiterArg(0))) => Some(Format::Nul),
        (_, true, _) => Some(Format::Ndjson),
        (_, _, Some(DelimiterArg(b'\n'))) => Some(Format::Lines),
        (_, _, Some(DelimiterArg(byte))) => Some(Format::Delimited(byte)),
        (_, _, None) => None,
    }
}

/// How the input is read.
pub(super) fn reading(args: &ExecArgs) -> Reading {
    let format = format(args.null, args.ndjson, args.delimiter).unwrap_or(Format::Lines);
    Reading { format, crlf: args.crlf, per_item: args.per_item }
}

/// The templates of the command line.
pub(super) fn compile(args: &ExecArgs, directory: &Path) -> Result<Plan, ExecError> {
    let templates = Templates {
        command: &args.command,
        key: args.key.as_ref(),
        scope: args.scope.as_ref(),
        limit_key: args.limit_key.as_ref(),
        chdir: args.chdir.as_ref(),
    };
    let offer = if args.ndjson { Offer::Object } else { Offer::Line };
    let again = args.again.as_deref().map(|name| match name {
        "" => fresh_name().to_string(),
        name => name.to_owned(),
    });
    Ok(Plan::compile(&templates, offer, directory, again.as_deref())?)
}

/// When a failed item is retried.
pub(super) fn retry(args: &ExecArgs) -> RetryPolicy {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let first = args.retry_delay.unwrap_or(RETRY_DELAY);
    let usual = RetryPolicy::default();
    RetryPolicy {
        attempts_max: args.retries.saturating_add(1),
        backoff_first_ms: millis(first),
        backoff_max_ms: millis(first.max(RETRY_DELAY_MAX)),
        growth_percent: args.backoff.map_or(usual.growth_percent, |BackoffArg(percent)| percent),
        // An explicit delay is meant exactly.
        jitter_percent: if args.retry_delay.is_some() { 0 } else { usual.jitter_percent },
    }
}

/// Changes of `--rule`: other limits of a rule stay, and so does a pause.
pub(super) fn rule_changes(args: &ExecArgs, book: &RuleBook) -> Vec<RuleChange> {
    let rules = args.rules.iter();
    let change = rules.map(|rule| {
        let patch = RulePatch { limits: rule.limits, ..RulePatch::default() };
        book.upsert(rule.pattern.clone(), patch)
    });
    change.collect()
}
