//! Cases by name.

use std::sync::Arc;

use forebay_engine::leases::{
    EndedLease, Granted, LeaseBook, LeaseEffect, LeaseId, LeaseState, Offer, Poll, PollId,
    PollRefusal,
};
use forebay_messages::VQueueName;

use crate::world::{LEASE, lease, limits, name};

fn poll(worker: &str, request: &str, max: usize, until: u64) -> Poll {
    let (worker, request) = (worker.into(), request.into());
    Poll { worker, request, services: vec![name(0)], max, until }
}

fn offer(number: u64, key: Option<&str>) -> Offer {
    let key = key.map(|key| Arc::new(VQueueName::service(&name(0)).with_object_key(key)));
    Offer { id: lease(number), service: name(0), key, is_interrupted: false }
}

/// The leases of an answer.
fn answered(effects: &[LeaseEffect], poll: u64) -> Option<Vec<LeaseId>> {
    effects.iter().find_map(|effect| match effect {
        LeaseEffect::Answer { poll: of, leases } if of.0 == poll => {
            Some(leases.iter().map(|granted| granted.lease).collect())
        }
        _ => None,
    })
}

/// A book whose service is open, with effects so far dropped.
fn open() -> LeaseBook {
    let mut book = LeaseBook::new(0, limits());
    book.poll(0, PollId(0), poll("first", "0", 1, 0), &mut Vec::new()).unwrap();
    book
}

#[test]
fn a_waiting_worker_gets_what_is_offered_and_a_lost_answer_costs_nothing() {
    let mut book = open();
    let mut effects = Vec::new();
    book.poll(0, PollId(1), poll("a", "1", 2, 50), &mut effects).unwrap();
    assert_eq!(answered(&effects, 1), None);
    book.offer(10, vec![offer(1, None)], &mut effects);
    assert_eq!(answered(&effects, 1), Some(vec![lease(1)]));
    effects.clear();
    book.offer(10, vec![offer(2, None)], &mut effects);
    // The answer was lost: the repetition gets the same, and nothing more.
    book.poll(20, PollId(2), poll("a", "1", 2, 50), &mut effects).unwrap();
    assert_eq!(answered(&effects, 2), Some(vec![lease(1)]));
    effects.clear();
    book.poll(20, PollId(3), poll("a", "2", 2, 50), &mut effects).unwrap();
    assert_eq!(answered(&effects, 3), Some(vec![lease(2)]));
    assert_eq!(book.leased(), 2);
}

#[test]
fn attempts_are_shared_between_the_workers_that_wait() {
    let mut book = open();
    let mut effects = Vec::new();
    for worker in 1..4 {
        let poll = poll(&format!("w{worker}"), "1", 3, 500);
        book.poll(0, PollId(worker), poll, &mut effects).unwrap();
    }
    book.offer(1, (1..6).map(|number| offer(number, None)).collect(), &mut effects);
    let counts = [1, 2, 3].map(|poll| answered(&effects, poll).unwrap().len());
    assert_eq!(counts, [2, 2, 1]);
}

#[test]
fn an_end_is_reported_once_and_a_late_one_is_refused() {
    let mut book = open();
    let mut effects = Vec::new();
    book.offer(0, vec![offer(1, None), offer(2, None)], &mut effects);
    book.poll(0, PollId(1), poll("a", "1", 2, 0), &mut effects).unwrap();
    assert_eq!(book.end(5, lease(1), 7, &mut effects), EndedLease::First);
    assert_eq!(book.end(6, lease(1), 7, &mut effects), EndedLease::Again, "a lost answer");
    assert_eq!(book.end(6, lease(1), 8, &mut effects), EndedLease::Lost, "another end");
    effects.clear();
    assert_eq!(book.end(LEASE, lease(2), 7, &mut effects), EndedLease::Lost);
    assert!(effects.contains(&LeaseEffect::CutShort(lease(2))), "{effects:?}");
}

#[test]
fn a_heartbeat_extends_a_lease_and_says_when_to_stop() {
    let mut book = open();
    let mut effects = Vec::new();
    book.offer(0, vec![offer(1, None)], &mut effects);
    book.poll(0, PollId(1), poll("a", "1", 1, 0), &mut effects).unwrap();
    assert_eq!(book.heartbeat(60, &[lease(1)]), [LeaseState::Held(60 + LEASE)]);
    book.tick(LEASE + 1, &mut effects);
    book.stop(LEASE + 1, lease(1), &mut effects);
    let states = book.heartbeat(LEASE + 1, &[lease(1), lease(9)]);
    assert_eq!(states, [LeaseState::Stop(2 * LEASE + 1), LeaseState::Lost]);
    book.revoke(LEASE + 2, lease(1), &mut effects);
    assert_eq!(book.heartbeat(LEASE + 2, &[lease(1)]), [LeaseState::Lost]);
}

