//! The partition's machine: past bugs and corner cases, case by case.

use std::time::Duration;

use forebay_engine::partition::machine::{
    Answer, AppendRefusal, HELD_MAX, PartitionEffect as Effect, PartitionInput as Input, Phase,
};
use forebay_engine::vqueue::Rest;
use forebay_messages::{
    Epoch, NodeId, Timestamp, VQueueHandle,
    actor::{AttemptEnd, InboxChange, LimiterMessage, Permits, Release, VQueueMessage},
    command::{
        AnnounceLeader, Command, Decision, NewEntry, Purge, Reschedule, RetryAttempt, RetryReason,
        SchedulerDecisions,
    },
};

use super::{
    desk::{Desk, Effects, answers, has, releases, runs, spawned},
    fixture::{by_leader, entry, new_entry, record, these, this_vqueue, token, vqueue},
};

/// The name of a vqueue with a lock.
const LOCKED: u8 = 2;
/// The name of a vqueue without a lock.
const FREE: u8 = 0;

fn success(n: u8, token: forebay_messages::AttemptToken) -> Input {
    Input::Ended { entry: entry(n), token, ended: AttemptEnd::Success(Default::default()) }
}

fn snooze(n: u8, token: forebay_messages::AttemptToken) -> Input {
    let ended = AttemptEnd::Snooze { wait: Duration::from_millis(5_000) };
    Input::Ended { entry: entry(n), token, ended }
}

fn announcement(epoch: u64) -> std::sync::Arc<forebay_messages::Record> {
    let (key_first, key_last) = Default::default();
    let command = AnnounceLeader { node: NodeId(2), epoch: Epoch(epoch), key_first, key_last };
    record(1_000, Some(by_leader(epoch, 1)), Command::AnnounceLeader(command))
}

fn notes(effects: &Effects, of: VQueueHandle) -> Vec<InboxChange> {
    let notes = effects.iter().filter_map(|effect| match effect {
        Effect::ToVQueue(handle, VQueueMessage::Notify(changes)) if *handle == of => Some(changes),
        _ => None,
    });
    notes.flatten().copied().collect()
}

// --- A limiter dies and another is seeded, under the same epoch.

#[test]
fn an_end_during_a_seed_is_not_lost() {
    let mut desk = Desk::leading();
    let (_, token) = desk.start(1, FREE, 10);
    desk.begin_seed();
    desk.end(success(1, token));
    assert_eq!(desk.appended.len(), 1, "its end goes through the log");
    desk.commit();
    assert!(!desk.running(1));
}

#[test]
fn an_attempt_ending_during_a_seed_returns_its_new_permit_once() {
    let mut desk = Desk::leading();
    let (_, token) = desk.start(1, FREE, 10);
    let count = desk.begin_seed();
    desk.end(success(1, token));
    let effects = desk.commit();
    assert_eq!(
        releases(&effects),
        [],
        "its permit died with the limiter, the new one has not arrived"
    );
    let effects = desk.seeded(count);
    let permit = desk.permit(1);
    assert_eq!(releases(&effects), [Release { permit, keep_lock: None }]);
    assert!(has(&desk.drain(), |effect| matches!(effect, Effect::TellDraining { .. })));
}

#[test]
fn a_void_decision_during_a_seed_returns_its_new_permit() {
    let mut desk = Desk::leading();
    let handle = desk.enqueue_cold(1, FREE);
    desk.propose(Command::Kill(these(&[1])));
    desk.decide(handle, 1, 10);
    let count = desk.begin_seed();
    assert_eq!(count, 1, "a proposed decision counts as running");
    desk.commit();
    assert_eq!(releases(&desk.seeded(count)).len(), 1);
}

#[test]
fn a_lock_kept_and_freed_during_a_seed_is_free_afterwards() {
    let mut desk = Desk::leading();
    let (_, token) = desk.start(1, LOCKED, 10);
    let count = desk.begin_seed();
    desk.end(snooze(1, token));
    desk.commit();
    assert!(desk.replica.row(1).unwrap().key.has_lock, "it waits and keeps its lock");
    let kill = record(1_000, None, Command::Kill(these(&[1])));
    let effects = desk.commit_records(vec![kill]);
    let frees = LimiterMessage::FreeLock { vqueue: vqueue(LOCKED), entry: entry(1) };
    assert!(
        effects.iter().any(|effect| matches!(effect, Effect::ToLimiter(told) if *told == frees))
    );
    // The limiter could not free it: in its view the permit held the lock.
    let permit = desk.permit(1);
    assert_eq!(releases(&desk.seeded(count)), [Release { permit, keep_lock: None }]);
}

