//! Attempts from their decision until they are over, with their permits.

use std::collections::VecDeque;

use forebay_messages::{
    AttemptToken, EntryId, EntryKey, Epoch, FailureKind, Outcome, PermitId, Timestamp, VQueueId,
    actor::{AttemptEnd, LimiterMessage, Permits, Release, VQueueMessage},
    command::{Command, Complete, Decision, EndRun, RetryAttempt, RetryPolicy, RetryReason},
    outcome::Failure,
};

use crate::machine::Map;

use super::{
    super::apply::Applied,
    Partition, backoff,
    drain::hand_back,
    effect::PartitionEffect,
    ended::{self, End},
    input::EarlyStart,
    stopping::KnownAttempt,
};

/// Progress of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Its decision is proposed but not applied.
    Proposed {
        /// The place it was decided at.
        key: EntryKey,
        /// Set if its handler already runs.
        info: Option<AttemptInfo>,
    },
    /// Its decision is applied.
    Running {
        /// Its number and retry policy.
        info: AttemptInfo,
        /// Its decision is in this batch: its handler has not been started yet.
        is_starting: bool,
    },
}

/// Number and retry policy of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AttemptInfo {
    /// What happens if it fails.
    retry: RetryPolicy,
    /// Its number, from 1.
    attempt: u32,
}

impl Progress {
    /// Whether `Run` was emitted for it.
    fn was_started(self) -> bool {
        match self {
            Self::Proposed { info, .. } => info.is_some(),
            Self::Running { is_starting, .. } => !is_starting,
        }
    }

    /// The info of an attempt whose handler may run.
    fn info(self) -> Option<AttemptInfo> {
        match self {
            Self::Proposed { info, .. } => info,
            Self::Running { info, .. } => Some(info),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    entry: EntryId,
    vqueue: VQueueId,
    /// P2: released exactly once. Absent only until a limiter is seeded.
    permit: Option<PermitId>,
    progress: Progress,
    /// Its handler was started here, and is not known to have stopped.
    has_handler: bool,
}

/// All attempts of this partition that concern a leader.
///
/// By token and not by entry: an entry that is paused and resumed, or moved, while its decision is
/// in transit may be decided again before the first decision turns out void (or the second does).
/// At most one of them runs.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    by_token: Map<AttemptToken, Attempt>,
    /// Places that are decided but not confirmed, in the order of their decisions, in which they
    /// are mostly confirmed. A place occurs twice only in the case above.
    proposed: Map<VQueueId, VecDeque<(EntryKey, AttemptToken)>>,
    pending: Vec<Decision>,
    /// Ends that were reported but not proposed yet.
    ended: Vec<End>,
    /// Entries whose handler runs while the decision is still in transit: one attempt per entry.
    begun: Map<EntryId, AttemptToken>,
    /// Messages to handlers at the end of the batch.
    starting: Vec<PartitionEffect>,
    next_seq: u64,
}

impl Attempts {
    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.by_token.is_empty()
    }

    /// Attempts of earlier epochs, vqueue by vqueue and in the order of their starts.
    pub(super) fn before(&self, epoch: Epoch) -> Vec<KnownAttempt> {
        let is_before = |(token, _): &(&AttemptToken, &Attempt)| token.epoch < epoch;
        let of = |(token, of): (&AttemptToken, &Attempt)| KnownAttempt {
            vqueue: of.vqueue,
            entry: of.entry,
            token: *token,
        };
        let mut found: Vec<_> = self.by_token.iter().filter(is_before).map(of).collect();
        found.sort_unstable_by_key(|known| (known.vqueue, known.token));
        found
    }

    /// Number of them per vqueue.
    pub(super) fn count_before(&self, epoch: Epoch) -> Map<VQueueId, usize> {
        let mut counts = Map::default();
        for (_, attempt) in self.by_token.iter().filter(|(token, _)| token.epoch < epoch) {
            *counts.entry(attempt.vqueue).or_default() += 1;
        }
        counts
    }

    /// Attempts of an epoch whose decision is applied and whose end is not proposed.
    pub(super) fn running_under(&self, epoch: Epoch) -> Vec<(EntryId, AttemptToken)> {
        let has_ended = |token| self.ended.iter().any(|end| end.token() == token);
        let is_running = |(token, attempt): &(&AttemptToken, &Attempt)| {
            let is_applied = matches!(attempt.progress, Progress::Running { .. });
            token.epoch == epoch && is_applied && !has_ended(**token)
        };
        let running = self.by_token.iter().filter(is_running);
        let mut found: Vec<_> = running.map(|(token, of)| (of.entry, *token)).collect();
        found.sort_unstable_by_key(|(_, token)| *token);
        found
    }

