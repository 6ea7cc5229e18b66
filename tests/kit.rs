//! The test kit, used on forebay's own actors: the shell under a seeded executor, the log writer
//! over a log with planned faults.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use forebay::testkit::{
    Cx, Death, FaultLog, LogFault, Machine, MemoryLog, Performer, Probe, Ref, SimWorld, Step, World,
};
use forebay_actors::log_writer::{LogCommand, LogWriter, Subscription, WriterCore};
use forebay_engine::{
    leadership::{Leadership, LeadershipEffect, LeadershipInput},
    partition::machine::{AppendRefusal, PartitionInput},
};
use forebay_messages::{
    Epoch, Lsn, NodeId, PartitionId, Record, Timestamp,
    command::{Command, VersionBarrier},
};

/// Passes a number on, decremented, until it is zero; panics at 13.
#[derive(Debug)]
struct Countdown;

impl Machine for Countdown {
    type Input = u32;
    type Effect = u32;

    fn step(&mut self, _: Timestamp, input: u32, effects: &mut Vec<u32>) {
        assert_ne!(input, 13, "thirteen");
        if input > 0 {
            effects.push(input - 1);
        }
    }
}

struct PassOn(Ref<u32>);

impl Performer<Countdown> for PassOn {
    fn perform(&mut self, effect: u32, _: &mut Cx<'_, u32>) {
        self.0.send(effect);
    }
}

/// The actors that handled messages, in order.
fn trace_of(seed: u64) -> Vec<u64> {
    let sim = SimWorld::new(seed, Timestamp(0));
    let world = World::Sim(sim.clone());
    let probe = Probe::new();
    let mut actors = vec![probe.address()];
    let mut children = Vec::new();
    for _ in 0..5 {
        let to = actors[actors.len() - 1].clone();
        let child = world.spawn("countdown", Countdown, PassOn(to), Box::new(|_| {}));
        actors.push(child.address.clone());
        children.push(child);
    }
    for actor in &actors[1..] {
        for number in 6..=8 {
            actor.send(number);
        }
    }
    sim.settle();
    assert_eq!(probe.drain().len(), 15, "every number reaches the probe");
    sim.trace().into_iter().map(|(_, actor, _)| actor).collect()
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    assert_eq!(trace_of(7), trace_of(7));
    assert_ne!(trace_of(7), trace_of(8));
}

