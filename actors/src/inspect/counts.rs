//! How many entries each service has, from the counts of its vqueues.
//!
//! Must always hold: memory is bounded by the number of services, however many vqueues and
//! entries there are.

use std::collections::BTreeMap;

use forebay_messages::PartitionId;
use serde::{Deserialize, Serialize};

use crate::{error::NodeError, node::Node, registry::PartitionEntry};

/// Rows read at a time.
const ROWS_AT_A_TIME: usize = 512;

/// How many entries a service has in each stage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCounts {
    /// Its name.
    pub service: String,
    /// Entries in inboxes.
    pub inbox: u64,
    /// Entries that run.
    pub running: u64,
    /// Entries that are paused or suspended.
    pub parked: u64,
    /// Results that are kept.
    pub finished: u64,
}

impl ServiceCounts {
    /// Entries that have not ended.
    #[must_use]
    pub fn unfinished(&self) -> u64 {
        self.inbox + self.running + self.parked
    }
}

fn count(partitions: &[(PartitionId, PartitionEntry)]) -> Result<Vec<ServiceCounts>, NodeError> {
    let mut services: BTreeMap<String, ServiceCounts> = BTreeMap::new();
    for (_, partition) in partitions {
        let mut after = None;
        loop {
            let page = partition.store.vqueues_after(after, ROWS_AT_A_TIME)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            for (_, meta) in page {
                let name: &str = &meta.name.service;
                if !services.contains_key(name) {
                    services.insert(name.to_owned(), ServiceCounts::default());
                }
                if let Some(counts) = services.get_mut(name) {
                    counts.inbox += meta.inbox;
                    counts.running += meta.running;
                    counts.parked += meta.suspended + meta.paused;
                    counts.finished += meta.finished;
                }
            }
        }
    }
    let named = services.into_iter().map(|(service, counts)| ServiceCounts { service, ..counts });
    Ok(named.collect())
}

impl Node {
    /// How many entries each service has, by name. Reads one row for each vqueue. Cancel-safe.
    ///
    /// # Errors
    /// When a read fails.
    pub async fn service_counts(&self) -> Result<Vec<ServiceCounts>, NodeError> {
        let partitions = self.entries_in_order()?;
        self.blocking(move || count(&partitions)).await?
    }
}