    /// Attempts whose decision is proposed but not applied.
    pub(super) fn proposed(&self) -> Vec<KnownAttempt> {
        let mut found = Vec::new();
        for (vqueue, places) in &self.proposed {
            for (key, token) in places {
                found.push(KnownAttempt { vqueue: *vqueue, entry: key.entry, token: *token });
            }
        }
        found.sort_unstable();
        found
    }

    /// Places of a vqueue that are handed out but not confirmed.
    pub(super) fn dispatched(&self, vqueue: VQueueId) -> Vec<EntryKey> {
        let places = self.proposed.get(&vqueue).into_iter().flatten();
        let mut keys: Vec<_> = places.map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Whether a decision for exactly this place is in transit.
    fn is_dispatched(&self, vqueue: VQueueId, key: EntryKey) -> bool {
        let mut places = self.proposed.get(&vqueue).into_iter().flatten();
        places.any(|(other, _)| *other == key)
    }

    fn propose(&mut self, key: EntryKey, token: AttemptToken, vqueue: VQueueId, permit: PermitId) {
        let progress = Progress::Proposed { key, info: None };
        let (entry, permit, has_handler) = (key.entry, Some(permit), false);
        let attempt = Attempt { entry, vqueue, permit, progress, has_handler };
        self.by_token.insert(token, attempt);
        self.proposed.entry(vqueue).or_default().push_back((key, token));
        self.pending.push(Decision { vqueue, key, token, executor: None });
    }

    /// A decision is applied: its place is confirmed, one way or the other.
    fn confirm(&mut self, vqueue: VQueueId, token: AttemptToken) {
        let Some(places) = self.proposed.get_mut(&vqueue) else { return };
        if let Some(at) = places.iter().position(|(_, other)| *other == token) {
            places.remove(at);
        }
        if places.is_empty() {
            self.proposed.remove(&vqueue);
        }
    }

    /// Sets the permit of an attempt that was running before the limiter started.
    pub(super) fn set_permit(
        &mut self,
        KnownAttempt { vqueue, entry, token }: KnownAttempt,
        permit: PermitId,
    ) {
        let attempt = self.by_token.entry(token).or_insert(Attempt {
            entry,
            vqueue,
            permit: None,
            progress: Progress::Running {
                info: AttemptInfo { retry: RetryPolicy::default(), attempt: 1 },
                is_starting: false,
            },
            has_handler: false,
        });
        attempt.permit = Some(permit);
    }

    /// An attempt is now running in the rows: returns the handler started early for another
    /// attempt, which must stop.
    fn begun_other(&mut self, entry: EntryId, token: AttemptToken) -> Option<AttemptToken> {
        let begun = self.begun.remove(&entry).filter(|begun| *begun != token)?;
        if let Some(Attempt { progress: Progress::Proposed { info, .. }, .. }) =
            self.by_token.get_mut(&begun)
        {
            *info = None;
        }
        Some(begun)
    }

    /// Takes the handler of an attempt that must stop; `None` if there is none.
    pub(super) fn take_handler(&mut self, token: AttemptToken) -> Option<KnownAttempt> {
        let known = self.by_token.get_mut(&token)?;
        let (vqueue, entry) = (known.vqueue, known.entry);
        std::mem::take(&mut known.has_handler).then_some(KnownAttempt { vqueue, entry, token })
    }

    /// The handler of an attempt has stopped.
    pub(super) fn forget_handler(&mut self, token: AttemptToken) {
        if let Some(known) = self.by_token.get_mut(&token) {
            known.has_handler = false;
        }
    }

    /// Which attempt of an entry runs although its decision is not applied.
    pub(super) fn begun(&self, entry: EntryId) -> Option<AttemptToken> {
        self.begun.get(&entry).copied()
    }

    /// Whether the handler of an attempt was started, and not asked to stop.
    pub(super) fn listens(&self, token: AttemptToken) -> bool {
        let known = self.by_token.get(&token);
        known.is_some_and(|known| known.has_handler && known.progress.was_started())
    }

    /// Whether an attempt is known that is not over.
    pub(super) fn knows(&self, token: AttemptToken) -> bool {
        self.by_token.contains_key(&token)
    }

    /// The limiter is gone, and all permits with it.
    pub(super) fn forget_permits(&mut self) {
        self.by_token.values_mut().for_each(|attempt| attempt.permit = None);
    }

    fn remove(&mut self, token: AttemptToken) -> Option<Attempt> {
        let attempt = self.by_token.remove(&token)?;
        if let Progress::Proposed { .. } = attempt.progress {
            self.confirm(attempt.vqueue, token);
        }
        if self.begun.get(&attempt.entry) == Some(&token) {
            self.begun.remove(&attempt.entry);
        }
        Some(attempt)
    }

    /// Drops everything because another leader is in charge. Returns the attempts whose handlers
    /// may run.
    pub(super) fn clear(&mut self) -> Vec<KnownAttempt> {
        self.pending.clear();
        self.ended.clear();
        self.begun.clear();
        self.proposed.clear();
        self.starting.clear();
        let mut handlers: Vec<_> = std::mem::take(&mut self.by_token)
            .into_iter()
            .filter(|(_, attempt)| attempt.has_handler)
            .map(|(token, Attempt { vqueue, entry, .. })| KnownAttempt { vqueue, entry, token })
            .collect();
        handlers.sort_unstable_by_key(|known| known.token);
        handlers
    }

    pub(super) fn check(&self, are_permitted: bool) {
        for decision in &self.pending {
            let is_known = self.by_token.contains_key(&decision.token);
            assert!(is_known, "P2: a pending decision has an attempt");
        }
        let mut proposed = 0;
        for (token, attempt) in &self.by_token {
            let has_permit = attempt.permit.is_some();
            assert!(has_permit || !are_permitted, "P2: {token} has no permit");
            if let Progress::Proposed { key, .. } = attempt.progress {
                let places = self.proposed.get(&attempt.vqueue);
                let is_found = places.is_some_and(|places| places.contains(&(key, *token)));
                assert!(is_found, "{token} has its place");
                proposed += 1;
            }
        }
        let places: usize = self.proposed.values().map(VecDeque::len).sum();
        assert_eq!(proposed, places, "decided places have attempts");
        for (entry, token) in &self.begun {
            let known = self.by_token.get(token);
            let begun = known.is_some_and(|attempt| {
                attempt.entry == *entry
                    && matches!(attempt.progress, Progress::Proposed { info: Some(_), .. })
            });
            assert!(begun, "{token} runs before its decision is applied");
        }
        assert!(self.starting.is_empty(), "handlers start at the end of a batch");
    }
}

impl Partition {
    /// A vqueue hands over entries and a permit for each.
    pub(super) fn on_decide(
        &mut self,
        handle: forebay_messages::VQueueHandle,
        keys: &[EntryKey],
        permits: Permits,
        effects: &mut Vec<PartitionEffect>,
    ) {
        let Some(vqueue) = self.registry.vqueue(handle) else {
            // The permits are returned by the withdrawal of the dead incarnation.
            self.stale.vqueue += 1;
            return;
        };
        self.idle.remove(handle);
        for (key, permit) in keys.iter().zip(permits.iter()) {
            self.attempts.next_seq += 1;
            let token = AttemptToken { epoch: self.epoch, seq: self.attempts.next_seq };
            self.attempts.propose(*key, token, vqueue, permit);
        }
        self.tell_limiter(LimiterMessage::HandedOver(permits), effects);
        self.schedule_flush(effects);
    }

