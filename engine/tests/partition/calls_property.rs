//! Random sequences of actions by handlers, users, the clock and message delivery on entries with
//! journals, compared with simple notes: finished operations, created children, outcomes. The rows
//! are checked after every record (see `invariants`).

use std::collections::{BTreeMap, BTreeSet};

use forebay_engine::partition::{
    apply::Applied,
    rows::{JournalRow, Stage},
};
use forebay_messages::{
    EntryId, FailureKind, Outcome, Timestamp,
    command::{
        AfterRun, Command, EndRun, EntryAction, EntrySelector, NewChild, Operation, Purge, Restart,
        SettlePromise,
    },
    journal::{JournalKey, JournalKind, JournalOutcome},
};
use proptest::prelude::*;

use super::{
    fixture::name,
    partitions::{Partitions, child, key, success},
};

const PARTITIONS: usize = 3;
const OPERATIONS: [&str; 5] = ["a", "b", "c", "d", "e"];

#[derive(Clone, Debug)]
enum Step {
    Enqueue { vqueue: u8 },
    Start { nth: usize },
    Write { nth: usize, operation: usize, kind: u8, vqueue: u8 },
    Suspend { nth: usize, all: bool, releases_key: bool },
    Settle { nth: usize, name: usize },
    Wake { after: u64 },
    Deliver { source: usize, target: usize, count: usize, truncate: bool },
    End { nth: usize, how: u8 },
    Act { nth: usize, what: u8 },
    Restart { nth: usize, from: Option<usize> },
    EndRun { nth: usize, how: u8 },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let nth = || 0..12_usize;
    let operation = || 0..OPERATIONS.len();
    prop_oneof![
        4 => (0..4_u8).prop_map(|vqueue| Step::Enqueue { vqueue }),
        10 => nth().prop_map(|nth| Step::Start { nth }),
        16 => (nth(), operation(), 0..7_u8, 0..4_u8).prop_map(|(nth, operation, kind, vqueue)| {
            Step::Write { nth, operation, kind, vqueue }
        }),
        8 => (nth(), prop::bool::weighted(0.8), prop::bool::weighted(0.2))
            .prop_map(|(nth, all, releases_key)| Step::Suspend { nth, all, releases_key }),
        4 => (nth(), operation()).prop_map(|(nth, name)| Step::Settle { nth, name }),
        3 => (0..40_u64).prop_map(|after| Step::Wake { after }),
        12 => (0..PARTITIONS, 0..PARTITIONS, 1..4_usize, prop::bool::weighted(0.7)).prop_map(
            |(source, target, count, truncate)| Step::Deliver { source, target, count, truncate }
        ),
        6 => (nth(), 0..4_u8).prop_map(|(nth, how)| Step::End { nth, how }),
        5 => (nth(), 0..6_u8).prop_map(|(nth, what)| Step::Act { nth, what }),
        2 => (nth(), prop::option::of(operation()))
            .prop_map(|(nth, from)| Step::Restart { nth, from }),
        2 => (nth(), 0..3_u8).prop_map(|(nth, how)| Step::EndRun { nth, how }),
        1 => Just(Step::Reopen),
    ]
}

/// Notes taken from rows and effects only.
#[derive(Default)]
struct Notes {
    /// The outcome of each operation of each run.
    remembered: BTreeMap<(EntryId, u32, JournalKey), JournalOutcome>,
    /// Entries that were created.
    made: BTreeSet<EntryId>,
    /// Created entries that were purged.
    gone: BTreeSet<EntryId>,
    /// The first outcome of each entry that ended.
    ended: BTreeMap<EntryId, JournalOutcome>,
}

struct World {
    all: Partitions,
    notes: Notes,
    known: Vec<EntryId>,
}

impl World {
    fn new() -> Self {
        Self { all: Partitions::new(PARTITIONS), notes: Notes::default(), known: Vec::new() }
    }

