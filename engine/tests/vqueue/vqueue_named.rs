//! Named scenarios, message by message.

use forebay_engine::{
    Machine,
    inbox::INBOX_CACHE_CAPACITY,
    vqueue::{DISPATCHED_MAX, Rest, Stage, VQueue, VQueueConfig, VQueueEffect as Effect},
};
use forebay_messages::{
    EntryId, EntryKey, Generation, InboxSeq, PartitionKey, PermitId, Timestamp, VQueueId,
    actor::{
        InboxChange, LockWish, Permits, RefillDone, RefillFailed, RefillRequest,
        VQueueMessage as Message,
    },
};

const PLAIN: VQueueConfig = VQueueConfig {
    id: VQueueId { partition_key: PartitionKey(1), hash: [1; 16] },
    has_lock: false,
    quantum: 4,
    paused: false,
    draining: false,
};
const LOCKED: VQueueConfig = VQueueConfig { has_lock: true, ..PLAIN };

/// The `n`th entry's key; due at once.
fn key(n: u8) -> EntryKey {
    let entry = EntryId { partition_key: PartitionKey(1), uuid: [n; 16] };
    EntryKey { has_lock: false, run_at: Timestamp(0), seq: InboxSeq(u64::from(n)), entry }
}

fn key_at(n: u8, run_at_ms: u64) -> EntryKey {
    EntryKey { run_at: Timestamp(run_at_ms), ..key(n) }
}

/// The key under which the `n`th entry is retried in a vqueue with a lock.
fn retry_at(n: u8, run_at_ms: u64) -> EntryKey {
    EntryKey { has_lock: true, run_at: Timestamp(run_at_ms), seq: InboxSeq(100), ..key(n) }
}

fn permit(serial: u64) -> PermitId {
    PermitId { incarnation: Generation(1), serial }
}

fn granted(first: u64, count: u32) -> Message {
    Message::Granted(Permits { first: permit(first), count })
}

fn enqueued(keys: &[EntryKey]) -> Message {
    Message::Notify(keys.iter().map(|key| InboxChange::Enqueued(*key)).collect())
}

fn removed(key: EntryKey) -> Message {
    Message::Notify(vec![InboxChange::Removed(key)])
}

fn decide(key: EntryKey, serial: u64) -> Effect {
    decide_all(&[key], serial)
}

fn decide_all(keys: &[EntryKey], serial: u64) -> Effect {
    let count = u32::try_from(keys.len()).unwrap();
    Effect::Decide { keys: keys.to_vec(), permits: Permits { first: permit(serial), count } }
}

fn acquire(count: u32, lock: LockWish) -> Effect {
    Effect::Acquire { count, lock }
}

/// A vqueue whose steps return their effects.
struct Scene {
    vqueue: VQueue,
    now: Timestamp,
}

impl Scene {
    /// A vqueue that has read `rows`, which are all rows, and the effects of that.
    fn new(config: VQueueConfig, rows: &[EntryKey]) -> (Self, Vec<Effect>) {
        let mut scene = Self { vqueue: VQueue::new(config, Vec::new()), now: Timestamp(1_000) };
        let request = scene.start();
        let effects = scene.tell(done(&request, rows, true));
        (scene, effects)
    }

    fn start(&mut self) -> RefillRequest {
        let mut effects = Vec::new();
        self.vqueue.start(self.now, &mut effects);
        match effects.pop() {
            Some(Effect::ReadInbox(request)) if effects.is_empty() => request,
            other => panic!("an incarnation begins to read: {other:?}"),
        }
    }

    fn tell(&mut self, message: Message) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.vqueue.step(self.now, message, &mut effects);
        self.vqueue.check();
        effects
    }

    fn tell_at(&mut self, now_ms: u64, message: Message) -> Vec<Effect> {
        self.now = Timestamp(now_ms);
        self.tell(message)
    }
}

fn done(request: &RefillRequest, rows: &[EntryKey], reached_end: bool) -> Message {
    Message::RefillDone(RefillDone { id: request.id, rows: rows.to_vec(), reached_end })
}

fn failed(request: &RefillRequest) -> Message {
    Message::RefillFailed(RefillFailed { id: request.id, reason: "disk".to_owned() })
}