#[test]
fn decisions_held_during_a_seed_are_proposed_when_the_gate_opens() {
    let mut desk = Desk::leading();
    let handle = desk.enqueue_cold(1, FREE);
    let (keys, permits) = (vec![desk.key(1)], Permits::one(desk.permit(10)));
    desk.tell(Input::Decide { handle, keys, permits });
    let count = desk.begin_seed();
    desk.tell(Input::Flush);
    assert!(desk.appended.is_empty(), "nothing is decided without a limiter");
    desk.seeded(count);
    assert!(has(&desk.open(), |effect| matches!(effect, Effect::ScheduleFlush)));
    desk.tell(Input::Flush);
    assert_eq!(runs(&desk.commit()).len(), 1);
}

/// Regression: the decision that removed the row also started its cold vqueue. The vqueue started
/// with that decision as unanswered, was not sent the removal and never asked for a permit again:
/// later entries waited until the leader changed.
#[test]
fn a_vqueue_started_by_an_old_decision_is_sent_its_removal() {
    let mut desk = Desk::leading();
    let (handle, token) = desk.start(1, LOCKED, 10);
    desk.end(snooze(1, token));
    desk.commit();
    desk.decide(handle, 1, 11);
    let key = desk.key(1);
    assert!(key.has_lock, "it waits and keeps its lock");
    desk.seed();
    desk.drain();
    desk.tell(Input::OpenGate { epoch: Epoch(1) });
    let effects = desk.commit();
    let (handle, _, dispatched) = spawned(&effects).expect("the removal starts it");
    assert_eq!(dispatched, [key]);
    assert_eq!(notes(&effects, handle), [InboxChange::Removed(key)]);
}

#[test]
fn an_order_to_drain_for_a_dead_limiter_is_ignored() {
    let mut desk = Desk::leading();
    desk.start(1, FREE, 10);
    let count = desk.begin_seed();
    assert!(desk.drain().is_empty(), "the limiter has not answered");
    assert_eq!(desk.partition.phase(), Phase::Seeding);
    assert!(desk.tell(Input::OpenGate { epoch: Epoch(1) }).is_empty());
    desk.seeded(count);
    assert!(has(&desk.drain(), |effect| matches!(effect, Effect::TellDraining { .. })));
}

#[test]
fn a_late_answer_of_a_replaced_limiter_is_ignored() {
    let mut desk = Desk::leading();
    desk.start(1, FREE, 10);
    desk.seed();
    let late = vec![desk.permit(1)];
    let count = desk.begin_seed();
    assert!(desk.tell(Input::LimiterSeeded { permits: late }).is_empty());
    assert_eq!(desk.partition.stale().limiter, 1);
    assert!(has(&desk.seeded(count), |effect| matches!(effect, Effect::TellSeeded { .. })));
}

#[test]
fn a_seed_request_without_a_limiter_changes_nothing() {
    let mut desk = Desk::leading();
    let (_, token) = desk.start(1, FREE, 10);
    let count = desk.begin_seed();
    let again = desk.tell(Input::BeginSeed { epoch: Epoch(1) });
    assert!(matches!(again.as_slice(), [Effect::SeedLimiter { .. }]), "the shell ignores it");
    desk.seeded(count);
    desk.open();
    let permit = desk.permit(1);
    desk.end(success(1, token));
    assert_eq!(releases(&desk.commit()), [Release { permit, keep_lock: None }]);
}

#[test]
fn a_closed_gate_stays_closed_when_a_limiter_dies() {
    let mut desk = Desk::leading();
    let (_, token) = desk.start(1, FREE, 10);
    desk.tell(Input::CloseGate);
    desk.seed();
    assert_eq!(answers(&desk.propose(Command::Kill(these(&[1])))), [Answer::NotLeading]);
    let effects = desk.open();
    assert_eq!(desk.partition.phase(), Phase::Closing);
    assert!(!has(&effects, |effect| matches!(effect, Effect::FindVQueues { .. })));
    desk.end(success(1, token));
    desk.commit();
    assert!(!desk.running(1), "running entries may end");
}

// --- The same entry decided twice.

#[test]
fn a_paused_and_resumed_entry_may_be_decided_twice_but_runs_once() {
    let mut desk = Desk::leading();
    let handle = desk.enqueue_cold(1, FREE);
    desk.propose(Command::Pause(these(&[1])));
    desk.propose(Command::Resume(these(&[1])));
    let changes: Vec<_> = desk.appended.drain(..).collect();
    desk.decide(handle, 1, 10);
    let key = desk.key(1);
    let told = notes(&desk.commit_records(changes), handle);
    assert_eq!(told, [InboxChange::Removed(key), InboxChange::Enqueued(key)]);
    // The vqueue sees the row again and makes another decision.
    desk.decide(handle, 1, 11);
    let effects = desk.commit();
    assert_eq!(runs(&effects).len(), 1);
    assert_eq!(releases(&effects), [Release { permit: desk.permit(11), keep_lock: None }]);
}

