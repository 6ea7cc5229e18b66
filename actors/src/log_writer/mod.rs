//! The writer of a log: one thread, group commit, fencing by epoch.
//!
//! Must always hold: what waited while the last sync ran goes into one batch and one
//! sync; committed records reach the subscribers of their partition in LSN order, as
//! they were given, without being read again; nobody is told before the sync; the log is
//! trimmed only below what every subscriber of a partition has in files.
//! Must not know: what is in a record.

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

/// Commands that wait in front of the writer; whoever sends more waits.
pub const QUEUE_LEN_MAX: usize = 65_536;
/// Most records in one batch.
pub const BATCH_RECORDS_MAX: usize = 8_192;
/// How long appends that may wait do so at most when nothing else comes. What comes
/// meanwhile shares their sync.
pub const COMPANY_WAIT: Duration = Duration::from_millis(1);

/// Why a partition stops that cannot reach the writer.
pub(crate) const WRITER_GONE: &str = "the log's writer is gone: restart the process";

/// Told once with the result of a command.
pub type Done<T> = Box<dyn FnOnce(Result<T, LogError>) + Send>;

/// What the writer is told.
pub enum LogCommand {
    /// Append a record for a partition.
    Append {
        /// The partition.
        partition: PartitionId,
        /// Epoch of the proposer.
        epoch: Epoch,
        /// The record.
        record: Arc<Record>,
        /// Nobody waits for it: alone it may wait for company ([`COMPANY_WAIT`]).
        may_wait: bool,
    },
    /// Refuse appends of lower epochs from now on.
    Fence {
        /// The partition.
        partition: PartitionId,
        /// The lowest epoch that may append.
        epoch: Epoch,
        /// Told, when it is durable, which epoch is in force.
        done: Done<Epoch>,
    },
    /// Send all records after a position, then what is committed from now on.
    Subscribe(Subscription),
    /// Forget the subscriber that a node has on a partition, and its hold on trimming.
    Unsubscribe {
        /// The partition.
        partition: PartitionId,
        /// Whose subscriber.
        node: NodeId,
    },
    /// A node has everything up to a position in files: once all have, it is dropped.
    Durable {
        /// The partition.
        partition: PartitionId,
        /// Which node.
        node: NodeId,
        /// The last position that it has in files.
        through: Lsn,
    },
    /// Forget nothing until `ReleaseTrim`: a snapshot is being taken.
    HoldTrim(Done<()>),
    /// The snapshot is taken, or was given up.
    ReleaseTrim,
    /// The newest snapshot of a partition has rows up to a position.
    Snapshotted {
        /// The partition.
        partition: PartitionId,
        /// The last position.
        through: Lsn,
    },
    /// Say when everything before has been dealt with.
    Barrier(Done<()>),
}

/// The address of a log's writer. Sending waits while [`QUEUE_LEN_MAX`] commands wait
/// in front of the writer; it is false when the writer is gone.
pub type LogHandle = Ref<LogCommand>;

/// The writer's thread.
pub struct LogWriter {
    handle: Option<LogHandle>,
    thread: Option<JoinHandle<()>>,
}

impl LogWriter {
    /// Starts the writer of a log that is trimmed below what is in files.
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

    /// A writer that somebody else runs, behind this handle.
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

    /// Ends the thread once every other handle is gone and the queue is empty. Called by
    /// the thread itself, it does not wait.
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

/// As long as there is nothing in the batch that somebody waits for, waits for it.
fn await_company(receiver: &Receiver, batch: &mut Vec<LogCommand>) {
    let may_wait =
        |command: &LogCommand| matches!(command, LogCommand::Append { may_wait: true, .. });
    let mut looked_at = 0;
    let mut deadline = None;
    while batch[looked_at..].iter().all(may_wait) {
        looked_at = batch.len();
        let until = *deadline.get_or_insert_with(|| Instant::now() + COMPANY_WAIT);
        if receiver.take(batch, Some(until)) != Taken::Some {
            return;
        }
    }
}

/// The writer itself; a simulation calls it without a thread.
pub struct WriterCore {
    store: Arc<dyn LogStore>,
    subscribers: Subscribers,
    trimming: Trimming,
}

/// Records of one partition under one epoch, in order.
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

    /// Runs until nobody can reach it. If it panics, who reads the log is told.
    fn run_to_its_end(mut self, receiver: Receiver) {
        let ran = catch_unwind(AssertUnwindSafe(|| self.run(&receiver)));
        if let Err(panic) = ran {
            // Nobody can send to it any more when the first is told.
            drop(receiver);
            self.died(&crate::shell::panic_text(panic.as_ref()));
            resume_unwind(panic);
        }
    }

    /// It takes no more commands, and what waited for it is lost: every replica is told,
    /// for whoever waits for it to be answered.
    pub(crate) fn died(&mut self, reason: &str) {
        tracing::error!(reason, "the log's writer died");
        self.subscribers.lost(reason);
    }

    fn run(&mut self, receiver: &Receiver) {
        let mut batch = Vec::new();
        loop {
            if batch.is_empty() {
                // Whoever is behind is fed in between, as fast as it applies.
                let deadline = self.subscribers.wait().map(|wait| Instant::now() + wait);
                match receiver.take(&mut batch, deadline) {
                    Taken::Some => await_company(receiver, &mut batch),
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

    /// Deals with commands in order; appends that follow each other share one sync.
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

    /// Sends on to those who are behind; whether somebody still is.
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
            // Nothing of the call was written: the others are, without it.
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
                    // The next append says so to whoever waits for it.
                    tracing::error!(%error, "the log cannot be written");
                }
            }
            Err(error) => {
                tracing::error!(%error, "the log cannot be written");
                let mut told = None;
                for ((partition, _), _) in groups {
                    if told != Some(partition) {
                        let refusal = AppendRefusal::Failed { reason: error.to_string() };
                        self.subscribers.tell(partition, &PartitionInput::AppendRefused(refusal));
                        told = Some(partition);
                    }
                }
            }
        }
    }

    /// Takes out the records that are too large for the log, and tells whose they are.
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