#[test]
fn vqueue_life_of_a_lone_entry() {
    let (mut scene, effects) = Scene::new(PLAIN, &[]);
    assert_eq!(effects, [Effect::Idle(Rest::Empty)]);
    assert_eq!(scene.tell(enqueued(&[key(1)])), [acquire(1, LockWish::None)]);
    assert_eq!(scene.tell(granted(1, 1)), [decide(key(1), 1)]);
    assert_eq!(scene.tell(removed(key(1))), [Effect::Idle(Rest::Empty)]);
    assert_eq!(scene.vqueue.stage(), Stage::Empty);
    assert_eq!(scene.tell(Message::Passivate), [Effect::Passivated(Rest::Empty)]);
}

#[test]
fn vqueue_asks_for_at_most_its_quantum_and_one_acquire_at_a_time() {
    let rows = [1, 2, 3, 4, 5, 6].map(key);
    let (mut scene, effects) = Scene::new(PLAIN, &rows);
    assert_eq!(effects, [acquire(4, LockWish::None)]);
    assert_eq!(scene.tell(enqueued(&[key(7)])), [], "one acquire is outstanding");
    let effects = scene.tell(granted(1, 3));
    assert_eq!(effects, [decide_all(&rows[..3], 1), acquire(4, LockWish::None)]);
}

#[test]
fn vqueue_permit_is_for_whichever_entry_is_the_head() {
    let (mut scene, effects) = Scene::new(PLAIN, &[key(2)]);
    assert_eq!(effects, [acquire(1, LockWish::None)]);
    assert_eq!(scene.tell(enqueued(&[key(1)])), []);
    assert_eq!(scene.tell(granted(1, 1)), [decide(key(1), 1), acquire(1, LockWish::None)]);
}

#[test]
fn vqueue_permit_is_returned_without_a_head() {
    let (mut scene, _) = Scene::new(PLAIN, &[key(1)]);
    assert_eq!(scene.tell(removed(key(1))), [Effect::WantsToGo(Rest::Empty)]);
    assert_eq!(scene.tell(granted(1, 1)), [Effect::ReturnPermit(permit(1))]);
}

#[test]
fn vqueue_future_head_arms_the_timer_instead_of_acquiring() {
    let later = Timestamp(1_500);
    let (mut scene, effects) = Scene::new(PLAIN, &[key_at(1, later.0)]);
    assert_eq!(effects, [Effect::ArmTimer(later), Effect::Idle(Rest::Until(later))]);
    assert_eq!(scene.tell_at(1_499, Message::Wake)[0], Effect::ArmTimer(later), "too early");
    assert_eq!(scene.tell_at(1_500, Message::Wake), [acquire(1, LockWish::None)]);
    assert_eq!(scene.tell(Message::Wake), [], "needless");
}

#[test]
fn vqueue_permit_is_returned_while_the_head_is_not_due() {
    let (mut scene, _) = Scene::new(PLAIN, &[key(1)]);
    scene.tell(Message::Notify(vec![
        InboxChange::Removed(key(1)),
        InboxChange::Enqueued(key_at(1, 2_000)),
    ]));
    assert_eq!(scene.tell(granted(1, 1)), [Effect::ReturnPermit(permit(1))]);
    assert_eq!(scene.tell_at(2_000, Message::Wake), [acquire(1, LockWish::None)]);
}

#[test]
fn vqueue_disarms_the_timer_when_an_earlier_head_comes() {
    let (mut scene, _) = Scene::new(PLAIN, &[key_at(2, 2_000)]);
    let effects = scene.tell(enqueued(&[key(1)]));
    assert_eq!(effects, [acquire(1, LockWish::None), Effect::DisarmTimer]);
    let effects = scene.tell(granted(1, 1));
    assert_eq!(effects, [decide(key(1), 1), Effect::ArmTimer(Timestamp(2_000))]);
}