    /// Proposes the collected ends and decisions.
    pub(super) fn on_flush(&mut self, now: Timestamp, effects: &mut Vec<PartitionEffect>) {
        self.flush_scheduled = false;
        let room = self.bounds.room();
        if self.phase.has_limiter() {
            self.propose_journals(now, effects);
            for command in ended::records(std::mem::take(&mut self.attempts.ended), room) {
                self.propose(now, command, None, effects);
            }
        }
        if !self.phase.may_propose() {
            return;
        }
        while !self.attempts.pending.is_empty() {
            let count = self.attempts.pending.len().min(self.bounds.decisions());
            let decisions: Vec<_> = self.attempts.pending.drain(..count).collect();
            // Behind its record, which a fence refuses: decision 0013 says why it is safe. An entry
            // that returned meanwhile is decided again while its former attempt may still run: the
            // new one waits for its decision. An entry older than this leadership may have ended
            // the process that led before: it starts when its decision is durable, so that the row
            // counts it.
            let may_begin = |decision: &&Decision| {
                decision.key.seq > self.waits_through
                    && !self.attempts.begun.contains_key(&decision.key.entry)
            };
            let begin = (self.phase == super::Phase::Leading).then(|| {
                PartitionEffect::Begin(decisions.iter().filter(may_begin).copied().collect())
            });
            let command = forebay_messages::command::SchedulerDecisions { decisions };
            self.propose(now, Command::SchedulerDecisions(command), None, effects);
            effects.extend(begin);
        }
    }

