//! Answering requests on a node.

use std::{num::NonZeroU32, path::Path, time::Duration};

use forebay_actors::{
    error::{ErrorKind, NodeError},
    inspect::VQueueFilter,
    node::Node,
    snapshot::{FileSum, Manifest, PartitionSum},
};
use forebay_api::{LimitView, RulesImpact};
use forebay_engine::{
    aliases::Aliases,
    rules::{
        BookVersion, Change, Edit, LimitsPatch, Precondition, RuleBook, RuleChange, RulePatch,
    },
};
use forebay_messages::{PartitionId, rule::Pattern};
use thiserror::Error;

use super::{
    AliasView, BookView, JobsView, NodeView, Request, Response, RuleEdit, RuleView,
    SnapshotFileView, SnapshotPartitionView, SnapshotView, act::act, calls, tokens,
};

/// Answers a request on a node.
pub async fn answer(node: &Node, request: Request) -> Response {
    match answer_or_refuse(node, request).await {
        Ok(response) => response,
        Err(refusal) => refuse(refusal),
    }
}

/// The response to a request that cannot be answered.
pub(super) fn refuse(refusal: Refused) -> Response {
    match refusal {
        Refused::Usage(message) => Response::Error { message, usage: true },
        Refused::Node(error) => {
            let usage = matches!(
                error,
                NodeError::Rules(_)
                    | NodeError::NoRunningMax
                    | NodeError::Rollback(_)
                    | NodeError::Filter(_)
                    | NodeError::Alias(_)
                    | NodeError::Token(_)
                    | NodeError::PromiseName { .. }
            );
            Response::Error { message: error.to_string(), usage }
        }
    }
}

pub(super) enum Refused {
    Usage(String),
    Node(NodeError),
}

impl From<NodeError> for Refused {
    fn from(error: NodeError) -> Self {
        Self::Node(error)
    }
}

/// A request was refused, or failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The request makes no sense.
    #[error("{0}")]
    BadInput(String),
    /// The runtime refused.
    #[error(transparent)]
    Node(#[from] crate::error::NodeError),
}

impl RequestError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::BadInput(_) => ErrorKind::BadInput,
            Self::Node(error) => error.kind(),
        }
    }
}

/// As [`answer`], with an error that has a kind.
pub(crate) async fn try_answer(node: &Node, request: Request) -> Result<Response, RequestError> {
    answer_or_refuse(node, request).await.map_err(|refused| match refused {
        Refused::Usage(text) => RequestError::BadInput(text),
        Refused::Node(error) => RequestError::Node(error.into()),
    })
}

#[expect(clippy::too_many_lines, reason = "one arm per request")]
async fn answer_or_refuse(node: &Node, request: Request) -> Result<Response, Refused> {
    let inspect = node.inspect();
    Ok(match request {
        Request::Status => Response::Status { node: status(node).await? },
        Request::Jobs { running_max } => Response::Jobs { jobs: jobs(node, running_max)? },
        Request::Entries { filter, after } => {
            let page = inspect.entry_page(&filter, after).await?;
            Response::Entries { entries: page.entries, next: page.next }
        }
        Request::Entry { entry, bytes_max } => {
            let details = inspect.entry_details(entry, bytes_max).await?;
            let details = details.ok_or(NodeError::UnknownEntry(entry))?;
            Response::Entry { details: Box::new(details) }
        }
        Request::CountEntries { filter } => {
            Response::EntryCount { count: inspect.count_entries(&filter).await? }
        }
        Request::Queues { filter, all, after } => {
            let filter = VQueueFilter { entries: filter, all };
            let page = inspect.vqueue_page(&filter, after).await?;
            Response::Queues { queues: page.vqueues, next: page.next }
        }
        Request::Services => Response::Services { services: inspect.service_counts().await? },
        Request::Explain { entry } => {
            let explained = inspect.explain(entry).await?;
            let explained = explained.ok_or(NodeError::UnknownEntry(entry))?;
            Response::Explain { explained: Box::new(explained) }
        }
        request
        @ (Request::Tree { .. } | Request::Resolve { .. } | Request::RestartFrom { .. }) => {
            calls::answer(node, request).await?
        }
        Request::Limits { scope, .. } => {
            Response::Limits { limits: limits(node, scope.as_deref()).await?, more: false }
        }
        Request::Rules => Response::Rules { book: view(&node.rules().newest().await?) },
        Request::RulesHistory { .. } => {
            Response::RulesHistory { books: history(node).await?, more: false }
        }
        Request::RuleSet { pattern, change, if_version, author } => {
            let book = set_rule(node, &pattern, change, if_version, &author).await?;
            Response::Rules { book: view(&book) }
        }
        Request::RulePause { pattern, paused, if_version, author } => Response::Rules {
            book: view(&pause_rule(node, &pattern, paused, if_version, &author).await?),
        },
        Request::RulesTest { rules, key, limit } => {
            Response::RulesTest { impact: test_rules(node, &rules, key.as_deref(), limit).await? }
        }
        Request::RulesRollback { version, author } => {
            let book = node.rules().rollback_rules(&author, BookVersion(version)).await?;
            Response::Rules { book: view(&book) }
        }
        Request::Aliases => aliases(&node.handlers().aliases().await?),
        Request::AliasSet { service, handler } => {
            aliases(&node.handlers().set_alias(&service, handler.as_deref()).await?)
        }
        request @ (Request::Tokens | Request::TokenCreate { .. } | Request::TokenRevoke { .. }) => {
            tokens::answer(node, request).await?
        }
        Request::Snapshot { to } => snapshot(node, &to).await?,
        Request::Partitions => partitions(node).await?,
        Request::Lead { partition } => lead(node, partition).await?,
        Request::StepDown { partition, within_ms } => step_down(node, partition, within_ms).await?,
        Request::Act { action, target, dry_run } => {
            Response::Acted { report: act(node, action, target, dry_run).await? }
        }
    })
}