#[test]
fn a_key_stays_held_until_the_worker_of_a_revoked_lease_has_stopped() {
    for reports in [false, true] {
        let mut book = open();
        let mut effects = Vec::new();
        book.offer(0, vec![offer(1, Some("k"))], &mut effects);
        book.poll(0, PollId(1), poll("a", "1", 1, 0), &mut effects).unwrap();
        book.revoke(10, lease(1), &mut effects);
        effects.clear();
        book.poll(10, PollId(2), poll("b", "1", 1, 1_000), &mut effects).unwrap();
        book.offer(10, vec![offer(2, Some("k"))], &mut effects);
        book.tick(LEASE - 1, &mut effects);
        assert_eq!(answered(&effects, 2), None, "the first worker may still run");
        if reports {
            assert_eq!(book.end(LEASE - 1, lease(1), 1, &mut effects), EndedLease::Lost);
        } else {
            book.tick(LEASE, &mut effects);
        }
        assert_eq!(answered(&effects, 2), Some(vec![lease(2)]));
    }
}

#[test]
fn what_a_worker_of_an_earlier_process_may_run_waits_for_the_end_of_its_lease() {
    let mut book = open();
    let mut effects = Vec::new();
    book.poll(0, PollId(1), poll("a", "1", 2, 1_000), &mut effects).unwrap();
    let interrupted = Offer { is_interrupted: true, ..offer(1, Some("k")) };
    book.offer(1, vec![interrupted], &mut effects);
    book.tick(LEASE - 1, &mut effects);
    // It is killed, and the next one of its key comes.
    book.revoke(LEASE - 1, lease(1), &mut effects);
    book.offer(LEASE - 1, vec![offer(2, Some("k"))], &mut effects);
    assert_eq!(answered(&effects, 1), None);
    book.tick(LEASE, &mut effects);
    assert_eq!(answered(&effects, 1), Some(vec![lease(2)]));
}

#[test]
fn a_worker_that_has_gone_holds_nothing() {
    let mut book = open();
    let mut effects = Vec::new();
    book.poll(0, PollId(1), poll("a", "1", 1, 1_000), &mut effects).unwrap();
    assert!(book.disconnect(1, PollId(1), &mut effects));
    book.offer(2, vec![offer(1, Some("k"))], &mut effects);
    assert_eq!(answered(&effects, 1), None);
    book.poll(3, PollId(2), poll("b", "1", 1, 1_000), &mut effects).unwrap();
    assert_eq!(answered(&effects, 2), Some(vec![lease(1)]));
    // The answer does not reach it: the attempt goes to the next one, with its key.
    effects.clear();
    assert!(!book.disconnect(4, PollId(2), &mut effects));
    book.poll(4, PollId(3), poll("c", "1", 1, 1_000), &mut effects).unwrap();
    book.undelivered(4, &[Granted { lease: lease(1), until: 3 + LEASE }], &mut effects);
    assert_eq!(answered(&effects, 3), Some(vec![lease(1)]));
}

#[test]
fn everything_is_bounded() {
    let mut book = open();
    let mut effects = Vec::new();
    for worker in 1..=4 {
        let poll = poll(&worker.to_string(), "1", 1, 1_000);
        book.poll(0, PollId(worker), poll, &mut effects).unwrap();
    }
    let refused = book.poll(0, PollId(5), poll("5", "1", 1, 1_000), &mut effects);
    assert_eq!(refused, Err(PollRefusal::TooManyPolls));
    assert!(book.disconnect(0, PollId(1), &mut effects));
    let many = Poll { services: (0..3).map(name).collect(), ..poll("6", "1", 1, 1_000) };
    let refused = book.poll(0, PollId(6), many, &mut effects);
    assert_eq!(refused, Err(PollRefusal::TooManyServices));
    book.close(0, &mut effects);
    assert_eq!(book.waiting(), 0);
    effects.clear();
    book.offer(0, vec![offer(1, None)], &mut effects);
    assert_eq!(effects, [LeaseEffect::GiveBack(lease(1))], "a closed book takes nothing");
    let mut book = open();
    effects.clear();
    book.offer(0, (1..=9).map(|number| offer(number, None)).collect(), &mut effects);
    assert!(effects.contains(&LeaseEffect::GiveBack(lease(9))), "eight wait at most");
    let slots = LeaseEffect::Slots { service: name(0), slots: 8 };
    assert!(effects.contains(&slots), "{effects:?}");
}

#[test]
fn the_text_of_a_lease_round_trips() {
    let text = lease(7).to_string();
    assert_eq!(text.parse(), Ok(lease(7)));
    for wrong in ["", "lse_", "ent_1.1.1", "lse_x.1.1", &format!("{text}.1"), &text[..30]] {
        assert!(wrong.parse::<LeaseId>().is_err(), "{wrong}");
    }
}
