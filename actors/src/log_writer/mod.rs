//! The writer of a log: one thread, group commit, fencing by epoch.
//!
//! Must always hold: all commands that arrived during the last sync go into one batch and one sync;
//! committed records reach the subscribers of their partition in LSN order, from memory, without
//! another read; nothing is reported before the sync; the log is trimmed only up to the position
//! that every subscriber of a partition has in files. Must not know: the contents of records.

mod inlet;
mod subscribers;
#[cfg(test)]
mod tests;
mod trim;

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use forebay_engine::partition::machine::{AppendRefusal, PartitionInput, TooLarge};
use forebay_messages::{Epoch, Lsn, NodeId, PartitionId, Record};
use forebay_storage::log::{Append, Appended, LogError, LogStore};

use crate::shell::Ref;

use inlet::{Receiver, Taken, inlet};
use subscribers::Subscribers;
pub use subscribers::{LAG_RECORDS_MAX, Subscription};
pub use trim::TrimLog;
use trim::Trimming;

/// Maximum number of commands that wait for the writer; more senders wait.
pub const QUEUE_LEN_MAX: usize = 65_536;
/// Maximum number of records in one batch.
pub const BATCH_RECORDS_MAX: usize = 8_192;
/// Maximum delay of appends that may wait, when no other commands arrive. Commands that arrive in
/// this time share their sync.
pub const SYNC_DELAY_MAX: Duration = Duration::from_millis(1);

/// The reason of a partition that stops because it cannot reach the writer.
pub(crate) const WRITER_GONE: &str = "the log's writer is gone: restart the process";

/// Called once with the result of a command.
pub type Done<T> = Box<dyn FnOnce(Result<T, LogError>) + Send>;

/// A command for the writer.
pub enum LogCommand {
    /// Append a record for a partition.
    Append {
        /// The partition.
        partition: PartitionId,
        /// Epoch of the proposer.
        epoch: Epoch,
        /// The record.
        record: Arc<Record>,
        /// No caller waits for it: it may be delayed ([`SYNC_DELAY_MAX`]) to share a sync.
        may_wait: bool,
    },
    /// Refuses appends of lower epochs from now on.
    Fence {
        /// The partition.
        partition: PartitionId,
        /// The lowest epoch that may append.
        epoch: Epoch,
        /// Called, when the fence is durable, with the epoch in force.
        done: Done<Epoch>,
    },
    /// Sends all records after a position, then new ones as they are committed.
    Subscribe(Subscription),
    /// Removes the subscriber of a node from a partition, and its hold on trimming.
    Unsubscribe {
        /// The partition.
        partition: PartitionId,
        /// The subscriber's node.
        node: NodeId,
    },
    /// A node has everything up to a position in files: records that all nodes have there may be
    /// trimmed.
    Durable {
        /// The partition.
        partition: PartitionId,
        /// The node.
        node: NodeId,
        /// The last position that it has in files.
        through: Lsn,
    },
    /// Trims nothing until `ReleaseTrim`: a snapshot is being taken.
    HoldTrim(Done<()>),
    /// The snapshot is taken, or was abandoned.
    ReleaseTrim,
    /// The newest snapshot of a partition contains rows up to a position.
    Snapshotted {
        /// The partition.
        partition: PartitionId,
        /// The last position.
        through: Lsn,
    },
    /// Called when all commands before it are done.
    Barrier(Done<()>),
}

/// The address of a log's writer. Sending blocks while [`QUEUE_LEN_MAX`] commands wait for the
/// writer; it returns false when the writer is gone.
pub type LogHandle = Ref<LogCommand>;

/// The writer's thread.
pub struct LogWriter {
    handle: Option<LogHandle>,
    /// `None` in a simulation, which runs the writer itself.
    thread: Option<JoinHandle<()>>,
}

impl LogWriter {
    /// Starts the writer of a log that drops records whose rows are in files
    /// ([`TrimLog::Flushed`]).
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(store: Arc<dyn LogStore>) -> std::io::Result<Self> {
        Self::start_with(store, TrimLog::default())
    }