#[test]
fn a_panic_in_a_machine_reaches_only_its_death_watch() {
    let sim = SimWorld::new(1, Timestamp(0));
    let world = World::Sim(sim.clone());
    let deaths = Rc::new(RefCell::new(Vec::new()));
    let probe = Probe::new();
    let watch = |name: &'static str| {
        let deaths = Rc::clone(&deaths);
        Box::new(move |death| deaths.borrow_mut().push((name, death)))
    };
    let doomed = world.spawn("doomed", Countdown, PassOn(probe.address()), watch("doomed"));
    let other = world.spawn("other", Countdown, PassOn(probe.address()), watch("other"));
    doomed.address.send(13);
    other.address.send(5);
    sim.settle();
    assert_eq!(probe.expect(), 4);
    match deaths.borrow().as_slice() {
        [("doomed", Death::Panicked(why))] => assert!(why.contains("thirteen"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert!(!doomed.address.send(1), "the actor is gone");
    other.stop();
    sim.settle();
    assert_eq!(deaths.borrow().last(), Some(&("other", Death::Stopped)));
}

#[test]
fn timers_fire_in_order_when_time_advances() {
    let sim = SimWorld::new(1, Timestamp(0));
    let world = World::Sim(sim.clone());
    let probe = Probe::new();
    for at in [30, 10, 20, 500] {
        let to = probe.address();
        world.timers().set(Timestamp(at), move || {
            to.send(at);
        });
    }
    let canceled = world.timers().set(Timestamp(15), || panic!("canceled"));
    world.timers().cancel(canceled);
    sim.settle();
    probe.expect_none();
    sim.advance(Duration::from_millis(100));
    assert_eq!(probe.drain(), [10, 20, 30]);
}

#[test]
fn a_supervisor_without_an_epoch_retries_later() {
    let mut supervisor = Step::new(Leadership::new(NodeId(1), Epoch(4)));
    assert!(supervisor.start().is_empty());
    supervisor.step(LeadershipInput::Run);
    supervisor.advance(Duration::from_millis(10));
    let refused = LeadershipInput::EpochRefused { reason: "taken".to_owned() };
    let effects = supervisor.step(refused);
    assert!(
        matches!(effects.last(), Some(LeadershipEffect::RetryAt(at)) if *at > supervisor.now()),
        "{effects:?}"
    );
}

const PARTITION: PartitionId = PartitionId(3);

fn record(number: u32) -> Arc<Record> {
    let command = Command::VersionBarrier(VersionBarrier { format_min: number });
    Arc::new(Record {
        keys: None,
        producer: None,
        created_at: Timestamp(1),
        command: Some(command),
    })
}

fn append(epoch: u64, number: u32) -> LogCommand {
    LogCommand::Append {
        partition: PARTITION,
        epoch: Epoch(epoch),
        record: record(number),
        may_wait: false,
    }
}

fn subscribe(after: u64, to: Ref<PartitionInput>) -> LogCommand {
    // Each from a different node, because a node has one subscriber per partition.
    static NODES: AtomicU32 = AtomicU32::new(1);
    LogCommand::Subscribe(Subscription {
        partition: PARTITION,
        node: NodeId(NODES.fetch_add(1, Ordering::Relaxed)),
        after: Lsn(after),
        applied: Arc::new(AtomicU64::new(after)),
        to,
        done: Box::new(|result: Result<(), _>| assert!(result.is_ok())),
        lost: Box::new(|error| panic!("{error}")),
    })
}

fn committed(input: PartitionInput) -> (Lsn, usize) {
    match input {
        PartitionInput::Committed { first, records } => (first, records.len()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_log_writer_shares_a_sync_and_passes_records_on() {
    let log = Arc::new(FaultLog::new(MemoryLog::new()));
    let mut writer = WriterCore::new(log.clone());
    let early = Probe::new();
    writer.handle([subscribe(0, early.address()), append(1, 1), append(1, 2)].into_iter());
    assert_eq!(committed(early.expect()), (Lsn(1), 2));
    early.expect_none();
    let late = Probe::new();
    writer.handle([subscribe(1, late.address()), append(1, 3)].into_iter());
    assert_eq!(committed(late.expect()), (Lsn(2), 1), "missed records come first");
    assert_eq!(committed(late.expect()), (Lsn(3), 1));
    assert_eq!(committed(early.expect()), (Lsn(3), 1));
}

#[test]
fn the_log_writer_reports_fences_and_failed_writes() {
    let log = Arc::new(FaultLog::new(MemoryLog::new()));
    let mut writer = WriterCore::new(log.clone());
    let probe = Probe::new();
    log.plan(2, LogFault::Fence(Epoch(9)));
    log.plan(3, LogFault::Fail);
    writer.handle([subscribe(0, probe.address()), append(1, 1)].into_iter());
    assert_eq!(committed(probe.expect()), (Lsn(1), 1));
    writer.handle([append(1, 2)].into_iter());
    match probe.expect() {
        PartitionInput::AppendRefused(AppendRefusal::Fenced { current: Epoch(9) }) => {}
        other => panic!("{other:?}"),
    }
    writer.handle([append(9, 3)].into_iter());
    match probe.expect() {
        PartitionInput::AppendRefused(AppendRefusal::Failed { reason }) => {
            assert!(!reason.is_empty())
        }
        other => panic!("{other:?}"),
    }
    probe.expect_none();
}

#[test]
fn the_log_writer_runs_on_its_own_thread() {
    let mut writer = LogWriter::start(Arc::new(MemoryLog::new())).unwrap();
    let log = writer.handle();
    let probe = Probe::new();
    assert!(log.send(subscribe(0, probe.address())));
    for number in 0..100 {
        assert!(log.send(append(1, number)));
    }
    let mut known = 0;
    while known < 100 {
        let (first, count) = committed(probe.expect_within(Duration::from_secs(10)));
        assert_eq!(first, Lsn(known as u64 + 1));
        known += count;
    }
    drop(log);
    writer.join();
}

#[test]
fn a_machine_is_inspected_between_its_messages() {
    let sim = SimWorld::new(1, Timestamp(7));
    let world = World::Sim(sim.clone());
    let probe = Probe::new();
    let performer = PassOn(probe.address());
    let (child, looks) = world.spawn_visible("countdown", Countdown, performer, Box::new(|_| {}));
    let (tell, answers) = std::sync::mpsc::channel();
    child.address.send(3);
    assert!(looks.send(Box::new(move |_: &Countdown, now| tell.send(now).unwrap())));
    assert!(answers.try_recv().is_err(), "not before its turn");
    sim.settle();
    assert_eq!(answers.try_recv(), Ok(Timestamp(7)));
    assert_eq!(probe.expect(), 2);
    child.stop();
    sim.settle();
    assert!(!looks.send(Box::new(|_, _| unreachable!("the actor is gone"))));
}

/// Regression: it got no more records, because it was not counted among the subscribers that are
/// behind.
#[test]
fn a_subscriber_that_missed_a_write_reported_as_failed_is_fed_from_the_log() {
    let log = Arc::new(FaultLog::new(MemoryLog::new()));
    let mut writer = WriterCore::new(log.clone());
    let probe = Probe::new();
    log.plan(2, LogFault::FailAfterWrite);
    writer.handle([subscribe(0, probe.address()), append(1, 1)].into_iter());
    assert_eq!(committed(probe.expect()), (Lsn(1), 1));
    writer.handle([append(1, 2)].into_iter());
    assert!(matches!(probe.expect(), PartitionInput::AppendRefused(_)));
    writer.handle([append(1, 3)].into_iter());
    assert_eq!(committed(probe.expect()), (Lsn(2), 2), "both, in order");
}

/// The functions of a probe besides recording.
#[test]
fn a_probe_fishes_answers_and_watches() {
    let (server, client) = (Probe::new(), Probe::new());
    let answers = client.address();
    server.reply_with(move |question: &u32| {
        answers.send(question + 1);
    });
    for question in [1, 10, 100] {
        server.address().send(question);
    }
    assert_eq!(client.fish(|answer| *answer > 50), 101);
    assert_eq!(client.drain(), [2, 11]);
    assert_eq!(server.fish_within(Duration::from_secs(1), |question| *question == 10), 10);
    client.expect_none_within(Duration::from_millis(5));
    let sim = SimWorld::new(1, Timestamp(0));
    let deaths = Probe::new();
    let world = World::Sim(sim.clone());
    let doomed = world.spawn("doomed", Countdown, PassOn(client.address()), deaths.watch());
    doomed.address.send(13);
    sim.settle();
    assert!(matches!(deaths.expect(), Death::Panicked(why) if why.contains("thirteen")));
}
