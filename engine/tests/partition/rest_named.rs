//! Idle vqueues: which stay, which are passivated, which are woken, with bounded memory.

use forebay_engine::{
    partition::{
        machine::{IDLE_MS_MAX, PartitionEffect as Effect, PartitionInput as Input, VQueueLimits},
        read,
        store::Tables as _,
    },
    vqueue::Rest,
};
use forebay_messages::{
    EntryKey, Timestamp, VQueueHandle, VQueueId,
    actor::{LimiterMessage, LockWish, Permits, VQueueMessage},
    command::{Command, NewEntry, VQueueSelector},
};

use super::{
    fixture::{entry, new_entry, these},
    rig::{Effects, Rig, spawned},
};

/// A name without a lock.
const FREE: u8 = 0;

fn keeping(idle_max: usize, sleepers_max: usize) -> Rig {
    let mut rig = Rig::leading_with(VQueueLimits { active_max: 100, idle_max, sleepers_max });
    // The walk at the start finds nothing.
    rig.tell(Input::VQueuesFound { found: Vec::new(), next: None });
    rig
}

/// An entry with its own scope, and so its own vqueue.
fn entry_of(n: u8, run_at: u64) -> NewEntry {
    let vqueue = new_entry(n, FREE).vqueue.with_scope(&format!("s{n}"));
    NewEntry { vqueue, run_at: Some(Timestamp(run_at)), ..new_entry(n, FREE) }
}

fn vqueue_of(rig: &Rig, n: u8) -> VQueueId {
    let name = entry_of(n, 0).vqueue;
    let mut all = rig.replica.tables.vqueues.iter();
    *all.find(|(_, meta)| *meta.name == name).unwrap().0
}

/// A head as found by a walk.
fn head_at(run_at: u64) -> Option<EntryKey> {
    Some(EntryKey { run_at: Timestamp(run_at), ..EntryKey::default() })
}

/// The vqueues asked to passivate.
fn asked_to_go(effects: &Effects) -> Vec<VQueueHandle> {
    let requests = effects.iter().filter_map(|effect| match effect {
        Effect::ToVQueue(handle, VQueueMessage::Passivate) => Some(*handle),
        _ => None,
    });
    requests.collect()
}

fn all_spawned(effects: &Effects) -> Vec<VQueueId> {
    let spawned = effects.iter().filter_map(|effect| match effect {
        Effect::SpawnVQueue { vqueue, .. } => Some(*vqueue),
        _ => None,
    });
    spawned.collect()
}

fn wake_at(effects: &Effects) -> Option<u64> {
    effects.iter().rev().find_map(|effect| match effect {
        Effect::WakeAt(at) => Some(at.0),
        _ => None,
    })
}

fn walks(effects: &Effects) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::FindVQueues { after: None }))
}

#[test]
fn the_least_recently_used_of_too_many_idle_vqueues_is_passivated() {
    let mut rig = keeping(2, 2);
    let handles: Vec<_> =
        (1..=3).map(|n| spawned(&rig.enqueue(entry_of(n, 0))).unwrap().0).collect();
    assert!(asked_to_go(&rig.tell(Input::Idle(handles[1]))).is_empty());
    assert!(asked_to_go(&rig.tell(Input::Idle(handles[0]))).is_empty());
    // The second has work again: it does not count.
    rig.decide(handles[1], 2, 10);
    assert!(asked_to_go(&rig.tell(Input::Idle(handles[2]))).is_empty());
    assert_eq!(asked_to_go(&rig.tell(Input::Idle(handles[1]))), [handles[0]]);
}

#[test]
fn a_long_idle_vqueue_is_passivated() {
    let mut rig = keeping(2, 2);
    let handle = spawned(&rig.enqueue(entry_of(1, 0))).unwrap().0;
    let effects = rig.tell(Input::Idle(handle));
    assert_eq!(wake_at(&effects), Some(rig.now + IDLE_MS_MAX));
    rig.now += IDLE_MS_MAX - 1;
    assert!(asked_to_go(&rig.tell(Input::Tick)).is_empty());
    rig.now += 1;
    assert_eq!(asked_to_go(&rig.tell(Input::Tick)), [handle]);
}

