//! The leader's machine and the room in its outbox: calls to a partition with too many messages
//! wait, everything else continues.

use std::collections::BTreeMap;

use bytes::Bytes;
use forebay_engine::{
    partition::machine::{Answer, OutboxWait, PartitionEffect, PartitionInput},
    shuffle::Routes,
};
use forebay_messages::{
    AttemptToken, PartitionId, PartitionKey, RecordSeq, ReplyId, Run, VQueueName,
    actor::AttemptEnd,
    command::{
        Command, JournalWrite, Operation, OutboxMessage, Suspend, SuspendAttempt, TruncateOutbox,
        WriteJournal,
    },
};

use super::{
    fixture::{Replica, entry},
    partitions::{child, key, service, step},
    rig::{Effects, OUTBOX_MAX, Rig},
};

/// The name of a vqueue without a lock.
const FREE: u8 = 0;
const NEAR: PartitionId = PartitionId(1);
const FAR: PartitionId = PartitionId(2);
/// The last key of [`NEAR`]; all others belong to [`FAR`].
const MIDDLE: u64 = u64::MAX / 2;

fn routes(far: PartitionId) -> Routes {
    let key = PartitionKey;
    Routes::new(vec![(key(0), key(MIDDLE), NEAR), (key(MIDDLE + 1), key(u64::MAX), far)])
}

fn leading() -> Rig {
    let mut rig = Rig::new();
    rig.routes = routes(FAR);
    rig.announce(1);
    rig.seed();
    rig.open();
    rig
}

/// A vqueue of a partition.
fn vqueue_in(target: PartitionId) -> VQueueName {
    let names =
        (0..).map(|n| VQueueName { object_key: Some(format!("k{n}").into()), ..service("ship") });
    let is_in = |name: &VQueueName| {
        let owner = routes(FAR).owner(name.partition_key(None, &[0; 16]));
        owner == Some(target)
    };
    names.into_iter().find(is_in).unwrap()
}

fn call(name: &str, target: PartitionId) -> JournalWrite {
    let operation = Some(Operation::Call(child(vqueue_in(target))));
    JournalWrite { key: key(name), operation }
}

fn journal(n: u8, token: AttemptToken, writes: Vec<JournalWrite>) -> PartitionInput {
    PartitionInput::Journal { entry: entry(n), token, run: Run(0), writes }
}

/// The operations proposed and not committed.
fn proposed(rig: &Rig) -> Vec<String> {
    let commands = rig.appended.iter().filter_map(|record| record.command.as_ref());
    let writes = commands.filter_map(|command| match command {
        Command::WriteJournal(WriteJournal { attempts }) => Some(attempts),
        _ => None,
    });
    let writes = writes.flatten().flat_map(|attempt| &attempt.writes);
    writes.map(|write| write.key.to_string()).collect()
}

/// The suspensions proposed and not committed.
fn suspended(rig: &Rig) -> Vec<SuspendAttempt> {
    let commands = rig.appended.iter().filter_map(|record| record.command.as_ref());
    let suspends = commands.filter_map(|command| match command {
        Command::Suspend(Suspend { attempts }) => Some(attempts.clone()),
        _ => None,
    });
    suspends.flatten().collect()
}

/// The indexes of the messages in the outbox.
fn outbox(rig: &Rig) -> Vec<RecordSeq> {
    rig.replica.tables.outbox.keys().copied().collect()
}

/// Deletes the first messages of the outbox, as if they had been delivered; commits what follows.
fn deliver(rig: &mut Rig, count: usize) -> Effects {
    let delivered = outbox(rig).into_iter().take(count).collect();
    let command = Command::TruncateOutbox(TruncateOutbox { through: 0, delivered });
    let (command, reply) = (Box::new(command), ReplyId(77));
    rig.tell(PartitionInput::Propose { command, reply });
    rig.commit()
}

fn flush(rig: &mut Rig) {
    rig.tell(PartitionInput::Flush);
}