    /// These handlers run although their decisions are not applied yet.
    pub(super) fn on_begun(&mut self, begun: &[EarlyStart]) {
        for EarlyStart { token, attempt, retry } in begun {
            let known = self.attempts.by_token.get_mut(token);
            let Some(Attempt {
                entry, progress: Progress::Proposed { info, .. }, has_handler, ..
            }) = known
            else {
                unreachable!("{token} is reported at once, before its decision can be applied");
            };
            *info = Some(AttemptInfo { retry: *retry, attempt: *attempt });
            *has_handler = true;
            self.attempts.begun.insert(*entry, *token);
        }
    }

    /// The effects of applied records on attempts.
    pub(super) fn on_attempt_applied(
        &mut self,
        applied: Applied,
        effects: &mut Vec<PartitionEffect>,
    ) {
        match applied {
            Applied::Started { entry, vqueue, token, attempt, retry } => {
                if let Some(other) = self.attempts.begun_other(entry, token) {
                    self.stop_handler(other, effects);
                }
                let Some(known) = self.attempts.by_token.get_mut(&token) else {
                    self.stale.attempt += 1;
                    return;
                };
                let runs = known.progress.was_started();
                let info = AttemptInfo { retry, attempt };
                known.progress = Progress::Running { info, is_starting: !runs };
                self.attempts.confirm(vqueue, token);
                if runs {
                    return;
                }
                self.attempts.starting.push(PartitionEffect::Run { entry, token });
            }
            Applied::DecisionVoid { vqueue, key, token, still_there, lock_holder } => {
                self.stop_handler(token, effects);
                self.give_back(token, lock_holder, effects);
                if !still_there {
                    // An incarnation that started since then regards the place as handed out and
                    // missed the row's removal.
                    self.on_inbox_removed(vqueue, key, effects);
                } else if !self.attempts.is_dispatched(vqueue, key) {
                    let message = VQueueMessage::DecisionVoid(key);
                    self.registry.tell(vqueue, message, effects);
                }
            }
            Applied::AttemptOver { entry, token, keeps_lock, .. } => {
                // There is no handler left whose own end this could be.
                self.stop_handler(token, effects);
                self.give_back(token, keeps_lock.then_some(entry), effects);
            }
            Applied::LockFreed { vqueue, entry } => {
                self.seeding.lock_freed(entry);
                self.stopping.lock_freed(entry);
                self.tell_limiter(LimiterMessage::FreeLock { vqueue, entry }, effects);
            }
            Applied::CancelRequested { entry, token } => {
                // Behind its start, if that is in this batch too.
                self.attempts.starting.push(PartitionEffect::Cancel { entry, token });
            }
            other => unreachable!("not about attempts: {other:?}"),
        }
    }

    /// Drops an attempt and returns its permit; or notes that the permit returns when the handler
    /// has stopped, or when a limiter being seeded has assigned it.
    fn give_back(
        &mut self,
        token: AttemptToken,
        keep_lock: Option<EntryId>,
        effects: &mut Vec<PartitionEffect>,
    ) {
        self.outbox_room.drop_waiting(token);
        let attempt = self.attempts.remove(token);
        let permit = attempt.and_then(|attempt| attempt.permit);
        if !self.stopping.over(token, permit, keep_lock) {
            self.seeding.over(token, keep_lock);
            self.released.extend(permit.map(|permit| Release { permit, keep_lock }));
        }
        let Some(attempt) = attempt else {
            self.stale.attempt += 1;
            return;
        };
        if token.epoch < self.epoch {
            self.on_drained(attempt.vqueue, effects);
        }
        if let Progress::Running { is_starting: true, .. } = attempt.progress {
            self.attempts.starting.retain(|effect| match effect {
                PartitionEffect::Run { token: other, .. }
                | PartitionEffect::Cancel { token: other, .. } => *other != token,
                _ => true,
            });
        }
    }

