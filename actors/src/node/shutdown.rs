//! Shutdown: no new entries start, then running entries may end, then everything is flushed and
//! joined.
//!
//! Must always hold: a started shutdown is completed, even if nothing waits for it; every call
//! returns when the node is down, or fails before the shutdown started. Therefore it runs on its
//! own thread: neither its callers nor the application's tokio runtime can interrupt it.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use forebay_engine::{leadership::LeadershipInput, partition::machine::PartitionInput};
use forebay_messages::PartitionId;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    down::Down, error::NodeError, host::Spawned, log_writer::LogCommand, registry::ReplicaHandle,
};

use super::Node;

/// How long handlers that were asked to stop may take before they are dropped.
const CANCEL_GRACE: Duration = Duration::from_millis(200);

/// Reports the end of the shutdown to all waiting callers, also after a panic.
struct Ending {
    down: Arc<Down>,
    result: Result<(), String>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let result = std::mem::replace(&mut self.result, Ok(()));
        self.down.ended.send_replace(Some(result));
    }
}

/// Owned by a task of the tokio runtime that runs the handlers, and dropped with it.
struct Sentinel {
    node: Weak<Node>,
    down: Arc<Down>,
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        // Without the node: a thread that holds it here would keep the directory locked after
        // callers of `shutdown` have returned.
        if self.down.has_begun.load(Ordering::Acquire) {
            return;
        }
        let Some(node) = self.node.upgrade() else { return };
        node.registry.down.is_tokio_gone.store(true, Ordering::Release);
        tracing::error!(
            "the tokio runtime that forebay was started in is gone, and no handler can run \
             without it: forebay goes down"
        );
        if let Err(error) = node.begin_shutdown(Duration::ZERO) {
            tracing::error!(%error, "forebay cannot go down");
        }
    }
}

impl Node {
    /// Shuts down. Running handlers may end within `drain`; the others are dropped and run again
    /// after the next start.
    ///
    /// Cancel-safe: once called, it continues by itself. Every call returns when the node is down,
    /// with the same result; another call with a shorter `drain` brings the end forward, a longer
    /// one changes nothing. A handler that waits for it counts as running: it is dropped when the
    /// time is over.
    ///
    /// # Errors
    /// [`NodeError::NotFlushed`] when the node is down and rows could not be written; the next
    /// start replays them from the log. [`NodeError::Thread`] when it did not begin.
    pub async fn shutdown(self: &Arc<Self>, drain: Duration) -> Result<(), NodeError> {
        let mut ended = self.registry.down.ended.subscribe();
        self.begin_shutdown(drain)?;
        // An error would mean that the sender is gone, which is in the node.
        let ended = ended.wait_for(Option::is_some).await.map_err(|_| NodeError::ShutDown)?;
        match &*ended {
            None | Some(Ok(())) => Ok(()),
            Some(Err(reason)) => Err(NodeError::NotFlushed { reason: reason.clone() }),
        }
    }

    /// Starts the shutdown, or shortens its time.
    fn begin_shutdown(self: &Arc<Self>, drain: Duration) -> Result<(), NodeError> {
        self.registry.down.drain.send_if_modified(|shortest| {
            let is_shorter = drain < *shortest;
            *shortest = drain.min(*shortest);
            is_shorter
        });
        if self.registry.down.has_begun.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let begun = self.spawn_shutdown();
        if begun.is_err() {
            self.registry.down.drain.send_replace(Duration::MAX);
            self.registry.down.ended.send_replace(None);
            self.registry.down.has_begun.store(false, Ordering::Release);
        }
        begun
    }

    fn spawn_shutdown(self: &Arc<Self>) -> Result<(), NodeError> {
        let node = Arc::clone(self);
        let interrupted = Err("the shutdown was interrupted".to_owned());
        let mut ending = Ending { down: Arc::clone(&self.registry.down), result: interrupted };
        if let Some(data_dir) = &self.data_dir {
            data_dir.closes();
        }
        let going = async move {
            let ending = &mut ending;
            let flushed = node.go_down().await;
            // Dropped before callers are notified: a caller may hold the last handle by then.
            drop(node);
            ending.result = flushed.map_err(|error| error.to_string());
        };
        self.registry.host.spawn_apart("shutdown", going).map_err(NodeError::Thread)
    }

