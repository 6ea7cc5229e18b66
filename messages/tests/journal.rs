//! Pins the bytes of journal keys, derived ids and journal commands. A change needs a new format
//! version, not a new expectation.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use bytes::Bytes;
use forebay_messages::{
    AttemptToken, EntryId, Epoch, Incarnation, PartitionId, PartitionKey, Record, RecordSeq, Run,
    Timestamp, VQueueName,
    command::{
        AfterRun, AskChild, AttemptWrites, BeginIncarnation, CheckCalls, CheckedTable, Command,
        Deliver, EndRun, EntrySelector, FailCalls, Invoke, JournalWrite, MessageBody, NewChild,
        NewEntry, Operation, OutboxMessage, PendingCall, Response, Restart, SettlePromise,
        StepResult, StopChild, Suspend, SuspendAttempt, TruncateOutbox, WakeSleepers, WriteJournal,
    },
    journal::{
        BranchElement, BranchKind, JournalFailureKind, JournalKey, JournalKind, JournalOutcome,
        KeyError, KeyParts, ParentLink, StepId, child_id, fingerprint,
    },
};
use proptest::prelude::*;

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn entry() -> EntryId {
    EntryId { partition_key: PartitionKey(0x0102_0304_0506_0708), uuid: *b"0123456789abcdef" }
}

fn deep() -> KeyParts {
    let branch = vec![
        BranchElement::at(BranchKind::Join, 0, 2),
        BranchElement::at(BranchKind::Select, 1, 0),
        BranchElement::keyed(3, "eu"),
    ];
    KeyParts { branch, name: "charge".into(), occurrence: 4 }
}

fn key(name: &str) -> JournalKey {
    KeyParts::named(name, 0).key().unwrap()
}

fn child() -> NewChild {
    NewChild {
        vqueue: VQueueName::service("ship").with_object_key("order-1"),
        payload: Bytes::from_static(b"payload"),
        run_at: Some(Timestamp(5)),
        retry: None,
        retention_ms: Some(60_000),
        is_attached: false,
    }
}

