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
    fixture::{by_leader, entry, new_entry, record, these, this_vqueue, token, vqueue},
    rig::{Effects, Rig, answers, has, releases, runs, spawned},
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
    let mut rig = Rig::leading();
    let (_, token) = rig.start(1, FREE, 10);
    rig.begin_seed();
    rig.end(success(1, token));
    assert_eq!(rig.appended.len(), 1, "its end goes through the log");
    rig.commit();
    assert!(!rig.running(1));
}

#[test]
fn an_attempt_ending_during_a_seed_returns_its_new_permit_once() {
    let mut rig = Rig::leading();
    let (_, token) = rig.start(1, FREE, 10);
    let count = rig.begin_seed();
    rig.end(success(1, token));
    let effects = rig.commit();
    assert_eq!(
        releases(&effects),
        [],
        "its permit died with the limiter, the new one has not arrived"
    );
    let effects = rig.seeded(count);
    let permit = rig.permit(1);
    assert_eq!(releases(&effects), [Release { permit, keep_lock: None }]);
    assert!(has(&rig.drain(), |effect| matches!(effect, Effect::TellDraining { .. })));
}

#[test]
fn a_void_decision_during_a_seed_returns_its_new_permit() {
    let mut rig = Rig::leading();
    let handle = rig.enqueue_cold(1, FREE);
    rig.propose(Command::Kill(these(&[1])));
    rig.decide(handle, 1, 10);
    let count = rig.begin_seed();
    assert_eq!(count, 1, "a proposed decision counts as running");
    rig.commit();
    assert_eq!(releases(&rig.seeded(count)).len(), 1);
}

#[test]
fn a_lock_kept_and_freed_during_a_seed_is_free_afterwards() {
    let mut rig = Rig::leading();
    let (_, token) = rig.start(1, LOCKED, 10);
    let count = rig.begin_seed();
    rig.end(snooze(1, token));
    rig.commit();
    assert!(rig.replica.row(1).unwrap().key.has_lock, "it waits and keeps its lock");
    let kill = record(1_000, None, Command::Kill(these(&[1])));
    let effects = rig.commit_records(vec![kill]);
    let frees = LimiterMessage::FreeLock { vqueue: vqueue(LOCKED), entry: entry(1) };
    assert!(
        effects.iter().any(
            |effect| matches!(effect, Effect::ToLimiter(changes_sent) if *changes_sent == frees)
        )
    );
    // The limiter could not free it: in its view the permit held the lock.
    let permit = rig.permit(1);
    assert_eq!(releases(&rig.seeded(count)), [Release { permit, keep_lock: None }]);
}

#[test]
fn decisions_held_during_a_seed_are_proposed_when_the_gate_opens() {
    let mut rig = Rig::leading();
    let handle = rig.enqueue_cold(1, FREE);
    let (keys, permits) = (vec![rig.key(1)], Permits::one(rig.permit(10)));
    rig.tell(Input::Decide { handle, keys, permits });
    let count = rig.begin_seed();
    rig.tell(Input::Flush);
    assert!(rig.appended.is_empty(), "nothing is decided without a limiter");
    rig.seeded(count);
    assert!(has(&rig.open(), |effect| matches!(effect, Effect::ScheduleFlush)));
    rig.tell(Input::Flush);
    assert_eq!(runs(&rig.commit()).len(), 1);
}

/// Regression: the decision that removed the row also started its cold vqueue. The vqueue started
/// with that decision as unanswered, was not sent the removal and never asked for a permit again:
/// later entries waited until the leader changed.
#[test]
fn a_vqueue_started_by_an_old_decision_is_sent_its_removal() {
    let mut rig = Rig::leading();
    let (handle, token) = rig.start(1, LOCKED, 10);
    rig.end(snooze(1, token));
    rig.commit();
    rig.decide(handle, 1, 11);
    let key = rig.key(1);
    assert!(key.has_lock, "it waits and keeps its lock");
    rig.seed();
    rig.drain();
    rig.tell(Input::OpenGate { epoch: Epoch(1) });
    let effects = rig.commit();
    let (handle, _, dispatched) = spawned(&effects).expect("the removal starts it");
    assert_eq!(dispatched, [key]);
    assert_eq!(notes(&effects, handle), [InboxChange::Removed(key)]);
}

