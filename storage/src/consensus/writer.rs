//! The thread that syncs the writes of all groups of a node: one sync for all waiting writes.
//!
//! Must always hold: writes of a group become durable in order; a listener is informed of a write
//! only after its sync; after a failed sync nothing more is written, and the listener gets the
//! reason once. Must not know: the meaning of a write.
//!
//! The queue has no limit of its own. A waiting row shares its bytes with the segment that its
//! group holds in memory, which is limited (`Limits::segment_bytes_max`), and a group whose
//! messages wait too long ends its sessions (`Limits::held_messages_max`).

use std::{
    collections::{BTreeMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::JoinHandle,
};

use forebay_engine::consensus::Write;

use crate::{Fault, sync};

use super::{ConsensusError, GroupWrites, Groups};

/// A sync takes no more writes once it has this many bytes of entries: a block of the journal is in
/// memory twice while it is written.
const SYNC_BYTES_MAX: usize = 8 << 20;

/// Receives the results of writes, on the writer's thread, which waits meanwhile.
pub trait Listener: Send {
    /// All writes of this group up to this number are durable.
    fn persisted(&mut self, group: u32, upto: u64);

    /// Nothing more is written. Every group of this node must stop, because writes that its machine
    /// relies on may be missing. Called once, and last.
    fn stopped(&mut self, why: &ConsensusError);
}

/// Handle of the thread. Dropping it waits until all queued writes are written.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    is_closed: bool,
    is_stopped: bool,
}

/// Writes that must be synced together.
#[derive(Debug)]
struct Waiting {
    group: u32,
    upto: u64,
    writes: Vec<Write>,
    bytes: usize,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`ConsensusError::Fault`] when the system cannot start a thread.
    pub fn spawn(
        groups: Arc<Groups>,
        listener: impl Listener + 'static,
    ) -> Result<Self, ConsensusError> {
        let shared = Arc::new(Shared::default());
        let path = groups.database.path().to_owned();
        let run = {
            let shared = Arc::clone(&shared);
            move || shared.run(&groups, listener)
        };
        let thread = std::thread::Builder::new().name("forebay-sync".to_owned()).spawn(run);
        let action = "start a thread for consensus rows";
        let thread = thread.map_err(|error| Fault::from_io(action, &path, error))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Queues the writes of one effect of a group; never waits. After [`Listener::stopped`] it
    /// does nothing.
    pub fn write(&self, group: u32, upto: u64, writes: Vec<Write>) {
        let bytes = writes.iter().map(weight).sum();
        let mut queue = sync::lock(&self.shared.queue);
        if !queue.is_stopped {
            queue.waiting.push_back(Waiting { group, upto, writes, bytes });
            self.shared.changed.notify_one();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        sync::lock(&self.shared.queue).is_closed = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic of the listener has no caller to be reported to.
            let _ = thread.join();
        }
    }
}

fn weight(write: &Write) -> usize {
    match write {
        Write::Append { row, .. } => row.entry.weight(),
        _ => 0,
    }
}

impl Shared {
    fn run(&self, groups: &Groups, mut listener: impl Listener) {
        while let Some(batch) = self.next() {
            let stopped = match commit(groups, &batch) {
                Ok(()) => {
                    tell(&batch, &mut listener);
                    // The listener waits for the journal only, not for the database.
                    groups.finish_writes().err()
                }
                Err(error) => Some(error),
            };
            if let Some(error) = stopped {
                let mut queue = sync::lock(&self.queue);
                queue.is_stopped = true;
                queue.waiting.clear();
                drop(queue);
                listener.stopped(&error);
                return;
            }
        }
    }

    /// Waits for writes and takes them, up to the limit. `None` when the handle was dropped.
    fn next(&self) -> Option<Vec<Waiting>> {
        let mut queue = sync::lock(&self.queue);
        while queue.waiting.is_empty() {
            if queue.is_closed {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < SYNC_BYTES_MAX
            && let Some(waiting) = queue.waiting.pop_front()
        {
            bytes += waiting.bytes;
            batch.push(waiting);
        }
        Some(batch)
    }
}

/// One sync. A panic (a bug of a machine) is returned as an error.
fn commit(groups: &Groups, batch: &[Waiting]) -> Result<(), ConsensusError> {
    let writes =
        batch.iter().map(|Waiting { group, writes, .. }| GroupWrites { group: *group, writes });
    let writes: Vec<_> = writes.collect();
    let committed = catch_unwind(AssertUnwindSafe(|| groups.commit(&writes)));
    committed.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(ConsensusError::WriterDied { reason: text.unwrap_or_else(|| "a panic".to_owned()) })
    })
}

fn tell(batch: &[Waiting], listener: &mut impl Listener) {
    let last: BTreeMap<u32, u64> = batch.iter().map(|one| (one.group, one.upto)).collect();
    for (group, upto) in last {
        listener.persisted(group, upto);
    }
}
