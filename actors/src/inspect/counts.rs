//! The number of entries of each service, from the counts of its vqueues.
//!
//! Must always hold: memory is bounded by the number of services, however many vqueues and entries
//! there are.

use std::collections::BTreeMap;

use forebay_api::ServiceCounts;
use forebay_messages::PartitionId;

use crate::{error::NodeError, peers::ReplicaRows};

use super::Inspect;

/// Rows read at a time.
const ROWS_AT_A_TIME: usize = 512;

fn count(partitions: &[(PartitionId, ReplicaRows)]) -> Result<Vec<ServiceCounts>, NodeError> {
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

impl Inspect {
    /// The number of entries of each service, by name. Reads one row for each vqueue. Cancel-safe.
    ///
    /// # Errors
    /// When a read fails.
    pub async fn service_counts(&self) -> Result<Vec<ServiceCounts>, NodeError> {
        let partitions = self.registry.all_newest_rows()?;
        self.registry.blocking(move || count(&partitions)).await?
    }
}
