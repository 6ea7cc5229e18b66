//! Commands that ask a data directory: `rules`, `entries`, `queues`, `status`.
//!
//! Must not know: whether the directory is in use; the answers are the same.

use std::{fmt::Write as _, process::ExitCode, time::Duration};

use comfy_table::{Table, presets::NOTHING};
use forebay::{
    Stage,
    control::{BookView, Control, ControlError, NodeView, RateView, Request, Response, RuleEdit},
};
use forebay_actors::{
    node::{EntryFilter, EntryView, VQueueView},
    shell::{Clock as _, WallClock},
};
use thiserror::Error;

use super::args::{
    ConcurrencyArg, EntriesArgs, Global, PauseTarget, QueuesArgs, RuleTarget, RulesArgs,
    RulesCommand, StageArg,
};

/// From how many milliseconds on `status` tells that a partition's time is ahead of the wall
/// clock.
const AHEAD_SHOWN_MS: u64 = 1_000;

/// Why nothing was answered.
#[derive(Debug, Error)]
pub(crate) enum AskError {
    #[error(transparent)]
    Control(#[from] ControlError),
    /// What the other side refused.
    #[error("{0}")]
    Refused(String),
    #[error("the answer does not fit the question (another version of forebay?)")]
    Strange,
    #[error("standard output: {0}")]
    Output(#[from] std::io::Error),
    #[error("the answer cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Asks and prints.
pub(crate) async fn ask(global: &Global, request: Request) -> Result<ExitCode, AskError> {
    let response = answered(global, request).await?;
    let text = if global.json { json(&response)? } else { people(&response)? };
    let printed = super::print(text.as_bytes())?;
    if let Response::Entries { next: Some(next), .. } = &response {
        // Beside the answer, which may be read by a program.
        super::note(&format!("there may be more: repeat this with --after {next}"));
    }
    Ok(printed)
}

/// Asks.
pub(crate) async fn answered(global: &Global, request: Request) -> Result<Response, AskError> {
    let makes_one = match &request {
        Request::RuleSet { change, .. } => !change.delete && change.disabled.is_none(),
        Request::RulePause { paused, .. } => *paused,
        _ => false,
    };
    let control = if makes_one && !global.data_dir.exists() {
        let control = Control::open_or_create(&global.data_dir).await?;
        super::note(&format!("made a new data directory at {}", global.data_dir.display()));
        control
    } else {
        Control::open(&global.data_dir).await?
    };
    let answered = control.ask(request).await;
    let closed = control.close().await;
    let response = answered?;
    closed?;
    if let Response::Error { message, .. } = response {
        return Err(AskError::Refused(message));
    }
    Ok(response)
}

/// The request behind `forebay entries`.
pub(crate) fn entries(args: &EntriesArgs) -> Request {
    let filter = EntryFilter {
        stage: args.stage.map(stage),
        service: args.service.clone(),
        scope: args.scope.clone(),
        limit_key: args.limit_key.clone(),
        created_until: args.older_than.map(before),
        outcome: args.outcome.map(Into::into),
        limit: args.limit,
    };
    match args.count {
        true => Request::CountEntries { filter },
        false => Request::Entries { filter, after: args.after },
    }
}

/// A stage as answers name it.
pub(crate) fn stage(stage: StageArg) -> Stage {
    match stage {
        StageArg::Inbox => Stage::Inbox,
        StageArg::Running => Stage::Running,
        StageArg::Suspended => Stage::Suspended,
        StageArg::Paused => Stage::Paused,
        StageArg::Finished => Stage::Finished,
    }
}

/// So long ago, in milliseconds since 1970.
pub(crate) fn before(age: Duration) -> u64 {
    let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    WallClock.now().0.saturating_sub(age_ms)
}

/// The request behind `forebay queues`.
pub(crate) fn queues(args: &QueuesArgs) -> Request {
    let filter = EntryFilter {
        service: args.service.clone(),
        scope: args.scope.clone(),
        limit: args.limit,
        ..EntryFilter::default()
    };
    Request::Queues { filter }
}

/// The request behind `forebay rules …`.
pub(crate) fn rules(args: &RulesArgs) -> Request {
    let author = author();
    let edit = |target: &RuleTarget, change: RuleEdit| Request::RuleSet {
        pattern: target.pattern.to_string(),
        change,
        if_version: target.if_version,
        author: author.clone(),
    };
    match &args.command {
        RulesCommand::List => Request::Rules,
        RulesCommand::History => Request::RulesHistory,
        RulesCommand::Rollback { version } => Request::RulesRollback { version: *version, author },
        RulesCommand::Set(set) => edit(
            &set.target,
            RuleEdit {
                concurrency: set.concurrency.map(number),
                rate: set.rate.map(|rate| {
                    rate.0.map(|rate| RateView {
                        burst: set.burst.unwrap_or(rate.burst),
                        ..rate.into()
                    })
                }),
                weight: set.weight.map(number),
                backlog: set.backlog.map(number),
                description: set.description.clone(),
                ..RuleEdit::default()
            },
        ),
        RulesCommand::Test(test) => Request::RulesTest {
            rules: test
                .rules
                .iter()
                .map(|rule| {
                    let limit = rule.concurrency.map(std::num::NonZeroU32::get);
                    (rule.pattern.to_string(), limit)
                })
                .collect(),
            key: test.key.as_ref().map(ToString::to_string),
            limit: test.limit,
        },
        RulesCommand::Pause(target) => pause(target, true, author),
        RulesCommand::Resume(target) => pause(target, false, author),
        RulesCommand::Disable(target) => {
            edit(target, RuleEdit { disabled: Some(true), ..RuleEdit::default() })
        }
        RulesCommand::Enable(target) => {
            edit(target, RuleEdit { disabled: Some(false), ..RuleEdit::default() })
        }
        RulesCommand::Delete(target) => {
            edit(target, RuleEdit { delete: true, ..RuleEdit::default() })
        }
    }
}

fn pause(target: &PauseTarget, paused: bool, author: String) -> Request {
    let pattern = target.pattern.to_string();
    Request::RulePause { pattern, paused, if_version: target.if_version, author }
}

fn number(limit: ConcurrencyArg) -> Option<u32> {
    limit.0.map(std::num::NonZeroU32::get)
}

/// Who changes rules: the user, as the environment says.
fn author() -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME"));
    user.unwrap_or_else(|_| format!("uid {}", rustix::process::getuid().as_raw()))
}

/// The answer's content alone, one line.
pub(crate) fn json(response: &Response) -> Result<String, AskError> {
    let mut text = match response {
        Response::Status { node } => serde_json::to_string(node),
        Response::Jobs { jobs } => serde_json::to_string(jobs),
        Response::Entries { entries, .. } => serde_json::to_string(entries),
        Response::EntryCount { count } => serde_json::to_string(count),
        Response::Queues { queues } => serde_json::to_string(queues),
        Response::Explain { explained } => serde_json::to_string(explained),
        Response::Limits { limits } => serde_json::to_string(limits),
        Response::Rules { book } => serde_json::to_string(book),
        Response::RulesHistory { books } => serde_json::to_string(books),
        Response::RulesTest { impact } => serde_json::to_string(impact),
        Response::Aliases { aliases } => serde_json::to_string(aliases),
        Response::Snapshot { manifest } => serde_json::to_string(manifest),
        Response::Partitions { partitions } => serde_json::to_string(partitions),
        Response::Acted { report } => serde_json::to_string(report),
        Response::Error { .. } => serde_json::to_string(response),
    }?;
    text.push('\n');
    Ok(text)
}

fn people(response: &Response) -> Result<String, AskError> {
    Ok(match response {
        Response::Status { node } => status(node),
        Response::Jobs { jobs } => super::jobs::people(jobs),
        Response::Entries { entries, .. } => entry_table(entries),
        Response::EntryCount { count } => format!("{count}\n"),
        Response::Queues { queues } => queue_table(queues),
        Response::Explain { explained } => super::explain::explanation(explained),
        Response::Limits { limits } => super::explain::limits(limits),
        Response::Rules { book } => rule_table(book),
        Response::RulesHistory { books } => history(books),
        Response::RulesTest { impact } => super::explain::impact(impact),
        Response::Aliases { aliases } => super::alias::alias_table(aliases),
        Response::Snapshot { manifest } => super::snapshot::people(manifest),
        Response::Partitions { partitions } => super::partitions::partition_table(partitions),
        Response::Acted { .. } | Response::Error { .. } => return Err(AskError::Strange),
    })
}

/// A time as ISO 8601 with its zone.
pub(super) fn time(millis: u64) -> String {
    let millis = i64::try_from(millis).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_millisecond(millis) {
        Ok(time) => {
            time.to_zoned(jiff::tz::TimeZone::system()).strftime("%FT%T%.3f%:z").to_string()
        }
        Err(_) => "never".to_owned(),
    }
}

pub(super) fn rate(rate: RateView) -> String {
    let every = std::time::Duration::from_millis(rate.period_ms);
    format!("{} per {every:?}, burst {}", rate.tokens, rate.burst)
}

pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.to_vec());
    table
}

