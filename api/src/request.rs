//! Requests to a data directory, and their answers.

use std::{num::NonZeroU32, path::PathBuf};

use forebay_messages::{EntryId, PartitionId, VQueueId, command::EntryAction};
use serde::{Deserialize, Serialize};

use crate::{
    ActView, AliasView, BookView, EntryCount, EntryCursor, EntryDetails, EntryFilter, EntryView,
    ExplainView, JobsView, LimitView, NodeView, PartitionView, RuleEdit, RulesImpact,
    ServiceCounts, SnapshotView, Target, TokenRole, TokenView, TreeView, VQueueView,
};

/// A request to a data directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request {
    /// The partitions, and the number of running entries.
    Status,
    /// Maximum number of entries that run at once in this process.
    Jobs {
        /// The new maximum; absent: unchanged.
        #[serde(default)]
        running_max: Option<NonZeroU32>,
    },
    /// Entries, in the order of their ids. The answer is one page: see `Control::pages`.
    Entries {
        /// The filter.
        filter: EntryFilter,
        /// End of an earlier answer.
        #[serde(default)]
        after: Option<EntryCursor>,
    },
    /// Everything known about one entry.
    Entry {
        /// The entry.
        entry: EntryId,
        /// Maximum number of bytes of its payload and of its result.
        bytes_max: usize,
    },
    /// The number of entries.
    CountEntries {
        /// The filter.
        filter: EntryFilter,
    },
    /// Vqueues, in the order of their ids. The answer is one page: see `Control::pages`.
    Queues {
        /// The filter.
        filter: EntryFilter,
        /// Includes queues without work.
        #[serde(default)]
        all: bool,
        /// End of an earlier answer.
        #[serde(default)]
        after: Option<VQueueId>,
    },
    /// The number of entries of each service.
    Services,
    /// Why an entry does not run.
    Explain {
        /// The entry.
        entry: EntryId,
    },
    /// An entry with its children, over all partitions.
    Tree {
        /// The entry.
        entry: EntryId,
    },
    /// Settles a promise of an entry.
    Resolve {
        /// The entry.
        entry: EntryId,
        /// The promise.
        name: String,
        /// The value; ignored with a reason.
        #[serde(default)]
        value: serde_json::Value,
        /// Reject it, with this reason.
        #[serde(default)]
        reject: Option<String>,
    },
    /// Restarts an entry with a new run that keeps the operations finished before a given one.
    RestartFrom {
        /// The entry.
        entry: EntryId,
        /// The operation, as answers name it.
        operation: String,
    },
    /// The counters of the limits.
    Limits {
        /// Only of this scope.
        scope: Option<String>,
        /// They are sent in parts.
        #[serde(default)]
        in_parts: bool,
    },
    /// The rule book.
    Rules,
    /// Earlier rule books.
    RulesHistory {
        /// They are sent in parts.
        #[serde(default)]
        in_parts: bool,
    },
    /// Changes one rule.
    RuleSet {
        /// Its pattern.
        pattern: String,
        /// The change.
        change: RuleEdit,
        /// Only if the rule has this version (0: only if there is none).
        if_version: Option<u64>,
        /// Recorded in the history.
        author: String,
    },
    /// Pauses or resumes a pattern or a service. A separate request, so that a process that does
    /// not know pauses refuses it.
    RulePause {
        /// The pattern.
        pattern: String,
        /// `false`: resume it.
        paused: bool,
        /// Only if the rule has this version (0: only if there is none).
        if_version: Option<u64>,
        /// Recorded in the history.
        author: String,
    },
    /// The effect of a change of the rules.
    RulesTest {
        /// Pattern and concurrency limit (`None` removes it) of each rule to be set.
        rules: Vec<(String, Option<u32>)>,
        /// Also report which rules govern this key.
        key: Option<String>,
        /// Maximum number of reported keys.
        limit: usize,
    },
    /// Puts an earlier rule book into force again.
    RulesRollback {
        /// Its version.
        version: u64,
        /// Recorded in the history.
        author: String,
    },
    /// The aliases: services served by handlers with other names.
    Aliases,
    /// Makes another handler serve a service.
    AliasSet {
        /// The service.
        service: String,
        /// The handler's name; absent removes the alias.
        handler: Option<String>,
    },
    /// The tokens for the HTTP server.
    Tokens,
    /// Adds a token.
    TokenCreate {
        /// Its name.
        name: String,
        /// What it allows.
        role: TokenRole,
        /// SHA-256 of its text, in hexadecimal: the text stays with the client.
        sha256: String,
    },
    /// Removes a token: it is refused from then on.
    TokenRevoke {
        /// Its name.
        name: String,
    },
    /// The state of the partitions.
    Partitions,
    /// Lead a partition.
    Lead {
        /// The partition.
        partition: PartitionId,
    },
    /// Stop leading a partition until a request to lead it again.
    StepDown {
        /// The partition.
        partition: PartitionId,
        /// How long running entries may take to end, in milliseconds.
        within_ms: u64,
    },
    /// Take a snapshot.
    Snapshot {
        /// The target directory, as seen by the process that has the data directory.
        to: PathBuf,
    },
    /// A command about entries.
    Act {
        /// The action.
        action: EntryAction,
        /// Its target.
        target: Target,
        /// Only report what would happen.
        #[serde(default)]
        dry_run: bool,
    },
}

