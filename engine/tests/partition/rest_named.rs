//! Vqueues that rest: who stays, who goes, who wakes, with bounded memory.

use forebay_engine::partition::machine::{
    IDLE_MS_MAX, PartitionEffect as Effect, PartitionInput as Input, VQueueLimits,
};
use forebay_messages::{
    Timestamp, VQueueHandle, VQueueId, actor::VQueueMessage, command::NewEntry,
};

use super::{
    desk::{Desk, Effects, spawned},
    fixture::new_entry,
};

/// A name without a lock.
const FREE: u8 = 0;

fn keeping(idle_max: usize, sleepers_max: usize) -> Desk {
    let mut desk = Desk::leading_with(VQueueLimits { idle_max, sleepers_max });
    // The walk of the start finds nothing.
    desk.tell(Input::VQueuesFound { found: Vec::new(), next: None });
    desk
}

/// An entry of a scope of its own, so of a vqueue of its own.
fn entry_of(n: u8, run_at: u64) -> NewEntry {
    let vqueue = new_entry(n, FREE).vqueue.with_scope(&format!("s{n}"));
    NewEntry { vqueue, run_at: Some(Timestamp(run_at)), ..new_entry(n, FREE) }
}

fn vqueue_of(desk: &Desk, n: u8) -> VQueueId {
    let name = entry_of(n, 0).vqueue;
    let mut all = desk.replica.tables.vqueues.iter();
    *all.find(|(_, meta)| *meta.name == name).unwrap().0
}

/// Who is asked to go.
fn asked_to_go(effects: &Effects) -> Vec<VQueueHandle> {
    let asked = effects.iter().filter_map(|effect| match effect {
        Effect::ToVQueue(handle, VQueueMessage::Passivate) => Some(*handle),
        _ => None,
    });
    asked.collect()
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
fn the_least_recently_used_of_too_many_idle_vqueues_is_asked_to_go() {
    let mut desk = keeping(2, 2);
    let handles: Vec<_> =
        (1..=3).map(|n| spawned(&desk.enqueue(entry_of(n, 0))).unwrap().0).collect();
    assert!(asked_to_go(&desk.tell(Input::Idle(handles[1]))).is_empty());
    assert!(asked_to_go(&desk.tell(Input::Idle(handles[0]))).is_empty());
    // The second has work again: it does not count.
    desk.decide(handles[1], 2, 10);
    assert!(asked_to_go(&desk.tell(Input::Idle(handles[2]))).is_empty());
    assert_eq!(asked_to_go(&desk.tell(Input::Idle(handles[1]))), [handles[0]]);
}

#[test]
fn a_vqueue_that_is_idle_for_long_is_asked_to_go() {
    let mut desk = keeping(2, 2);
    let handle = spawned(&desk.enqueue(entry_of(1, 0))).unwrap().0;
    let effects = desk.tell(Input::Idle(handle));
    assert_eq!(wake_at(&effects), Some(desk.now + IDLE_MS_MAX));
    desk.now += IDLE_MS_MAX - 1;
    assert!(asked_to_go(&desk.tell(Input::Tick)).is_empty());
    desk.now += 1;
    assert_eq!(asked_to_go(&desk.tell(Input::Tick)), [handle]);
}

#[test]
fn a_vqueue_that_asks_for_what_nobody_needs_goes_at_once() {
    let mut desk = keeping(2, 2);
    let handle = spawned(&desk.enqueue(entry_of(1, 0))).unwrap().0;
    assert_eq!(asked_to_go(&desk.tell(Input::WantsToGo(handle))), [handle]);
}

#[test]
fn an_entry_for_later_starts_no_actor() {
    let mut desk = keeping(2, 2);
    let effects = desk.enqueue(entry_of(1, 9_000));
    assert!(spawned(&effects).is_none());
    assert_eq!(wake_at(&effects), Some(9_000));
    let effects = desk.enqueue(entry_of(2, 7_000));
    assert_eq!(wake_at(&effects), Some(7_000));
    desk.now = 8_999;
    assert_eq!(all_spawned(&desk.tell(Input::Tick)), [vqueue_of(&desk, 2)]);
    desk.now = 9_000;
    assert_eq!(all_spawned(&desk.tell(Input::Tick)), [vqueue_of(&desk, 1)]);
}

#[test]
fn sleepers_that_do_not_fit_in_memory_are_found_again() {
    let mut desk = keeping(0, 2);
    for n in [4, 1, 3, 2] {
        assert!(spawned(&desk.enqueue(entry_of(n, 10_000 * u64::from(n)))).is_none());
    }
    desk.now = 10_000;
    let effects = desk.tell(Input::Tick);
    assert_eq!(all_spawned(&effects), [vqueue_of(&desk, 1)]);
    assert!(walks(&effects), "there is room for one more");
    let heads: Vec<_> =
        [2, 3, 4].map(|n| (vqueue_of(&desk, n), Timestamp(10_000 * u64::from(n)))).into();
    let effects =
        desk.tell(Input::VQueuesFound { found: heads[..2].to_vec(), next: Some(heads[1].0) });
    assert!(!walks(&effects), "one walk at a time");
    let effects = desk.tell(Input::VQueuesFound { found: heads[2..].to_vec(), next: None });
    assert!(!walks(&effects), "the nearest two are known");
    desk.now = 40_000;
    let effects = desk.tell(Input::Tick);
    assert_eq!(all_spawned(&effects), [vqueue_of(&desk, 2), vqueue_of(&desk, 3)]);
    assert!(walks(&effects), "the third is due and not known");
    let effects = desk.tell(Input::VQueuesFound { found: heads[2..].to_vec(), next: None });
    assert_eq!(all_spawned(&effects), [vqueue_of(&desk, 4)], "due: it does not sleep");
}

#[test]
fn what_a_walk_saw_does_not_put_off_what_came_later() {
    let mut desk = keeping(0, 4);
    desk.enqueue(entry_of(1, 9_000));
    let id = vqueue_of(&desk, 1);
    let found = vec![(id, Timestamp(20_000))];
    desk.tell(Input::VQueuesFound { found, next: None });
    desk.now = 9_000;
    assert_eq!(all_spawned(&desk.tell(Input::Tick)), [id]);
}
