//! The meaning of the commands, implemented a second time and as simply as possible: no rows, no
//! indexes; every question is answered by examining everything.

use std::collections::{BTreeMap, BTreeSet};

use bytestring::ByteString;
use forebay_engine::{
    partition::{
        apply::{Acted, BacklogFull, Enqueued, Reply, Skip, Stale},
        mem::MemTables,
        rows::Stage,
    },
    rules::RuleBook,
};
use forebay_messages::{
    AttemptToken, EntryId, FailureKind, Outcome, Producer, Record, VQueueId, VQueueName,
    command::{
        Command, Complete, Decision, EntrySelector, NewEntry, Purge, RetryAttempt, RetryReason,
        VQueueSelector,
    },
};

/// Has the lock, time, order of arrival.
type Place = (bool, u64, u64);

#[derive(Clone, Debug, PartialEq)]
struct Live {
    new: NewEntry,
    created: u64,
    stage: Stage,
    place: Place,
    attempts: u32,
    token: AttemptToken,
    cancel: bool,
    /// Numbers of the kept failed attempts.
    failures: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq)]
struct Done {
    new: NewEntry,
    created: u64,
    failed: Option<FailureKind>,
    expires: u64,
    attempts: u32,
    failures: Vec<u32>,
}

/// The whole state of a partition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    live: BTreeMap<EntryId, Live>,
    done: BTreeMap<EntryId, Done>,
    paused: BTreeSet<VQueueId>,
    locks: BTreeMap<VQueueId, EntryId>,
    book: RuleBook,
    epoch: u64,
    leader_seen: (u64, u64),
    others_seen: BTreeMap<(bool, u64), u64>,
    latest: u64,
    order: u64,
}

const DAY_MS: u64 = 86_400_000;

fn named(name: &VQueueName, of: [&Option<ByteString>; 3]) -> bool {
    let [service, scope, key] = of;
    let below = |key: &ByteString| {
        let own = name.limit_key();
        // An empty key is that of no name, and so not that of a name without a limit key.
        !key.is_empty() && (own == **key || own.starts_with(&format!("{key}/")))
    };
    service.as_ref().is_none_or(|service| name.service == *service)
        && (scope.is_none() || name.scope == *scope)
        && key.as_ref().is_none_or(below)
}

fn fits(selector: &EntrySelector, name: &VQueueName, stage: Stage, created: u64) -> bool {
    named(name, [&selector.service, &selector.scope, &selector.limit_key])
        && selector.stage.is_none_or(|wanted| wanted == stage as u32)
        && selector.created_until.is_none_or(|until| created <= until.0)
}

fn unique(entries: &[EntryId]) -> Vec<EntryId> {
    let mut seen = BTreeSet::new();
    entries.iter().copied().filter(|id| seen.insert(*id)).collect()
}

impl Model {
    #[expect(clippy::too_many_lines, reason = "one arm per command")]
    pub(crate) fn apply(&mut self, record: &Record) -> Reply {
        if let Some(reply) = self.refuse(&record.producer) {
            return reply;
        }
        let now = record.created_at.0;
        match record.command.as_ref().unwrap() {
            Command::Enqueue(new) => {
                self.all_or_none(|model| Ok(Reply::Enqueued(model.enqueue(now, &new.entry)?)))
            }
            Command::EnqueueBatch(batch) => self.all_or_none(|model| {
                let stored = batch.entries.iter().map(|new| model.enqueue(now, new));
                Ok(Reply::EnqueuedBatch(stored.collect::<Result<_, _>>()?))
            }),
            Command::SchedulerDecisions(of) => {
                Reply::Changed(of.decisions.iter().map(|one| self.decide(one)).sum())
            }
            Command::Complete(command) => self.complete(now, command),
            Command::Retry(command) => self.retry(now, command),
            Command::EndAttempts(ends) => {
                let completed: Vec<_> =
                    ends.completed.iter().map(|one| self.complete(now, one)).collect();
                let retried: Vec<_> = ends.retried.iter().map(|one| self.retry(now, one)).collect();
                let replies = completed.into_iter().chain(retried);
                Reply::Changed(replies.filter(|reply| *reply == Reply::Changed(1)).count() as u64)
            }
            Command::Cancel(selector) => self.each(selector, |model, id| model.cancel(now, id)),
            Command::Kill(selector) => self.each(selector, |model, id| {
                model.end(now, id, Some(FailureKind::Killed));
                Ok(())
            }),
            Command::Pause(selector) => {
                self.each(selector, |model, id| model.turn(id, Stage::Inbox, Stage::Paused))
            }
            Command::Resume(selector) => {
                self.each(selector, |model, id| model.turn(id, Stage::Paused, Stage::Inbox))
            }
            Command::Reschedule(command) => {
                self.each(&command.selector, |model, id| model.reschedule(id, command.run_at.0))
            }
            Command::PauseVQueue(selector) => self.pause(selector, true),
            Command::ResumeVQueue(selector) => self.pause(selector, false),
            Command::UpsertRuleBook(command) => self.rule_book(&command.rule_book),
            Command::Purge(command) => self.purge(command),
            Command::Redrive(selector) => self.redrive(now, selector),
            Command::AnnounceLeader(command) => {
                if command.epoch.0 <= self.epoch {
                    return Reply::Stale(Stale::Older);
                }
                self.epoch = command.epoch.0;
                Reply::Changed(0)
            }
            Command::VersionBarrier(_) | Command::UpdateDurability(_) => Reply::Changed(0),
            Command::TruncateOutbox(_)
            | Command::WriteJournal(_)
            | Command::Suspend(_)
            | Command::SettlePromise(_)
            | Command::Deliver(_)
            | Command::WakeSleepers(_)
            | Command::Restart(_)
            | Command::EndRun(_)
            | Command::FailCalls(_)
            | Command::BeginIncarnation(_)
            | Command::CheckCalls(_)
            | Command::Reserved(()) => unreachable!("not made"),
        }
    }