#[test]
fn an_order_to_drain_for_a_dead_limiter_is_ignored() {
    let mut rig = Rig::leading();
    rig.start(1, FREE, 10);
    let count = rig.begin_seed();
    assert!(rig.drain().is_empty(), "the limiter has not answered");
    assert_eq!(rig.partition.phase(), Phase::Seeding);
    assert!(rig.tell(Input::OpenGate { epoch: Epoch(1) }).is_empty());
    rig.seeded(count);
    assert!(has(&rig.drain(), |effect| matches!(effect, Effect::TellDraining { .. })));
}

#[test]
fn a_late_answer_of_a_replaced_limiter_is_ignored() {
    let mut rig = Rig::leading();
    rig.start(1, FREE, 10);
    rig.seed();
    let late = vec![rig.permit(1)];
    let count = rig.begin_seed();
    assert!(rig.tell(Input::LimiterSeeded { permits: late }).is_empty());
    assert_eq!(rig.partition.stale().limiter, 1);
    assert!(has(&rig.seeded(count), |effect| matches!(effect, Effect::TellSeeded { .. })));
}

#[test]
fn a_seed_request_without_a_limiter_changes_nothing() {
    let mut rig = Rig::leading();
    let (_, token) = rig.start(1, FREE, 10);
    let count = rig.begin_seed();
    let again = rig.tell(Input::BeginSeed { epoch: Epoch(1) });
    assert!(matches!(again.as_slice(), [Effect::SeedLimiter { .. }]), "the shell ignores it");
    rig.seeded(count);
    rig.open();
    let permit = rig.permit(1);
    rig.end(success(1, token));
    assert_eq!(releases(&rig.commit()), [Release { permit, keep_lock: None }]);
}

#[test]
fn a_closed_gate_stays_closed_when_a_limiter_dies() {
    let mut rig = Rig::leading();
    let (_, token) = rig.start(1, FREE, 10);
    rig.tell(Input::CloseGate);
    rig.seed();
    assert_eq!(answers(&rig.propose(Command::Kill(these(&[1])))), [Answer::NotLeading]);
    let effects = rig.open();
    assert_eq!(rig.partition.phase(), Phase::Closing);
    assert!(!has(&effects, |effect| matches!(effect, Effect::FindVQueues { .. })));
    rig.end(success(1, token));
    rig.commit();
    assert!(!rig.running(1), "running entries may end");
}

// --- The same entry decided twice.

#[test]
fn a_paused_and_resumed_entry_may_be_decided_twice_but_runs_once() {
    let mut rig = Rig::leading();
    let handle = rig.enqueue_cold(1, FREE);
    rig.propose(Command::Pause(these(&[1])));
    rig.propose(Command::Resume(these(&[1])));
    let changes: Vec<_> = rig.appended.drain(..).collect();
    rig.decide(handle, 1, 10);
    let key = rig.key(1);
    let changes_sent = notes(&rig.commit_records(changes), handle);
    assert_eq!(changes_sent, [InboxChange::Removed(key), InboxChange::Enqueued(key)]);
    // The vqueue sees the row again and makes another decision.
    rig.decide(handle, 1, 11);
    let effects = rig.commit();
    assert_eq!(runs(&effects).len(), 1);
    assert_eq!(releases(&effects), [Release { permit: rig.permit(11), keep_lock: None }]);
}

#[test]
fn a_rescheduled_entry_is_decided_at_its_new_place_despite_a_pending_decision() {
    let mut rig = Rig::leading();
    let handle = rig.enqueue_cold(1, FREE);
    let selector = these(&[1]);
    rig.propose(Command::Reschedule(Reschedule { selector, run_at: Timestamp(900) }));
    let changes: Vec<_> = rig.appended.drain(..).collect();
    rig.decide(handle, 1, 10);
    rig.commit_records(changes);
    rig.decide(handle, 1, 11);
    let effects = rig.commit();
    assert_eq!(runs(&effects).len(), 1);
    assert_eq!(releases(&effects), [Release { permit: rig.permit(10), keep_lock: None }]);
}

