//! Refill workers: a small pool of threads that scan inboxes with blocking reads.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread::JoinHandle,
};

use crossbeam_channel::{Receiver, bounded};
use forebay_messages::actor::{RefillFailed, RefillRequest, VQueueMessage};
use forebay_storage::partition::PartitionStore;

use crate::{
    host::FaultPlan,
    shell::{Ref, panic_text},
};

/// Threads of the pool of a node.
pub(crate) const REFILL_WORKERS: usize = 2;
/// Maximum number of requests that wait for a worker; a vqueue that finds the queue full tries
/// again later.
pub(crate) const REFILL_QUEUE_LEN_MAX: usize = 65_536;

/// One scan.
pub(crate) struct RefillJob {
    pub(crate) store: PartitionStore,
    pub(crate) request: RefillRequest,
    pub(crate) reply_to: Ref<VQueueMessage>,
}

/// The refill workers of a node.
pub(crate) struct RefillPool {
    faults: FaultPlan,
    jobs: Option<Ref<RefillJob>>,
    workers: Vec<JoinHandle<()>>,
}

impl RefillPool {
    /// Starts the workers.
    pub(crate) fn start(faults: &FaultPlan) -> std::io::Result<Self> {
        let (sender, receiver) = bounded(REFILL_QUEUE_LEN_MAX);
        let workers = (0..REFILL_WORKERS)
            .map(|index| {
                let receiver: Receiver<RefillJob> = receiver.clone();
                let faults = faults.clone();
                std::thread::Builder::new()
                    .name(format!("forebay-refill-{index}"))
                    .spawn(move || receiver.iter().for_each(|job| run(job, &faults)))
            })
            .collect::<Result<_, _>>()?;
        let jobs = Ref::new(move |job| sender.try_send(job).is_ok());
        Ok(Self { faults: faults.clone(), jobs: Some(jobs), workers })
    }

    /// A simulation does the scans: it takes the jobs.
    #[cfg(feature = "testkit")]
    pub(crate) fn without_threads(jobs: Ref<RefillJob>, faults: FaultPlan) -> Self {
        Self { faults, jobs: Some(jobs), workers: Vec::new() }
    }

    /// Whether a vqueue may try to read without a worker: always, unless a fault is planned.
    pub(crate) fn may_try(&self) -> bool {
        !self.faults.blocks()
    }

    /// The planned faults.
    pub(crate) fn faults(&self) -> &FaultPlan {
        &self.faults
    }

    /// Hands a scan over; false when the queue is full.
    pub(crate) fn submit(&self, job: RefillJob) -> bool {
        self.jobs.as_ref().is_some_and(|jobs| jobs.send(job))
    }
}

impl Drop for RefillPool {
    fn drop(&mut self) {
        self.jobs = None;
        for worker in self.workers.drain(..) {
            if worker.join().is_err() {
                tracing::error!("a refill worker panicked");
            }
        }
    }
}

/// Does a scan and sends the result. A panic counts as a failed scan: the worker continues, and the
/// vqueue tries again.
pub(crate) fn run(job: RefillJob, faults: &FaultPlan) {
    let RefillJob { store, request, reply_to } = job;
    let failed = |reason| VQueueMessage::RefillFailed(RefillFailed { id: request.id, reason });
    let scan = AssertUnwindSafe(|| match faults.at_scan() {
        true => Err("a planned failure".to_owned()),
        false => store.refill(&request).map_err(|error| error.to_string()),
    });
    let scanned = catch_unwind(scan).unwrap_or_else(|panic| {
        Err(format!("a refill worker panicked: {}", panic_text(panic.as_ref())))
    });
    reply_to.send(match scanned {
        Ok(Some(done)) => VQueueMessage::RefillDone(done),
        // Canceled.
        Ok(None) => failed(String::new()),
        Err(reason) => {
            tracing::error!(vqueue = %request.vqueue, reason, "an inbox cannot be scanned");
            failed(reason)
        }
    });
}