    fn refuse(&mut self, producer: &Option<Producer>) -> Option<Reply> {
        let (who, seq) = match producer.as_ref()? {
            Producer::Leader(own) if own.epoch.0 < self.epoch => return Some(Reply::Fenced),
            Producer::Leader(own) => {
                let seen = (own.epoch.0, own.seq.0);
                if seen <= self.leader_seen {
                    return Some(Reply::Duplicate);
                }
                self.leader_seen = seen;
                return None;
            }
            Producer::External(other) => ((false, other.id), other.seq.0),
            Producer::Partition(other) => ((true, u64::from(other.source.0)), other.index.0),
        };
        if self.others_seen.get(&who).is_some_and(|seen| seq <= *seen) {
            return Some(Reply::Duplicate);
        }
        self.others_seen.insert(who, seq);
        None
    }

    fn vqueue(&self, id: EntryId) -> VQueueId {
        self.live[&id].new.vqueue.id_for(id)
    }

    fn next_place(&mut self, has_lock: bool, run_at: u64) -> Place {
        self.order += 1;
        (has_lock, run_at, self.order)
    }

    fn next_default_time(&mut self, now: u64) -> u64 {
        self.latest = self.latest.max(now);
        self.latest
    }

    fn all_or_none(
        &mut self,
        change: impl FnOnce(&mut Self) -> Result<Reply, BacklogFull>,
    ) -> Reply {
        let before = self.clone();
        change(self).unwrap_or_else(|full| {
            *self = before;
            Reply::BacklogFull(Box::new(full))
        })
    }

    /// Whether a level of this name's key has its maximum number of waiting entries, the deepest
    /// first.
    fn full(&self, name: &VQueueName) -> Result<(), BacklogFull> {
        let levels = |name: &VQueueName| {
            let all = [&name.scope, &name.l1, &name.l2];
            all.into_iter().map_while(|level| level.as_ref().map(ToString::to_string)).collect()
        };
        let key: Vec<String> = levels(name);
        for depth in (1..=key.len()).rev() {
            let level: Vec<&str> = key[..depth].iter().map(|part| &**part).collect();
            let matching = self.book.rules().filter(|rule| rule.pattern.matches(&level));
            let Some(rule) = matching.max_by_key(|rule| rule.pattern.rank()) else { continue };
            let Some(limit) = rule.limits.backlog else { continue };
            let waits = self.live.values().filter(|entry| {
                let own: Vec<String> = levels(&entry.new.vqueue);
                entry.stage == Stage::Inbox && own.len() >= depth && own[..depth] == key[..depth]
            });
            let (waiting, limit) = (waits.count() as u64, limit.get());
            if waiting >= u64::from(limit) {
                let (rule, pattern) = (rule.id(), rule.pattern.clone());
                return Err(BacklogFull { key: level.join("/"), rule, pattern, waiting, limit });
            }
        }
        Ok(())
    }

