//! Going down: first nothing new starts, then what runs may end, then all is flushed
//! and joined.

use std::{
    sync::{PoisonError, atomic::Ordering},
    time::Duration,
};

use forebay_engine::{leadership::LeadershipInput, partition::machine::PartitionInput};
use forebay_messages::PartitionId;
use tokio::sync::oneshot;

use crate::log_writer::LogCommand;

use super::{Machinery, Node, NodeError, services::PartitionEntry};

/// How long handlers that were asked to stop get before they are dropped.
const CANCEL_GRACE: Duration = Duration::from_millis(200);

impl Node {
    /// Goes down. Running handlers may end within `drain`; the others are dropped and
    /// run again after the next start. A second call does nothing.
    ///
    /// # Errors
    /// When a store cannot be flushed; the next start replays from the log.
    pub async fn shutdown(&self, drain: Duration) -> Result<(), NodeError> {
        if self.going_down.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let mut entries: Vec<(PartitionId, PartitionEntry)> = self
            .services
            .partitions
            .iter()
            .map(|entry| (*entry.key(), entry.value().clone()))
            .collect();
        entries.sort_unstable_by_key(|(partition, _)| *partition);
        for (_, entry) in &entries {
            entry.address.send(PartitionInput::CloseGate);
        }
        if !drain.is_zero() {
            // A decision that was proposed before the gate closed may still start.
            self.log_barrier().await;
            if tokio::time::timeout(drain, self.executor.idle()).await.is_err() {
                tracing::warn!(running = self.executor.running(), "handlers did not end in time");
            }
        }
        self.executor.cancel_all();
        // Whoever does not stop by itself is dropped.
        let _ = tokio::time::timeout(CANCEL_GRACE, self.executor.idle()).await;
        self.executor.abort_all();
        // Whoever does not give its thread back is left behind.
        let _ = tokio::time::timeout(CANCEL_GRACE, self.executor.idle()).await;
        // Ends that were reported go through the log before the partitions stop.
        self.settle(&entries).await;
        // What was cut short goes back, so that the next start does not count it as
        // interrupted by the death of this process.
        for (_, entry) in &entries {
            entry.address.send(PartitionInput::HandBack);
        }
        self.settle(&entries).await;
        let mut flushed = Ok(());
        for (partition, entry) in &entries {
            entry.actors.1.address.send(LeadershipInput::StepDown);
            if let Err(error) = self.stop_partition(*partition).await {
                flushed = Err(error);
            }
        }
        self.credits.iter().for_each(|credits| credits.close());
        let machinery = self.machinery().take();
        if let Some(machinery) = machinery {
            self.take_down(machinery);
        }
        self.services.partitions.clear();
        flushed
    }

    /// Waits until what was sent to the partitions so far has gone through the log and
    /// come back: it was gathered, it was written, it was applied.
    async fn settle(&self, entries: &[(PartitionId, PartitionEntry)]) {
        for _ in 0..3 {
            for (partition, entry) in entries {
                // A question that the partition answers at once, behind its mailbox.
                let pending = self.services.replies.open(*partition);
                let nobody = forebay_messages::EntryId::default();
                let ask = PartitionInput::Attach { waits: vec![(nobody, pending.id())] };
                if entry.address.send(ask)
                    && self
                        .services
                        .status(*partition)
                        .is_some_and(|status| status.stopped.is_none())
                {
                    pending.await;
                }
            }
            self.log_barrier().await;
        }
    }

    async fn log_barrier(&self) {
        let (told, done) = oneshot::channel();
        let Ok(log) = self.log_handle() else { return };
        let sent = log.send(LogCommand::Barrier(Box::new(move |result| {
            // Nobody waits when the shutdown was dropped.
            let _ = told.send(result);
        })));
        drop(log);
        if sent {
            // An error means that the writer is gone, and with it all it had to write.
            let _ = done.await;
        }
    }

    /// Stops a partition's actors and flushes its rows.
    pub(super) async fn stop_partition(&self, partition: PartitionId) -> Result<(), NodeError> {
        let found = self.services.partitions.get(&partition).map(|entry| entry.clone());
        let Some(entry) = found else {
            return Err(NodeError::UnknownPartition(partition));
        };
        entry.actors.1.stop();
        entry.actors.0.stop();
        let mut status = self.services.watch_status();
        // An error means that the node itself is gone.
        let _ = status
            .wait_for(|all| all.get(&partition).is_none_or(|status| status.stopped.is_some()))
            .await;
        let store = entry.store;
        let through = self.blocking(move || store.flush()).await??;
        if let Ok(log) = self.log_handle() {
            let node = self.services.node;
            log.send(LogCommand::Durable { partition, node, through });
            log.send(LogCommand::Unsubscribe { partition, node });
        }
        Ok(())
    }

    pub(super) fn machinery(&self) -> std::sync::MutexGuard<'_, Option<Machinery>> {
        self.machinery.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the threads.
    pub(super) fn take_down(&self, machinery: Machinery) {
        let Machinery { mut arbiters, log, log_writer } = machinery;
        for arbiter in &mut arbiters {
            arbiter.join();
        }
        if let Some(shared) = self.services.shared() {
            // Partitions that were not stopped in order hold nothing back any more.
            for entry in &self.services.partitions {
                let (partition, node) = (*entry.key(), self.services.node);
                log.send(LogCommand::Unsubscribe { partition, node });
            }
            shared.leave(self.services.node);
        }
        drop(log);
        if let Some(mut log_writer) = log_writer {
            log_writer.join();
        }
    }
}