impl Request {
    /// Whether it changes nothing, neither stored data nor the process.
    #[must_use]
    pub fn only_looks(&self) -> bool {
        match self {
            Self::Status
            | Self::Entries { .. }
            | Self::Entry { .. }
            | Self::CountEntries { .. }
            | Self::Queues { .. }
            | Self::Services
            | Self::Explain { .. }
            | Self::Tree { .. }
            | Self::Limits { .. }
            | Self::Rules
            | Self::RulesHistory { .. }
            | Self::RulesTest { .. }
            | Self::Aliases
            | Self::Tokens
            | Self::Partitions => true,
            Self::Jobs { running_max } => running_max.is_none(),
            Self::Act { dry_run, .. } => *dry_run,
            Self::RuleSet { .. }
            | Self::RulePause { .. }
            | Self::RulesRollback { .. }
            | Self::AliasSet { .. }
            | Self::TokenCreate { .. }
            | Self::TokenRevoke { .. }
            | Self::Resolve { .. }
            | Self::RestartFrom { .. }
            | Self::Lead { .. }
            | Self::StepDown { .. }
            | Self::Snapshot { .. } => false,
        }
    }

    /// Whether an answer may take minutes, so that signs of life are sent before it.
    #[must_use]
    pub fn takes_long(&self) -> bool {
        match self {
            Self::StepDown { .. } | Self::Snapshot { .. } | Self::Act { .. } => true,
            Self::Status
            | Self::Jobs { .. }
            | Self::Entries { .. }
            | Self::Entry { .. }
            | Self::CountEntries { .. }
            | Self::Queues { .. }
            | Self::Services
            | Self::Explain { .. }
            | Self::Tree { .. }
            | Self::Resolve { .. }
            | Self::RestartFrom { .. }
            | Self::Limits { .. }
            | Self::Rules
            | Self::RulesHistory { .. }
            | Self::RuleSet { .. }
            | Self::RulePause { .. }
            | Self::RulesTest { .. }
            | Self::RulesRollback { .. }
            | Self::Aliases
            | Self::AliasSet { .. }
            | Self::Tokens
            | Self::TokenCreate { .. }
            | Self::TokenRevoke { .. }
            | Self::Partitions
            | Self::Lead { .. } => false,
        }
    }
}

