//! A log with faults planned by a test.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Mutex, MutexGuard},
};

use crossbeam_channel::Receiver;
use forebay_messages::{Epoch, Lsn, PartitionId};

use super::injected;
use crate::{
    log::{Append, Appended, Batch, LogError, LogId, LogStats, LogStore},
    sync,
};

/// What goes wrong at one append call.
#[derive(Clone, Debug)]
pub enum LogFault {
    /// Nothing is written; the call fails.
    Fail,
    /// Everything is written; the call fails anyway: its outcome is unknown.
    FailAfterWrite,
    /// Only this many of the call's appends are written; the call fails.
    Torn {
        /// The number, from the front.
        appends: usize,
    },
    /// The process dies before the write: this call and all later ones fail until
    /// [`FaultLog::restart`].
    CrashBeforeWrite,
    /// The process dies after the write, before the answer.
    CrashAfterWrite,
    /// The write is made, and the answer waits until something is sent on the channel (or its
    /// sender is dropped).
    Hold(Receiver<()>),
    /// Another node fences the call's partitions with this epoch just before it.
    Fence(Epoch),
}

/// Wraps a log; each planned fault happens at its append call.
#[derive(Debug)]
pub struct FaultLog<L> {
    inner: L,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    calls: u64,
    planned: BTreeMap<u64, LogFault>,
    crashed: bool,
    keeps_all: bool,
}

impl<L: LogStore> FaultLog<L> {
    /// A log without planned faults.
    pub fn new(inner: L) -> Self {
        Self { inner, state: Mutex::default() }
    }

    /// Plans a fault for the `nth` append call from now; 1 is the next one.
    pub fn plan(&self, nth: u64, fault: LogFault) {
        let mut state = self.state();
        let at = state.calls + nth;
        state.planned.insert(at, fault);
    }

    /// Drops planned faults that have not happened.
    pub fn forget_plans(&self) {
        self.state().planned.clear();
    }

    /// Whether trimming drops nothing, so that everything can be replayed.
    pub fn keep_all(&self, keeps_all: bool) {
        self.state().keeps_all = keeps_all;
    }

    /// Makes a crashed log work again, with what it had written.
    pub fn restart(&self) {
        self.state().crashed = false;
    }

    /// Whether a planned crash has happened.
    pub fn is_crashed(&self) -> bool {
        self.state().crashed
    }

    /// Number of faults still to happen.
    pub fn planned(&self) -> usize {
        self.state().planned.len()
    }

    /// The wrapped log.
    pub fn inner(&self) -> &L {
        &self.inner
    }

    fn state(&self) -> MutexGuard<'_, State> {
        sync::lock(&self.state)
    }

    /// The fault of this call.
    fn next(&self) -> Result<Option<LogFault>, LogError> {
        let mut state = self.state();
        if state.crashed {
            return Err(Self::failed());
        }
        state.calls += 1;
        let call = state.calls;
        let fault = state.planned.remove(&call);
        state.crashed =
            matches!(fault, Some(LogFault::CrashBeforeWrite | LogFault::CrashAfterWrite));
        Ok(fault)
    }

    fn failed() -> LogError {
        LogError::Fault(injected("append to the log", Path::new("(fault log)")))
    }

    fn check_alive(&self) -> Result<(), LogError> {
        match self.is_crashed() {
            true => Err(Self::failed()),
            false => Ok(()),
        }
    }
}

impl<L: LogStore> LogStore for FaultLog<L> {
    fn identity(&self) -> Result<Option<LogId>, LogError> {
        self.inner.identity()
    }

    fn identify(&self, id: LogId) -> Result<LogId, LogError> {
        self.check_alive()?;
        self.inner.identify(id)
    }

