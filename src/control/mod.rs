//! Looking at and changing a data directory from another process: a local socket in
//! the directory, one JSON request per connection, answered by one line of JSON or, where
//! the request asks for it, by several.
//!
//! Owns: what can be asked. Must always hold: the same request gives the same answer
//! through the socket of a running process and directly on the directory.

mod act;
mod answer;
mod client;
mod pages;
mod parts;
mod server;
mod socket;

pub use answer::answer;
pub use client::{Control, ControlError};
pub use pages::Pages;
pub(crate) use server::Server;

pub use forebay_actors::node::RateView;
use forebay_actors::node::{
    EntryCount, EntryCursor, EntryDetails, EntryFilter, EntryView, ExplainView, LimitView,
    LimitsView, PartitionView, RulesImpact, ServiceCounts, StatusView, UnservedView, VQueueView,
};
use forebay_actors::snapshot::Manifest;
use forebay_messages::{EntryId, PartitionId, VQueueId};
use serde::{Deserialize, Serialize};
use std::{num::NonZeroU32, path::PathBuf, time::Duration};

/// Name of the socket in the data directory.
pub const SOCKET_NAME: &str = "control.sock";
/// For how long a directory that somebody else has is waited for: who only looks at it
/// leaves it soon, and who starts has a socket soon.
pub(crate) const IN_USE_WAIT: Duration = Duration::from_secs(2);
/// Longest line of a response, in bytes.
pub const MESSAGE_LEN_MAX: u64 = 256 << 20;
/// Longest request, in bytes: room for some 20,000 named entries.
pub const REQUEST_LEN_MAX: u64 = 1 << 20;
/// Most connections to the socket of one process.
pub const CONNECTIONS_MAX: usize = 64;
/// How long a connection may take to send its request, and to go on reading its answer.
pub const IDLE_MAX: Duration = Duration::from_secs(5);
/// How often a process that works on a long request gives a sign of life.
pub(crate) const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// For how long a process that was asked may be silent: several signs of life, and more
/// than any short request takes.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request {
    /// The partitions, and what runs.
    Status,
    /// How many entries may run at once in this process.
    Jobs {
        /// So many from now on; absent: it only tells.
        #[serde(default)]
        running_max: Option<NonZeroU32>,
    },
    /// Entries, in the order of their ids. Answered with one page of them: see
    /// [`Control::pages`].
    Entries {
        /// Which.
        filter: EntryFilter,
        /// Where an earlier answer ended.
        #[serde(default)]
        after: Option<EntryCursor>,
    },
    /// Everything that is known of one entry.
    Entry {
        /// The entry.
        entry: EntryId,
        /// At most so many bytes of its payload and of its result.
        bytes_max: usize,
    },
    /// How many entries there are.
    CountEntries {
        /// Which.
        filter: EntryFilter,
    },
    /// Vqueues, in the order of their ids. Answered with one page of them: see
    /// [`Control::pages`].
    Queues {
        /// Which.
        filter: EntryFilter,
        /// Includes queues without work.
        #[serde(default)]
        all: bool,
        /// Where an earlier answer ended.
        #[serde(default)]
        after: Option<VQueueId>,
    },
    /// How many entries each service has.
    Services,
    /// Why an entry does not run.
    Explain {
        /// The entry.
        entry: EntryId,
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
        /// What is changed.
        change: RuleEdit,
        /// Only if the rule has this version (0: only if there is none).
        if_version: Option<u64>,
        /// Kept in the history.
        author: String,
    },
    /// Pauses or resumes a pattern or a service. A request of its own, so that a process
    /// that knows no pauses refuses it.
    RulePause {
        /// The pattern.
        pattern: String,
        /// `false`: resume it.
        paused: bool,
        /// Only if the rule has this version (0: only if there is none).
        if_version: Option<u64>,
        /// Kept in the history.
        author: String,
    },
    /// What a change of the rules would do.
    RulesTest {
        /// Pattern and concurrency limit (`None` lifts it) of each rule to be set.
        rules: Vec<(String, Option<u32>)>,
        /// Also say which rules govern this key.
        key: Option<String>,
        /// At most this many keys are told.
        limit: usize,
    },
    /// Puts an earlier rule book in force again.
    RulesRollback {
        /// Its version.
        version: u64,
        /// Kept in the history.
        author: String,
    },
    /// Which handlers serve services of other names.
    Aliases,
    /// Has another handler serve a service.
    AliasSet {
        /// The service.
        service: String,
        /// The handler's name; absent removes the alias.
        handler: Option<String>,
    },
    /// Where the partitions stand.
    Partitions,
    /// Lead a partition.
    Lead {
        /// Which.
        partition: PartitionId,
    },
    /// Stop leading a partition until told to lead again.
    StepDown {
        /// Which.
        partition: PartitionId,
        /// How long what runs may take to end, in milliseconds.
        within_ms: u64,
    },
    /// Take a snapshot.
    Snapshot {
        /// Into this directory, as the process that has the data directory sees it.
        to: PathBuf,
    },
    /// A command about entries.
    Act {
        /// What is done.
        action: Action,
        /// To which entries.
        target: Target,
        /// Only tell what would come of it.
        #[serde(default)]
        dry_run: bool,
    },
}

