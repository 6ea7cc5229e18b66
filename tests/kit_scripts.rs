//! Message scripts of the test kit, on test actors and on a whole runtime: messages that are lost,
//! duplicated, delayed or repeated, and their permitted consequences.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use forebay::{
    Builder, Context, Entry, HandlerError, Runtime, Timestamp,
    testkit::{Cx, Machine, Performer, Probe, Ref, Script, SimWorld, TestRuntime, World},
};

/// Forwards its messages.
#[derive(Debug)]
struct Relay;

#[derive(Clone, Debug, PartialEq)]
enum Order {
    Tea,
    Toast { slices: u32 },
}

impl Machine for Relay {
    type Input = Order;
    type Effect = Order;

    fn step(&mut self, _: Timestamp, input: Order, effects: &mut Vec<Order>) {
        effects.push(input);
    }
}

struct To(Ref<Order>);

impl Performer<Relay> for To {
    fn perform(&mut self, effect: Order, _: &mut Cx<'_, Order>) {
        self.0.send(effect);
    }
}

/// The messages that arrive at once and later, for one tea and three toasts, under a script.
fn served(script: Script) -> (Vec<Order>, Vec<Order>, u64) {
    let sim = SimWorld::new(1, Timestamp(0));
    let probe = Probe::new();
    let world = World::Sim(sim.clone());
    let waiter = world.spawn("waiter", Relay, To(probe.address()), Box::new(|_| {}));
    let scripted = sim.script(script);
    waiter.address.send(Order::Tea);
    for slices in 1..=3 {
        assert!(waiter.address.send(Order::Toast { slices }));
    }
    sim.settle();
    let at_once = probe.drain();
    sim.advance(Duration::from_secs(10));
    (at_once, probe.drain(), scripted.acted())
}

#[test]
fn messages_are_dropped_doubled_delayed_and_repeated_by_type() {
    let all = [Order::Tea, toast(1), toast(2), toast(3)];
    let toast_only = |script: fn(&str, &str) -> Script| script("waiter", "Toast");
    assert_eq!(served(toast_only(Script::drop)), (vec![Order::Tea], vec![], 3));
    let one = toast_only(Script::drop).skip(1).times(1);
    assert_eq!(served(one), (vec![Order::Tea, toast(1), toast(3)], vec![], 1));
    let doubled = vec![Order::Tea, Order::Tea, toast(1), toast(2), toast(3)];
    assert_eq!(served(Script::duplicate("waiter", "Tea")), (doubled, vec![], 1));
    let second = Duration::from_secs(1);
    let late = Script::delay("waiter", "Toast", second).times(2);
    assert_eq!(served(late), (vec![Order::Tea, toast(3)], vec![toast(1), toast(2)], 2));
    let again = Script::replay("waiter", "Tea", second);
    assert_eq!(served(again), (all.to_vec(), vec![Order::Tea], 1));
    // Another actor, another type, a part of a type's name.
    for script in [("cook", "Tea"), ("waiter", "Te"), ("waiter", "Teapot"), ("waiter", "")] {
        assert_eq!(served(Script::drop(script.0, script.1)), (all.to_vec(), vec![], 0));
    }
}

fn toast(slices: u32) -> Order {
    Order::Toast { slices }
}

/// A service whose first attempt fails at once and whose second takes ten seconds.
fn fails_once(calls: &Arc<AtomicU32>) -> impl Fn() -> Builder + 'static {
    let calls = Arc::clone(calls);
    move || {
        let calls = Arc::clone(&calls);
        Runtime::builder().partitions(1).handler("work", move |context: Context, (): ()| {
            calls.fetch_add(1, Ordering::Relaxed);
            async move {
                if context.attempt() == 1 {
                    return Err(HandlerError::retry("once more"));
                }
                tokio::time::sleep(Duration::from_secs(10)).await;
                Ok(())
            }
        })
    }
}