#[test]
fn a_vqueue_with_an_unneeded_acquire_is_passivated_at_once() {
    let mut rig = keeping(2, 2);
    let handle = spawned(&rig.enqueue(entry_of(1, 0))).unwrap().0;
    assert_eq!(asked_to_go(&rig.tell(Input::WantsToGo(handle))), [handle]);
}

#[test]
fn an_entry_for_later_starts_no_actor() {
    let mut rig = keeping(2, 2);
    let effects = rig.enqueue(entry_of(1, 9_000));
    assert!(spawned(&effects).is_none());
    assert_eq!(wake_at(&effects), Some(9_000));
    let effects = rig.enqueue(entry_of(2, 7_000));
    assert_eq!(wake_at(&effects), Some(7_000));
    rig.now = 8_999;
    assert_eq!(all_spawned(&rig.tell(Input::Tick)), [vqueue_of(&rig, 2)]);
    rig.now = 9_000;
    assert_eq!(all_spawned(&rig.tell(Input::Tick)), [vqueue_of(&rig, 1)]);
}

#[test]
fn sleepers_beyond_the_memory_limit_are_found_again() {
    let mut rig = keeping(0, 2);
    for n in [4, 1, 3, 2] {
        assert!(spawned(&rig.enqueue(entry_of(n, 10_000 * u64::from(n)))).is_none());
    }
    rig.now = 10_000;
    let effects = rig.tell(Input::Tick);
    assert_eq!(all_spawned(&effects), [vqueue_of(&rig, 1)]);
    assert!(walks(&effects), "room for one more");
    let heads: Vec<_> =
        [2, 3, 4].map(|n| (vqueue_of(&rig, n), head_at(10_000 * u64::from(n)))).into();
    let effects =
        rig.tell(Input::VQueuesFound { found: heads[..2].to_vec(), next: Some(heads[1].0) });
    assert!(!walks(&effects), "one walk at a time");
    let effects = rig.tell(Input::VQueuesFound { found: heads[2..].to_vec(), next: None });
    assert!(!walks(&effects), "the nearest two are known");
    rig.now = 40_000;
    let effects = rig.tell(Input::Tick);
    assert_eq!(all_spawned(&effects), [vqueue_of(&rig, 2), vqueue_of(&rig, 3)]);
    assert!(walks(&effects), "the third is due but unknown");
    let effects = rig.tell(Input::VQueuesFound { found: heads[2..].to_vec(), next: None });
    assert_eq!(all_spawned(&effects), [vqueue_of(&rig, 4)], "due: it does not sleep");
}

#[test]
fn an_older_walk_does_not_postpone_a_newer_entry() {
    let mut rig = keeping(0, 4);
    rig.enqueue(entry_of(1, 9_000));
    let id = vqueue_of(&rig, 1);
    let found = vec![(id, head_at(20_000))];
    rig.tell(Input::VQueuesFound { found, next: None });
    rig.now = 9_000;
    assert_eq!(all_spawned(&rig.tell(Input::Tick)), [id]);
}

/// The vqueue for which a permit is requested although it has no actor.
fn asks_for(effects: &Effects) -> Option<(VQueueHandle, VQueueId)> {
    effects.iter().find_map(|effect| match effect {
        Effect::Acquire { handle, vqueue, .. } => Some((*handle, *vqueue)),
        _ => None,
    })
}

/// Whether its request is withdrawn.
fn withdraws(effects: &Effects, handle: VQueueHandle) -> bool {
    effects.iter().any(|effect| match effect {
        Effect::ToLimiter(LimiterMessage::Withdraw(from)) => *from == handle,
        _ => false,
    })
}