#[test]
fn only_the_last_of_two_void_decisions_for_one_place_restores_it() {
    let mut rig = Rig::leading();
    let handle = rig.enqueue_cold(1, FREE);
    rig.propose(Command::Pause(these(&[1])));
    rig.propose(Command::Resume(these(&[1])));
    let changes: Vec<_> = rig.appended.drain(..).collect();
    rig.propose(Command::PauseVQueue(this_vqueue(FREE)));
    rig.decide(handle, 1, 10);
    let first: Vec<_> = rig.appended.drain(..).collect();
    rig.commit_records(changes);
    rig.decide(handle, 1, 11);
    let is_void =
        |effect: &Effect| matches!(effect, Effect::ToVQueue(_, VQueueMessage::DecisionVoid(_)));
    assert!(!has(&rig.commit_records(first), is_void), "another decision is in transit");
    assert!(has(&rig.commit(), is_void));
}

// --- A vqueue dies while its decision is proposed.

#[test]
fn a_new_incarnation_knows_which_places_are_decided() {
    let mut rig = Rig::leading();
    let handle = rig.enqueue_cold(1, FREE);
    rig.enqueue(new_entry(2, FREE));
    rig.decide(handle, 1, 10);
    let key = rig.key(1);
    let effects = rig.tell(Input::VQueueDied(handle));
    let (next, of, dispatched) = spawned(&effects).unwrap();
    assert_eq!((of, dispatched), (vqueue(FREE), vec![key]));
    assert_ne!(next, handle);
    assert_eq!(notes(&rig.commit(), next), [InboxChange::Removed(key)], "its decision is applied");
}

#[test]
fn a_new_incarnation_learns_that_a_decided_place_is_gone() {
    let mut rig = Rig::leading();
    let handle = rig.enqueue_cold(1, LOCKED);
    rig.propose(Command::Pause(these(&[1])));
    let pause: Vec<_> = rig.appended.drain(..).collect();
    rig.decide(handle, 1, 10);
    let key = rig.key(1);
    rig.commit_records(pause);
    // The old incarnation was sent the removal; the new one was not.
    let effects = rig.tell(Input::VQueueDied(handle));
    let (next, _, dispatched) = spawned(&effects).unwrap();
    assert_eq!(dispatched, [key]);
    let effects = rig.commit();
    assert_eq!(notes(&effects, next), [InboxChange::Removed(key)]);
    assert_eq!(releases(&effects).len(), 1);
}

// --- Locks.

#[test]
fn a_void_decision_leaves_the_lock_with_the_paused_entry() {
    // Otherwise the limiter considers the lock free, and decides for the next entry again and
    // again, each time through the log and without effect.
    let mut rig = Rig::leading();
    let (handle, token) = rig.start(1, LOCKED, 10);
    rig.enqueue(new_entry(2, LOCKED));
    rig.end(snooze(1, token));
    rig.commit();
    rig.propose(Command::Pause(these(&[1])));
    let pause: Vec<_> = rig.appended.drain(..).collect();
    rig.decide(handle, 1, 11);
    rig.commit_records(pause);
    let effects = rig.commit();
    let keep_lock = Some(entry(1));
    assert_eq!(releases(&effects), [Release { permit: rig.permit(11), keep_lock }]);
    // The next one is decided nevertheless.
    rig.decide(handle, 2, 12);
    let effects = rig.commit();
    assert_eq!(releases(&effects), [Release { permit: rig.permit(12), keep_lock }]);
    assert!(!rig.running(2));
}

#[test]
fn a_retry_of_a_cold_vqueue_keeps_its_lock_and_wakes_it() {
    let mut rig = Rig::leading();
    let (handle, token) = rig.start(1, LOCKED, 10);
    rig.tell(Input::Passivated { handle, rest: Rest::Empty });
    rig.end(snooze(1, token));
    let effects = rig.commit();
    let keep_lock = Some(entry(1));
    assert_eq!(releases(&effects), [Release { permit: rig.permit(10), keep_lock }]);
    assert!(spawned(&effects).is_none(), "it sleeps until the retry is due");
    rig.now = rig.key(1).run_at.0;
    assert_eq!(spawned(&rig.tell(Input::Tick)).unwrap().1, vqueue(LOCKED));
}