    fn enqueue(&mut self, now: u64, new: &NewEntry) -> Result<Enqueued, BacklogFull> {
        let same_key = |other: &NewEntry| {
            new.idempotency_key.is_some()
                && other.idempotency_key == new.idempotency_key
                && other.vqueue.service == new.vqueue.service
                && other.vqueue.scope == new.vqueue.scope
        };
        let live = self.live.values().map(|entry| &entry.new);
        let known = live.chain(self.done.values().map(|entry| &entry.new));
        let first = known.clone().find(|other| same_key(other));
        if let Some(first) = first.or_else(|| known.clone().find(|other| other.id == new.id)) {
            return Ok(Enqueued { entry: first.id, existing: true, payload_differs: None });
        }
        self.full(&new.vqueue)?;
        let run_at = match new.run_at {
            Some(at) => at.0,
            None => self.next_default_time(now),
        };
        let entry = Live {
            new: new.clone(),
            created: now,
            stage: Stage::Inbox,
            place: self.next_place(false, run_at),
            attempts: 0,
            token: AttemptToken::default(),
            cancel: false,
            failures: Vec::new(),
        };
        self.live.insert(new.id, entry);
        Ok(Enqueued { entry: new.id, existing: false, payload_differs: Some(false) })
    }

    fn decide(&mut self, decision: &Decision) -> u64 {
        let id = decision.key.entry;
        let place = (decision.key.has_lock, decision.key.run_at.0, decision.key.seq.0);
        let Some(entry) = self.live.get_mut(&id) else { return 0 };
        let vqueue = entry.new.vqueue.id_for(id);
        let holder = self.locks.get(&vqueue);
        let may = entry.stage == Stage::Inbox
            && entry.place == place
            && vqueue == decision.vqueue
            && !self.paused.contains(&vqueue)
            && holder.is_none_or(|holder| *holder == id);
        if may {
            (entry.stage, entry.token) = (Stage::Running, decision.token);
            if entry.new.vqueue.has_lock() {
                self.locks.insert(vqueue, id);
            }
        }
        u64::from(may)
    }

    fn running(&self, id: EntryId, token: AttemptToken) -> Result<(), Reply> {
        Err(Reply::Stale(match self.live.get(&id) {
            Some(entry) if entry.stage == Stage::Running && entry.token == token => return Ok(()),
            Some(_) => Stale::Superseded,
            None if self.done.contains_key(&id) => Stale::Finished,
            None => Stale::Unknown,
        }))
    }

    fn end(&mut self, now: u64, id: EntryId, failed: Option<FailureKind>) {
        let vqueue = self.vqueue(id);
        let entry = self.live.remove(&id).unwrap();
        if self.locks.get(&vqueue) == Some(&id) {
            self.locks.remove(&vqueue);
        }
        let retention = entry.new.retention_ms.unwrap_or(DAY_MS);
        if retention > 0 {
            let Live { new, created, attempts, failures, .. } = entry;
            let expires = now.saturating_add(retention);
            self.done.insert(id, Done { new, created, failed, expires, attempts, failures });
        }
    }

    fn complete(&mut self, now: u64, command: &Complete) -> Reply {
        if let Err(stale) = self.running(command.entry, command.token) {
            return stale;
        }
        self.live.get_mut(&command.entry).unwrap().attempts += 1;
        let failed = match command.outcome.clone().map(Outcome::from) {
            Some(Outcome::Failure(failure)) => Some(failure.kind),
            Some(Outcome::Success(_)) | None => None,
        };
        self.end(now, command.entry, failed);
        Reply::Changed(1)
    }

    fn retry(&mut self, now: u64, command: &RetryAttempt) -> Reply {
        let id = command.entry;
        if let Err(stale) = self.running(id, command.token) {
            return stale;
        }
        let entry = self.live.get_mut(&id).unwrap();
        entry.attempts += u32::from(command.reason == RetryReason::Failed);
        let max = entry.new.retry.unwrap_or_default().attempts_max;
        let exhausted = command.reason == RetryReason::Failed && max > 0 && entry.attempts >= max;
        let (cancel, has_lock, before) = (entry.cancel, entry.new.vqueue.has_lock(), entry.place.1);
        if exhausted || cancel {
            let kind = if exhausted { FailureKind::Exhausted } else { FailureKind::Canceled };
            self.end(now, id, Some(kind));
            return Reply::Changed(1);
        }
        let run_at = if command.run_at.0 == 0 { before } else { command.run_at.0 };
        let place = self.next_place(has_lock, run_at);
        let entry = self.live.get_mut(&id).unwrap();
        (entry.stage, entry.place) = (Stage::Inbox, place);
        if command.keeps_failure && command.reason == RetryReason::Failed {
            entry.failures.push(entry.attempts);
            let surplus = entry.failures.len().saturating_sub(8);
            entry.failures.drain(..surplus);
        }
        Reply::Changed(1)
    }

