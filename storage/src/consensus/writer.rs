//! The thread that syncs what the groups of a node write: everything that waits goes with one
//! sync, whatever group it is of.
//!
//! Must always hold: writes of a group become durable in the order in which they came; nothing
//! is told before its sync; after a failed one nothing more is written, and that is told once,
//! with the reason. Must not know: what the writes say.
//!
//! What waits is not limited here: a row shares its block with the memory of its group, which
//! has a limit (`Limits::segment_bytes_max`), and a group whose messages wait too long ends its
//! sessions.

use std::{
    collections::{BTreeMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::JoinHandle,
};

use forebay_engine::consensus::Write;

use crate::{Fault, sync};

use super::{ConsensusError, GroupWrites, Groups};

/// One sync takes no more writes once their entries have so many bytes: a block of the journal
/// is in memory twice while it is written.
const SYNC_BYTES_MAX: usize = 8 << 20;

/// What the writer tells. It is called on the thread of the writer, which waits meanwhile.
pub trait Told: Send {
    /// All writes of this group up to this number are durable.
    fn persisted(&mut self, group: u32, upto: u64);

    /// Nothing more is written. Every group of this node must stop: what its machine believes
    /// durable may not be. Told once; nothing is told after it.
    fn stopped(&mut self, why: &ConsensusError);
}

/// A handle on the thread. What was given to it is written before it is dropped.
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

/// Writes that belong together.
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
    /// [`ConsensusError::Fault`] when the system has no thread.
    pub fn spawn(groups: Arc<Groups>, told: impl Told + 'static) -> Result<Self, ConsensusError> {
        let shared = Arc::new(Shared::default());
        let path = groups.database.path().to_owned();
        let run = {
            let shared = Arc::clone(&shared);
            move || shared.run(&groups, told)
        };
        let thread = std::thread::Builder::new().name("forebay-sync".to_owned()).spawn(run);
        let action = "start a thread for consensus rows";
        let thread = thread.map_err(|error| Fault::from_io(action, &path, error))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Has everything written that an effect of a group names; never waits. After
    /// [`Told::stopped`] it does nothing.
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
            // It tells of its own end; here nobody listens.
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
    fn run(&self, groups: &Groups, mut told: impl Told) {
        while let Some(batch) = self.next() {
            let stopped = match commit(groups, &batch) {
                Ok(()) => {
                    tell(&batch, &mut told);
                    // The database learns of it once it was told.
                    groups.finish_writes().err()
                }
                Err(error) => Some(error),
            };
            if let Some(error) = stopped {
                let mut queue = sync::lock(&self.queue);
                queue.is_stopped = true;
                queue.waiting.clear();
                drop(queue);
                told.stopped(&error);
                return;
            }
        }
    }

    /// Waits for writes and takes all that there are, up to the limit. `None`: nobody will
    /// bring any more.
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

/// One sync. A panic (a machine that asks for what may not be) is an error like any other.
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

fn tell(batch: &[Waiting], told: &mut impl Told) {
    let last: BTreeMap<u32, u64> = batch.iter().map(|one| (one.group, one.upto)).collect();
    for (group, upto) in last {
        told.persisted(group, upto);
    }
}
