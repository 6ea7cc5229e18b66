//! Journal writes of attempts before they are in the log, and news for the attempts.
//!
//! Owns: the writes and suspensions that wait for the next flush, the time when the next sleep
//! ends, the messages that a batch put into the outbox. Must always hold: the writes of an attempt
//! are proposed before its end; an attempt gets each operation that finished after its handler was
//! started, once and in order; a sleep is ended by a record, never by the clock. Must not know: the
//! meaning of an operation, how messages are carried.

use std::sync::Arc;

use forebay_messages::{
    AttemptToken, EntryId, Run, Timestamp,
    command::{
        AttemptWrites, Command, JournalWrite, Operation, OutboxMessage, Suspend, SuspendAttempt,
        WakeSleepers, WriteJournal,
    },
    journal::{ATTEMPTS_PER_RECORD_MAX, JournalOutcome, WRITES_PER_RECORD_MAX},
};

use super::{
    super::apply::{Applied, OperationFinished},
    Partition, Phase,
    effect::{AttemptNews, PartitionEffect},
    input::PartitionInput,
};

/// Once a record has this many bytes of results and payloads, it takes no more writes.
const RECORD_BYTES_MAX: usize = 1 << 20;
/// Maximum bytes of a write beyond its key and its contents: names and numbers.
const WRITE_FIXED_LEN: usize = 512;

/// Journal writes, suspensions and messages of a partition.
#[derive(Debug, Default)]
pub(super) struct Journals {
    writes: Vec<AttemptWrites>,
    suspends: Vec<SuspendAttempt>,
    /// Messages of the batch being applied.
    added: Vec<Arc<OutboxMessage>>,
    /// When the first sleep ends, if known.
    due: Option<Timestamp>,
    /// A record that ends sleeps is in flight, or the next sleep is being read.
    is_waking: bool,
}

impl Journals {
    /// Another replica leads.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// When the next sleep ends.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.due.filter(|_| !self.is_waking)
    }

    fn add(&mut self, entry: EntryId, token: AttemptToken, writes: Vec<JournalWrite>) {
        match self.writes.last_mut().filter(|last| last.token == token) {
            Some(last) => last.writes.extend(writes),
            None => self.writes.push(AttemptWrites { entry, token, writes }),
        }
    }

    pub(super) fn add_suspends(&mut self, suspends: Vec<SuspendAttempt>) {
        self.suspends.extend(suspends);
    }

    /// Makes records of the writes handed in; each has room for this many bytes.
    fn records(&mut self, room: usize) -> Vec<Command> {
        let mut commands = Vec::new();
        let mut record = Filling::default();
        for AttemptWrites { entry, token, writes } in self.writes.drain(..) {
            for write in writes {
                let len = WRITE_FIXED_LEN + len_of(&write);
                if record.is_full(token, len, room) {
                    commands.extend(record.take());
                }
                record.add((entry, token), write, len);
            }
        }
        commands.extend(record.take());
        let suspends = std::mem::take(&mut self.suspends);
        for attempts in suspends.chunks(ATTEMPTS_PER_RECORD_MAX) {
            commands.push(Command::Suspend(Suspend { attempts: attempts.to_vec() }));
        }
        commands
    }
}

/// A record of writes that is being filled.
#[derive(Default)]
struct Filling {
    attempts: Vec<AttemptWrites>,
    writes: usize,
    len: usize,
}

impl Filling {
    fn is_full(&self, token: AttemptToken, len: usize, room: usize) -> bool {
        let is_new = self.attempts.last().is_none_or(|last| last.token != token);
        let is_full = self.writes == WRITES_PER_RECORD_MAX
            || (is_new && self.attempts.len() == ATTEMPTS_PER_RECORD_MAX)
            || self.len + len > room.min(RECORD_BYTES_MAX);
        self.writes > 0 && is_full
    }

    fn add(&mut self, (entry, token): (EntryId, AttemptToken), write: JournalWrite, len: usize) {
        self.writes += 1;
        self.len += len;
        match self.attempts.last_mut().filter(|last| last.token == token) {
            Some(last) => last.writes.push(write),
            None => self.attempts.push(AttemptWrites { entry, token, writes: vec![write] }),
        }
    }

    fn take(&mut self) -> Option<Command> {
        let Self { attempts, .. } = std::mem::take(self);
        (!attempts.is_empty()).then(|| Command::WriteJournal(WriteJournal { attempts }))
    }
}