    /// Examines the effects since the last call, and all rows.
    fn note(&mut self) {
        for applied in std::mem::take(&mut self.all.effects) {
            match applied {
                Applied::InboxAdded { key, .. } => {
                    assert!(!self.notes.gone.contains(&key.entry), "{} is made again", key.entry);
                    if self.notes.made.insert(key.entry) {
                        self.known.push(key.entry);
                    }
                }
                Applied::Finished { entry, outcome } => {
                    self.notes.ended.entry(entry).or_insert_with(|| outcome.into());
                }
                _ => {}
            }
        }
        for id in self.known.clone() {
            if self.all.stage(id).is_none() {
                self.notes.gone.insert(id);
            }
        }
        for replica in &self.all.replicas {
            for ((entry, key), row) in &replica.tables.journal {
                let Some(outcome) = row.outcome() else { continue };
                let place = (*entry, row.run.0, key.clone());
                let first = self.notes.remembered.entry(place).or_insert(outcome.clone());
                assert_eq!(*first, outcome, "{entry}: {key} was remembered otherwise");
                self.check_child(key, row, &outcome);
            }
        }
    }

    /// The answer to a call is the outcome of its child, or the reason why there is none.
    fn check_child(&self, key: &JournalKey, row: &JournalRow, outcome: &JournalOutcome) {
        if row.kind != JournalKind::Call {
            return;
        }
        let ended = row.child.and_then(|child| self.notes.ended.get(&child));
        match (row.child, ended) {
            (Some(_), Some(ended)) => assert_eq!(ended, outcome, "{key}"),
            (Some(child), None) => {
                assert!(!self.notes.made.contains(&child), "{key}: {child} has not ended");
                assert!(matches!(outcome, JournalOutcome::Failure(_)), "{key}: never made");
            }
            (None, _) => assert!(matches!(outcome, JournalOutcome::Failure(_)), "{key}: refused"),
        }
    }

    fn nth(&mut self, nth: usize, stages: &[Stage]) -> Option<EntryId> {
        let known = self.known.clone();
        let matching: Vec<_> = known
            .into_iter()
            .filter(|id| self.all.stage(*id).is_some_and(|stage| stages.contains(&stage)))
            .collect();
        (!matching.is_empty()).then(|| matching[nth % matching.len()])
    }

    fn running(&mut self, nth: usize) -> Option<EntryId> {
        self.nth(nth, &[Stage::Running])
    }

    /// Whether it waits and no other entry holds its lock.
    fn may_start(&mut self, id: EntryId) -> bool {
        let row = self.all.row(id).unwrap().clone();
        let holder = self.all.of(id).tables.locks.get(&row.vqueue).copied();
        row.stage == Stage::Inbox && holder.is_none_or(|holder| holder == id)
    }

    fn operation(&self, kind: u8, vqueue: u8, n: usize) -> Operation {
        let new = || NewChild { retention_ms: [None, Some(0)][n % 2], ..child(name(vqueue)) };
        match kind {
            0 | 1 => super::partitions::step(["x", "y", "z"][n % 3]),
            2 | 3 => Operation::Call(new()),
            4 => Operation::Send(NewChild { is_attached: n.is_multiple_of(2), ..new() }),
            5 => Operation::Sleep(Timestamp(self.all.now + 3 * n as u64)),
            _ => Operation::Promise(()),
        }
    }

    fn step(&mut self, step: &Step) -> Option<()> {
        let waiting = [Stage::Inbox, Stage::Running, Stage::Suspended, Stage::Paused];
        match *step {
            Step::Enqueue { vqueue } => {
                self.all.enqueue(name(vqueue));
            }
            Step::Start { nth } => {
                let id = self.nth(nth, &[Stage::Inbox])?;
                if self.may_start(id) {
                    self.all.start(id);
                }
            }
            Step::Write { nth, operation, kind, vqueue } => {
                let id = self.running(nth)?;
                let token = self.all.row(id)?.token;
                let what = self.operation(kind, vqueue, nth);
                assert!(self.all.write_one(id, token, OPERATIONS[operation], what));
            }
            Step::Suspend { nth, all, releases_key } => self.suspend(nth, all, releases_key)?,
            Step::Settle { .. } | Step::Wake { .. } | Step::Deliver { .. } => self.answer(step)?,
            Step::End { nth, how } => {
                let id = self.running(nth)?;
                let token = self.all.row(id)?.token;
                let outcome = match how {
                    0 => Outcome::failure(FailureKind::Terminal, "no"),
                    1 => Outcome::failure(FailureKind::Exhausted, "no"),
                    _ => Outcome::Success("done".into()),
                };
                self.all.end(id, token, outcome);
            }
            Step::Act { nth, what } => self.act(nth, what)?,
            Step::Restart { nth, from } => {
                let id = self.nth(nth, &[&waiting[..], &[Stage::Finished]].concat())?;
                let selector = EntrySelector { entries: vec![id], ..EntrySelector::default() };
                let from = from.map(|operation| key(OPERATIONS[operation]));
                self.all.run(id, Command::Restart(Restart { selector, from }));
            }
            Step::EndRun { nth, how } => {
                let id = self.running(nth)?;
                let token = self.all.row(id)?.token;
                let then = Some(match how {
                    0 => AfterRun::Pause("changed".into()),
                    1 => AfterRun::Restart("changed".into()),
                    _ => AfterRun::ContinueWith("more".into()),
                });
                self.all.run(id, Command::EndRun(EndRun { entry: id, token, then }));
            }
            Step::Reopen => self.all.restart_all(),
        }
        Some(())
    }