    /// Shuts the node down when the tokio runtime of its handlers is gone.
    pub(crate) fn watch_tokio(self: &Arc<Self>) {
        let down = Arc::clone(&self.registry.down);
        let sentinel = || Sentinel { node: Arc::downgrade(self), down };
        if let Some(task) = self.registry.host.guard_runtime(sentinel) {
            // Set once, at the start.
            let _ = self.sentinel.set(task);
        }
    }

    async fn go_down(&self) -> Result<(), NodeError> {
        for (_, replica) in self.registry.replicas_here() {
            replica.partition.address.send(PartitionInput::CloseGate);
        }
        self.drain().await;
        self.executor.cancel_all();
        // Handlers that do not stop by themselves are dropped.
        let _ = tokio::time::timeout(CANCEL_GRACE, self.executor.idle()).await;
        self.executor.abort_all();
        // Handlers that block their threads are left behind.
        let _ = tokio::time::timeout(CANCEL_GRACE, self.executor.idle()).await;
        // Operations that start or drop a partition notice the shutdown, and end.
        let changing = self.partitions.changing.lock().await;
        let replicas = self.registry.replicas_here();
        // Reported ends go through the log before the partitions stop.
        self.await_applied(&replicas).await;
        // Interrupted attempts are returned, so that the next start does not count them as
        // interrupted by the death of this process.
        for (_, replica) in &replicas {
            replica.partition.address.send(PartitionInput::HandBack);
        }
        self.await_applied(&replicas).await;
        let mut flushed = Ok(());
        for (partition, replica) in &replicas {
            replica.supervisor.address.send(LeadershipInput::StepDown);
            if let Err(error) = self.partitions.stop_partition(*partition).await {
                flushed = Err(error);
            }
        }
        drop(changing);
        self.access.close_all_credits();
        self.machinery.take_down(&self.registry);
        self.registry.replicas.clear();
        self.sentinel.get().into_iter().for_each(Spawned::abort);
        flushed
    }

    /// Waits until no handler runs, but not longer than the shortest time that a call has given
    /// them.
    async fn drain(&self) {
        let mut asked = self.registry.down.drain.subscribe();
        let drained = async {
            // A decision that was proposed before the gate closed may still start.
            self.log_barrier().await;
            self.executor.idle().await;
        };
        tokio::pin!(drained);
        let mut until: Option<Instant> = None;
        loop {
            let drain = *asked.borrow_and_update();
            if drain.is_zero() {
                return;
            }
            // A time beyond the range of `Instant` counts as no deadline.
            let asked_until = Instant::now().checked_add(drain);
            until = match (until, asked_until) {
                (Some(known), Some(asked)) => Some(known.min(asked)),
                (known, asked) => known.or(asked),
            };
            let is_late = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = &mut drained => return,
                // The sender is in the node.
                _ = asked.changed() => {}
                () = is_late => {
                    let running = self.executor.running();
                    tracing::warn!(running, "handlers did not end in time");
                    return;
                }
            }
        }
    }

    /// Waits until everything sent to the partitions so far has gone through the log and back: it
    /// was batched, written and applied.
    async fn await_applied(&self, replicas: &[(PartitionId, ReplicaHandle)]) {
        for _ in 0..3 {
            for (partition, replica) in replicas {
                // A question that the partition answers at once, in the order of its mailbox.
                let pending = self.registry.replies.open(*partition);
                let unknown = forebay_messages::EntryId::default();
                let ask = PartitionInput::Attach { waits: vec![(unknown, pending.id())] };
                if replica.partition.address.send(ask)
                    && self
                        .registry
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
        let (sender, done) = oneshot::channel();
        let Ok(log) = self.machinery.log() else { return };
        let sent = log.send(LogCommand::Barrier(Box::new(move |result| {
            // The receiver is gone when the shutdown was dropped.
            let _ = sender.send(result);
        })));
        drop(log);
        if sent {
            // An error means that the writer is gone, with everything it had to write.
            let _ = done.await;
        }
    }
}