async fn status(node: &Node) -> Result<NodeView, NodeError> {
    Ok(NodeView {
        // A process that only reads does not own the directory.
        pid: node.dispatches().then(std::process::id),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        running: node.executor().running(),
        partitions: node.inspect().status()?,
        unserved: node.inspect().unserved().await?,
    })
}

fn jobs(node: &Node, running_max: Option<NonZeroU32>) -> Result<JobsView, NodeError> {
    let before = node.running_max();
    if let Some(running_max) = running_max {
        node.set_running_max(running_max)?;
    }
    Ok(JobsView {
        running: node.executor().running(),
        running_max: node.running_max(),
        before: before.filter(|_| running_max.is_some()),
    })
}

pub(super) async fn limits(node: &Node, scope: Option<&str>) -> Result<Vec<LimitView>, NodeError> {
    let mut limits = node.inspect().limits().await?;
    limits.retain(|limit| {
        let of = limit.key.split('/').next();
        scope.is_none_or(|scope| of == Some(scope))
    });
    Ok(limits)
}

pub(super) async fn history(node: &Node) -> Result<Vec<BookView>, NodeError> {
    let history = node.rules().history().await?;
    let books = history.entries().iter().map(|entry| BookView {
        author: Some(entry.author.to_string()),
        at: Some(entry.at.0),
        ..view(&entry.book)
    });
    Ok(books.collect())
}

async fn test_rules(
    node: &Node,
    rules: &[(String, Option<u32>)],
    key: Option<&str>,
    limit: usize,
) -> Result<RulesImpact, Refused> {
    let mut patches = Vec::new();
    for (pattern, limit) in rules {
        let concurrency = match limit {
            None => Edit::Clear,
            Some(limit) => Edit::Set(not_zero(*limit)?),
        };
        let limits = LimitsPatch { concurrency, ..LimitsPatch::default() };
        patches.push((parse(pattern)?, RulePatch { limits, ..RulePatch::default() }));
    }
    let key = match key {
        None => Vec::new(),
        Some(key) => parse(key)?.as_key().ok_or_else(|| {
            let text = "a key has no `*` in it, and a service has no key";
            Refused::Usage(format!("`{key}` is a pattern; {text}"))
        })?,
    };
    let make = |book: &RuleBook| {
        let changes = patches.into_iter().map(|(pattern, patch)| book.upsert(pattern, patch));
        changes.collect()
    };
    let mut impact = node.inspect().test_rules(make, &key).await?;
    impact.keys.truncate(limit);
    Ok(impact)
}

fn parse(pattern: &str) -> Result<Pattern, Refused> {
    pattern.parse().map_err(|error| Refused::Usage(format!("{error}")))
}

fn not_zero(limit: u32) -> Result<NonZeroU32, Refused> {
    NonZeroU32::new(limit).ok_or_else(|| {
        Refused::Usage("a limit is at least 1; to stop work, see `forebay rules pause`".to_owned())
    })
}

