//! Pins the bytes and texts of ids, keys and records, which must never change. A change needs a new
//! format version, not a new expectation.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use bytes::Bytes;
use forebay_messages::{
    AttemptToken, EntryId, EntryKey, Epoch, FailureKind, InboxSeq, NodeId, Outcome, PartitionKey,
    Producer, Record, RecordKeys, RecordSeq, RuleId, Timestamp, VQueueId, VQueueName,
    command::{
        AnnounceLeader, Command, Complete, Decision, EndAttempts, Enqueue, EnqueueBatch,
        ExecutorId, NewEntry, Purge, RetryAttempt, RetryPolicy, RetryReason, SchedulerDecisions,
        UpsertRuleBook,
    },
    record::{LeaderSeq, RecordError},
    rule::Pattern,
};
use proptest::prelude::*;

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn id() -> EntryId {
    EntryId { partition_key: PartitionKey(0x0102_0304_0506_0708), uuid: *b"0123456789abcdef" }
}

fn name() -> VQueueName {
    VQueueName::service("resize")
        .with_scope("tenant-a")
        .with_limit_key("gold/user-7")
        .unwrap()
        .with_object_key("img-42")
}

fn key() -> EntryKey {
    EntryKey { has_lock: false, run_at: Timestamp(1_000), seq: InboxSeq(7), entry: id() }
}

