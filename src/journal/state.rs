//! The state of an attempt's journal, and all decisions about it.
//!
//! Must always hold: of the issued operations, at most one is delivered between two polls of the
//! handler, and always the one that finished first. Must not know: futures, threads, how writes are
//! sent. The rules are numbered in the header of `journal/mod.rs`.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    task::Waker,
};

use bytestring::ByteString;
use forebay_engine::partition::rows::JournalRow;
use forebay_messages::{
    Run, Timestamp,
    command::{JournalWrite, Operation},
    journal::{BranchElement, BranchKind, JournalKey, JournalKind, JournalOutcome, KeyParts},
};

use super::{
    Notification, current::BranchId, drive::Ended, error::MismatchedKind, error::OperationError,
};

/// An operation to issue.
pub(super) struct Intent {
    pub(super) kind: JournalKind,
    pub(super) fingerprint: u64,
    /// Written when the operation starts; a step is written when it ends.
    pub(super) operation: Option<Box<Operation>>,
}

/// The progress of an operation.
enum Phase {
    /// It may not start yet.
    New(Option<Box<Operation>>),
    /// A step that is running.
    Computes,
    /// It has no outcome yet.
    Awaited,
    /// Its outcome was delivered.
    Ready(JournalOutcome),
    /// Its outcome was taken, or its future was dropped.
    Gone,
}

struct Issued {
    kind: JournalKind,
    phase: Phase,
    waker: Option<Waker>,
}

