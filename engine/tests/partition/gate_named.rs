//! A closing gate: pending decisions are undone, running entries may end, and no one else is
//! served.

use forebay_engine::partition::machine::{
    Answer, PartitionEffect as Effect, PartitionInput as Input, Phase,
};
use forebay_messages::{
    actor::AttemptEnd,
    command::{Command, Enqueue},
};

use super::{
    fixture::{entry, new_entry},
    rig::{Effects, Rig, answers, has, runs},
};

/// The name of a vqueue without a lock.
const FREE: u8 = 0;

fn is_quiet(effects: &Effects) -> bool {
    has(effects, |effect| matches!(effect, Effect::TellQuiet { .. }))
}

#[test]
fn a_decision_applied_behind_a_closed_gate_is_undone() {
    let mut rig = Rig::leading();
    let handle = rig.enqueue_cold(1, FREE);
    // Proposed; no handler was started.
    rig.decide(handle, 1, 10);
    assert!(!is_quiet(&rig.tell(Input::CloseGate)), "its decision is in transit");
    let effects = rig.commit();
    assert!(runs(&effects).is_empty() && !is_quiet(&effects), "it must return first");
    assert!(rig.running(1));
    assert!(is_quiet(&rig.commit()));
    assert!(!rig.running(1));
    assert_eq!(rig.replica.row(1).unwrap().attempts, 0);
}

#[test]
fn a_closed_gate_lets_running_entries_end_and_serves_no_one_else() {
    let mut rig = Rig::leading();
    let (_, token) = rig.start(1, FREE, 10);
    assert!(!is_quiet(&rig.tell(Input::CloseGate)), "one runs");
    assert_eq!(rig.partition.phase(), Phase::Closing);
    let effects = rig.propose(Command::Enqueue(Enqueue { entry: new_entry(2, FREE) }));
    assert_eq!(answers(&effects), [Answer::NotLeading]);
    let ended = AttemptEnd::Success(Default::default());
    let mut effects = rig.tell(Input::Ended { entry: entry(1), token, ended });
    effects.extend(rig.tell(Input::Flush));
    assert!(!is_quiet(&effects), "its end is not durable");
    assert!(is_quiet(&rig.commit()));
    assert!(rig.replica.row(1).is_none(), "it has ended");
}