/// An answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Response {
    /// To `Status`.
    Status {
        /// The node.
        node: NodeView,
    },
    /// To `Jobs`.
    Jobs {
        /// The present numbers.
        jobs: JobsView,
    },
    /// To `Entries`.
    Entries {
        /// The entries.
        entries: Vec<EntryView>,
        /// The position of the next page; absent at the end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<EntryCursor>,
    },
    /// To `Entry`.
    Entry {
        /// What is known about it.
        details: Box<EntryDetails>,
    },
    /// To `CountEntries`.
    EntryCount {
        /// The number of entries.
        count: EntryCount,
    },
    /// To `Queues`.
    Queues {
        /// The vqueues.
        queues: Vec<VQueueView>,
        /// The position of the next page; absent at the end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<VQueueId>,
    },
    /// To `Services`.
    Services {
        /// By name.
        services: Vec<ServiceCounts>,
    },
    /// To `Explain`.
    Explain {
        /// The entry, and the reasons why it does not run.
        explained: Box<ExplainView>,
    },
    /// To `Tree`.
    Tree {
        /// The entries.
        tree: TreeView,
    },
    /// To `Resolve`.
    Resolved {
        /// The entry.
        entry: EntryId,
        /// The promise.
        name: String,
        /// It was rejected.
        is_rejected: bool,
    },
    /// To `Limits`.
    Limits {
        /// The counters.
        limits: Vec<LimitView>,
        /// Another part follows.
        #[serde(default, skip_serializing_if = "is_false")]
        more: bool,
    },
    /// To `Rules`, and to changes of it.
    Rules {
        /// The book in force.
        book: BookView,
    },
    /// To `RulesHistory`.
    RulesHistory {
        /// Oldest first.
        books: Vec<BookView>,
        /// Another part follows.
        #[serde(default, skip_serializing_if = "is_false")]
        more: bool,
    },
    /// To `RulesTest`.
    RulesTest {
        /// The effect.
        impact: RulesImpact,
    },
    /// To `Partitions`, and to changes of leaders.
    Partitions {
        /// In the order of their ranges.
        partitions: Vec<PartitionView>,
    },
    /// To `Aliases`, and to changes of them.
    Aliases {
        /// By service.
        aliases: Vec<AliasView>,
    },
    /// To `Tokens`, and to changes of them.
    Tokens {
        /// By name.
        tokens: Vec<TokenView>,
    },
    /// To `Snapshot`.
    Snapshot {
        /// The contents of the snapshot.
        manifest: SnapshotView,
    },
    /// To `Act`.
    Acted {
        /// The result.
        report: ActView,
    },
    /// The request failed.
    Error {
        /// The error, its cause, and what to do.
        message: String,
        /// The request itself was wrong (not the state of the process).
        usage: bool,
    },
}

impl Response {
    /// Whether another part of the answer follows.
    #[must_use]
    pub fn has_more(&self) -> bool {
        match self {
            Self::Limits { more, .. } | Self::RulesHistory { more, .. } => *more,
            _ => false,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_messages::Timestamp;

    /// Processes of other versions read these lines: they must not change.
    #[test]
    fn golden_lines_of_requests() {
        let act = |action| Request::Act { action, target: Target::default(), dry_run: true };
        let filter = r#"{"stage":null,"service":null,"scope":null,"limit_key":null,"created_until":null,"outcome":null,"limit":0,"bytes_max":0}"#;
        let target = format!(r#"{{"entries":[],"queues":[],"filter":{filter},"all":false}}"#);
        let acted = |action| {
            format!(r#"{{"ask":"act","action":{action},"target":{target},"dry_run":true}}"#)
        };
        for (request, line) in [
            (act(EntryAction::Cancel), acted(r#""cancel""#)),
            (act(EntryAction::Kill), acted(r#""kill""#)),
            (act(EntryAction::Pause), acted(r#""pause""#)),
            (act(EntryAction::Resume), acted(r#""resume""#)),
            (
                act(EntryAction::Reschedule { run_at: Timestamp(7) }),
                acted(r#"{"reschedule":{"run_at":7}}"#),
            ),
            (act(EntryAction::Purge), acted(r#""purge""#)),
            (act(EntryAction::Redrive), acted(r#""redrive""#)),
            (act(EntryAction::Restart), acted(r#""restart""#)),
            (Request::Status, r#"{"ask":"status"}"#.to_owned()),
            (
                Request::TokenCreate {
                    name: "ci".to_owned(),
                    role: TokenRole::Write,
                    sha256: "00".to_owned(),
                },
                r#"{"ask":"token_create","name":"ci","role":"write","sha256":"00"}"#.to_owned(),
            ),
            (
                Request::Limits { scope: Some("a".to_owned()), in_parts: true },
                r#"{"ask":"limits","scope":"a","in_parts":true}"#.to_owned(),
            ),
        ] {
            assert_eq!(serde_json::to_string(&request).unwrap(), line);
            assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request);
        }
        let short = r#"{"ask":"act","action":"purge","target":{"all":true}}"#;
        assert!(matches!(
            serde_json::from_str(short).unwrap(),
            Request::Act { action: EntryAction::Purge, dry_run: false, .. }
        ));
    }
}