// --- Several events in one batch.

#[test]
fn an_attempt_started_and_killed_in_one_batch_never_runs() {
    // Its payload is gone by the time its handler would start.
    let mut rig = Rig::leading();
    let new = NewEntry { retention_ms: Some(0), ..new_entry(1, FREE) };
    let handle = spawned(&rig.enqueue(new)).unwrap().0;
    rig.decide(handle, 1, 10);
    rig.propose(Command::Kill(these(&[1])));
    let effects = rig.commit();
    assert_eq!(runs(&effects), []);
    assert!(!has(&effects, |effect| matches!(effect, Effect::Abort { .. })));
    assert_eq!(releases(&effects).len(), 1);
}

#[test]
fn start_and_cancel_in_one_batch_reach_the_handler_in_order() {
    let mut rig = Rig::leading();
    let handle = rig.enqueue_cold(1, FREE);
    rig.decide(handle, 1, 10);
    rig.propose(Command::Cancel(these(&[1])));
    let effects = rig.commit();
    let of_handlers: Vec<_> = effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Run { .. } | Effect::Cancel { .. }))
        .collect();
    assert!(matches!(of_handlers.as_slice(), [Effect::Run { .. }, Effect::Cancel { .. }]));
}

// --- Other leaders, and refused appends.

#[test]
fn a_newer_leader_in_the_log_ends_this_one_in_mid_batch() {
    let mut rig = Rig::leading();
    let handle = rig.enqueue_cold(1, FREE);
    let (_, running) = rig.start(2, LOCKED, 10);
    rig.decide(handle, 1, 11);
    rig.appended.clear();
    rig.propose(Command::Kill(these(&[2])));
    rig.appended.clear();
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
    let (key, token) = (rig.key(1), token(2, 1));
    let decisions = vec![Decision { vqueue: vqueue(FREE), key, token, executor: None }];
    let decisions = Command::SchedulerDecisions(SchedulerDecisions { decisions });
    let effects = rig.commit_records(vec![
        announcement(2),
        record(1_000, Some(by_leader(2, 2)), Command::Retry(back)),
        record(1_000, Some(by_leader(2, 3)), decisions),
    ]);
    assert!(rig.running(1), "the other leader's attempt");
    assert_eq!(runs(&effects), [], "it does not run here");
    assert_eq!(answers(&effects), [Answer::LostLeadership]);
    assert!(
        effects
            .iter()
            .any(|effect| { matches!(effect, Effect::Abort { token, .. } if *token == running) })
    );
    assert_eq!(rig.partition.phase(), Phase::Following);
    assert_eq!(answers(&rig.propose(Command::Kill(these(&[2])))), [Answer::NotLeading]);
}

#[test]
fn an_older_announcement_ends_nothing() {
    let mut rig = Rig::new();
    rig.announce(5);
    rig.seed();
    rig.open();
    rig.commit_records(vec![announcement(4)]);
    assert_eq!(rig.partition.phase(), Phase::Leading);
}

#[test]
fn an_overtaken_candidate_answers_its_waiters() {
    let mut rig = Rig::new();
    rig.tell(Input::Announce { epoch: Epoch(5) });
    assert!(rig.propose(Command::Kill(these(&[1]))).is_empty(), "it waits for the gate");
    rig.appended.clear();
    let effects = rig.tell(Input::AppendRefused(AppendRefusal::Fenced { current: Epoch(6) }));
    assert_eq!(answers(&effects), [Answer::LostLeadership]);
    assert!(has(&effects, |effect| matches!(effect, Effect::TellRefused(_))));
    assert_eq!(answers(&rig.propose(Command::Kill(these(&[1])))), [Answer::NotLeading]);
}