fn crowded(active_max: usize) -> Rig {
    let mut rig = Rig::leading_with(VQueueLimits { active_max, idle_max: 0, sleepers_max: 2 });
    rig.tell(Input::VQueuesFound { found: Vec::new(), next: None });
    rig
}

fn granted(rig: &Rig, handle: VQueueHandle, serial: u64) -> Input {
    Input::Granted { handle, permits: Permits { first: rig.permit(serial), count: 1 } }
}

#[test]
fn with_many_active_vqueues_a_new_one_waits_without_an_actor() {
    let mut rig = crowded(1);
    let first = spawned(&rig.enqueue(entry_of(1, 0))).unwrap().0;
    let effects = rig.enqueue(entry_of(2, 0));
    assert!(spawned(&effects).is_none());
    let (handle, id) = asks_for(&effects).unwrap();
    assert_eq!((id, rig.partition.active_vqueues()), (vqueue_of(&rig, 2), 1));
    // The permit is for whichever entry is the head by then.
    let again = NewEntry { vqueue: entry_of(2, 0).vqueue, ..entry_of(3, 0) };
    let effects = rig.enqueue(again);
    assert!(spawned(&effects).is_none() && asks_for(&effects).is_none());

    // The permit starts it; and the vqueue with the oldest actor is asked to make room.
    let effects = rig.tell(granted(&rig, handle, 5));
    let Some(Effect::SpawnVQueue { permits: Some(permits), .. }) = effects.first() else {
        panic!("its actor is not given the permit: {effects:?}")
    };
    assert_eq!(permits.first, rig.permit(5));
    let requests = |handle: &VQueueHandle, effect: &Effect| matches!(effect, Effect::ToVQueue(to, VQueueMessage::MakeRoom) if to == handle);
    assert!(effects.iter().any(|effect| requests(&first, effect)), "{effects:?}");

    // It only waits: from now on without an actor.
    let head = rig.key(1);
    let effects = rig.tell(Input::Passivated { handle: first, rest: Rest::Waits(head) });
    let (handle, id) = asks_for(&effects).unwrap();
    assert_eq!(id, vqueue_of(&rig, 1));
    assert_ne!(handle, first, "permits granted to the old one are returned");
    assert_eq!((rig.partition.active_vqueues(), rig.partition.waiting_vqueues()), (1, 1));
}

#[test]
fn a_permit_for_a_vqueue_that_no_longer_waits_starts_nothing() {
    let mut rig = crowded(0);
    let (handle, id) = asks_for(&rig.enqueue(entry_of(1, 0))).unwrap();
    rig.propose(Command::PauseVQueue(VQueueSelector {
        vqueues: vec![id],
        ..VQueueSelector::default()
    }));
    let effects = rig.commit();
    assert!(withdraws(&effects, handle), "{effects:?}");
    assert!(rig.tell(granted(&rig, handle, 1)).is_empty());
    assert_eq!(rig.partition.waiting_vqueues(), 0);
}

#[test]
fn a_waiting_vqueue_rereads_its_inbox_when_a_row_is_removed() {
    let mut rig = crowded(0);
    let (handle, id) = asks_for(&rig.enqueue(entry_of(1, 0))).unwrap();
    rig.propose(Command::Cancel(these(&[1])));
    let effects = rig.commit();
    assert!(withdraws(&effects, handle), "no permit is needed: {effects:?}");
    assert_eq!(all_spawned(&effects), [id], "it reads the remaining rows");
}

/// Found by the model: an entry that kept the lock and waits for its retry is the head, whatever is
/// enqueued meanwhile.
#[test]
fn a_new_row_of_a_sleeping_locked_vqueue_is_not_its_head() {
    let mut rig = crowded(0);
    let (handle, _) = asks_for(&rig.enqueue(entry_of(1, 0))).unwrap();
    // The rows when it was about to ask: another entry holds the lock.
    let rest = Rest::Until(Timestamp::default());
    let effects = rig.tell(Input::Passivated { handle, rest });
    assert_eq!(wake_at(&effects), Some(0), "it is checked at once");
    assert_eq!(all_spawned(&rig.tell(Input::Tick)), [vqueue_of(&rig, 1)]);
}