    /// Applies a change to each named entry, once, and collects the refusals.
    fn ask(
        &mut self,
        named: &[EntryId],
        mut change: impl FnMut(&mut Self, EntryId) -> Result<(), Skip>,
    ) -> Acted {
        let mut acted = Acted::default();
        for id in unique(named) {
            match change(self, id) {
                Ok(()) => acted.changed += 1,
                Err(skip) => acted.skipped.push((id, skip)),
            }
        }
        acted
    }

    fn each(
        &mut self,
        selector: &EntrySelector,
        mut change: impl FnMut(&mut Self, EntryId) -> Result<(), Skip>,
    ) -> Reply {
        Reply::Acted(self.ask(&selector.entries, |model, id| {
            let Some(entry) = model.live.get(&id) else {
                return Err(match model.done.contains_key(&id) {
                    true => Skip::Finished,
                    false => Skip::Unknown,
                });
            };
            let (name, stage, created) = (&entry.new.vqueue, entry.stage, entry.created);
            let fits = fits(selector, name, stage, created);
            // A refused change has no effect.
            let mut after = model.clone();
            change(&mut after, id)?;
            if !fits {
                return Err(Skip::NoMatch);
            }
            *model = after;
            Ok(())
        }))
    }

    fn cancel(&mut self, now: u64, id: EntryId) -> Result<(), Skip> {
        let entry = self.live.get_mut(&id).unwrap();
        if entry.stage != Stage::Running {
            self.end(now, id, Some(FailureKind::Canceled));
            return Ok(());
        }
        match std::mem::replace(&mut entry.cancel, true) {
            true => Err(Skip::AlreadyCanceled),
            false => Ok(()),
        }
    }

    fn turn(&mut self, id: EntryId, from: Stage, to: Stage) -> Result<(), Skip> {
        let entry = self.live.get_mut(&id).unwrap();
        match entry.stage {
            stage if stage == from => entry.stage = to,
            _ if to == Stage::Inbox => return Err(Skip::NotPaused),
            Stage::Paused => return Err(Skip::AlreadyPaused),
            _ => return Err(Skip::Running),
        }
        Ok(())
    }

    fn reschedule(&mut self, id: EntryId, run_at: u64) -> Result<(), Skip> {
        let entry = self.live.get_mut(&id).unwrap();
        match entry.stage {
            Stage::Inbox => {
                let has_lock = entry.place.0;
                let place = self.next_place(has_lock, run_at);
                self.live.get_mut(&id).unwrap().place = place;
            }
            Stage::Paused => entry.place.1 = run_at,
            _ => return Err(Skip::Running),
        }
        Ok(())
    }

    /// Every vqueue that has entries or is paused.
    fn vqueues(&self) -> BTreeMap<VQueueId, VQueueName> {
        let live = self.live.values().map(|entry| &entry.new);
        let all = live.chain(self.done.values().map(|entry| &entry.new));
        let mut found: BTreeMap<_, _> =
            all.map(|new| (new.vqueue.id_for(new.id), new.vqueue.clone())).collect();
        for n in 0..super::fixture::NAMES {
            if self.paused.contains(&super::fixture::vqueue(n)) {
                found.insert(super::fixture::vqueue(n), super::fixture::name(n));
            }
        }
        found
    }

    fn pause(&mut self, selector: &VQueueSelector, paused: bool) -> Reply {
        let known = self.vqueues();
        let of = [&selector.service, &selector.scope, &selector.limit_key];
        let mut acted = Acted::default();
        let mut seen = BTreeSet::new();
        for id in selector.vqueues.iter().copied().filter(|id| seen.insert(*id)) {
            let is_paused = self.paused.contains(&id);
            let skip = match known.get(&id) {
                None => Skip::Unknown,
                Some(name) if !named(name, of) => Skip::NoMatch,
                Some(_) if is_paused && paused => Skip::AlreadyPaused,
                Some(_) if !is_paused && !paused => Skip::NotPaused,
                Some(_) => {
                    acted.changed += 1;
                    if paused {
                        self.paused.insert(id)
                    } else {
                        self.paused.remove(&id)
                    };
                    continue;
                }
            };
            acted.skipped.push((id, skip));
        }
        Reply::VQueuesActed(acted)
    }