#[test]
fn a_rescheduled_entry_is_decided_at_its_new_place_despite_a_pending_decision() {
    let mut desk = Desk::leading();
    let handle = desk.enqueue_cold(1, FREE);
    let selector = these(&[1]);
    desk.propose(Command::Reschedule(Reschedule { selector, run_at: Timestamp(900) }));
    let changes: Vec<_> = desk.appended.drain(..).collect();
    desk.decide(handle, 1, 10);
    desk.commit_records(changes);
    desk.decide(handle, 1, 11);
    let effects = desk.commit();
    assert_eq!(runs(&effects).len(), 1);
    assert_eq!(releases(&effects), [Release { permit: desk.permit(10), keep_lock: None }]);
}

#[test]
fn only_the_last_of_two_void_decisions_for_one_place_restores_it() {
    let mut desk = Desk::leading();
    let handle = desk.enqueue_cold(1, FREE);
    desk.propose(Command::Pause(these(&[1])));
    desk.propose(Command::Resume(these(&[1])));
    let changes: Vec<_> = desk.appended.drain(..).collect();
    desk.propose(Command::PauseVQueue(this_vqueue(FREE)));
    desk.decide(handle, 1, 10);
    let first: Vec<_> = desk.appended.drain(..).collect();
    desk.commit_records(changes);
    desk.decide(handle, 1, 11);
    let is_void =
        |effect: &Effect| matches!(effect, Effect::ToVQueue(_, VQueueMessage::DecisionVoid(_)));
    assert!(!has(&desk.commit_records(first), is_void), "another decision is in transit");
    assert!(has(&desk.commit(), is_void));
}

// --- A vqueue dies while its decision is proposed.

#[test]
fn a_new_incarnation_knows_which_places_are_decided() {
    let mut desk = Desk::leading();
    let handle = desk.enqueue_cold(1, FREE);
    desk.enqueue(new_entry(2, FREE));
    desk.decide(handle, 1, 10);
    let key = desk.key(1);
    let effects = desk.tell(Input::VQueueDied(handle));
    let (next, of, dispatched) = spawned(&effects).unwrap();
    assert_eq!((of, dispatched), (vqueue(FREE), vec![key]));
    assert_ne!(next, handle);
    assert_eq!(notes(&desk.commit(), next), [InboxChange::Removed(key)], "its decision is applied");
}

#[test]
fn a_new_incarnation_learns_that_a_decided_place_is_gone() {
    let mut desk = Desk::leading();
    let handle = desk.enqueue_cold(1, LOCKED);
    desk.propose(Command::Pause(these(&[1])));
    let pause: Vec<_> = desk.appended.drain(..).collect();
    desk.decide(handle, 1, 10);
    let key = desk.key(1);
    desk.commit_records(pause);
    // The old incarnation was sent the removal; the new one was not.
    let effects = desk.tell(Input::VQueueDied(handle));
    let (next, _, dispatched) = spawned(&effects).unwrap();
    assert_eq!(dispatched, [key]);
    let effects = desk.commit();
    assert_eq!(notes(&effects, next), [InboxChange::Removed(key)]);
    assert_eq!(releases(&effects).len(), 1);
}

// --- Locks.

#[test]
fn a_void_decision_leaves_the_lock_with_the_paused_entry() {
    // Otherwise the limiter considers the lock free, and decides for the next entry again and
    // again, each time through the log and without effect.
    let mut desk = Desk::leading();
    let (handle, token) = desk.start(1, LOCKED, 10);
    desk.enqueue(new_entry(2, LOCKED));
    desk.end(snooze(1, token));
    desk.commit();
    desk.propose(Command::Pause(these(&[1])));
    let pause: Vec<_> = desk.appended.drain(..).collect();
    desk.decide(handle, 1, 11);
    desk.commit_records(pause);
    let effects = desk.commit();
    let keep_lock = Some(entry(1));
    assert_eq!(releases(&effects), [Release { permit: desk.permit(11), keep_lock }]);
    // The next one is decided nevertheless.
    desk.decide(handle, 2, 12);
    let effects = desk.commit();
    assert_eq!(releases(&effects), [Release { permit: desk.permit(12), keep_lock }]);
    assert!(!desk.running(2));
}