/// Bytes of the contents of a write.
fn len_of(write: &JournalWrite) -> usize {
    let carried = match &write.operation {
        Some(Operation::Step(step)) => step.outcome.as_ref().map_or(0, JournalOutcome::len),
        Some(Operation::Call(child) | Operation::Send(child)) => {
            let key = child.vqueue.object_key.as_ref();
            child.payload.len() + key.map_or(0, |key| key.len())
        }
        _ => 0,
    };
    write.key.as_bytes().len() + carried
}

impl Partition {
    /// Handles inputs about journals.
    pub(super) fn on_journal_input(
        &mut self,
        now: Timestamp,
        input: PartitionInput,
        effects: &mut Vec<PartitionEffect>,
    ) {
        match input {
            PartitionInput::Journal { entry, token, run, writes } => {
                self.on_journal((entry, token, run), writes, effects);
            }
            PartitionInput::OutboxCounted(count) => self.on_outbox_counted(count, effects),
            PartitionInput::Rerouted => self.on_rerouted(effects),
            PartitionInput::AskOutbox { entry, reply } => self.on_ask_outbox(entry, reply, effects),
            PartitionInput::Suspend(suspend) => self.on_suspend(suspend, effects),
            PartitionInput::DueFound { first } => self.on_due_found(now, first, effects),
            other => unreachable!("not about journals: {other:?}"),
        }
    }

    /// An attempt handed in operations for its journal.
    fn on_journal(
        &mut self,
        attempt: (EntryId, AttemptToken, Run),
        writes: Vec<JournalWrite>,
        effects: &mut Vec<PartitionEffect>,
    ) {
        let (entry, token, _) = attempt;
        if !self.is_own(token) {
            return;
        }
        let admitted = self.outbox_room.admit(attempt, writes);
        if !admitted.is_empty() {
            self.add_writes(entry, token, admitted);
            self.schedule_flush(effects);
        }
    }

    /// Adds writes to the next record.
    pub(super) fn add_writes(
        &mut self,
        entry: EntryId,
        token: AttemptToken,
        writes: Vec<JournalWrite>,
    ) {
        self.journals.add(entry, token, writes);
    }

    /// An attempt only waits.
    fn on_suspend(&mut self, suspend: SuspendAttempt, effects: &mut Vec<PartitionEffect>) {
        if self.is_own(suspend.token)
            && let Some(suspend) = self.outbox_room.admit_suspend(suspend)
        {
            self.journals.suspends.push(suspend);
            self.schedule_flush(effects);
        }
    }

    /// Whether an attempt belongs to this leader and is not over.
    fn is_own(&mut self, token: AttemptToken) -> bool {
        let is_own =
            token.epoch == self.epoch && self.phase.has_limiter() && self.attempts.knows(token);
        self.stale.attempt += u64::from(!is_own);
        is_own
    }

    /// Proposes the writes of attempts, before their ends.
    pub(super) fn propose_journals(&mut self, now: Timestamp, effects: &mut Vec<PartitionEffect>) {
        for command in self.journals.records(self.bounds.room()) {
            self.propose(now, command, None, effects);
        }
        self.outbox_room.proposed(self.next_seq);
    }

    /// Handles the effects of applied records on journals.
    pub(super) fn on_journal_applied(
        &mut self,
        applied: Applied,
        effects: &mut Vec<PartitionEffect>,
    ) {
        match applied {
            Applied::OperationFinished { entry, token, finished } => {
                self.on_operation_finished(entry, token, finished, effects);
            }
            Applied::WriteRefused { entry, token, key, found } => {
                self.tell_attempt(entry, token, AttemptNews::WriteRefused { key, found }, effects);
            }
            Applied::SuspendVoid { entry, token } => {
                self.tell_attempt(entry, token, AttemptNews::SuspendVoid, effects);
            }
            Applied::SleepAdded { until } => {
                // The read in progress will find this one too.
                if !self.journals.is_waking {
                    let due = self.journals.due.map_or(until, |due| due.min(until));
                    self.journals.due = Some(due);
                    self.set_timer(effects);
                }
            }
            Applied::SleepersWoken => self.find_due(effects),
            Applied::OutboxAdded(message) => {
                self.outbox_room.added(&message);
                self.journals.added.push(message);
            }
            Applied::OutboxRemoved { to } => self.outbox_room.removed(&to),
            other => unreachable!("not about journals: {other:?}"),
        }
    }