    fn rule_book(&mut self, bytes: &[u8]) -> Reply {
        match RuleBook::decode(bytes) {
            Err(error) => Reply::RuleBookRefused(error.to_string()),
            Ok(book) if book.version() <= self.book.version() => Reply::Stale(Stale::Older),
            Ok(book) => {
                // Each version has one rule more than the one before.
                let before = std::mem::replace(&mut self.book, book);
                Reply::Changed(self.book.version().0 - before.version().0)
            }
        }
    }

    fn purge(&mut self, command: &Purge) -> Reply {
        let mut acted = self.ask(&command.entries, |model, id| match model.done.remove(&id) {
            Some(_) => Ok(()),
            None if model.live.contains_key(&id) => Err(Skip::NotFinished),
            None => Err(Skip::Unknown),
        });
        if let Some(until) = command.expired_until {
            let mut due: Vec<_> = self.done.iter().map(|(id, done)| (done.expires, *id)).collect();
            due.retain(|(expires, _)| *expires <= until.0 && *expires < u64::MAX);
            due.sort_unstable();
            let count = if command.count_max == 0 { due.len() } else { command.count_max as usize };
            for (_, id) in due.into_iter().take(count) {
                self.done.remove(&id);
                acted.changed += 1;
            }
        }
        Reply::Acted(acted)
    }

    fn redrive(&mut self, now: u64, selector: &EntrySelector) -> Reply {
        Reply::Acted(self.ask(&selector.entries, |model, id| {
            let Some(done) = model.done.get(&id) else {
                return Err(match model.live.contains_key(&id) {
                    true => Skip::NotFinished,
                    false => Skip::Unknown,
                });
            };
            if done.failed.is_none() {
                return Err(Skip::Succeeded);
            }
            if !fits(selector, &done.new.vqueue, Stage::Finished, done.created) {
                return Err(Skip::NoMatch);
            }
            let done = model.done.remove(&id).unwrap();
            let run_at = model.next_default_time(now);
            let entry = Live {
                new: done.new,
                created: done.created,
                stage: Stage::Inbox,
                place: model.next_place(false, run_at),
                attempts: 0,
                token: AttemptToken::default(),
                cancel: false,
                failures: done.failures,
            };
            model.live.insert(id, entry);
            Ok(())
        }))
    }

    /// Checks that the rows equal the model.
    pub(crate) fn compare(&self, tables: &MemTables) {
        assert!(tables.entries.keys().eq(self.live.keys()), "entries that have not ended");
        for (id, entry) in &self.live {
            let row = &tables.entries[id];
            assert_eq!(row.stage, entry.stage, "stage of {id}");
            let place = (row.key.has_lock, row.key.run_at.0, row.key.seq.0);
            assert_eq!(place, entry.place, "place of {id}");
            assert_eq!(row.vqueue, self.vqueue(*id), "vqueue of {id}");
            assert_eq!(
                (row.attempts, row.token, row.cancel_requested, row.created_at.0),
                (entry.attempts, entry.token, entry.cancel, entry.created),
                "attempts of {id}"
            );
            let numbers = row.failures().iter().map(|failure| failure.number);
            assert!(numbers.eq(entry.failures.iter().copied()), "failed attempts of {id}");
            assert_eq!(tables.payloads[id], entry.new.payload, "payload of {id}");
        }
        assert!(tables.finished.keys().eq(self.done.keys()), "results");
        for (id, done) in &self.done {
            let row = &tables.finished[id];
            let failed = match row.outcome() {
                Outcome::Success(_) => None,
                Outcome::Failure(failure) => Some(failure.kind),
            };
            assert_eq!((row.attempts, failed), (done.attempts, done.failed), "end of {id}");
            let numbers = row.failures().iter().map(|failure| failure.number);
            assert!(numbers.eq(done.failures.iter().copied()), "failed attempts of {id}");
            assert_eq!(row.expires_at.0, done.expires, "expiry of {id}");
        }
        assert_eq!(tables.locks, self.locks, "locks");
        for (id, meta) in &tables.vqueues {
            assert_eq!(meta.is_paused, self.paused.contains(id), "pause of {id}");
        }
        assert!(tables.vqueues.keys().eq(self.vqueues().keys()), "known vqueues");
    }
}