#[test]
fn vqueue_with_a_lock_asks_again_only_after_the_answer() {
    let (mut scene, effects) = Scene::new(LOCKED, &[key(1), key(2)]);
    assert_eq!(effects, [acquire(1, LockWish::Take)]);
    assert_eq!(scene.tell(granted(1, 1)), [decide(key(1), 1)]);
    assert_eq!(scene.tell(enqueued(&[key(3)])), []);
    // Applied: it runs, and holds the lock. The next acquire waits in the limiter.
    assert_eq!(scene.tell(removed(key(1))), [acquire(1, LockWish::Take)]);
}

#[test]
fn vqueue_retry_that_holds_the_lock_runs_first() {
    let (mut scene, _) = Scene::new(LOCKED, &[key(1), key(2)]);
    scene.tell(granted(1, 1));
    assert_eq!(scene.tell(removed(key(1))), [acquire(1, LockWish::Take)], "for 2");
    // The attempt failed. While its backoff lasts, 2 must not overtake it.
    let again = retry_at(1, 1_200);
    let until = Timestamp(1_200);
    let effects = scene.tell(enqueued(&[again]));
    assert_eq!(effects, [Effect::ArmTimer(until), Effect::WantsToGo(Rest::Until(until))]);
    let effects = scene.tell_at(1_200, Message::Wake);
    assert_eq!(effects, [acquire(1, LockWish::Held(again.entry))], "replaces the outstanding one");
    assert_eq!(scene.tell(granted(2, 1)), [decide(again, 2)]);
}

#[test]
fn vqueue_acquire_follows_when_the_retry_is_canceled() {
    let again = retry_at(1, 500);
    let (mut scene, effects) = Scene::new(LOCKED, &[again, key(2)]);
    assert_eq!(effects, [acquire(1, LockWish::Held(again.entry))]);
    assert_eq!(scene.tell(removed(again)), [acquire(1, LockWish::Take)]);
}

/// Found by the model: the replacing acquire crossed the grant of the replaced one and stood in the
/// limiter when the vqueue was passivated, and its permit was lost.
#[test]
fn vqueue_asks_to_be_passivated_while_an_acquire_may_stand() {
    let again = retry_at(1, 500);
    let (mut scene, _) = Scene::new(LOCKED, &[again, key(2)]);
    assert_eq!(scene.tell(removed(again)), [acquire(1, LockWish::Take)]);
    assert_eq!(scene.tell(granted(1, 1)), [decide(key(2), 1)]); // the answer to either acquire
    assert_eq!(scene.tell(removed(key(2))), [Effect::WantsToGo(Rest::Empty)]);
    let effects = scene.tell(Message::Passivate);
    assert_eq!(effects, [Effect::Passivated(Rest::Empty)]);
}

#[test]
fn vqueue_void_decision_is_decided_again() {
    let (mut scene, _) = Scene::new(PLAIN, &[key(1), key(2)]);
    scene.tell(granted(1, 2));
    let effects = scene.tell(Message::DecisionVoid(key(1)));
    assert_eq!(effects, [acquire(1, LockWish::None)]);
    assert_eq!(scene.tell(granted(3, 1)), [decide(key(1), 3)]);
    assert_eq!(scene.tell(Message::DecisionVoid(key(9))), [], "that one was not decided");
}

#[test]
fn vqueue_failed_refills_back_off_up_to_a_limit() {
    let mut scene = Scene { vqueue: VQueue::new(PLAIN, Vec::new()), now: Timestamp(1_000) };
    let mut request = scene.start();
    for backoff_ms in [10, 20, 40, 80, 160, 320, 640, 1_280, 2_560, 5_000, 5_000] {
        let at = Timestamp(scene.now.0 + backoff_ms);
        assert_eq!(scene.tell(failed(&request)), [Effect::RetryRefillAt(at)]);
        assert_eq!(scene.tell(Message::Passivate), [Effect::StillNeeded]);
        let effects = scene.tell_at(at.0, Message::Wake);
        let [Effect::ReadInbox(next)] = &effects[..] else { panic!("{effects:?}") };
        request = next.clone();
    }
    scene.tell(done(&request, &[], true));
    assert_eq!(scene.vqueue.stage(), Stage::Empty);
}

