//! Looking at a node, for people: entries, vqueues, counts, limits and what holds work up.
//!
//! The answers are the views of `forebay-api`.

mod counts;
mod details;
mod explain;
mod holdups;
mod impact;
mod list;
pub(crate) mod query;
mod queues;
mod views;

pub use forebay_api::{
    BlockView, BytesView, DETAIL_BYTES_MAX, EntryCount, EntryCursor, EntryDetails, EntryFilter,
    EntryOutcome, EntryPage, EntryView, ExplainView, FailedAttemptView, GovernedView, GovernsView,
    KeyImpact, LISTED_BYTES_MAX, LimitView, LimitsView, PAGE_ENTRIES_MAX, PartitionView, RateView,
    Reason, ReplicaRole, RetryView, RuleRefView, RulesImpact, ServiceCounts, StatusView,
    UnservedView, VQueueView,
};
pub use holdups::HeldBy;
pub use list::PAGE_ROWS_MAX;
pub use queues::{VQueueFilter, VQueuePage};