    /// Starts the writer of a log.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start_with(store: Arc<dyn LogStore>, trim: TrimLog) -> std::io::Result<Self> {
        let (sender, receiver) = inlet();
        let thread = std::thread::Builder::new()
            .name("forebay-log".to_owned())
            .spawn(move || WriterCore::trimming(store, trim).run_to_its_end(receiver))?;
        let handle = Ref::new(move |command| sender.send(command));
        Ok(Self { handle: Some(handle), thread: Some(thread) })
    }

    /// The writer of a simulation, which takes the commands from it.
    #[cfg(feature = "testkit")]
    pub(crate) fn without_thread(handle: LogHandle) -> Self {
        Self { handle: Some(handle), thread: None }
    }

    /// A handle to it.
    ///
    /// # Panics
    /// After [`LogWriter::join`].
    #[must_use]
    pub fn handle(&self) -> LogHandle {
        self.handle.clone().expect("the log writer was joined")
    }

    /// Ends the thread once every other handle is gone and the queue is empty. Does not wait when
    /// the thread itself calls it.
    pub fn join(&mut self) {
        self.handle = None;
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the log writer panicked");
        }
    }
}

/// While no command in the batch has a waiting caller, waits for more commands.
fn delay_sync(receiver: &Receiver, batch: &mut Vec<LogCommand>) {
    let may_wait =
        |command: &LogCommand| matches!(command, LogCommand::Append { may_wait: true, .. });
    let mut looked_at = 0;
    let mut deadline = None;
    while batch[looked_at..].iter().all(may_wait) {
        looked_at = batch.len();
        let until = *deadline.get_or_insert_with(|| Instant::now() + SYNC_DELAY_MAX);
        if receiver.take(batch, Some(until)) != Taken::Some {
            return;
        }
    }
}

/// The writer without a thread; simulations call it directly.
pub struct WriterCore {
    store: Arc<dyn LogStore>,
    subscribers: Subscribers,
    trimming: Trimming,
}

/// Records by partition and epoch, in order.
type Groups = BTreeMap<(PartitionId, Epoch), Vec<Arc<Record>>>;

fn append_of<'a>(
    ((partition, epoch), records): (&(PartitionId, Epoch), &'a Vec<Arc<Record>>),
) -> Append<'a> {
    Append { partition: *partition, epoch: *epoch, records }
}

impl WriterCore {
    /// A writer without subscribers.
    #[must_use]
    pub fn new(store: Arc<dyn LogStore>) -> Self {
        Self::trimming(store, TrimLog::default())
    }

    fn trimming(store: Arc<dyn LogStore>, trim: TrimLog) -> Self {
        Self { store, subscribers: Subscribers::default(), trimming: Trimming::new(trim) }
    }

    /// Runs until no senders are left. If it panics, the subscribers are notified.
    fn run_to_its_end(mut self, receiver: Receiver) {
        let ran = catch_unwind(AssertUnwindSafe(|| self.run(&receiver)));
        if let Err(panic) = ran {
            // Closes the queue before the first subscriber is notified.
            drop(receiver);
            self.died(&crate::shell::panic_text(panic.as_ref()));
            resume_unwind(panic);
        }
    }

    /// Ends the writer: it takes no more commands, and waiting ones are lost. Every replica is
    /// notified, so that pending callers are answered.
    pub(crate) fn died(&mut self, reason: &str) {
        tracing::error!(reason, "the log's writer died");
        self.subscribers.lost(reason);
    }

    fn run(&mut self, receiver: &Receiver) {
        let mut batch = Vec::new();
        loop {
            if batch.is_empty() {
                // Subscribers that are behind get records in between, as fast as they apply them.
                let deadline = self.subscribers.wait().map(|wait| Instant::now() + wait);
                match receiver.take(&mut batch, deadline) {
                    Taken::Some => delay_sync(receiver, &mut batch),
                    Taken::Nothing => {
                        self.feed();
                        continue;
                    }
                    Taken::Over => return,
                }
            }
            let count = batch.len().min(BATCH_RECORDS_MAX);
            self.handle(batch.drain(..count));
        }
    }