#[test]
fn a_full_disk_is_reported_once_for_any_number_of_refused_appends() {
    let mut rig = Rig::leading();
    for _ in 0..3 {
        rig.propose(Command::Kill(these(&[1])));
    }
    rig.appended.clear();
    let refusal = || Input::AppendRefused(AppendRefusal::Failed { reason: "no space".to_owned() });
    let effects = rig.tell(refusal());
    assert_eq!(answers(&effects), vec![Answer::StorageFailed("no space".to_owned()); 3]);
    assert!(has(&effects, |effect| matches!(effect, Effect::TellRefused(_))));
    assert_eq!(rig.partition.phase(), Phase::Following);
    assert!(rig.tell(refusal()).is_empty());
    assert!(rig.tell(refusal()).is_empty());
}

#[test]
fn a_late_refusal_of_an_old_epoch_is_ignored() {
    let mut rig = Rig::new();
    rig.announce(5);
    assert!(rig.tell(Input::AppendRefused(AppendRefusal::Fenced { current: Epoch(5) })).is_empty());
    assert_eq!(rig.partition.phase(), Phase::Announcing);
}

// --- A new epoch.

#[test]
fn a_cancel_takes_effect_when_the_leader_changes() {
    let mut rig = Rig::leading();
    rig.start(1, FREE, 10);
    rig.propose(Command::Cancel(these(&[1])));
    rig.commit();
    rig.tell(Input::StopLeading);
    rig.announce(2);
    rig.seed();
    rig.open();
    assert_eq!(rig.partition.phase(), Phase::Leading);
    assert!(rig.replica.row(1).is_none(), "no second attempt");
}

#[test]
fn commands_that_wait_for_the_gate_are_bounded() {
    let mut rig = Rig::new();
    rig.tell(Input::Announce { epoch: Epoch(1) });
    for _ in 0..HELD_MAX {
        assert!(rig.propose(Command::Purge(Purge::default())).is_empty());
    }
    assert_eq!(answers(&rig.propose(Command::Purge(Purge::default()))), [Answer::Busy]);
    let effects = rig.tell(Input::StopLeading);
    assert_eq!(answers(&effects), vec![Answer::LostLeadership; HELD_MAX]);
}

// --- Rest and upkeep.

#[test]
fn a_vqueue_with_a_future_head_is_passivated_and_restarted_in_time() {
    let mut rig = Rig::leading();
    let handle = spawned(&rig.enqueue(new_entry(1, FREE))).unwrap().0;
    rig.tell(Input::Idle(handle));
    let until = Timestamp(9_000);
    let effects = rig.tell(Input::Passivated { handle, rest: Rest::Until(until) });
    assert!(effects.iter().any(|effect| matches!(effect, Effect::WakeAt(at) if *at == until)));
    rig.now = 8_999;
    assert!(spawned(&rig.tell(Input::Tick)).is_none());
    rig.now = 9_000;
    assert_eq!(spawned(&rig.tell(Input::Tick)).unwrap().1, vqueue(FREE));
}

#[test]
fn messages_during_passivation_are_not_lost() {
    let mut rig = Rig::leading();
    let (handle, _) = rig.start(1, FREE, 10);
    rig.tell(Input::Idle(handle));
    assert!(rig.enqueue(new_entry(2, FREE)).len() == 1, "only the client is answered");
    let effects = rig.tell(Input::Passivated { handle, rest: Rest::Empty });
    assert_eq!(spawned(&effects).unwrap().1, vqueue(FREE));
}

#[test]
fn expired_results_are_purged_until_none_is_left() {
    let mut rig = Rig::leading();
    let new = NewEntry { retention_ms: Some(50), ..new_entry(1, FREE) };
    let handle = spawned(&rig.enqueue(new)).unwrap().0;
    rig.decide(handle, 1, 10);
    let token = runs(&rig.commit())[0].1;
    rig.end(success(1, token));
    rig.commit();
    rig.now += 60_000;
    let until = Timestamp(rig.now);
    let checks = |effects: &Effects| {
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::CheckExpired { until: at } if *at == until))
    };
    assert!(checks(&rig.tell(Input::Tick)));
    assert!(!checks(&rig.tell(Input::Tick)), "not all the time");
    rig.tell(Input::ExpiredFound { until });
    assert!(checks(&rig.commit()), "a purge is bounded: it checks again at once");
    assert!(rig.replica.tables.finished.is_empty());
    rig.propose(Command::Purge(Purge::default()));
    assert!(!checks(&rig.commit()), "nothing was purged");
}