#[test]
fn vqueue_does_not_spin_on_a_scan_that_reads_nothing() {
    let mut scene = Scene { vqueue: VQueue::new(PLAIN, Vec::new()), now: Timestamp(1_000) };
    let request = scene.start();
    let effects = scene.tell(done(&request, &[], false));
    assert_eq!(effects, [Effect::RetryRefillAt(Timestamp(1_010))]);
}

/// A shell that reads without blocking passes the answer in while it performs the effects.
#[test]
fn vqueue_reads_last() {
    let rows: Vec<_> = (1..=24).map(key).collect();
    let mut scene = Scene { vqueue: VQueue::new(PLAIN, Vec::new()), now: Timestamp(1_000) };
    let request = scene.start();
    assert_eq!(request.limit, INBOX_CACHE_CAPACITY);
    assert_eq!(scene.tell(done(&request, &rows, false)), [acquire(4, LockWish::None)]);
    for serial in (1..).step_by(4) {
        let effects = scene.tell(granted(serial, 4));
        if let Some(at) = effects.iter().position(|e| matches!(e, Effect::ReadInbox(_))) {
            assert_eq!(at, effects.len() - 1);
            assert_eq!(scene.vqueue.inbox().items().len(), 4, "before the cache is empty");
            return;
        }
    }
}

#[test]
fn vqueue_starts_nothing_while_paused() {
    let (mut scene, _) = Scene::new(PLAIN, &[key(1)]);
    assert_eq!(scene.tell(Message::Pause), [Effect::WantsToGo(Rest::Paused)]);
    assert_eq!(scene.tell(granted(1, 1)), [Effect::ReturnPermit(permit(1))]);
    assert_eq!(scene.tell(enqueued(&[key(2)])), []);
    assert_eq!(scene.tell(Message::Resume), [acquire(2, LockWish::None)]);
}

#[test]
fn vqueue_paused_from_the_start_does_not_even_read() {
    let config = VQueueConfig { paused: true, ..PLAIN };
    let mut scene = Scene { vqueue: VQueue::new(config, Vec::new()), now: Timestamp(1_000) };
    let mut effects = Vec::new();
    scene.vqueue.start(scene.now, &mut effects);
    assert_eq!(effects, [Effect::Idle(Rest::Paused)]);
    assert!(matches!(scene.tell(Message::Resume)[..], [Effect::ReadInbox(_)]));
}

#[test]
fn vqueue_pause_cancels_a_refill() {
    let mut scene = Scene { vqueue: VQueue::new(PLAIN, Vec::new()), now: Timestamp(1_000) };
    let request = scene.start();
    scene.tell(Message::Pause);
    assert!(request.cancel.is_canceled());
    assert_eq!(scene.tell(Message::Passivate), [Effect::Passivated(Rest::Paused)]);
}

#[test]
fn vqueue_decides_nothing_before_it_is_drained() {
    let config = VQueueConfig { draining: true, ..PLAIN };
    let (mut scene, effects) = Scene::new(config, &[key(1)]);
    assert_eq!(effects, []);
    assert_eq!(scene.vqueue.stage(), Stage::Running);
    assert_eq!(scene.tell(Message::Passivate), [Effect::StillNeeded]);
    assert_eq!(scene.tell(Message::Drained), [acquire(1, LockWish::None)]);
}

#[test]
fn vqueue_is_still_needed_while_anything_is_outstanding() {
    let (mut scene, _) = Scene::new(PLAIN, &[key(1)]);
    assert_eq!(scene.tell(Message::Passivate), [Effect::StillNeeded], "a head may run");
    scene.tell(granted(1, 1));
    assert_eq!(scene.tell(Message::Passivate), [Effect::StillNeeded], "1 is not answered");
}

#[test]
fn vqueue_is_passivated_until_its_head_is_due() {
    let until = Timestamp(9_000);
    let (mut scene, _) = Scene::new(PLAIN, &[key_at(1, until.0)]);
    assert_eq!(scene.tell(Message::Passivate), [Effect::Passivated(Rest::Until(until))]);
}

/// A grant that crosses the withdrawal is dropped with the incarnation.
#[test]
fn vqueue_is_passivated_with_an_outstanding_acquire() {
    let (mut scene, _) = Scene::new(PLAIN, &[key(1)]);
    scene.tell(removed(key(1)));
    let effects = scene.tell(Message::Passivate);
    assert_eq!(effects, [Effect::Passivated(Rest::Empty)]);
}

