//! Refill workers: a small pool of threads that scan inboxes with blocking reads.

use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use forebay_messages::actor::{RefillFailed, RefillRequest, VQueueMessage};
use forebay_storage::partition::PartitionStore;

use crate::shell::Ref;
#[cfg(feature = "testkit")]
use crate::sim::Host;

/// Threads of the pool of a node.
pub(crate) const REFILL_WORKERS: usize = 2;
/// Requests that wait for a worker; a vqueue that finds no place tries again later.
pub(crate) const REFILL_QUEUE_LEN_MAX: usize = 65_536;

/// One scan.
pub(crate) struct RefillJob {
    pub(crate) store: PartitionStore,
    pub(crate) request: RefillRequest,
    pub(crate) reply_to: Ref<VQueueMessage>,
}

/// The pool of a node.
pub(crate) struct RefillPool {
    sender: Option<Sender<RefillJob>>,
    workers: Vec<JoinHandle<()>>,
    #[cfg(feature = "testkit")]
    sim: Option<Host>,
}

impl RefillPool {
    /// Starts the workers.
    pub(crate) fn start() -> std::io::Result<Self> {
        let (sender, receiver) = bounded(REFILL_QUEUE_LEN_MAX);
        let workers = (0..REFILL_WORKERS)
            .map(|index| {
                let receiver: Receiver<RefillJob> = receiver.clone();
                std::thread::Builder::new()
                    .name(format!("forebay-refill-{index}"))
                    .spawn(move || receiver.iter().for_each(run))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            sender: Some(sender),
            workers,
            #[cfg(feature = "testkit")]
            sim: None,
        })
    }

    /// Scans that a simulation makes when it pleases.
    #[cfg(feature = "testkit")]
    pub(crate) fn simulated(host: Host) -> Self {
        Self { sender: None, workers: Vec::new(), sim: Some(host) }
    }

    /// Whether a vqueue may try to read without a worker (which in a simulation may be
    /// made to fail: there, nothing ever blocks by itself).
    pub(crate) fn may_try(&self) -> bool {
        #[cfg(feature = "testkit")]
        if let Some(host) = &self.sim {
            return !host.scans_block();
        }
        true
    }

    /// Hands a scan over; false when the queue is full.
    pub(crate) fn submit(&self, job: RefillJob) -> bool {
        #[cfg(feature = "testkit")]
        if let Some(host) = &self.sim {
            return host.scan(job);
        }
        self.sender.as_ref().is_some_and(|sender| sender.try_send(job).is_ok())
    }
}

impl Drop for RefillPool {
    fn drop(&mut self) {
        self.sender = None;
        for worker in self.workers.drain(..) {
            if worker.join().is_err() {
                tracing::error!("a refill worker panicked");
            }
        }
    }
}

/// Makes a scan and sends what it found.
pub(crate) fn run(job: RefillJob) {
    let RefillJob { store, request, reply_to } = job;
    let answer = match store.refill(&request) {
        Ok(Some(done)) => VQueueMessage::RefillDone(done),
        Ok(None) => {
            let reason = String::new();
            VQueueMessage::RefillFailed(RefillFailed { id: request.id, reason })
        }
        Err(error) => {
            tracing::error!(vqueue = %request.vqueue, %error, "an inbox cannot be scanned");
            let reason = error.to_string();
            VQueueMessage::RefillFailed(RefillFailed { id: request.id, reason })
        }
    };
    reply_to.send(answer);
}