    /// Handles commands in order; consecutive appends share one sync.
    pub fn handle(&mut self, commands: impl Iterator<Item = LogCommand>) {
        let mut groups = Groups::new();
        for command in commands {
            if let LogCommand::Append { partition, epoch, record, .. } = command {
                groups.entry((partition, epoch)).or_default().push(record);
                continue;
            }
            self.commit(std::mem::take(&mut groups));
            self.handle_other(command);
        }
        self.commit(groups);
        self.feed();
    }

    /// Feeds subscribers that are behind; returns whether any still is.
    pub fn feed(&mut self) -> bool {
        self.subscribers.feed(&*self.store)
    }

    fn handle_other(&mut self, command: LogCommand) {
        match command {
            LogCommand::Append { .. } => unreachable!("appends are grouped"),
            LogCommand::Fence { partition, epoch, done } => {
                done(self.store.fence(partition, epoch));
            }
            LogCommand::Subscribe(subscription) => {
                self.subscribers.add(subscription);
                self.feed();
            }
            LogCommand::Unsubscribe { partition, node } => {
                self.subscribers.remove(partition, node);
            }
            LogCommand::Durable { partition, node, through } => {
                let durable = self.subscribers.durable(partition, node, through);
                let through = self.trimming.through(partition, durable);
                if let Err(error) = self.store.trim(partition, through) {
                    tracing::warn!(%partition, %through, %error, "the log was not trimmed");
                }
            }
            LogCommand::HoldTrim(done) => {
                self.trimming.hold();
                done(Ok(()));
            }
            LogCommand::ReleaseTrim => self.trimming.release(),
            LogCommand::Snapshotted { partition, through } => {
                self.trimming.snapshotted(partition, through);
            }
            LogCommand::Barrier(done) => done(Ok(())),
        }
    }

    fn commit(&mut self, mut groups: Groups) {
        if groups.is_empty() {
            return;
        }
        let appends: Vec<_> = groups.iter().map(append_of).collect();
        let mut outcomes = self.store.append(&appends);
        drop(appends);
        if let Err(LogError::TooLarge { .. }) = &outcomes {
            // Nothing of the batch was written: it is written again without the refused records.
            self.refuse_too_large(&mut groups);
            let appends: Vec<_> = groups.iter().map(append_of).collect();
            outcomes = self.store.append(&appends);
        }
        match outcomes {
            Ok(outcomes) => {
                for (((partition, _), records), outcome) in groups.into_iter().zip(outcomes) {
                    self.tell(partition, records, outcome);
                }
                if let Err(error) = self.store.finish_appends() {
                    // The next append reports it to its caller.
                    tracing::error!(%error, "the log cannot be written");
                }
            }
            Err(error) => {
                tracing::error!(%error, "the log cannot be written");
                let mut reported = None;
                for ((partition, _), _) in groups {
                    if reported != Some(partition) {
                        let refusal = AppendRefusal::Failed { reason: error.to_string() };
                        self.subscribers.tell(partition, &PartitionInput::AppendRefused(refusal));
                        reported = Some(partition);
                    }
                }
            }
        }
    }

    /// Removes the records that are too large for the log, and notifies their proposers.
    fn refuse_too_large(&self, groups: &mut Groups) {
        let len_max = self.store.record_len_max();
        for ((partition, _), records) in groups.iter_mut() {
            let is_too_large = |record: &mut Arc<Record>| record.stored_len() > len_max;
            for record in records.extract_if(.., is_too_large) {
                let why = TooLarge { len: record.stored_len(), len_max };
                tracing::error!(%partition, len = why.len, len_max, "a record is too large");
                let refused = PartitionInput::RecordTooLarge { record, why };
                self.subscribers.tell(*partition, &refused);
            }
        }
        groups.retain(|_, records| !records.is_empty());
    }

    fn tell(&mut self, partition: PartitionId, records: Vec<Arc<Record>>, outcome: Appended) {
        match outcome {
            Appended::At(first) => self.subscribers.committed(partition, first, &records),
            Appended::Fenced { current } => {
                let refusal = AppendRefusal::Fenced { current };
                self.subscribers.tell(partition, &PartitionInput::AppendRefused(refusal));
            }
        }
    }
}