    /// The gate closes: entries that were decided but not proposed stay in the inbox.
    pub(super) fn drop_unproposed(&mut self, effects: &mut Vec<PartitionEffect>) {
        for decision in std::mem::take(&mut self.attempts.pending) {
            self.give_back(decision.token, None, effects);
        }
    }

    /// Starts and cancels handlers after the whole batch: an attempt that started and ended in the
    /// same batch never runs (its payload may be gone). Behind a closed gate nothing starts: such
    /// an attempt returns to its inbox without being counted.
    pub(super) fn tell_handlers(&mut self, now: Timestamp, effects: &mut Vec<PartitionEffect>) {
        let is_closing = self.is_closing || self.phase == super::Phase::Closing;
        let mut back = Vec::new();
        for effect in self.attempts.starting.drain(..) {
            if let PartitionEffect::Run { entry, token } = effect
                && let Some(attempt) = self.attempts.by_token.get_mut(&token)
                && let Progress::Running { is_starting, .. } = &mut attempt.progress
            {
                *is_starting = false;
                if is_closing {
                    back.push((entry, token));
                    continue;
                }
                attempt.has_handler = true;
            }
            effects.push(effect);
        }
        self.hand_back(now, back, effects);
    }

    /// A handler ended: its end goes through the log, together with others that arrive meanwhile.
    pub(super) fn on_ended(
        &mut self,
        now: Timestamp,
        entry: EntryId,
        token: AttemptToken,
        ended: AttemptEnd,
        effects: &mut Vec<PartitionEffect>,
    ) {
        if self.on_handler_gone(token, effects) {
            return;
        }
        let known = self.attempts.by_token.get(&token).filter(|known| known.entry == entry);
        let info = known.and_then(|known| known.progress.info());
        // An end is reported once. It must not be lost because a new limiter is being seeded.
        let is_own = token.epoch == self.epoch && self.phase.has_limiter();
        let Some(AttemptInfo { retry, attempt }) = info.filter(|_| is_own) else {
            self.stale.attempt += 1;
            return;
        };
        let end = match self.bounds.bounded(ended) {
            AttemptEnd::Success(bytes) => complete(entry, token, Outcome::Success(bytes)),
            AttemptEnd::Terminal { message, detail } => {
                let failure = Failure { kind: FailureKind::Terminal, message, detail };
                complete(entry, token, Outcome::Failure(failure))
            }
            AttemptEnd::Canceled { message, detail } => {
                let failure = Failure { kind: FailureKind::Canceled, message, detail };
                complete(entry, token, Outcome::Failure(failure))
            }
            AttemptEnd::DeadLetter { message } => {
                let (kind, detail) = (FailureKind::Exhausted, Default::default());
                complete(entry, token, Outcome::Failure(Failure { kind, message, detail }))
            }
            AttemptEnd::Retry { message, detail, random } => End::Retry(RetryAttempt {
                entry,
                token,
                reason: RetryReason::Failed,
                run_at: now.after(backoff::wait(&retry, attempt, random)),
                message,
                detail,
                heeds_cancel: true,
                interrupted: 0,
                keeps_failure: true,
            }),
            AttemptEnd::GivenBack { interrupted } => {
                End::Retry(RetryAttempt { interrupted, ..hand_back(entry, token) })
            }
            AttemptEnd::Run(then) => End::Run(EndRun { entry, token, then: Some(then) }),
            AttemptEnd::Snooze { wait } => End::Retry(RetryAttempt {
                entry,
                token,
                reason: RetryReason::Snoozed,
                run_at: now.after(wait),
                message: Default::default(),
                detail: Default::default(),
                heeds_cancel: false,
                interrupted: 0,
                keeps_failure: false,
            }),
        };
        self.attempts.ended.push(end);
        self.schedule_flush(effects);
    }
}

fn complete(entry: EntryId, token: AttemptToken, outcome: Outcome) -> End {
    // A success stands even after a cancel, so most records need no tag.
    let heeds_cancel = !outcome.is_success();
    End::Complete(Complete { entry, token, outcome: Some(outcome.into()), heeds_cancel })
}
