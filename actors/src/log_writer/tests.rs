//! The end of the writer's thread.

use std::sync::mpsc::channel;

use forebay_storage::log::MemoryLog;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(20);

/// Regression: callers with commands in its queue waited forever.
#[test]
fn subscribers_are_notified_when_the_writer_panics() {
    let mut writer = LogWriter::start(Arc::new(MemoryLog::new())).unwrap();
    let (ready, is_ready) = channel();
    let (lost, is_lost) = channel();
    let handle = writer.handle();
    handle.send(LogCommand::Subscribe(Subscription {
        partition: PartitionId(0),
        node: NodeId(1),
        after: Lsn::default(),
        applied: Arc::default(),
        to: Ref::new(|_| true),
        done: Box::new(move |done| ready.send(done.is_ok()).unwrap()),
        lost: Box::new(move |error| lost.send(error).unwrap()),
    }));
    assert!(is_ready.recv_timeout(TIMEOUT).unwrap());
    handle.send(LogCommand::Barrier(Box::new(|_| panic!("as planned"))));
    let error = is_lost.recv_timeout(TIMEOUT).unwrap();
    assert!(error.to_string().contains("as planned"), "{error}");
    assert!(matches!(error, LogError::Gone { .. }), "{error:?}");
    assert!(!handle.send(LogCommand::Barrier(Box::new(|_| {}))), "it takes nothing any more");
    drop(handle);
    writer.join();
}

/// An orderly end is not reported.
#[test]
fn a_writer_without_senders_ends_silently() {
    let mut writer = LogWriter::start(Arc::new(MemoryLog::new())).unwrap();
    let (lost, is_lost) = channel();
    let handle = writer.handle();
    handle.send(LogCommand::Subscribe(Subscription {
        partition: PartitionId(0),
        node: NodeId(1),
        after: Lsn::default(),
        applied: Arc::default(),
        to: Ref::new(|_| true),
        done: Box::new(|_| {}),
        lost: Box::new(move |error| lost.send(error).unwrap()),
    }));
    drop(handle);
    writer.join();
    assert!(is_lost.recv_timeout(TIMEOUT).is_err(), "it was dropped");
}

/// Regression: a record that was too large failed all records of the same sync, including those of
/// other partitions.
#[test]
fn a_record_that_is_too_large_fails_alone() {
    let record = |len: usize| {
        let rule_book = vec![7; len].into();
        let command = forebay_messages::command::UpsertRuleBook {
            key_first: Default::default(),
            key_last: Default::default(),
            rule_book,
        };
        let command = Some(forebay_messages::command::Command::UpsertRuleBook(command));
        Arc::new(Record { keys: None, producer: None, created_at: Default::default(), command })
    };
    let store = Arc::new(MemoryLog::with_record_len_max(200));
    let mut core = WriterCore::new(Arc::clone(&store) as _);
    let (sender, inputs) = channel();
    for partition in [0, 1].map(PartitionId) {
        let sender = sender.clone();
        let subscription = Subscription {
            partition,
            node: NodeId(1),
            after: Lsn::default(),
            applied: Arc::default(),
            to: Ref::new(move |input| sender.send((partition, input)).is_ok()),
            done: Box::new(|_| {}),
            lost: Box::new(|_| {}),
        };
        core.handle([LogCommand::Subscribe(subscription)].into_iter());
    }
    let append = |partition, len| LogCommand::Append {
        partition: PartitionId(partition),
        epoch: Epoch(1),
        record: record(len),
        may_wait: false,
    };
    core.handle([append(0, 10), append(0, 500), append(1, 20), append(0, 30)].into_iter());
    assert_eq!((store.end(PartitionId(0)), store.end(PartitionId(1))), (Lsn(2), Lsn(1)));
    let mut refused = Vec::new();
    for (partition, input) in inputs.try_iter() {
        match input {
            PartitionInput::RecordTooLarge { record, why } => {
                assert_eq!((why.len, why.len_max), (record.stored_len(), 200));
                refused.push(partition);
            }
            PartitionInput::Committed { .. } => {}
            other => panic!("no partition stops: {other:?}"),
        }
    }
    assert_eq!(refused, [PartitionId(0)]);
}