#[test]
fn a_retry_of_a_cold_vqueue_keeps_its_lock_and_wakes_it() {
    let mut desk = Desk::leading();
    let (handle, token) = desk.start(1, LOCKED, 10);
    desk.tell(Input::Passivated { handle, rest: Rest::Empty });
    desk.end(snooze(1, token));
    let effects = desk.commit();
    let keep_lock = Some(entry(1));
    assert_eq!(releases(&effects), [Release { permit: desk.permit(10), keep_lock }]);
    assert!(spawned(&effects).is_none(), "it sleeps until the retry is due");
    desk.now = desk.key(1).run_at.0;
    assert_eq!(spawned(&desk.tell(Input::Tick)).unwrap().1, vqueue(LOCKED));
}

// --- Several events in one batch.

#[test]
fn an_attempt_started_and_killed_in_one_batch_never_runs() {
    // Its payload is gone by the time its handler would start.
    let mut desk = Desk::leading();
    let new = NewEntry { retention_ms: Some(0), ..new_entry(1, FREE) };
    let handle = spawned(&desk.enqueue(new)).unwrap().0;
    desk.decide(handle, 1, 10);
    desk.propose(Command::Kill(these(&[1])));
    let effects = desk.commit();
    assert_eq!(runs(&effects), []);
    assert!(!has(&effects, |effect| matches!(effect, Effect::Abort { .. })));
    assert_eq!(releases(&effects).len(), 1);
}

#[test]
fn start_and_cancel_in_one_batch_reach_the_handler_in_order() {
    let mut desk = Desk::leading();
    let handle = desk.enqueue_cold(1, FREE);
    desk.decide(handle, 1, 10);
    desk.propose(Command::Cancel(these(&[1])));
    let effects = desk.commit();
    let of_handlers: Vec<_> = effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Run { .. } | Effect::Cancel { .. }))
        .collect();
    assert!(matches!(of_handlers.as_slice(), [Effect::Run { .. }, Effect::Cancel { .. }]));
}

// --- Other leaders, and refused appends.

#[test]
fn a_newer_leader_in_the_log_ends_this_one_in_mid_batch() {
    let mut desk = Desk::leading();
    let handle = desk.enqueue_cold(1, FREE);
    let (_, running) = desk.start(2, LOCKED, 10);
    desk.decide(handle, 1, 11);
    desk.appended.clear();
    desk.propose(Command::Kill(these(&[2])));
    desk.appended.clear();
    // The other leader drains the attempts of this one and decides for its pending entries.
    let back = RetryAttempt {
        entry: entry(2),
        token: running,
        reason: RetryReason::LeaderChange,
        run_at: Timestamp(0),
        message: Default::default(),
        detail: Default::default(),
        heeds_cancel: false,
        interrupted: 0,
        keeps_failure: false,
    };
    let (key, token) = (desk.key(1), token(2, 1));
    let decisions = vec![Decision { vqueue: vqueue(FREE), key, token, executor: None }];
    let decisions = Command::SchedulerDecisions(SchedulerDecisions { decisions });
    let effects = desk.commit_records(vec![
        announcement(2),
        record(1_000, Some(by_leader(2, 2)), Command::Retry(back)),
        record(1_000, Some(by_leader(2, 3)), decisions),
    ]);
    assert!(desk.running(1), "the other leader's attempt");
    assert_eq!(runs(&effects), [], "it does not run here");
    assert_eq!(answers(&effects), [Answer::LostLeadership]);
    assert!(
        effects
            .iter()
            .any(|effect| { matches!(effect, Effect::Abort { token, .. } if *token == running) })
    );
    assert_eq!(desk.partition.phase(), Phase::Following);
    assert_eq!(answers(&desk.propose(Command::Kill(these(&[2])))), [Answer::NotLeading]);
}

#[test]
fn an_older_announcement_ends_nothing() {
    let mut desk = Desk::new();
    desk.announce(5);
    desk.seed();
    desk.open();
    desk.commit_records(vec![announcement(4)]);
    assert_eq!(desk.partition.phase(), Phase::Leading);
}

#[test]
fn an_overtaken_candidate_answers_its_waiters() {
    let mut desk = Desk::new();
    desk.tell(Input::Announce { epoch: Epoch(5) });
    assert!(desk.propose(Command::Kill(these(&[1]))).is_empty(), "it waits for the gate");
    desk.appended.clear();
    let effects = desk.tell(Input::AppendRefused(AppendRefusal::Fenced { current: Epoch(6) }));
    assert_eq!(answers(&effects), [Answer::LostLeadership]);
    assert!(has(&effects, |effect| matches!(effect, Effect::TellRefused(_))));
    assert_eq!(answers(&desk.propose(Command::Kill(these(&[1])))), [Answer::NotLeading]);
}