#[test]
fn golden_keys() {
    let keys = [key("charge"), deep().key().unwrap()];
    let lines = keys.map(|key| format!("{key}\n{}", hex(key.as_bytes())));
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn golden_ids_and_fingerprints() {
    let step = StepId { entry: entry(), run: Run(1), key: key("charge") };
    let keyless = VQueueName::service("mail");
    let lines = [
        step.to_string(),
        child_id(&step, &child().vqueue).to_string(),
        child_id(&step, &keyless).to_string(),
        format!("{:016x}", fingerprint(JournalKind::Step, None)),
        format!("{:016x}", fingerprint(JournalKind::Call, Some((&keyless, b"payload")))),
        format!("{:016x}", Operation::Send(child()).fingerprint()),
    ];
    insta::assert_snapshot!(lines.join("\n"));
}

/// Every part of a step's id changes it: otherwise two charges could get the same result.
#[test]
fn every_part_of_a_step_changes_its_id() {
    let step = StepId { entry: entry(), run: Run(1), key: key("charge") };
    let others = [
        StepId { entry: EntryId { uuid: [7; 16], ..entry() }, ..step.clone() },
        StepId { run: Run(2), ..step.clone() },
        StepId { key: key("ship"), ..step.clone() },
        StepId { key: KeyParts::named("charge", 1).key().unwrap(), ..step.clone() },
        StepId { key: deep().key().unwrap(), ..step.clone() },
    ];
    for other in others {
        assert_ne!(other.hash(), step.hash(), "{other:?}");
    }
}

fn writes() -> Command {
    let operations = [
        Operation::Step(StepResult {
            outcome: Some(JournalOutcome::Success(Bytes::from_static(b"paid"))),
        }),
        Operation::Step(StepResult {
            outcome: Some(JournalOutcome::failure(JournalFailureKind::Terminal, "no")),
        }),
        Operation::Call(child()),
        Operation::Send(NewChild { is_attached: true, ..child() }),
        Operation::Sleep(Timestamp(9)),
        Operation::Promise(()),
    ];
    let writes = operations
        .into_iter()
        .map(|operation| JournalWrite { key: key("a"), operation: Some(operation) })
        .collect();
    let token = AttemptToken { epoch: Epoch(3), seq: 5 };
    let attempts = vec![AttemptWrites { entry: entry(), token, writes }];
    Command::WriteJournal(WriteJournal { attempts })
}

fn deliver() -> Command {
    let parent = ParentLink {
        entry: entry(),
        run: Run(1),
        key: key("a"),
        is_awaited: true,
        depth: 2,
        locks: vec![child().vqueue.id(PartitionKey(3))],
    };
    let child = NewEntry {
        id: EntryId { uuid: [1; 16], ..entry() },
        vqueue: child().vqueue,
        payload: Bytes::from_static(b"payload"),
        run_at: None,
        idempotency_key: None,
        retry: None,
        retention_ms: None,
        is_fresh: false,
        payload_hash: None,
    };
    let id = child.id;
    let bodies = [
        MessageBody::Invoke(Box::new(Invoke { child, parent })),
        MessageBody::Response(Response {
            child: id,
            parent: entry(),
            run: Run(1),
            key: key("a"),
            outcome: Some(JournalOutcome::failure(JournalFailureKind::WouldDeadlock, "no")),
        }),
        MessageBody::Stop(StopChild { child: id, is_kill: true }),
    ];
    let messages = (7..).zip(bodies).map(|(index, body)| OutboxMessage {
        index: RecordSeq(index),
        to: PartitionKey(3),
        body: Some(body),
        incarnation: Incarnation(0),
    });
    Command::Deliver(Deliver {
        source: PartitionId(4),
        incarnation: Incarnation(2),
        messages: messages.collect(),
    })
}

fn ask() -> Command {
    let parent = ParentLink {
        entry: entry(),
        run: Run(1),
        key: key("a"),
        is_awaited: true,
        ..ParentLink::default()
    };
    let ask = AskChild { child: entry(), parent };
    let message = OutboxMessage {
        index: RecordSeq(7),
        to: PartitionKey(3),
        body: Some(MessageBody::Ask(Box::new(ask))),
        incarnation: Incarnation(300),
    };
    let incarnation = Incarnation::default();
    Command::Deliver(Deliver { source: PartitionId(4), incarnation, messages: vec![message] })
}

fn commands() -> Vec<Command> {
    let token = AttemptToken { epoch: Epoch(3), seq: 5 };
    let end = |then| Command::EndRun(EndRun { entry: entry(), token, then: Some(then) });
    let selector = EntrySelector { entries: vec![entry()], ..EntrySelector::default() };
    vec![
        writes(),
        Command::Suspend(Suspend {
            attempts: vec![SuspendAttempt {
                entry: entry(),
                token,
                waits: vec![key("a"), deep().key().unwrap()],
                releases_key: true,
            }],
        }),
        Command::SettlePromise(SettlePromise {
            entry: entry(),
            name: "approved".into(),
            outcome: Some(JournalOutcome::Success(Bytes::from_static(b"true"))),
        }),
        deliver(),
        Command::WakeSleepers(WakeSleepers { until: Timestamp(9), count_max: 7 }),
        Command::Restart(Restart { selector, from: Some(key("a")) }),
        end(AfterRun::Pause("other code".into())),
        end(AfterRun::Restart("other code".into())),
        end(AfterRun::ContinueWith(Bytes::from_static(b"next"))),
        Command::TruncateOutbox(TruncateOutbox {
            through: 0,
            delivered: vec![RecordSeq(3), RecordSeq(300)],
        }),
        Command::FailCalls(FailCalls {
            calls: vec![PendingCall { entry: entry(), key: key("a"), child: entry() }],
        }),
        Command::BeginIncarnation(BeginIncarnation { incarnation: Incarnation(300) }),
        Command::CheckCalls(CheckCalls {
            calls: vec![PendingCall { entry: entry(), key: key("a"), child: entry() }],
            through: Some(CheckedTable { hash: 7, next: 300 }),
        }),
        ask(),
    ]
}

fn record(command: Command) -> Record {
    Record { keys: None, producer: None, created_at: Timestamp(1_000), command: Some(command) }
}

#[test]
fn golden_records() {
    let lines: Vec<String> =
        commands().into_iter().map(|command| hex(record(command).encode_framed())).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn records_are_read_as_they_were_written() {
    for command in commands() {
        let written = record(command);
        let read = Record::decode_framed(Bytes::from(written.encode_framed())).unwrap();
        assert_eq!(read, written);
    }
}

#[test]
fn parts_over_their_bounds_are_refused_by_name() {
    let long = "n".repeat(129);
    let refusal = |parts: KeyParts| parts.key().unwrap_err();
    assert_eq!(refusal(KeyParts::named("", 0)), KeyError::NameEmpty);
    assert_eq!(refusal(KeyParts::named(&long, 0)), KeyError::NameTooLong { len: 129 });
    let branch = vec![BranchElement::keyed(0, &long)];
    let parts = KeyParts { branch, ..KeyParts::named("a", 0) };
    assert_eq!(refusal(parts), KeyError::BranchKeyTooLong { len: 129 });
    let branch = vec![BranchElement::keyed(0, "a"); 17];
    let parts = KeyParts { branch, ..KeyParts::named("a", 0) };
    assert_eq!(refusal(parts), KeyError::TooDeep { depth: 17 });
}

fn element() -> impl Strategy<Value = BranchElement> {
    let number = prop_oneof![0..3_u32, any::<u32>()];
    prop_oneof![
        (any::<bool>(), number.clone(), number.clone()).prop_map(|(is_join, occurrence, at)| {
            let kind = if is_join { BranchKind::Join } else { BranchKind::Select };
            BranchElement::at(kind, occurrence, at)
        }),
        (number, "[a/\\[\u{0}é]{0,4}").prop_map(|(n, key)| BranchElement::keyed(n, &key)),
    ]
}

fn parts() -> impl Strategy<Value = KeyParts> {
    let branch = prop::collection::vec(element(), 0..3);
    let occurrence = prop_oneof![0..3_u32, any::<u32>()];
    (branch, "[ab/.\u{0}é]{1,4}", occurrence).prop_map(|(branch, name, occurrence)| KeyParts {
        branch,
        name: name.into(),
        occurrence,
    })
}

proptest! {
    #[test]
    fn different_parts_have_different_keys_and_decode(a in parts(), b in parts()) {
        let (key_a, key_b) = (a.key().unwrap(), b.key().unwrap());
        prop_assert_eq!(key_a == key_b, a == b);
        prop_assert_eq!(key_a.parts(), a);
        prop_assert_eq!(JournalKey::from_bytes(key_a.as_bytes().clone()), Ok(key_a));
    }

    #[test]
    fn any_bytes_are_a_key_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(key) = JournalKey::from_bytes(bytes.clone().into()) {
            prop_assert_eq!(key.as_bytes(), &bytes);
        }
    }
}
