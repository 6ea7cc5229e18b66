//! Named cases: past bugs of this inbox or of a similar system.

use forebay_engine::inbox::{INBOX_CACHE_CAPACITY, Inbox};
use forebay_messages::{
    VQueueId,
    actor::{RefillDone, RefillRequest},
};

use super::{key, number};

fn start(inbox: &mut Inbox) -> RefillRequest {
    inbox.start_refill(VQueueId::default())
}

fn finish(inbox: &mut Inbox, request: &RefillRequest, rows: &[u64], reached_end: bool) {
    let rows = rows.iter().map(|n| key(*n)).collect();
    assert!(inbox.refill_done(&RefillDone { id: request.id, rows, reached_end }));
    inbox.check();
}

/// An inbox of `capacity` that has read `rows`.
fn filled(capacity: usize, rows: &[u64], reached_end: bool) -> Inbox {
    let mut inbox = Inbox::with_capacity(capacity, Vec::new());
    let request = start(&mut inbox);
    finish(&mut inbox, &request, rows, reached_end);
    inbox
}

fn cached(inbox: &Inbox) -> Vec<u64> {
    inbox.items().map(|key| number(*key)).collect()
}

fn take(inbox: &mut Inbox) -> Option<u64> {
    inbox.take_head().map(number)
}

/// An evicted tombstone at the back would let the deleted row back in.
#[test]
fn inbox_overlay_overflow_with_a_tombstone_at_the_back() {
    let mut inbox = Inbox::with_capacity(3, Vec::new());
    let request = start(&mut inbox); // the snapshot taken now contains 50
    inbox.remove(key(50));
    inbox.enqueue(key(10));
    inbox.enqueue(key(20));
    inbox.enqueue(key(30)); // no room: the tombstone of 50 is dropped, a horizon is set
    inbox.check();
    finish(&mut inbox, &request, &[50], true);
    assert_eq!(cached(&inbox), [10, 20, 30]);
    assert!(!inbox.is_complete());
    for n in [10, 20, 30] {
        assert_eq!(take(&mut inbox), Some(n));
        inbox.remove(key(n));
    }
    let request = start(&mut inbox);
    assert_eq!(request.after, Some(key(30)));
    finish(&mut inbox, &request, &[], true); // the next snapshot does not contain 50
    assert!(inbox.is_empty_for_sure());
}

/// A removal and an add race across the horizon: one entry remains, and the queue must not look
/// empty.
#[test]
fn inbox_removal_and_add_across_the_horizon() {
    let mut inbox = Inbox::with_capacity(3, Vec::new());
    let request = start(&mut inbox); // the snapshot: 1, 2, 3
    for n in [1, 2, 3] {
        inbox.remove(key(n));
    }
    inbox.enqueue(key(9)); // sorts last in a full overlay: not kept, the horizon is 9
    inbox.check();
    finish(&mut inbox, &request, &[1, 2, 3], true);
    assert_eq!(inbox.head(), None);
    assert!(!inbox.is_empty_for_sure(), "9 is stored");
    let request = start(&mut inbox);
    assert_eq!(request.after, Some(key(3)));
    finish(&mut inbox, &request, &[9], true);
    assert_eq!(cached(&inbox), [9]);
}

/// The same, but the add comes first and the removals push it out.
#[test]
fn inbox_add_is_pushed_over_the_horizon_by_removals() {
    let mut inbox = Inbox::with_capacity(3, Vec::new());
    let request = start(&mut inbox);
    inbox.enqueue(key(9));
    for n in [1, 2, 3] {
        inbox.remove(key(n));
    }
    finish(&mut inbox, &request, &[1, 2, 3], true);
    assert!(!inbox.is_empty_for_sure(), "9 is stored");
    let request = start(&mut inbox);
    finish(&mut inbox, &request, &[9], true);
    assert_eq!(cached(&inbox), [9]);
}

