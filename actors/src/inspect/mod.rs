//! Looking at a node, for people: entries, vqueues, counts, limits and what holds work up.

mod counts;
mod details;
mod explain;
mod holdups;
mod impact;
mod list;
mod query;
mod queues;
mod views;
mod words;

pub use counts::ServiceCounts;
pub use details::{BytesView, DETAIL_BYTES_MAX, EntryDetails, FailedAttemptView, RetryView};
pub use explain::{BlockView, ExplainView, GovernedView, LimitView, LimitsView, RateView, Reason};
pub use holdups::HeldBy;
pub use impact::{GovernsView, KeyImpact, RuleRefView, RulesImpact};
pub use list::{
    EntryCount, EntryCursor, EntryPage, LISTED_BYTES_MAX, PAGE_ENTRIES_MAX, PAGE_ROWS_MAX,
};
pub use query::{EntryFilter, EntryView, StatusView};
pub use queues::{UnservedView, VQueueFilter, VQueuePage, VQueueView};
pub use views::PartitionView;
pub use words::{EntryOutcome, ReplicaRole};
