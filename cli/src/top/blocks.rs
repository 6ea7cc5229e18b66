//! What blocks a queue, in a few words.
//!
//! Must not know: how counters work; where they are used.

use std::collections::HashMap;

use forebay::explain::{ExplainView, LimitView, Reason};
use forebay_actors::shell::{Clock as _, WallClock};
use forebay_api::VQueueView;

use super::look::View;
use crate::{
    exec::runs::{RunId, SERVICE},
    explain,
    show::format::span,
};

/// Counters by key, and the number of running entries.
pub(super) struct Counters<'a> {
    limits: HashMap<&'a str, &'a LimitView>,
    has_process: bool,
    /// The process runs the maximum number.
    taken: Option<u32>,
}

impl<'a> Counters<'a> {
    pub(super) fn of(view: &'a View) -> Self {
        let running = view.node.as_ref().map_or(0, |node| node.running);
        let is_taken = |most: &u32| usize::try_from(*most).is_ok_and(|most| running >= most);
        Self {
            limits: view.limits.iter().map(|limit| (limit.key.as_str(), limit)).collect(),
            has_process: view.has_process(),
            taken: view.running_max.filter(is_taken),
        }
    }

    /// Why the next entry of a queue waits, as far as the counters show it; empty when nothing
    /// waits or they do not show it.
    pub(super) fn blocked(&self, queue: &VQueueView) -> String {
        if queue.is_paused {
            return "the queue is paused".to_owned();
        }
        if queue.inbox == 0 {
            let is_parked = queue.parked > 0 && queue.running == 0;
            return if is_parked { "all are paused" } else { "" }.to_owned();
        }
        if queue.has_handler == Some(false) {
            return "no handler here".to_owned();
        }
        if let Some(blocked) = self.keys(queue).iter().find_map(|key| self.by_counter(key)) {
            return blocked;
        }
        if !self.has_process {
            return "no process runs it".to_owned();
        }
        if queue.key.is_some() && queue.running > 0 {
            return "one at a time by key".to_owned();
        }
        self.taken.map_or_else(String::new, |most| format!("all {most} jobs are taken"))
    }

    /// The keys of the counters that apply to a queue, the outermost first.
    fn keys(&self, queue: &VQueueView) -> Vec<String> {
        let mut keys = vec![format!("service:{}", queue.service)];
        if RunId::of_service(&queue.service).is_some() {
            // A rule for `exec` applies to all runs.
            keys.push(format!("service:{SERVICE}"));
        }
        if let Some(scope) = &queue.scope {
            let mut key = scope.clone();
            keys.push(key.clone());
            for level in queue.limit_key.iter().flat_map(|levels| levels.split('/')) {
                key.push('/');
                key.push_str(level);
                keys.push(key.clone());
            }
        }
        keys
    }

    fn by_counter(&self, key: &str) -> Option<String> {
        let limit = self.limits.get(key)?;
        if let Some(pattern) = &limit.paused {
            return Some(paused_by(pattern));
        }
        if let Some(most) = limit.limit
            && limit.usage >= most
        {
            return Some(full(key, limit.usage, most));
        }
        (limit.tokens == Some(0)).then(|| rate_of(key))
    }
}

fn paused_by(pattern: &str) -> String {
    format!("paused by {pattern}")
}

fn full(key: &str, usage: u32, limit: u32) -> String {
    format!("{key} is full: {usage} of {limit}")
}

fn rate_of(key: &str) -> String {
    format!("rate of {key}")
}

/// Why an entry does not run, by its first reason.
pub(super) fn explained(explained: &ExplainView) -> String {
    match explained.blocked_by.first().map(|block| &block.reason) {
        None => String::new(),
        Some(Reason::RunAt { run_at }) => {
            let now = WallClock.now();
            // To the second: the view may be a second old.
            let seconds = run_at.saturating_sub(now.0).div_ceil(1_000);
            format!("its time: in {}", span(0, seconds * 1_000))
        }
        Some(Reason::Capacity { running_max, .. }) => format!("all {running_max} jobs are taken"),
        Some(
            Reason::PausedByRule { pattern, .. } | Reason::ServicePausedByRule { pattern, .. },
        ) => paused_by(pattern),
        Some(Reason::Concurrency { key, usage, limit, .. }) => full(key, *usage, *limit),
        Some(Reason::Rate { key, .. }) => rate_of(key),
        Some(other) => explain::reason(other),
    }
}