#[test]
fn inbox_yield_under_an_unchanged_key() {
    let mut inbox = filled(3, &[1], false);
    assert_eq!(take(&mut inbox), Some(1));
    let request = start(&mut inbox);
    assert!(inbox.yield_back(key(1)));
    assert!(!inbox.yield_back(key(1)), "no longer handed out");
    finish(&mut inbox, &request, &[], true);
    assert_eq!(cached(&inbox), [1]);
}

/// Above the start of a running scan the tombstone is upgraded to an add.
#[test]
fn inbox_yield_above_the_start_of_a_scan() {
    let mut inbox = Inbox::with_capacity(3, vec![key(5)]);
    let request = start(&mut inbox); // the snapshot is taken while 5 is running
    inbox.remove(key(5));
    inbox.enqueue(key(5));
    inbox.check();
    finish(&mut inbox, &request, &[], true);
    assert_eq!(cached(&inbox), [5]);
    assert_eq!(take(&mut inbox), Some(5));
}

/// Coverage ends at the anchor, not at the last cached key.
#[test]
fn inbox_enqueue_between_back_and_anchor() {
    let mut inbox = filled(3, &[10, 20], true);
    assert_eq!(take(&mut inbox), Some(10));
    assert_eq!(take(&mut inbox), Some(20));
    inbox.remove(key(10));
    inbox.remove(key(20));
    assert_eq!(inbox.anchor(), Some(key(20)));
    inbox.enqueue(key(15)); // above the last (consumed) key, below the anchor
    assert_eq!(cached(&inbox), [15]);
    assert!(inbox.is_complete());
}

/// The same in a longer queue, where it would never be found again.
#[test]
fn inbox_enqueue_between_back_and_anchor_of_a_long_queue() {
    let mut inbox = filled(3, &[10, 20, 30], false);
    inbox.remove(key(20));
    inbox.remove(key(30));
    inbox.enqueue(key(25));
    assert_eq!(cached(&inbox), [10, 25]);
    let request = start(&mut inbox);
    assert_eq!(request.after, Some(key(30)));
}

/// Capacity 3, stored 2, 5, 60, 80. The scan returns 2, 5, 60; meanwhile 2 is removed
/// and 92 added. Accepting 92 would put the anchor over 80 and lose it.
#[test]
fn inbox_add_beyond_the_last_scanned_row() {
    let mut inbox = Inbox::with_capacity(3, Vec::new());
    let request = start(&mut inbox);
    assert_eq!(request.limit, 3);
    inbox.remove(key(2));
    inbox.enqueue(key(92));
    finish(&mut inbox, &request, &[2, 5, 60], false);
    assert_eq!(cached(&inbox), [5, 60]);
    assert_eq!(inbox.anchor(), Some(key(60)));
    assert!(!inbox.is_complete());
    for n in [5, 60] {
        assert_eq!(take(&mut inbox), Some(n));
        inbox.remove(key(n));
    }
    let request = start(&mut inbox);
    finish(&mut inbox, &request, &[80, 92], true);
    assert_eq!(cached(&inbox), [80, 92]);
}

/// Confirmed while the scan runs, but contained in its snapshot: not handed out again.
#[test]
fn inbox_leaving_dispatched_while_a_refill_is_in_flight() {
    let mut inbox = Inbox::with_capacity(3, vec![key(5)]);
    let request = start(&mut inbox); // the snapshot taken now contains 5
    inbox.remove(key(5)); // its decision is applied
    assert_eq!(inbox.dispatched().len(), 0);
    finish(&mut inbox, &request, &[5, 6], true);
    assert_eq!(cached(&inbox), [6]);
}