#[test]
fn golden_ids() {
    let vqueue = name().id_for(id());
    let rule = "tenant-a/*".parse::<Pattern>().unwrap().rule_id();
    let lines = [
        hex(id().to_bytes()),
        id().to_string(),
        hex(vqueue.to_bytes()),
        vqueue.to_string(),
        rule.printed(),
    ];
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn golden_keys_of_the_key_space() {
    let uuid = id().uuid;
    let keys = [
        name().partition_key(None, &uuid),
        VQueueName::service("resize").with_object_key("img-42").partition_key(None, &uuid),
        VQueueName::service("resize").partition_key(None, &uuid),
        VQueueName::service("resize").partition_key(Some("once"), &uuid),
    ];
    insta::assert_snapshot!(keys.map(|key| format!("{:016x}", key.0)).join("\n"));
}

#[test]
fn golden_entry_key() {
    let locked = EntryKey { has_lock: true, ..key() };
    insta::assert_snapshot!([key(), locked].map(|key| hex(key.to_bytes())).join("\n"));
}

fn record(command: Command) -> Record {
    Record {
        keys: Some(RecordKeys::Single(id().partition_key)),
        producer: Some(Producer::Leader(LeaderSeq { epoch: Epoch(3), seq: RecordSeq(9) })),
        created_at: Timestamp(1_700_000_000_000),
        command: Some(command),
    }
}

fn ends(token: AttemptToken) -> Command {
    Command::EndAttempts(EndAttempts {
        completed: vec![Complete {
            entry: id(),
            token,
            outcome: Some(Outcome::Success(Bytes::from_static(b"done")).into()),
            heeds_cancel: false,
        }],
        retried: vec![RetryAttempt {
            entry: id(),
            token,
            reason: RetryReason::Failed,
            run_at: Timestamp(7),
            message: "no".into(),
            detail: Bytes::new(),
            heeds_cancel: false,
            interrupted: 0,
            keeps_failure: false,
        }],
    })
}

#[expect(clippy::too_many_lines, reason = "one row per command")]
fn commands() -> Vec<Command> {
    let token = AttemptToken { epoch: Epoch(3), seq: 5 };
    vec![
        Command::AnnounceLeader(AnnounceLeader {
            node: NodeId(1),
            epoch: Epoch(3),
            key_first: PartitionKey(0),
            key_last: PartitionKey(u64::MAX),
        }),
        Command::Enqueue(Enqueue {
            entry: NewEntry {
                id: id(),
                vqueue: name(),
                payload: Bytes::from_static(b"payload"),
                run_at: Some(Timestamp(5)),
                idempotency_key: Some("once".into()),
                retry: Some(RetryPolicy::default()),
                retention_ms: Some(60_000),
                is_fresh: false,
                payload_hash: None,
            },
        }),
        Command::SchedulerDecisions(SchedulerDecisions {
            decisions: vec![Decision {
                vqueue: name().id_for(id()),
                key: key(),
                token,
                executor: None,
            }],
        }),
        Command::Complete(Complete {
            entry: id(),
            token,
            outcome: Some(Outcome::failure(FailureKind::Terminal, "no").into()),
            heeds_cancel: false,
        }),
        Command::Retry(RetryAttempt {
            entry: id(),
            token,
            reason: RetryReason::Snoozed,
            run_at: Timestamp(6),
            message: "later".into(),
            detail: Bytes::new(),
            heeds_cancel: false,
            interrupted: 0,
            keeps_failure: false,
        }),
        Command::UpsertRuleBook(UpsertRuleBook {
            key_first: PartitionKey(0),
            key_last: PartitionKey(9),
            rule_book: Bytes::from_static(b"book"),
        }),
        Command::Purge(Purge { entries: vec![id()], ..Purge::default() }),
        Command::EnqueueBatch(EnqueueBatch {
            entries: vec![NewEntry {
                id: id(),
                vqueue: name(),
                payload: Bytes::from_static(b"payload"),
                run_at: None,
                idempotency_key: None,
                retry: None,
                retention_ms: None,
                is_fresh: true,
                payload_hash: None,
            }],
        }),
        ends(token),
    ]
}

/// The tag that keeps a failed attempt.
#[test]
fn golden_retry_with_kept_failure() {
    let retry = Command::Retry(RetryAttempt {
        entry: id(),
        token: AttemptToken { epoch: Epoch(3), seq: 5 },
        reason: RetryReason::Failed,
        run_at: Timestamp(6),
        message: "no".into(),
        detail: Bytes::new(),
        heeds_cancel: true,
        interrupted: 0,
        keeps_failure: true,
    });
    insta::assert_snapshot!(hex(record(retry).encode_framed()), @"010708070605040302011104040304090c80cf94febb30352a0518010203040506070830313233343536373839616263646566050404030405080605026e6f08010801");
}

#[test]
fn golden_records() {
    let lines: Vec<String> =
        commands().into_iter().map(|command| hex(record(command).encode_framed())).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

/// Commands with their rare optional tags.
fn tagged() -> Vec<Command> {
    let token = AttemptToken { epoch: Epoch(3), seq: 5 };
    let entry = NewEntry {
        id: id(),
        vqueue: name(),
        idempotency_key: Some("once".into()),
        is_fresh: true,
        payload_hash: Some(0x1122_3344_5566_7788),
        payload: Bytes::from_static(b"payload"),
        run_at: None,
        retry: None,
        retention_ms: None,
    };
    let executor = ExecutorId { node: NodeId(2), boot: 7, is_lease: true };
    let decision =
        Decision { vqueue: name().id_for(id()), key: key(), token, executor: Some(executor) };
    vec![
        Command::Enqueue(Enqueue { entry }),
        Command::SchedulerDecisions(SchedulerDecisions { decisions: vec![decision] }),
        Command::Complete(Complete {
            entry: id(),
            token,
            outcome: Some(Outcome::failure(FailureKind::Terminal, "no").into()),
            heeds_cancel: true,
        }),
        Command::Retry(RetryAttempt {
            entry: id(),
            token,
            reason: RetryReason::LeaderChange,
            run_at: Timestamp(6),
            message: "".into(),
            detail: Bytes::new(),
            heeds_cancel: true,
            interrupted: 5,
            keeps_failure: false,
        }),
    ]
}

#[test]
fn golden_records_with_optional_tags() {
    let lines: Vec<String> =
        tagged().into_iter().map(|command| hex(record(command).encode_framed())).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn records_are_read_as_they_were_written() {
    for command in commands().into_iter().chain(tagged()) {
        let written = record(command);
        let read = Record::decode_framed(Bytes::from(written.encode_framed())).unwrap();
        assert_eq!(read, written);
    }
}

#[test]
fn a_newer_format_and_damage_are_refused() {
    let mut bytes = record(commands().remove(0)).encode_framed();
    assert_eq!(Record::decode_framed(Bytes::new()), Err(RecordError::Empty));
    bytes.truncate(bytes.len() - 1);
    let cut = Record::decode_framed(Bytes::copy_from_slice(&bytes));
    assert!(matches!(cut, Err(RecordError::Decode(_))), "{cut:?}");
    bytes[0] = 200;
    let newer = Record::decode_framed(Bytes::from(bytes));
    assert_eq!(newer, Err(RecordError::Format { found: 200 }));
}

#[test]
fn texts_that_are_not_ids_are_refused() {
    let good = id().to_string();
    assert_eq!(good.parse::<EntryId>().unwrap(), id());
    let longer = format!("{good}0");
    for bad in ["", "ent_", "vq_0", &good[4..], &good[..good.len() - 1], &longer, "ent_~~~"] {
        assert!(bad.parse::<EntryId>().is_err(), "{bad}");
    }
    assert!(good.parse::<VQueueId>().is_err(), "an entry is not a vqueue");
    let too_large = format!("ent_{}", "z".repeat(33));
    assert!(too_large.parse::<EntryId>().is_err(), "above 2^64");
    assert!(RuleId::parse("rul_zzzzzzzzzzz").is_err(), "above 2^64");
}

prop_compose! {
    fn any_key()(
        has_lock in any::<bool>(),
        run_at in prop_oneof![0..3_u64, any::<u64>()],
        seq in prop_oneof![0..3_u64, any::<u64>()],
        partition_key in prop_oneof![0..3_u64, any::<u64>()],
        uuid in any::<[u8; 16]>(),
    ) -> EntryKey {
        EntryKey {
            has_lock,
            run_at: Timestamp(run_at),
            seq: InboxSeq(seq),
            entry: EntryId { partition_key: PartitionKey(partition_key), uuid },
        }
    }
}

proptest! {
    #[test]
    fn byte_order_is_key_order(a in any_key(), b in any_key()) {
        prop_assert_eq!(a.to_bytes().cmp(&b.to_bytes()), a.cmp(&b));
        prop_assert_eq!(EntryKey::from_bytes(a.to_bytes()), a);
    }

    #[test]
    fn ids_are_read_as_they_are_printed(key in any::<u64>(), uuid in any::<[u8; 16]>()) {
        let entry = EntryId { partition_key: PartitionKey(key), uuid };
        prop_assert_eq!(entry.to_string().parse::<EntryId>(), Ok(entry));
        prop_assert_eq!(EntryId::from_bytes(entry.to_bytes()), entry);
        let rule = RuleId(key);
        prop_assert_eq!(RuleId::parse(&rule.printed()), Ok(rule));
    }

    #[test]
    fn any_bytes_are_a_record_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        // It must not panic.
        let _ = Record::decode_framed(Bytes::from(bytes));
    }
}
