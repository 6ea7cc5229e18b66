//! The check can fail: histories with a planted fault, and ones that only look like it.

use crate::linearizable::{Call, Condition, History, Put, Returned, Row};

fn put(key: &str, value: &str, condition: Condition) -> Put {
    Put { key: key.to_owned(), value: Some(value.to_owned()), condition }
}

fn set(key: &str, value: &str) -> Call {
    Call::Change(vec![put(key, value, Condition::Nothing)])
}

fn get(key: &str) -> Call {
    Call::Get(key.to_owned())
}

fn changed(version: u64) -> Option<Returned> {
    Some(Returned::Changed(vec![version]))
}

fn row(version: u64, value: &str) -> Option<Returned> {
    let row: Row = (version, Some(value.to_owned()));
    Some(Returned::Row(Some(row)))
}

/// One call after the other.
fn sequence(calls: &[(Call, Option<Returned>)]) -> History {
    let mut history = History::default();
    for (call, returned) in calls {
        let number = history.called(call.clone());
        history.returned(number, returned.clone());
    }
    history
}

#[test]
fn a_stale_read_is_found() {
    let fresh = [(set("k", "a"), changed(1)), (set("k", "b"), changed(2)), (get("k"), row(2, "b"))];
    sequence(&fresh).check();
    let mut stale = fresh.clone();
    stale[2].1 = row(1, "a");
    assert!(!sequence(&stale).is_linearizable());
    let mut missing = fresh;
    missing[2].1 = Some(Returned::Row(None));
    assert!(!sequence(&missing).is_linearizable());
}

#[test]
fn a_read_at_the_same_time_as_the_write_may_see_either() {
    for seen in [row(1, "a"), row(2, "b")] {
        let mut history = sequence(&[(set("k", "a"), changed(1))]);
        let write = history.called(set("k", "b"));
        let read = history.called(get("k"));
        history.returned(read, seen);
        history.returned(write, changed(2));
        history.check();
    }
}

#[test]
fn a_lost_update_is_found() {
    let add = |value: &str| Call::Change(vec![put("k", value, Condition::Version(1))]);
    let mut history = sequence(&[(set("k", "a"), changed(1))]);
    let (one, other) = (history.called(add("b")), history.called(add("c")));
    history.returned(one, changed(2));
    let mut lost = history.clone();
    history.returned(other, Some(Returned::Conflict));
    history.check();
    lost.returned(other, changed(2));
    assert!(!lost.is_linearizable(), "both say that they replaced the same version");
}

#[test]
fn an_unknown_change_is_made_at_any_later_time_or_never() {
    let begin = [(set("k", "a"), changed(1)), (set("k", "b"), Some(Returned::Unknown))];
    for seen in [row(1, "a"), row(2, "b")] {
        let mut calls = begin.to_vec();
        calls.push((get("k"), seen));
        sequence(&calls).check();
    }
    let mut late = begin.to_vec();
    late.extend([(get("k"), row(1, "a")), (get("k"), row(2, "b")), (get("k"), row(2, "b"))]);
    sequence(&late).check();
    late.push((get("k"), row(1, "a")));
    assert!(!sequence(&late).is_linearizable(), "it is not undone");
}

#[test]
fn a_change_that_is_made_twice_is_found() {
    let calls = [
        (set("k", "a"), Some(Returned::Unknown)),
        (get("k"), row(1, "a")),
        (get("k"), row(2, "a")),
    ];
    assert!(!sequence(&calls).is_linearizable());
}

#[test]
fn a_change_that_was_not_made_must_stay_unseen() {
    let calls = [(set("k", "a"), None), (get("k"), Some(Returned::Row(None)))];
    sequence(&calls).check();
    assert!(!sequence(&[(set("k", "a"), None), (get("k"), row(1, "a"))]).is_linearizable());
}

#[test]
fn half_of_a_change_of_two_keys_is_found() {
    let both =
        || Call::Change(vec![put("a", "1", Condition::Nothing), put("b", "2", Condition::Absent)]);
    let made = Some(Returned::Changed(vec![1, 1]));
    sequence(&[(both(), made.clone()), (get("b"), row(1, "2"))]).check();
    assert!(!sequence(&[(both(), made), (get("b"), Some(Returned::Row(None)))]).is_linearizable());
    let conflict = Some(Returned::Conflict);
    assert!(!sequence(&[(both(), conflict), (get("a"), row(1, "1"))]).is_linearizable());
}
