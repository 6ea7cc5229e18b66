//! Inspection of a node, for display: entries, vqueues, counts, limits and reasons to wait.
//!
//! The answers are the views of `forebay-api`.
//!
//! Must always hold: inspection changes nothing. Must not know: how a view is printed.

mod counts;
mod details;
mod explain;
mod holdups;
mod impact;
mod list;
mod metrics;
pub(crate) mod query;
mod queues;
mod tree;
mod views;

use std::sync::Arc;

use forebay_storage::log::LogStore;

use crate::{executor::Executor, registry::Registry, rules::Rules};

pub use holdups::HeldBy;
pub use list::PAGE_ROWS_MAX;
pub use queues::{VQueueFilter, VQueuePage};

/// The views of a node.
pub struct Inspect {
    registry: Arc<Registry>,
    rules: Arc<Rules>,
    executor: Arc<Executor>,
    log_store: Arc<dyn LogStore>,
    /// Whether entries are started here; without it the node only accepts commands.
    dispatches: bool,
}

impl Inspect {
    pub(crate) fn new(
        registry: Arc<Registry>,
        rules: Arc<Rules>,
        executor: Arc<Executor>,
        log_store: Arc<dyn LogStore>,
        dispatches: bool,
    ) -> Self {
        Self { registry, rules, executor, log_store, dispatches }
    }
}