/// The anchor sinks below a handed-out key: the next scan returns it again.
#[test]
fn inbox_dispatched_key_above_the_anchor_is_skipped() {
    let mut inbox = filled(1, &[50], true);
    assert_eq!(take(&mut inbox), Some(50));
    inbox.enqueue(key(40));
    inbox.enqueue(key(30)); // evicts 40
    assert_eq!(inbox.anchor(), Some(key(30)));
    assert_eq!(take(&mut inbox), Some(30));
    inbox.remove(key(30));
    let request = start(&mut inbox);
    assert_eq!(request.limit, 2, "one to fill the cache, one that will be skipped");
    finish(&mut inbox, &request, &[40, 50], true);
    assert_eq!(cached(&inbox), [40]);
    assert_eq!(take(&mut inbox), Some(40));
    let request = start(&mut inbox);
    finish(&mut inbox, &request, &[50], true);
    assert!(inbox.is_empty_for_sure(), "50 is handed out, and nothing else is stored");
}

/// A queue that fits never reads again.
#[test]
fn inbox_that_fits_stays_complete() {
    let mut inbox = filled(INBOX_CACHE_CAPACITY, &[], true);
    for round in 0..100 {
        inbox.enqueue(key(round));
        assert!(!inbox.wants_refill());
        assert_eq!(take(&mut inbox), Some(round));
        inbox.remove(key(round));
        assert!(inbox.is_empty_for_sure());
    }
}

#[test]
fn inbox_append_to_a_full_cache_is_left_to_the_next_refill() {
    let mut inbox = filled(3, &[1, 2], true);
    inbox.enqueue(key(3));
    assert!(inbox.is_complete());
    inbox.enqueue(key(4));
    assert!(!inbox.is_complete());
    assert_eq!(cached(&inbox), [1, 2, 3]);
    assert_eq!(inbox.anchor(), Some(key(3)));
}

#[test]
fn inbox_overflow_inside_coverage_cancels_the_refill() {
    let mut inbox = filled(4, &[10, 20, 30, 40], false);
    assert_eq!(take(&mut inbox), Some(10));
    let request = start(&mut inbox);
    inbox.enqueue(key(25));
    assert!(!request.cancel.is_canceled(), "the cache has room");
    inbox.enqueue(key(15)); // evicts 40
    assert!(request.cancel.is_canceled());
    assert_eq!(cached(&inbox), [15, 20, 25, 30]);
    assert_eq!(inbox.anchor(), Some(key(30)));
    let late = RefillDone { id: request.id, rows: vec![key(50)], reached_end: true };
    assert!(!inbox.refill_done(&late), "its answer is ignored");
    inbox.check();
}

#[test]
fn inbox_key_that_would_be_last_in_a_full_cache_is_not_kept() {
    let mut inbox = filled(4, &[10, 20, 30, 40, 50], false);
    assert_eq!(inbox.anchor(), Some(key(40)));
    inbox.remove(key(40));
    inbox.enqueue(key(35));
    inbox.enqueue(key(38));
    assert_eq!(cached(&inbox), [10, 20, 30, 35]);
    assert_eq!(inbox.anchor(), Some(key(35)), "38 and 40 and up are undiscovered");
}

/// A scan may return a row before its notification arrives; by then the entry may be running.
#[test]
fn inbox_late_notification_of_a_row_that_is_handed_out() {
    let mut inbox = filled(3, &[1], true);
    assert_eq!(take(&mut inbox), Some(1));
    inbox.enqueue(key(1));
    assert_eq!(inbox.head(), None);
    inbox.check();
}

#[test]
#[should_panic(expected = "enqueued twice without a removal between")]
fn inbox_second_add_without_a_tombstone() {
    let mut inbox = Inbox::new(Vec::new());
    let _request = start(&mut inbox);
    inbox.enqueue(key(1));
    inbox.enqueue(key(1));
}

#[test]
#[should_panic(expected = "rows out of order")]
fn inbox_refuses_rows_out_of_order() {
    let mut inbox = Inbox::new(Vec::new());
    let request = start(&mut inbox);
    finish(&mut inbox, &request, &[2, 1], true);
}

/// A million vqueues with work fit in 2 GiB; an idle one is under 1.5 KiB.
#[test]
fn inbox_is_small() {
    assert!(size_of::<Inbox>() <= 160, "an Inbox takes {} bytes", size_of::<Inbox>());
    assert_eq!(size_of::<forebay_messages::EntryKey>(), 48);
}