    /// Answers that do not come from handlers.
    fn answer(&mut self, step: &Step) -> Option<()> {
        let live = [Stage::Inbox, Stage::Running, Stage::Suspended, Stage::Paused];
        match *step {
            Step::Settle { nth, name } => {
                let id = self.nth(nth, &live)?;
                let (name, outcome) = (OPERATIONS[name].into(), Some(success("settled")));
                let settle = SettlePromise { entry: id, name, outcome };
                self.all.run(id, Command::SettlePromise(settle));
            }
            Step::Wake { after } => {
                let until = self.all.now + after;
                for owner in 0..PARTITIONS {
                    let of = EntryId {
                        partition_key: forebay_messages::PartitionKey(owner as u64),
                        ..EntryId::default()
                    };
                    self.all.wake(of, until);
                }
            }
            Step::Deliver { source, target, count, truncate } => {
                let mut messages = self.all.pending(source).remove(&target)?;
                messages.truncate(count);
                let indexes = messages.iter().map(|message| message.index).collect();
                self.all.deliver(source, target, messages);
                if truncate {
                    self.all.truncate(source, indexes);
                }
            }
            _ => unreachable!("not an answer: {step:?}"),
        }
        Some(())
    }

    fn suspend(&mut self, nth: usize, all: bool, releases_key: bool) -> Option<()> {
        let id = self.running(nth)?;
        let token = self.all.row(id)?.token;
        let journal = self.all.journal(id);
        let is_pending = |key: &str| {
            let row = journal.get(&self::key(key));
            row.is_some_and(|row| !row.is_finished())
        };
        let waits: Vec<_> = OPERATIONS.into_iter().filter(|key| !all || is_pending(key)).collect();
        let asked = self.all.row(id)?.cancel_requested;
        let expected = !waits.is_empty() && !asked && waits.iter().all(|key| is_pending(key));
        let done = self.all.suspend_with(id, token, &waits, releases_key);
        assert_eq!(done, expected, "{id} waits for {waits:?}");
        Some(())
    }

    fn act(&mut self, nth: usize, what: u8) -> Option<()> {
        let all = [Stage::Inbox, Stage::Running, Stage::Suspended, Stage::Paused, Stage::Finished];
        let id = self.nth(nth, &all)?;
        let these = EntrySelector { entries: vec![id], ..EntrySelector::default() };
        let command = match what {
            0 => Command::Cancel(these),
            1 => Command::Kill(these),
            2 => EntryAction::Pause.command(these),
            3 => Command::Resume(these),
            4 => Command::Redrive(these),
            _ => Command::Purge(Purge { entries: vec![id], ..Purge::default() }),
        };
        self.all.run(id, command);
        Some(())
    }

    /// Kills every live entry and delivers every message.
    fn kill_and_deliver_all(&mut self) {
        loop {
            self.all.deliver_all();
            self.note();
            let Some(id) = self.known.clone().into_iter().find(|id| self.all.row(*id).is_some())
            else {
                break;
            };
            let these = EntrySelector { entries: vec![id], ..EntrySelector::default() };
            self.all.run(id, Command::Kill(these));
            self.note();
        }
        for replica in &self.all.replicas {
            assert!(replica.tables.outbox.is_empty(), "everything was delivered");
            for ((entry, key), row) in &replica.tables.journal {
                let is_answered = row.kind != JournalKind::Call || row.is_finished();
                assert!(is_answered, "{entry} waits forever for {key}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
    #[test]
    fn nothing_is_forgotten_or_made_twice_and_every_call_is_answered(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            world.note();
        }
        world.kill_and_deliver_all();
    }
}