#[test]
fn a_full_disk_is_reported_once_for_any_number_of_refused_appends() {
    let mut desk = Desk::leading();
    for _ in 0..3 {
        desk.propose(Command::Kill(these(&[1])));
    }
    desk.appended.clear();
    let refusal = || Input::AppendRefused(AppendRefusal::Failed { reason: "no space".to_owned() });
    let effects = desk.tell(refusal());
    assert_eq!(answers(&effects), vec![Answer::StorageFailed("no space".to_owned()); 3]);
    assert!(has(&effects, |effect| matches!(effect, Effect::TellRefused(_))));
    assert_eq!(desk.partition.phase(), Phase::Following);
    assert!(desk.tell(refusal()).is_empty());
    assert!(desk.tell(refusal()).is_empty());
}

#[test]
fn a_late_refusal_of_an_old_epoch_is_ignored() {
    let mut desk = Desk::new();
    desk.announce(5);
    assert!(
        desk.tell(Input::AppendRefused(AppendRefusal::Fenced { current: Epoch(5) })).is_empty()
    );
    assert_eq!(desk.partition.phase(), Phase::Announcing);
}

// --- A new epoch.

#[test]
fn a_cancel_takes_effect_when_the_leader_changes() {
    let mut desk = Desk::leading();
    desk.start(1, FREE, 10);
    desk.propose(Command::Cancel(these(&[1])));
    desk.commit();
    desk.tell(Input::StopLeading);
    desk.announce(2);
    desk.seed();
    desk.open();
    assert_eq!(desk.partition.phase(), Phase::Leading);
    assert!(desk.replica.row(1).is_none(), "no second attempt");
}

#[test]
fn commands_that_wait_for_the_gate_are_bounded() {
    let mut desk = Desk::new();
    desk.tell(Input::Announce { epoch: Epoch(1) });
    for _ in 0..HELD_MAX {
        assert!(desk.propose(Command::Purge(Purge::default())).is_empty());
    }
    assert_eq!(answers(&desk.propose(Command::Purge(Purge::default()))), [Answer::Busy]);
    let effects = desk.tell(Input::StopLeading);
    assert_eq!(answers(&effects), vec![Answer::LostLeadership; HELD_MAX]);
}

// --- Rest and upkeep.

#[test]
fn a_vqueue_with_a_future_head_is_passivated_and_restarted_in_time() {
    let mut desk = Desk::leading();
    let handle = spawned(&desk.enqueue(new_entry(1, FREE))).unwrap().0;
    desk.tell(Input::Idle(handle));
    let until = Timestamp(9_000);
    let effects = desk.tell(Input::Passivated { handle, rest: Rest::Until(until) });
    assert!(effects.iter().any(|effect| matches!(effect, Effect::WakeAt(at) if *at == until)));
    desk.now = 8_999;
    assert!(spawned(&desk.tell(Input::Tick)).is_none());
    desk.now = 9_000;
    assert_eq!(spawned(&desk.tell(Input::Tick)).unwrap().1, vqueue(FREE));
}

#[test]
fn messages_during_passivation_are_not_lost() {
    let mut desk = Desk::leading();
    let (handle, _) = desk.start(1, FREE, 10);
    desk.tell(Input::Idle(handle));
    assert!(desk.enqueue(new_entry(2, FREE)).len() == 1, "only the client is answered");
    let effects = desk.tell(Input::Passivated { handle, rest: Rest::Empty });
    assert_eq!(spawned(&effects).unwrap().1, vqueue(FREE));
}

#[test]
fn expired_results_are_purged_until_none_is_left() {
    let mut desk = Desk::leading();
    let new = NewEntry { retention_ms: Some(50), ..new_entry(1, FREE) };
    let handle = spawned(&desk.enqueue(new)).unwrap().0;
    desk.decide(handle, 1, 10);
    let token = runs(&desk.commit())[0].1;
    desk.end(success(1, token));
    desk.commit();
    desk.now += 60_000;
    let until = Timestamp(desk.now);
    let checks = |effects: &Effects| {
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::CheckExpired { until: at } if *at == until))
    };
    assert!(checks(&desk.tell(Input::Tick)));
    assert!(!checks(&desk.tell(Input::Tick)), "not all the time");
    desk.tell(Input::ExpiredFound { until });
    assert!(checks(&desk.commit()), "a purge is bounded: it checks again at once");
    assert!(desk.replica.tables.finished.is_empty());
    desk.propose(Command::Purge(Purge::default()));
    assert!(!checks(&desk.commit()), "nothing was purged");
}