#[test]
fn vqueue_new_incarnation_skips_keys_owned_by_the_partition() {
    let mut scene = Scene { vqueue: VQueue::new(PLAIN, vec![key(1)]), now: Timestamp(1_000) };
    let request = scene.start();
    let effects = scene.tell(done(&request, &[key(1), key(2)], true));
    assert_eq!(effects, [acquire(1, LockWish::None)]);
    assert_eq!(scene.tell(granted(1, 1)), [decide(key(2), 1)]);
}

#[test]
fn vqueue_stops_asking_when_too_many_decisions_are_unanswered() {
    let config = VQueueConfig { quantum: 1_000, ..PLAIN };
    let (mut scene, _) = Scene::new(config, &[]);
    let mut serial = 1;
    for n in 0..2_000_u64 {
        let key = EntryKey { seq: InboxSeq(n), ..key(1) };
        for effect in scene.tell(enqueued(&[key])) {
            if let Effect::Acquire { count, .. } = effect {
                scene.tell(granted(serial, count));
                serial += u64::from(count);
            }
        }
    }
    assert_eq!(scene.vqueue.inbox().dispatched().len(), DISPATCHED_MAX);
    let first = EntryKey { seq: InboxSeq(0), ..key(1) };
    assert_eq!(scene.tell(removed(first)), [acquire(1, LockWish::None)]);
}

/// 1,000,000 vqueues with work fit in 2 GiB; an idle one is under 1.5 KiB.
#[test]
fn vqueue_is_small() {
    let bytes = size_of::<VQueue>();
    assert!(bytes <= 328, "a VQueue takes {bytes} bytes");
    let full = bytes + INBOX_CACHE_CAPACITY * size_of::<EntryKey>();
    assert!(full < 1_536, "with a full cache {full} bytes");
}

/// A vqueue that waited without an incarnation, and the permits that start it.
fn started_with(permits: Permits) -> Scene {
    let vqueue = VQueue::new(PLAIN, Vec::new()).with_permits(permits);
    Scene { vqueue, now: Timestamp(1_000) }
}

#[test]
fn vqueue_keeps_its_initial_permits_until_its_inbox_is_read() {
    let permits = Permits { first: permit(7), count: 2 };
    let mut scene = started_with(permits);
    let request = scene.start();
    assert_eq!(scene.tell(enqueued(&[key(2)])), [], "the scan may return an earlier one");
    assert_eq!(scene.tell(Message::MakeRoom), [Effect::StillNeeded]);
    let effects = scene.tell(done(&request, &[key(1)], true));
    assert_eq!(effects, [decide_all(&[key(1), key(2)], 7)]);

    let mut scene = started_with(permits);
    let request = scene.start();
    let effects = scene.tell(done(&request, &[key(1)], true));
    let back = Effect::ReturnPermit(permit(8));
    assert_eq!(effects, [decide(key(1), 7), back], "one too many");
}

#[test]
fn vqueue_returns_its_initial_permits_if_its_inbox_cannot_be_read() {
    let permits = Permits { first: permit(7), count: 1 };
    let back = Effect::ReturnPermit(permit(7));
    let mut scene = started_with(permits);
    let request = scene.start();
    let effects = scene.tell(failed(&request));
    assert_eq!(effects[0], back, "others can use them meanwhile: {effects:?}");

    let mut scene = started_with(permits);
    scene.start();
    let effects = scene.tell(Message::Pause);
    assert_eq!(effects[0], back, "{effects:?}");
}

#[test]
fn vqueue_makes_room_only_while_it_waits_for_a_permit() {
    let (mut scene, _) = Scene::new(PLAIN, &[key(1), key(2)]);
    scene.tell(granted(1, 1));
    assert_eq!(scene.tell(Message::MakeRoom), [Effect::StillNeeded], "1 is not answered");
    scene.tell(removed(key(1)));
    let effects = scene.tell(Message::MakeRoom);
    assert_eq!(effects, [Effect::Passivated(Rest::Waits(key(2)))]);
}