fn aliases(aliases: &Aliases) -> Response {
    let aliases = aliases.iter().map(|(service, handler)| AliasView {
        service: service.to_owned(),
        handler: handler.to_owned(),
    });
    Response::Aliases { aliases: aliases.collect() }
}

async fn snapshot(node: &Node, to: &Path) -> Result<Response, NodeError> {
    Ok(Response::Snapshot { manifest: snapshot_view(node.snapshot(to).await?) })
}

async fn partitions(node: &Node) -> Result<Response, NodeError> {
    Ok(Response::Partitions { partitions: node.inspect().list_partitions().await? })
}

async fn lead(node: &Node, partition: PartitionId) -> Result<Response, NodeError> {
    node.partitions().lead(partition).await?;
    partitions(node).await
}

async fn step_down(
    node: &Node,
    partition: PartitionId,
    within_ms: u64,
) -> Result<Response, NodeError> {
    node.partitions().step_down(partition, Duration::from_millis(within_ms)).await?;
    partitions(node).await
}

fn precondition(if_version: Option<u64>) -> Precondition {
    match if_version {
        None => Precondition::None,
        Some(0) => Precondition::DoesNotExist,
        Some(version) => Precondition::Matches(BookVersion(version)),
    }
}

async fn pause_rule(
    node: &Node,
    pattern: &str,
    paused: bool,
    if_version: Option<u64>,
    author: &str,
) -> Result<RuleBook, Refused> {
    let pattern = parse(pattern)?;
    let there = node.rules().newest().await?.get(&pattern).is_some_and(|rule| rule.limits.paused);
    if !paused && !there && if_version.is_none() {
        return Err(Refused::Usage(format!(
            "`{pattern}` is not paused; `forebay rules list` shows what is"
        )));
    }
    let patch = RulePatch { limits: LimitsPatch::paused(paused), ..RulePatch::default() };
    let precondition = precondition(if_version);
    let make = move |book: &RuleBook| {
        // A resume must not create a rule.
        let change = match book.get(&pattern) {
            None if !paused => Change::Delete,
            None => Change::Create(patch.clone()),
            Some(_) => Change::Patch(patch.clone()),
        };
        vec![RuleChange::new(pattern.clone(), change).only_if(precondition)]
    };
    Ok(node.rules().change_rules(author, make).await?)
}

async fn set_rule(
    node: &Node,
    pattern: &str,
    edit: RuleEdit,
    if_version: Option<u64>,
    author: &str,
) -> Result<RuleBook, Refused> {
    let pattern = parse(pattern)?;
    let precondition = precondition(if_version);
    let only_on_existing = edit.disabled.is_some();
    let patch = RulePatch {
        limits: edit.limits,
        description: edit.description.map(Into::into),
        disabled: edit.disabled,
    };
    let make = move |book: &RuleBook| {
        let change = if edit.delete {
            RuleChange::new(pattern.clone(), Change::Delete)
        } else if only_on_existing {
            RuleChange::new(pattern.clone(), Change::Patch(patch.clone()))
        } else {
            book.upsert(pattern.clone(), patch.clone())
        };
        vec![change.only_if(precondition)]
    };
    Ok(node.rules().change_rules(author, make).await?)
}

fn view(book: &RuleBook) -> BookView {
    let rules = book.rules().map(|rule| RuleView {
        id: rule.id().printed(),
        pattern: rule.pattern.to_string(),
        version: rule.version.0,
        limits: rule.limits,
        description: rule.description.to_string(),
        disabled: rule.disabled,
        last_modified: rule.last_modified.0,
    });
    BookView { version: book.version().0, rules: rules.collect(), author: None, at: None }
}

/// The manifest of a snapshot, as answers have it.
#[must_use]
pub fn snapshot_view(manifest: Manifest) -> SnapshotView {
    let Manifest { forebay, created_at, partitions, files } = manifest;
    let partitions = partitions.into_iter().map(|partition| {
        let PartitionSum { id, applied, log_first, log_end, rows, hash } = partition;
        SnapshotPartitionView { id, applied, log_first, log_end, rows, hash }
    });
    let files =
        files.into_iter().map(|FileSum { path, len, xxh3 }| SnapshotFileView { path, len, xxh3 });
    let (partitions, files) = (partitions.collect(), files.collect());
    SnapshotView { forebay, created_at, partitions, files }
}