    fn append(&self, batch: &[Append<'_>]) -> Result<Vec<Appended>, LogError> {
        match self.next()? {
            None => self.inner.append(batch),
            Some(LogFault::Fail | LogFault::CrashBeforeWrite) => Err(Self::failed()),
            Some(LogFault::FailAfterWrite | LogFault::CrashAfterWrite) => {
                self.inner.append(batch)?;
                Err(Self::failed())
            }
            Some(LogFault::Torn { appends }) => {
                self.inner.append(&batch[..appends.min(batch.len())])?;
                Err(Self::failed())
            }
            Some(LogFault::Hold(released)) => {
                let answers = self.inner.append(batch)?;
                // A dropped sender releases it too.
                let _ = released.recv();
                Ok(answers)
            }
            Some(LogFault::Fence(epoch)) => {
                for append in batch {
                    self.inner.fence(append.partition, epoch)?;
                }
                self.inner.append(batch)
            }
        }
    }

    fn finish_appends(&self) -> Result<(), LogError> {
        self.inner.finish_appends()
    }

    fn fence(&self, partition: PartitionId, epoch: Epoch) -> Result<Epoch, LogError> {
        self.check_alive()?;
        self.inner.fence(partition, epoch)
    }

    fn fenced(&self, partition: PartitionId) -> Epoch {
        self.inner.fenced(partition)
    }

    fn read(
        &self,
        partition: PartitionId,
        from: Lsn,
        limit_records: usize,
        limit_bytes: usize,
    ) -> Result<Batch, LogError> {
        self.check_alive()?;
        self.inner.read(partition, from, limit_records, limit_bytes)
    }

    fn end(&self, partition: PartitionId) -> Lsn {
        self.inner.end(partition)
    }

    fn trim(&self, partition: PartitionId, through: Lsn) -> Result<(), LogError> {
        self.check_alive()?;
        if self.state().keeps_all {
            return Ok(());
        }
        self.inner.trim(partition, through)
    }

    fn trimmed(&self, partition: PartitionId) -> Lsn {
        self.inner.trimmed(partition)
    }

    fn checkpoint(&self, to: &Path) -> Result<(), LogError> {
        self.check_alive()?;
        self.inner.checkpoint(to)
    }

    fn record_len_max(&self) -> usize {
        self.inner.record_len_max()
    }

    fn stats(&self) -> LogStats {
        self.inner.stats()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use forebay_messages::Record;

    use super::*;
    use crate::log::MemoryLog;

    const P: PartitionId = PartitionId(1);

    fn record() -> Arc<Record> {
        let created_at = forebay_messages::Timestamp(1);
        Arc::new(Record { keys: None, producer: None, created_at, command: None })
    }

    fn append(log: &FaultLog<MemoryLog>, appends: usize) -> Result<Vec<Appended>, LogError> {
        let records = [record()];
        let append = Append { partition: P, epoch: Epoch(1), records: &records };
        log.append(&vec![append; appends])
    }

    #[test]
    fn the_nth_append_fails_and_the_others_do_not() {
        let log = FaultLog::new(MemoryLog::new());
        log.plan(2, LogFault::Fail);
        assert!(append(&log, 1).is_ok());
        assert!(append(&log, 1).is_err());
        assert!(append(&log, 1).is_ok());
        assert_eq!((log.end(P), log.planned()), (Lsn(2), 0));
    }

    #[test]
    fn a_torn_call_leaves_a_prefix_and_an_unanswered_one_everything() {
        let log = FaultLog::new(MemoryLog::new());
        log.plan(1, LogFault::Torn { appends: 2 });
        assert!(append(&log, 3).is_err());
        assert_eq!(log.end(P), Lsn(2));
        log.plan(1, LogFault::FailAfterWrite);
        assert!(append(&log, 3).is_err());
        assert_eq!(log.end(P), Lsn(5));
    }

    #[test]
    fn a_crash_lasts_until_the_restart() {
        let log = FaultLog::new(MemoryLog::new());
        log.plan(1, LogFault::CrashAfterWrite);
        assert!(append(&log, 1).is_err());
        assert!(append(&log, 1).is_err() && log.fence(P, Epoch(9)).is_err());
        assert!(log.is_crashed());
        log.restart();
        assert_eq!((log.end(P), log.fenced(P)), (Lsn(1), Epoch(1)));
        log.plan(1, LogFault::CrashBeforeWrite);
        assert!(append(&log, 1).is_err());
        assert_eq!(log.end(P), Lsn(1));
    }

    #[test]
    fn a_held_answer_arrives_when_released_and_a_fence_refuses() {
        let log = FaultLog::new(MemoryLog::new());
        let (release, held) = crossbeam_channel::bounded(1);
        log.plan(1, LogFault::Hold(held));
        std::thread::scope(|threads| {
            let answer = threads.spawn(|| append(&log, 1));
            while log.end(P) == Lsn(0) {
                std::thread::yield_now();
            }
            assert!(!answer.is_finished(), "durable, not yet answered");
            release.send(()).unwrap();
            assert!(answer.join().unwrap().is_ok());
        });
        log.plan(1, LogFault::Fence(Epoch(4)));
        let answer = append(&log, 1).unwrap();
        assert_eq!(answer, [Appended::Fenced { current: Epoch(4) }]);
    }
}
