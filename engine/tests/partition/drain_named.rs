//! Attempts of earlier leaders return to their inboxes while the gate is already open.

use forebay_engine::partition::machine::{
    ENDS_PER_RECORD_MAX, KnownAttempt, PartitionEffect as Effect, PartitionInput as Input, Phase,
};
use forebay_messages::{
    Epoch,
    command::{Command, Enqueue, Purge},
};

use super::{
    fixture::{entry, new_entry, record, these, token, vqueue},
    rig::{Effects, Rig, has, spawned},
};

/// The name of a vqueue with a lock.
const LOCKED: u8 = 2;
/// The name of a vqueue without a lock.
const FREE: u8 = 0;

/// A leader under epoch 2 whose limiter is seeded with the attempts of epoch 1.
fn successor(of: impl FnOnce(&mut Rig)) -> Rig {
    let mut rig = Rig::leading();
    of(&mut rig);
    rig.tell(Input::StopLeading);
    rig.announce(2);
    rig.seed();
    rig
}

fn opens(rig: &mut Rig) -> Effects {
    rig.tell(Input::OpenGate { epoch: Epoch(2) })
}

fn walks(effects: &Effects) -> bool {
    has(effects, |effect| matches!(effect, Effect::FindVQueues { .. }))
}

#[test]
fn the_gate_opens_while_attempts_of_earlier_epochs_return() {
    let mut rig = successor(|rig| {
        rig.start(1, FREE, 10);
        rig.start(2, LOCKED, 11);
    });
    let reported = rig.drain();
    let reported = reported.iter().filter(|effect| matches!(effect, Effect::TellDraining { .. }));
    assert_eq!(reported.count(), 1);
    assert!(!walks(&opens(&mut rig)), "vqueues with running entries start");
    assert_eq!(rig.partition.phase(), Phase::Leading);
    // One of them ends in another way, and its vqueue starts.
    let kill = record(1_000, None, Command::Kill(these(&[2])));
    let effects = rig.commit_records(vec![kill]);
    assert!(
        !has(&effects, |effect| matches!(effect, Effect::Abort { .. })),
        "it was aborted before"
    );
    assert!(spawned(&effects).is_some() && !walks(&effects), "one attempt is left");
    let effects = rig.commit();
    assert!(spawned(&effects).is_some() && walks(&effects), "now all start");
    let nothing = Command::Purge(Purge::default());
    assert!(!walks(&rig.commit_records(vec![record(1_000, None, nothing)])), "once");
    assert!(!rig.running(1) && !rig.running(2));
    assert_eq!(rig.replica.row(1).unwrap().attempts, 0, "no attempt was used up");
}

#[test]
fn a_vqueue_decides_nothing_before_its_own_drain() {
    let mut rig = successor(|rig| {
        rig.start(1, FREE, 10);
    });
    rig.drain();
    opens(&mut rig);
    let mut enqueue = |n, of| {
        let command = Command::Enqueue(Enqueue { entry: new_entry(n, of) });
        spawned(&rig.commit_records(vec![record(1_000, None, command)])).is_some()
    };
    assert!(!enqueue(3, FREE), "its attempt is left");
    assert!(enqueue(4, LOCKED), "another one is free");
    let effects = rig.commit();
    assert_eq!(spawned(&effects).map(|(_, of, _)| of), Some(vqueue(FREE)));
}

#[test]
fn attempts_return_in_bounded_records_few_at_a_time() {
    let count = 11 * ENDS_PER_RECORD_MAX / 2;
    let mut rig = Rig::leading();
    rig.tell(Input::StopLeading);
    rig.announce(2);
    rig.begin_seed();
    let known = |n| KnownAttempt { vqueue: vqueue(FREE), entry: entry(1), token: token(1, n) };
    let running = (0..count as u64).map(known).collect();
    rig.tell(Input::SeedSent {
        running,
        stopping: Vec::new(),
        interrupted: Vec::new(),
        last_seq: Default::default(),
    });
    rig.seeded(count);
    rig.drain();
    let mut sizes = Vec::new();
    while !rig.appended.is_empty() {
        assert!(rig.appended.len() <= 4, "the rest waits");
        for record in &rig.appended {
            let Some(Command::EndAttempts(ends)) = &record.command else { panic!("{record:?}") };
            assert!(ends.retried.len() <= ENDS_PER_RECORD_MAX);
            sizes.extend(ends.retried.iter().map(|attempt| attempt.token.seq));
        }
        rig.commit();
    }
    assert_eq!(sizes, (0..count as u64).collect::<Vec<_>>(), "each once");
}

#[test]
fn a_limiter_death_during_a_drain_loses_no_attempt() {
    let mut rig = successor(|rig| {
        rig.start(1, FREE, 10);
        rig.start(2, LOCKED, 11);
    });
    rig.drain();
    opens(&mut rig);
    rig.seed();
    rig.drain();
    assert!(!walks(&opens(&mut rig)));
    // The first record returns them, the second one has nothing to do.
    assert!(walks(&rig.commit()));
    assert!(!rig.running(1) && !rig.running(2));
}