pub(super) fn or_dash(text: Option<&String>) -> String {
    text.map_or_else(|| "-".to_owned(), Clone::clone)
}

/// A limit.
pub(super) fn or_none(limit: Option<u32>) -> String {
    limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string())
}

pub(super) fn finish(table: &Table, rows: usize, what: &str) -> String {
    if rows == 0 { format!("no {what}\n") } else { format!("{}\n", table.trim_fmt()) }
}

fn status(node: &NodeView) -> String {
    let mut text = format!(
        "forebay {} (process {}), {} handlers running\n",
        node.version, node.pid, node.running
    );
    let columns =
        ["PARTITION", "ROLE", "EPOCH", "APPLIED", "LOG END", "ACTIVE VQUEUES", "WAITING", "STALE"];
    let mut table = table(&columns);
    for partition in &node.partitions {
        table.add_row([
            partition.id.to_string(),
            partition.role.to_string(),
            partition.epoch.to_string(),
            partition.applied.to_string(),
            partition.log_end.to_string(),
            partition.active_vqueues.to_string(),
            partition.waiting_vqueues.to_string(),
            partition.stale.to_string(),
        ]);
    }
    let _ = writeln!(text, "{}", table.trim_fmt());
    for partition in &node.partitions {
        if let Some(reason) = &partition.stopped {
            let _ = writeln!(text, "partition {} stopped: {reason}", partition.id);
        }
        if partition.ahead_ms >= AHEAD_SHOWN_MS {
            let ahead = Duration::from_secs(partition.ahead_ms / 1_000);
            let _ = writeln!(
                text,
                "partition {}: its time is {ahead:?} ahead of this machine's clock, which was \
                 set back; entries with an explicit start time may start early by as much",
                partition.id
            );
        }
    }
    text
}