/// Regression (seed 930000005995): a walk found the head of a vqueue; when it reported, that entry
/// had ended and another one kept the lock and slept. The vqueue waited for the lock of the first.
#[test]
fn a_head_that_was_found_too_early_requests_no_lock() {
    const LOCKED: u8 = 1;
    let mut rig = Rig::leading();
    let (handle, vqueue, _) = spawned(&rig.enqueue(new_entry(1, LOCKED))).unwrap();
    let head = EntryKey { has_lock: true, ..rig.key(1) };
    let mut acquire = |holder, is_known| {
        match holder {
            Some(holder) => rig.replica.tables.put_lock(vqueue, holder),
            None => rig.replica.tables.delete_lock(vqueue),
        }
        let tables = &rig.replica.tables;
        let asked = read::acquire(tables, handle, vqueue, (head, is_known), |_| true).unwrap();
        asked.map(|asked| asked.lock)
    };
    let check = Err(Rest::Until(Timestamp::default()));
    assert_eq!(acquire(Some(entry(2)), false), check, "another entry keeps the lock");
    assert_eq!(acquire(None, false), check, "no entry keeps it");
    let wish = Ok(LockWish::Held(entry(1)));
    assert_eq!([acquire(Some(entry(1)), false), acquire(None, true)], [wish, wish]);
}

/// Regression: such entries were started, failed for lack of a handler and returned, again and
/// again: each time with two records, a permit and a token of their tenant's rate.
#[test]
fn a_vqueue_without_a_handler_costs_nothing_until_the_services_change() {
    let mut rig = keeping(2, 2);
    let (handle, ..) = spawned(&rig.enqueue(entry_of(1, 0))).unwrap();
    let effects = rig.tell(Input::Passivated { handle, rest: Rest::NotServed });
    assert_eq!(rig.partition.active_vqueues(), 0);
    let costs = |effect: &Effect| {
        matches!(effect, Effect::Append { .. } | Effect::Acquire { .. } | Effect::WakeAt(_))
    };
    assert!(!effects.iter().any(costs), "nothing is requested or written: {effects:?}");
    rig.now += 3_600_000;
    assert!(all_spawned(&rig.tell(Input::Tick)).is_empty(), "time does not start it");

    assert!(walks(&rig.tell(Input::ServicesChanged { lost: false })));
    let found = vec![(vqueue_of(&rig, 1), head_at(0))];
    let effects = rig.tell(Input::VQueuesFound { found, next: None });
    assert_eq!(all_spawned(&effects), [vqueue_of(&rig, 1)]);
}

#[test]
fn when_a_service_loses_its_handler_its_vqueues_restart_and_return_permits() {
    let mut rig = keeping(2, 2);
    let (first, ..) = spawned(&rig.enqueue(entry_of(1, 0))).unwrap();
    let effects = rig.tell(Input::ServicesChanged { lost: true });
    let withdrawn = |effect: &Effect| matches!(effect, Effect::ToLimiter(LimiterMessage::Withdraw(handle)) if *handle == first);
    assert!(effects.iter().any(withdrawn), "its permits are returned");
    let stopped = |effect: &Effect| matches!(effect, Effect::StopVQueue(it) if *it == first);
    assert!(effects.iter().any(stopped));
    assert_eq!(all_spawned(&effects), [vqueue_of(&rig, 1)]);

    // The decisions of the former incarnation are void: its permits were returned.
    let effects = rig.decide(first, 1, 10);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::ScheduleFlush)));
}

#[test]
fn a_follower_ignores_a_change_of_services() {
    let mut rig = keeping(2, 2);
    rig.enqueue(entry_of(1, 0));
    rig.tell(Input::StopLeading);
    assert!(rig.tell(Input::ServicesChanged { lost: true }).is_empty());
}
