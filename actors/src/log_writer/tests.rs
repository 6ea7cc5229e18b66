//! The writer's thread: what comes of its end.

use std::sync::mpsc::channel;

use forebay_storage::log::MemoryLog;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// Whoever waited for something that was in its queue had waited for ever.
#[test]
fn whoever_reads_a_log_is_told_when_its_writer_panics() {
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
    assert!(is_ready.recv_timeout(PATIENCE).unwrap());
    handle.send(LogCommand::Barrier(Box::new(|_| panic!("as planned"))));
    let error = is_lost.recv_timeout(PATIENCE).unwrap();
    assert!(error.to_string().contains("as planned"), "{error}");
    assert!(matches!(error, LogError::Gone { .. }), "{error:?}");
    assert!(!handle.send(LogCommand::Barrier(Box::new(|_| {}))), "it takes nothing any more");
    drop(handle);
    writer.join();
}

/// Nobody is told of an end in order.
#[test]
fn a_writer_that_nobody_can_reach_ends_in_silence() {
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
    assert!(is_lost.recv_timeout(PATIENCE).is_err(), "it was dropped");
}