fn entry_table(entries: &[EntryView]) -> String {
    let mut table = table(&[
        "ENTRY",
        "STAGE",
        "OUTCOME",
        "SERVICE",
        "SCOPE",
        "LIMIT KEY",
        "KEY",
        "ATTEMPTS",
        "CREATED",
    ]);
    for entry in entries {
        table.add_row([
            entry.id.to_string(),
            entry.stage.to_string(),
            or_dash(entry.outcome.map(|outcome| outcome.to_string()).as_ref()),
            entry.service.clone(),
            or_dash(entry.scope.as_ref()),
            or_dash(entry.limit_key.as_ref()),
            or_dash(entry.key.as_ref()),
            entry.attempts.to_string(),
            time(entry.created_at),
        ]);
    }
    finish(&table, entries.len(), "entries")
}

fn queue_table(queues: &[VQueueView]) -> String {
    let mut table = table(&[
        "VQUEUE",
        "SERVICE",
        "SCOPE",
        "LIMIT KEY",
        "KEY",
        "INBOX",
        "RUNNING",
        "PARKED",
        "FINISHED",
        "PAUSED",
    ]);
    for queue in queues {
        table.add_row([
            queue.id.to_string(),
            queue.service.clone(),
            or_dash(queue.scope.as_ref()),
            or_dash(queue.limit_key.as_ref()),
            or_dash(queue.key.as_ref()),
            queue.inbox.to_string(),
            queue.running.to_string(),
            queue.parked.to_string(),
            queue.finished.to_string(),
            if queue.is_paused { "yes" } else { "no" }.to_owned(),
        ]);
    }
    finish(&table, queues.len(), "vqueues")
}

fn rule_table(book: &BookView) -> String {
    let mut table = table(&[
        "RULE",
        "PATTERN",
        "CONCURRENCY",
        "RATE",
        "BACKLOG",
        "WEIGHT",
        "VERSION",
        "ENABLED",
        "PAUSED",
        "MODIFIED",
        "DESCRIPTION",
    ]);
    for rule in &book.rules {
        table.add_row([
            rule.id.clone(),
            rule.pattern.clone(),
            or_none(rule.limits.concurrency),
            rule.limits.rate.map_or_else(|| "none".to_owned(), rate),
            or_none(rule.limits.backlog),
            rule.limits.weight.unwrap_or(1).to_string(),
            rule.version.to_string(),
            if rule.disabled { "no" } else { "yes" }.to_owned(),
            if rule.limits.paused { "yes" } else { "no" }.to_owned(),
            time(rule.last_modified),
            rule.description.clone(),
        ]);
    }
    let rules = finish(&table, book.rules.len(), "rules");
    format!("rule book version {}\n{rules}", book.version)
}

fn history(books: &[BookView]) -> String {
    let mut table = table(&["VERSION", "AT", "AUTHOR", "RULES"]);
    for book in books {
        table.add_row([
            book.version.to_string(),
            book.at.map_or_else(|| "-".to_owned(), time),
            or_dash(book.author.as_ref()),
            book.rules.len().to_string(),
        ]);
    }
    finish(&table, books.len(), "earlier rule books")
}
