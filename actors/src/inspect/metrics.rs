//! Numbers of a node, for monitoring.
//!
//! Must always hold: nothing is counted for it on the hot path that is not counted anyway.

use forebay_api::{LogMetrics, MetricsView, PartitionMetrics, StatusView, WorkCounts};
use forebay_engine::partition::machine;

use crate::error::NodeError;

use super::Inspect;

fn counts(counts: machine::WorkCounts) -> WorkCounts {
    let machine::WorkCounts {
        enqueued,
        started,
        succeeded,
        failed,
        dead_letters,
        canceled,
        killed,
    } = counts;
    WorkCounts { enqueued, started, succeeded, failed, dead_letters, canceled, killed }
}

impl Inspect {
    /// Numbers of the node. Reads one row for each vqueue. Cancel-safe.
    ///
    /// # Errors
    /// When a read fails.
    pub async fn metrics(&self) -> Result<MetricsView, NodeError> {
        let partitions = self.status()?.iter().map(|view| self.partition_metrics(view)).collect();
        let stats = self.log_store.stats();
        let running_max = Some(self.registry.running_max()).filter(|most| *most != u32::MAX);
        Ok(MetricsView {
            running: self.executor.running() as u64,
            running_max,
            partitions,
            services: self.service_counts().await?,
            unserved: self.unserved().await?,
            limits: self.limits().await?,
            log: LogMetrics { records: stats.records, syncs: stats.fsyncs, bytes: stats.bytes },
        })
    }

    fn partition_metrics(&self, view: &StatusView) -> PartitionMetrics {
        PartitionMetrics {
            id: view.id,
            role: view.role,
            counts: counts(self.registry.gauges(view.id).counts),
            applied: view.applied,
            log_end: view.log_end,
            active_vqueues: view.active_vqueues as u64,
            waiting_vqueues: view.waiting_vqueues as u64,
            ahead_ms: view.ahead_ms,
        }
    }
}