    fn on_operation_finished(
        &mut self,
        entry: EntryId,
        token: Option<AttemptToken>,
        finished: Box<OperationFinished>,
        effects: &mut Vec<PartitionEffect>,
    ) {
        // In the rows it may not run yet: its decision is in flight.
        if let Some(token) = token.or_else(|| self.attempts.begun(entry)) {
            self.tell_attempt(entry, token, AttemptNews::Finished(finished), effects);
        }
    }

    /// Sends news to an attempt if its handler was started; otherwise it will read the rows.
    fn tell_attempt(
        &mut self,
        entry: EntryId,
        token: AttemptToken,
        news: AttemptNews,
        effects: &mut Vec<PartitionEffect>,
    ) {
        if self.attempts.listens(token) {
            effects.push(PartitionEffect::TellAttempt { entry, token, news });
        }
    }

    /// The batch was applied: hands on its messages.
    pub(super) fn hand_on_messages(&mut self, effects: &mut Vec<PartitionEffect>) {
        let messages = std::mem::take(&mut self.journals.added);
        if !messages.is_empty() && self.phase.may_propose() {
            effects.push(PartitionEffect::OutboxAdded { messages });
        }
        self.release_writes(effects);
    }

    /// Reads when the first sleep ends.
    pub(super) fn find_due(&mut self, effects: &mut Vec<PartitionEffect>) {
        if self.phase == Phase::Leading {
            self.journals.is_waking = true;
            effects.push(PartitionEffect::FindDue);
        }
    }

    fn on_due_found(
        &mut self,
        now: Timestamp,
        first: Option<Timestamp>,
        effects: &mut Vec<PartitionEffect>,
    ) {
        if self.phase == Phase::Leading {
            (self.journals.due, self.journals.is_waking) = (first, false);
            self.wake_sleeping_entries(now, effects);
        }
    }

    /// Proposes to end the sleeps that are due.
    pub(super) fn wake_sleeping_entries(
        &mut self,
        now: Timestamp,
        effects: &mut Vec<PartitionEffect>,
    ) {
        let is_due = self.journals.next_due().is_some_and(|due| due <= now);
        if is_due && self.phase == Phase::Leading {
            self.journals.is_waking = true;
            let command = WakeSleepers { until: now, count_max: 0 };
            self.propose(now, Command::WakeSleepers(command), None, effects);
        }
        self.set_timer(effects);
    }
}

#[cfg(test)]
mod tests {
    use forebay_messages::{
        Epoch,
        command::StepResult,
        journal::{JournalOutcome, KeyParts},
    };

    use super::*;

    fn write(len: usize) -> JournalWrite {
        let outcome = Some(JournalOutcome::Success(vec![7; len].into()));
        let operation = Some(Operation::Step(StepResult { outcome }));
        let key = KeyParts::named("a", 0).key();
        JournalWrite { key: key.unwrap_or_default(), operation }
    }

    /// Number of attempts and writes in each record.
    fn records(of: Vec<(u64, Vec<usize>)>, room: usize) -> Vec<(usize, usize)> {
        let mut journals = Journals::default();
        for (seq, lens) in of {
            let token = AttemptToken { epoch: Epoch(1), seq };
            journals.add(EntryId::default(), token, lens.into_iter().map(write).collect());
        }
        let count = |command: Command| match command {
            Command::WriteJournal(WriteJournal { attempts }) => {
                (attempts.len(), attempts.iter().map(|attempt| attempt.writes.len()).sum())
            }
            other => panic!("{other:?}"),
        };
        journals.records(room).into_iter().map(count).collect()
    }

    #[test]
    fn steps_that_end_together_share_a_record_within_its_bounds() {
        let room = 64 << 20;
        assert_eq!(records(Vec::new(), room), []);
        let two = vec![(1, vec![1, 1]), (1, vec![1]), (2, vec![1])];
        assert_eq!(records(two, room), [(2, 4)]);
        let large = vec![(1, vec![RECORD_BYTES_MAX, 1]), (2, vec![2 * RECORD_BYTES_MAX, 1])];
        assert_eq!(records(large, room), [(1, 1), (1, 1), (1, 1), (1, 1)]);
        let many = vec![(1, vec![0; WRITES_PER_RECORD_MAX + 1])];
        assert_eq!(records(many, room), [(1, WRITES_PER_RECORD_MAX), (1, 1)]);
        let attempts = (0..=ATTEMPTS_PER_RECORD_MAX as u64).map(|seq| (seq, vec![0])).collect();
        assert_eq!(records(attempts, room), [(512, 512), (1, 1)]);
    }
}