fn waits(rig: &mut Rig, n: u8) -> Vec<OutboxWait> {
    let effects = rig.tell(PartitionInput::AskOutbox { entry: entry(n), reply: ReplyId(5) });
    match effects.as_slice() {
        [PartitionEffect::Answer { answer: Answer::OutboxWaits(waits), .. }] => waits.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn calls_to_a_full_target_wait_and_everything_else_continues() {
    let mut rig = leading();
    let (_, token) = rig.start(1, FREE, 1);
    let names = ["a", "b", "c", "d", "e"];
    let mut writes: Vec<_> = names.iter().map(|name| call(name, FAR)).collect();
    writes.push(JournalWrite { key: key("step"), operation: Some(step("1")) });
    writes.push(call("near", NEAR));
    rig.tell(journal(1, token, writes));
    flush(&mut rig);
    assert_eq!(proposed(&rig), ["a", "b", "c", "step", "near"]);
    let wait = OutboxWait { target: FAR, calls: 2, messages: OUTBOX_MAX };
    assert_eq!(waits(&mut rig, 1), [wait], "proposed ones count");
    rig.commit();
    assert_eq!(waits(&mut rig, 1), [wait], "and so do stored ones");
    assert_eq!(waits(&mut rig, 2), [], "another entry waits for nothing");

    deliver(&mut rig, 1);
    flush(&mut rig);
    assert_eq!(proposed(&rig), ["d"], "in their order");
    rig.commit();
    deliver(&mut rig, 2);
    flush(&mut rig);
    assert_eq!(proposed(&rig), ["e"]);
    rig.commit();
    assert_eq!(waits(&mut rig, 1), []);
}

#[test]
fn a_write_that_adds_no_message_gives_its_room_back() {
    let mut rig = leading();
    let (_, token) = rig.start(1, FREE, 1);
    let twice = ["a", "a", "a", "b"].map(|name| call(name, FAR)).to_vec();
    rig.tell(journal(1, token, twice));
    flush(&mut rig);
    assert_eq!(proposed(&rig), ["a", "a", "a"]);
    rig.commit();
    flush(&mut rig);
    assert_eq!(proposed(&rig), ["b"], "only one of them added a message");
}

/// Regression (seed 930000009569): such a suspension was refused, and an attempt requests only one:
/// it kept the only permit for which its children waited.
#[test]
fn an_attempt_whose_call_waits_is_suspended_after_that_call() {
    let mut rig = leading();
    let (_, token) = rig.start(1, FREE, 1);
    rig.tell(journal(1, token, ["a", "b", "c", "d", "e"].map(|name| call(name, FAR)).to_vec()));
    flush(&mut rig);
    rig.commit();
    let suspend = |last| SuspendAttempt {
        entry: entry(1),
        token,
        waits: vec![key("a"), key(last)],
        releases_key: false,
    };
    rig.end(PartitionInput::Suspend(suspend("d")));
    rig.end(PartitionInput::Suspend(suspend("e")));
    assert!(rig.appended.is_empty());
    deliver(&mut rig, 1);
    flush(&mut rig);
    assert_eq!(proposed(&rig), ["d"], "another call of the attempt still waits");
    rig.commit();
    deliver(&mut rig, 1);
    flush(&mut rig);
    assert_eq!(proposed(&rig), ["e"]);
    assert_eq!(suspended(&rig), [suspend("e")], "the last request counts");
    rig.commit();
    assert!(!rig.running(1));
}

#[test]
fn the_waiting_calls_of_an_attempt_that_is_over_are_dropped() {
    let mut rig = leading();
    let (_, first) = rig.start(1, FREE, 1);
    let (_, second) = rig.start(2, 1, 2);
    rig.tell(journal(1, first, ["a", "b", "c", "d"].map(|name| call(name, FAR)).to_vec()));
    rig.tell(journal(2, second, vec![call("e", FAR)]));
    flush(&mut rig);
    rig.commit();
    let ended = AttemptEnd::Success(Bytes::new());
    rig.end(PartitionInput::Ended { entry: entry(1), token: first, ended });
    rig.commit();
    deliver(&mut rig, 1);
    flush(&mut rig);
    assert_eq!(proposed(&rig), ["e"]);
}

#[test]
fn a_new_leader_counts_the_messages_that_it_finds() {
    let mut rig = leading();
    let (_, token) = rig.start(1, FREE, 1);
    rig.tell(journal(1, token, ["a", "b", "c"].map(|name| call(name, FAR)).to_vec()));
    flush(&mut rig);
    rig.commit();
    let mut next = Rig::over(Replica::over(rig.replica.tables.clone()));
    next.routes = routes(FAR);
    next.announce(2);
    next.seed();
    next.open();
    let (_, token) = next.start(2, 1, 2);
    next.tell(journal(2, token, vec![call("d", FAR)]));
    flush(&mut next);
    assert_eq!(proposed(&next), Vec::<String>::new());
    deliver(&mut next, 1);
    flush(&mut next);
    assert_eq!(proposed(&next), ["d"]);
}

#[test]
fn calls_to_a_target_that_is_gone_wait_no_longer() {
    let mut rig = leading();
    let (_, token) = rig.start(1, FREE, 1);
    rig.tell(journal(1, token, ["a", "b", "c", "d"].map(|name| call(name, FAR)).to_vec()));
    flush(&mut rig);
    rig.commit();
    rig.routes = Routes::new(vec![(PartitionKey(0), PartitionKey(MIDDLE), NEAR)]);
    rig.tell(PartitionInput::Rerouted);
    flush(&mut rig);
    assert_eq!(proposed(&rig), ["d"], "its call ends, as the others do");
}

#[test]
fn the_destination_is_read_without_the_content() {
    let mut rig = leading();
    let (_, token) = rig.start(1, FREE, 1);
    rig.tell(journal(1, token, vec![call("a", FAR), call("b", NEAR)]));
    flush(&mut rig);
    let added = rig.commit();
    let messages: Vec<OutboxMessage> = added
        .iter()
        .filter_map(|effect| match effect {
            PartitionEffect::OutboxAdded { messages } => Some(messages),
            _ => None,
        })
        .flatten()
        .map(|message| OutboxMessage::clone(message))
        .collect();
    assert_eq!(messages.len(), 2);
    let stored: BTreeMap<_, _> = rig.replica.tables.outbox.clone().into_iter().collect();
    for message in messages {
        assert_eq!(OutboxMessage::destination(&stored[&message.index]), Some(message.to));
    }
    assert_eq!(OutboxMessage::destination(&[0xff, 0xff, 0xff]), None);
}