#[test]
fn an_end_reported_twice_counts_once() {
    let calls = Arc::default();
    let mut app = TestRuntime::start(fails_once(&calls));
    let twice = app.script(Script::duplicate("partition", "Ended"));
    // The first end arrives again while the second attempt runs.
    let late = app.script(Script::replay("partition", "Ended", Duration::from_secs(5)));
    let entry = app.enqueue(Entry::to("work"));
    assert!(app.outcome(&entry).is_success());
    assert_eq!((twice.acted(), late.acted(), calls.load(Ordering::Relaxed)), (2, 0, 2));
    twice.end();
    let entry = app.enqueue(Entry::to("work"));
    assert!(app.outcome(&entry).is_success());
    assert_eq!((twice.acted(), late.acted(), calls.load(Ordering::Relaxed)), (2, 2, 4));
}

/// An end reported under an earlier leader: its attempt was returned, and another one runs.
#[test]
fn the_end_of_an_attempt_of_an_earlier_epoch_changes_nothing() {
    let calls = Arc::default();
    let mut app = TestRuntime::start(fails_once(&calls));
    let late = app.script(Script::delay("partition", "Ended", Duration::from_secs(12)).times(2));
    let entry = app.enqueue(Entry::to("work"));
    app.advance(Duration::from_secs(2));
    assert_eq!((late.acted(), calls.load(Ordering::Relaxed)), (1, 1), "its end is in transit");
    let node = Arc::clone(app.runtime().node());
    let partition = node.partitions().ids()[0];
    app.run(node.partitions().step_down(partition, Duration::ZERO)).unwrap();
    app.run(node.partitions().lead(partition)).unwrap();
    assert!(app.replay_stale_epochs() > 0, "the earlier epoch wrote something");
    app.advance(Duration::from_secs(11));
    assert_eq!(app.outcome_now(&entry), None, "the end of the earlier attempt is void");
    assert_eq!(calls.load(Ordering::Relaxed), 2, "it is retried once");
    app.advance(Duration::from_secs(60));
    assert!(app.outcome_now(&entry).is_some_and(|outcome| outcome.is_success()));
    assert_eq!(calls.load(Ordering::Relaxed), 3);
}

/// A permit that never reaches its vqueue stays with it until the vqueue dies: then it is returned.
#[test]
fn a_permit_lost_in_transit_is_returned_when_its_vqueue_dies() {
    let mut app = TestRuntime::start(|| {
        let work = |_: Context, (): ()| async { Ok::<_, HandlerError>(()) };
        Runtime::builder().partitions(1).max_running(1).handler("work", work)
    });
    let lost = app.script(Script::drop("vqueue", "Granted").times(1));
    let entries: Vec<_> =
        (0..3).map(|n| app.enqueue(Entry::to("work").scope(&format!("s{n}")))).collect();
    app.advance(Duration::from_secs(1));
    assert_eq!(lost.acted(), 1);
    assert!(entries.iter().all(|entry| app.outcome_now(entry).is_none()), "the slot is lost");
    app.kill("vqueue");
    for entry in &entries {
        assert!(app.outcome(entry).is_success());
    }
}

/// The log refuses the writes, and every replica is unchanged.
#[test]
fn repeated_writes_of_a_deposed_leader_leave_no_trace() {
    let build = || {
        let work = |_: Context, (): ()| async { Ok::<_, HandlerError>(()) };
        Runtime::builder().partitions(2).handler("work", work)
    };
    let mut app = TestRuntime::builder().nodes(2).start(build);
    let entries: Vec<_> =
        (0..20).map(|n| app.enqueue(Entry::to("work").scope(&format!("s{n}")))).collect();
    app.settle();
    assert_eq!(app.replay_stale_epochs(), 0, "no leader was deposed");
    app.fail_over();
    let digests = |app: &TestRuntime| {
        let node = Arc::clone(app.runtime().node());
        let of = |id| format!("{:?}", node.inspect().digest(id).unwrap());
        node.partitions().ids().into_iter().map(of).collect::<Vec<_>>()
    };
    let before = digests(&app);
    assert!(app.replay_stale_epochs() >= 20);
    assert_eq!(digests(&app), before);
    for entry in &entries {
        assert!(app.outcome(entry).is_success());
    }
}