impl Request {
    /// Whether it changes nothing, neither what is stored nor what a process does.
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
            | Self::Limits { .. }
            | Self::Rules
            | Self::RulesHistory { .. }
            | Self::RulesTest { .. }
            | Self::Aliases
            | Self::Partitions => true,
            Self::Jobs { running_max } => running_max.is_none(),
            Self::Act { dry_run, .. } => *dry_run,
            Self::RuleSet { .. }
            | Self::RulePause { .. }
            | Self::RulesRollback { .. }
            | Self::AliasSet { .. }
            | Self::Lead { .. }
            | Self::StepDown { .. }
            | Self::Snapshot { .. } => false,
        }
    }

    /// Whether an answer may take minutes, so that signs of life are given before it.
    pub(crate) fn takes_long(&self) -> bool {
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
            | Self::Limits { .. }
            | Self::Rules
            | Self::RulesHistory { .. }
            | Self::RuleSet { .. }
            | Self::RulePause { .. }
            | Self::RulesTest { .. }
            | Self::RulesRollback { .. }
            | Self::Aliases
            | Self::AliasSet { .. }
            | Self::Partitions
            | Self::Lead { .. } => false,
        }
    }
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

/// What can be done to entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Ask to stop; waiting entries end at once.
    Cancel,
    /// End, whatever they do.
    Kill,
    /// Set waiting entries aside.
    Pause,
    /// Put paused entries back.
    Resume,
    /// Give another time.
    Reschedule {
        /// When (milliseconds since 1970).
        run_at: u64,
    },
    /// Forget finished entries.
    Purge,
    /// Try failed entries again.
    Redrive,
}

/// To whom something is done: exactly one of these says so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// These entries.
    #[serde(default)]
    pub entries: Vec<EntryId>,
    /// These whole vqueues.
    #[serde(default)]
    pub queues: Vec<VQueueId>,
    /// The entries that match.
    #[serde(default)]
    pub filter: EntryFilter,
    /// Every entry there is.
    #[serde(default)]
    pub all: bool,
}

/// What came of a command about entries or vqueues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActView {
    /// Nothing was changed: this is what would come of it.
    pub dry_run: bool,
    /// How many were changed.
    pub changed: u64,
    /// How many were not.
    pub not_changed: u64,
    /// Why they were not.
    pub reasons: Vec<SkippedView>,
    /// The first of those that were changed, at most 1,000.
    pub changed_ids: Vec<String>,
    /// The first of those that were not, at most 1,000.
    pub not_changed_ids: Vec<NotChangedView>,
}

/// Why so many were not changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedView {
    /// Why.
    pub reason: String,
    /// How many.
    pub count: u64,
}

/// One that was not changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotChangedView {
    /// Which.
    pub id: String,
    /// Why.
    pub reason: String,
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

/// A running process, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// The process that has the data directory open; absent when there is none and the
    /// directory itself was asked.
    pub pid: Option<u32>,
    /// Version of forebay.
    pub version: String,
    /// Handlers that run.
    pub running: usize,
    /// The partitions.
    pub partitions: Vec<StatusView>,
    /// Services without a handler in the process, of which entries wait.
    #[serde(default)]
    pub unserved: Vec<UnservedView>,
}

/// How many entries run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobsView {
    /// How many run now.
    pub running: usize,
    /// How many may.
    pub running_max: Option<u32>,
    /// How many could before this request; absent when it changed nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u32>,
}

/// What is answered.
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
        /// What there is now.
        jobs: JobsView,
    },
    /// To `Entries`.
    Entries {
        /// The entries.
        entries: Vec<EntryView>,
        /// Where to go on; absent at the end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<EntryCursor>,
    },
    /// To `Entry`.
    Entry {
        /// What is known of it.
        details: Box<EntryDetails>,
    },
    /// To `CountEntries`.
    EntryCount {
        /// How many there are.
        count: EntryCount,
    },
    /// To `Queues`.
    Queues {
        /// The vqueues.
        queues: Vec<VQueueView>,
        /// Where to go on; absent at the end.
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
        /// The entry, and what is in its way.
        explained: Box<ExplainView>,
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
        /// What it would do.
        impact: RulesImpact,
    },
    /// To `Partitions`, and to changes of who leads.
    Partitions {
        /// In the order of their ranges.
        partitions: Vec<PartitionView>,
    },
    /// To `Aliases`, and to changes of them.
    Aliases {
        /// By service.
        aliases: Vec<AliasView>,
    },
    /// To `Snapshot`.
    Snapshot {
        /// What it holds.
        manifest: Manifest,
    },
    /// To `Act`.
    Acted {
        /// What came of it.
        report: ActView,
    },
    /// It cannot be done.
    Error {
        /// What, why, and what to do.
        message: String,
        /// The request itself was wrong (not the state of things).
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