impl Issued {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// A part of the handler that runs beside others.
#[derive(Default)]
struct Branch {
    path: Vec<BranchElement>,
    /// Number of uses of each name.
    names: HashMap<ByteString, u32>,
    /// Names of operations that are not finished.
    unfinished: HashSet<ByteString>,
    joins: u32,
    selects: u32,
    /// Number of branches with each key.
    keys: HashMap<String, u32>,
}

/// The result of [`AttemptJournal::advance`].
pub(super) enum Advanced {
    /// The handler has to be polled again.
    Again,
    /// The attempt cannot continue.
    Ended(Ended),
    /// It waits. These operations are to be written.
    Waits(Vec<JournalWrite>),
}

/// The key of an issued operation, from which ids are derived.
pub(super) struct IssuedKey {
    pub(super) key: JournalKey,
    /// The run of the stored row, if there is one.
    pub(super) run: Option<Run>,
    /// It has no row yet.
    pub(super) is_new: bool,
}

/// The state of a journal, without futures.
pub(super) struct AttemptJournal {
    rows: HashMap<JournalKey, JournalRow>,
    /// Finished, not delivered, and issued.
    deliverable: BTreeMap<u64, JournalKey>,
    /// Finished rows whose operation was not issued yet.
    unissued: usize,
    issued: HashMap<JournalKey, Issued>,
    /// Issued and not started, in this order; some may have been dropped.
    new: VecDeque<JournalKey>,
    branches: Vec<Branch>,
    outgoing: Vec<JournalWrite>,
    now: Timestamp,
    end: Option<Ended>,
    /// Incremented by every change that may affect what the attempt waits for.
    version: u64,
    /// The version in which it requested a suspension. It requests one per version: if the first
    /// was void (for example because the entry is being canceled), another would be void too.
    asked_at: Option<u64>,
    pub(super) releases_key: bool,
    pub(super) holds_limits: bool,
}

impl AttemptJournal {
    pub(super) fn new(first_at: Timestamp, rows: Vec<(JournalKey, JournalRow)>) -> Self {
        let rows: HashMap<_, _> = rows.into_iter().collect();
        Self {
            unissued: rows.values().filter(|row| row.is_finished()).count(),
            rows,
            deliverable: BTreeMap::new(),
            issued: HashMap::new(),
            new: VecDeque::new(),
            branches: vec![Branch::default()],
            outgoing: Vec::new(),
            now: first_at,
            end: None,
            version: 0,
            asked_at: None,
            releases_key: false,
            holds_limits: false,
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.now
    }

    /// Ends the attempt, which cannot continue.
    pub(super) fn end(&mut self, end: Ended) {
        self.end.get_or_insert(end);
    }

    pub(super) fn take_end(&mut self) -> Option<Ended> {
        self.end.take()
    }

    /// Opens the branches of a join or select; their ids are consecutive, from the returned one.
    pub(super) fn open_members(
        &mut self,
        parent: BranchId,
        kind: BranchKind,
        count: usize,
    ) -> BranchId {
        let first = BranchId(self.branches.len());
        let of = &mut self.branches[parent.0];
        let counter = if kind == BranchKind::Join { &mut of.joins } else { &mut of.selects };
        let occurrence = *counter;
        *counter += 1;
        let path = of.path.clone();
        for position in 0..count {
            let position = u32::try_from(position).unwrap_or(u32::MAX);
            let mut path = path.clone();
            path.push(BranchElement::at(kind, occurrence, position));
            self.branches.push(Branch { path, ..Branch::default() });
        }
        first
    }

    /// Opens the branch of a key.
    pub(super) fn open_branch(&mut self, parent: BranchId, key: &str) -> BranchId {
        let of = &mut self.branches[parent.0];
        let counter = of.keys.entry(key.to_owned()).or_default();
        let occurrence = *counter;
        *counter += 1;
        let mut path = of.path.clone();
        path.push(BranchElement::keyed(occurrence, key));
        self.branches.push(Branch { path, ..Branch::default() });
        BranchId(self.branches.len() - 1)
    }

    /// The key of the next operation of a name in a branch.
    pub(super) fn next_key(
        &mut self,
        branch: BranchId,
        name: &ByteString,
    ) -> Result<JournalKey, OperationError> {
        let of = &mut self.branches[branch.0];
        let counter = of.names.entry(name.clone()).or_default();
        let occurrence = *counter;
        *counter += 1;
        Ok(KeyParts { branch: of.path.clone(), name: name.clone(), occurrence }.key()?)
    }

    /// Called when an operation is polled for the first time.
    pub(super) fn issue(
        &mut self,
        branch: BranchId,
        name: &ByteString,
        intent: Intent,
    ) -> Result<IssuedKey, OperationError> {
        if self.branches[branch.0].unfinished.contains(name) {
            return Err(OperationError::AmbiguousName { name: name.to_string() });
        }
        let key = self.next_key(branch, name)?;
        self.branches[branch.0].unfinished.insert(name.clone());
        self.version += 1;
        let Intent { kind, fingerprint, operation } = intent;
        let mut issued = IssuedKey { key: key.clone(), run: None, is_new: false };
        let phase = match self.rows.get(&key) {
            Some(row) if row.kind != kind || row.fingerprint != fingerprint => {
                let mismatch = MismatchedKind::new(key.clone(), row.kind, kind);
                self.end(Ended::Mismatch(mismatch));
                Phase::Gone
            }
            Some(row) => {
                issued.run = Some(row.run);
                if row.is_finished() {
                    self.unissued -= 1;
                    self.deliverable.insert(row.sequence, key.clone());
                }
                Phase::Awaited
            }
            None => {
                issued.is_new = true;
                self.new.push_back(key.clone());
                Phase::New(operation)
            }
        };
        self.issued.insert(key.clone(), Issued { kind, phase, waker: None });
        if self.deliverable.is_empty() && self.unissued == 0 {
            self.start_new();
        }
        Ok(issued)
    }

    /// Starts issued operations; returns whether a step is among them.
    fn start_new(&mut self) -> bool {
        let mut has_steps = false;
        for key in std::mem::take(&mut self.new) {
            let Some(issued) = self.issued.get_mut(&key) else { continue };
            if !matches!(issued.phase, Phase::New(_)) {
                continue;
            }
            match std::mem::replace(&mut issued.phase, Phase::Computes) {
                Phase::New(Some(operation)) => {
                    issued.phase = Phase::Awaited;
                    self.outgoing.push(JournalWrite { key, operation: Some(*operation) });
                }
                _ => {
                    has_steps = true;
                    issued.wake();
                }
            }
        }
        has_steps
    }

    /// Whether a step may compute.
    pub(super) fn poll_started(&mut self, key: &JournalKey, waker: &Waker) -> bool {
        let Some(issued) = self.issued.get_mut(key) else { return false };
        let is_started = matches!(issued.phase, Phase::Computes);
        if !is_started {
            issued.waker = Some(waker.clone());
        }
        is_started
    }

    /// Writes the result of a step.
    pub(super) fn write_step(&mut self, key: &JournalKey, operation: Operation) {
        if let Some(issued) = self.issued.get_mut(key) {
            issued.phase = Phase::Awaited;
        }
        self.version += 1;
        self.outgoing.push(JournalWrite { key: key.clone(), operation: Some(operation) });
    }

    /// The outcome of an operation, once.
    pub(super) fn poll_outcome(
        &mut self,
        key: &JournalKey,
        waker: &Waker,
    ) -> Option<JournalOutcome> {
        let issued = self.issued.get_mut(key)?;
        match std::mem::replace(&mut issued.phase, Phase::Gone) {
            Phase::Ready(outcome) => Some(outcome),
            phase => {
                issued.phase = phase;
                issued.waker = Some(waker.clone());
                None
            }
        }
    }

    /// Called when the future of an operation ends or is dropped.
    pub(super) fn forget(&mut self, branch: BranchId, name: &ByteString, key: &JournalKey) {
        self.version += 1;
        self.branches[branch.0].unfinished.remove(name);
        if let Some(issued) = self.issued.get_mut(key) {
            issued.phase = Phase::Gone;
            issued.waker = None;
            if issued.kind != JournalKind::Step {
                // A dropped operation that was not written yet is not written any more.
                self.outgoing.retain(|write| write.key != *key);
            }
        }
        if let Some(row) = self.rows.get(key) {
            self.deliverable.remove(&row.sequence);
        }
    }

    /// Applies notifications from the partition.
    pub(super) fn apply(&mut self, notifications: Vec<Notification>) {
        for notification in notifications {
            match notification {
                Notification::Finished { key, sequence, finished_at, outcome } => {
                    self.finished(key, sequence, finished_at, outcome);
                }
                Notification::Refused { key, found } => {
                    let of = self.issued.get(&key).map_or(JournalKind::Step, |it| it.kind);
                    self.end(Ended::Mismatch(MismatchedKind::new(key, found, of)));
                }
                Notification::NotSuspended => {}
            }
        }
    }

    fn finished(&mut self, key: JournalKey, sequence: u64, at: Timestamp, with: JournalOutcome) {
        let row = self.rows.entry(key.clone()).or_default();
        if row.is_finished() {
            return; // Reported twice: the outcome read first counts.
        }
        (row.sequence, row.finished_at, row.outcome) = (sequence, at, Some(with));
        match self.issued.get(&key) {
            None => self.unissued += 1,
            Some(Issued { phase: Phase::Gone, .. }) => {}
            Some(_) => drop(self.deliverable.insert(sequence, key)),
        }
    }

    /// Called after a poll in which the handler did not end: delivers one outcome, or else starts
    /// new operations, or else finds that the handler waits.
    pub(super) fn advance(&mut self) -> Advanced {
        if let Some(end) = self.take_end() {
            return Advanced::Ended(end);
        }
        if let Some((_, key)) = self.deliverable.pop_first() {
            self.deliver(&key);
            return Advanced::Again;
        }
        if self.start_new() {
            return Advanced::Again;
        }
        Advanced::Waits(std::mem::take(&mut self.outgoing))
    }

    /// Keeps writes for later, because there are notifications.
    pub(super) fn give_back(&mut self, writes: Vec<JournalWrite>) {
        self.outgoing = writes;
    }

    fn deliver(&mut self, key: &JournalKey) {
        self.version += 1;
        let (Some(row), Some(issued)) = (self.rows.get(key), self.issued.get_mut(key)) else {
            return;
        };
        if let Some(outcome) = row.outcome() {
            self.now = row.finished_at;
            issued.phase = Phase::Ready(outcome);
            issued.wake();
        }
    }

    /// The operations that the attempt waits for, if they are only calls, promises and sleeps.
    /// Takes time in proportion to the number of operations, so it is called once per version, when
    /// the attempt waits.
    pub(super) fn waits(&self) -> Option<Vec<JournalKey>> {
        let is_gone = |issued: &Issued| matches!(issued.phase, Phase::Gone);
        let awaited = self.issued.iter().filter(|(_, issued)| !is_gone(issued));
        let durable = awaited.map(|(key, issued)| {
            let is_durable =
                matches!(issued.phase, Phase::Awaited) && issued.kind.is_durable_wait();
            is_durable.then(|| key.clone())
        });
        let mut waits = durable.collect::<Option<Vec<_>>>()?;
        waits.sort_unstable();
        (!waits.is_empty()).then_some(waits)
    }

    /// Whether it may request a suspension.
    pub(super) fn may_ask(&self) -> bool {
        !self.holds_limits && self.asked_at != Some(self.version)
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn suspend_requested(&mut self) {
        self.asked_at = Some(self.version);
    }
}
