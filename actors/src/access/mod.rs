//! Access to partitions: commands with credits, waiting for results, and routing of answers.
//!
//! Owns: the credits of the partitions. Must always hold: every question is answered, or its future
//! dropped. Must not know: what a command does, or where replicas run.

pub mod replies;

mod act;
mod attach;
mod promises;
pub(crate) mod propose;

use std::sync::Arc;

use forebay_messages::PartitionId;
use rustc_hash::FxBuildHasher;
use tokio::sync::Semaphore;

use crate::registry::Registry;

pub use act::{ActReport, EntryTarget, NAMED_MAX, VQueueReport};
pub use propose::{CREDIT_BYTES, CREDITS_PER_PARTITION};

/// Access to the partitions of a node, for commands and for results.
pub struct Access {
    registry: Arc<Registry>,
    credits: dashmap::DashMap<PartitionId, Arc<Semaphore>, FxBuildHasher>,
}

impl Access {
    pub(crate) fn new(registry: Arc<Registry>) -> Self {
        Self { registry, credits: dashmap::DashMap::default() }
    }
}
