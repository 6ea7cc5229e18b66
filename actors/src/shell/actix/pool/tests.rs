//! Members of a pool: mail in order, one ends alone, no leaks.

use std::{sync::atomic::AtomicUsize, time::Instant};

use forebay_messages::Timestamp;

use super::*;
use crate::shell::{ActixWorld, Cx, WallClock, World};

/// Records its messages; panics at 13, ends at 99, and answers 7 with 8 to itself.
#[derive(Debug)]
struct Echo;

impl Machine for Echo {
    type Input = u64;
    type Effect = u64;

    fn step(&mut self, _: Timestamp, input: u64, effects: &mut Vec<u64>) {
        effects.push(input);
        assert_ne!(input, 13, "as asked");
    }
}

/// Messages received by each, in order.
type Received = Arc<Mutex<Vec<(usize, u64)>>>;

struct Recorder {
    number: usize,
    received: Received,
    dropped: Arc<AtomicUsize>,
    drop_panics: bool,
}

impl Performer<Echo> for Recorder {
    const IS_ONE_OF_MANY: bool = true;

    fn perform(&mut self, effect: u64, cx: &mut Cx<'_, u64>) {
        self.received.lock().unwrap().push((self.number, effect));
        match effect {
            7 => cx.feed_back(8),
            99 => cx.stop(),
            _ => {}
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::SeqCst);
        assert!(!self.drop_panics, "as asked");
    }
}

struct Bench {
    world: World,
    actix: ActixWorld,
    received: Received,
    dropped: Arc<AtomicUsize>,
    deaths: Rc<RefCell<Vec<(usize, Death)>>>,
}

impl Bench {
    fn new() -> Self {
        let actix = ActixWorld::new(Arc::new(WallClock));
        let world = World::Actix(actix.clone());
        let (received, dropped, deaths) = (Received::default(), Arc::default(), Rc::default());
        Self { world, actix, received, dropped, deaths }
    }

    fn spawn(&self, number: usize) -> Child<u64> {
        self.spawn_with(number, false)
    }

    fn spawn_with(&self, number: usize, drop_panics: bool) -> Child<u64> {
        let (received, dropped) = (Arc::clone(&self.received), Arc::clone(&self.dropped));
        let (deaths, recorder) =
            (Rc::clone(&self.deaths), Recorder { number, received, dropped, drop_panics });
        let on_death = Box::new(move |death| deaths.borrow_mut().push((number, death)));
        self.world.spawn("echo", Echo, recorder, on_death)
    }

    fn received_by(&self, number: usize) -> Vec<u64> {
        let received = self.received.lock().unwrap();
        received.iter().filter(|(of, _)| *of == number).map(|(_, what)| *what).collect()
    }

    async fn until(&self, what: impl Fn(&Self) -> bool) {
        let started = Instant::now();
        while !what(self) {
            assert!(started.elapsed().as_secs() < 20, "it never comes");
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }
}

fn on_a_thread_of_actors<F: Future<Output = ()>>(test: F) {
    actix::System::new().block_on(test);
}

#[test]
fn mail_of_many_threads_arrives_once_and_in_order() {
    on_a_thread_of_actors(async {
        const EACH: u64 = 2_000;
        let bench = Bench::new();
        let members: Vec<_> = (0..50).map(|number| bench.spawn(number)).collect();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let addresses: Vec<_> = members.iter().map(|child| child.address.clone()).collect();
                scope.spawn(move || {
                    for n in 0..EACH {
                        addresses.iter().for_each(|to| assert!(to.send(1_000 + n * 4 + thread)));
                    }
                });
            }
        });
        bench.until(|bench| bench.received.lock().unwrap().len() as u64 == 50 * 4 * EACH).await;
        for number in 0..50 {
            let received = bench.received_by(number);
            for thread in 0..4 {
                let of_thread = received.iter().filter(|n| *n % 4 == thread);
                assert!(of_thread.is_sorted(), "{number}");
            }
        }
    });
}

#[test]
fn a_panic_ends_one_member_and_its_slot_is_reused() {
    on_a_thread_of_actors(async {
        let bench = Bench::new();
        let members: Vec<_> = (0..3).map(|number| bench.spawn(number)).collect();
        for n in [1, 7, 13, 2] {
            members.iter().enumerate().for_each(|(number, member)| {
                member.address.send(if n == 13 && number != 1 { 12 } else { n });
            });
        }
        bench.until(|bench| bench.received_by(2).len() == 5).await;
        assert_eq!(bench.received_by(0), [1, 7, 8, 12, 2]);
        assert_eq!(bench.received_by(1), [1, 7, 8]);
        bench.until(|bench| !bench.deaths.borrow().is_empty()).await;
        let deaths = bench.deaths.borrow().clone();
        assert!(
            matches!(&deaths[..], [(1, Death::Panicked(why))] if why.contains("as asked")),
            "{deaths:?}"
        );
        assert!(!members[1].address.send(3), "it is gone");
        let next = bench.spawn(4);
        // A wake-up meant for its predecessor does no harm.
        members[1].stop();
        next.address.send(5);
        bench.until(|bench| bench.received_by(4) == [5]).await;
    });
}

#[test]
fn a_stopped_member_takes_no_more_and_a_member_may_end_itself() {
    on_a_thread_of_actors(async {
        let bench = Bench::new();
        let (stopped, ends) = (bench.spawn(0), bench.spawn(1));
        stopped.address.send(1);
        stopped.stop();
        for n in [2, 99, 3] {
            ends.address.send(n);
        }
        bench.until(|bench| bench.deaths.borrow().len() == 2).await;
        assert_eq!((bench.received_by(0), bench.received_by(1)), (vec![], vec![2, 99]));
        assert_eq!(*bench.deaths.borrow(), [(0, Death::Stopped), (1, Death::Stopped)]);
        assert_eq!(bench.dropped.load(Ordering::SeqCst), 2);
        assert!(!stopped.address.send(1) && !ends.address.send(1));
    });
}

#[test]
fn a_panic_at_the_end_of_a_member_is_reported_and_others_continue() {
    on_a_thread_of_actors(async {
        let bench = Bench::new();
        let (bad, other) = (bench.spawn_with(0, true), bench.spawn(1));
        bad.stop();
        bench.until(|bench| !bench.deaths.borrow().is_empty()).await;
        assert_eq!(*bench.deaths.borrow(), [(0, Death::Stopped)]);
        other.address.send(1);
        bench.until(|bench| bench.received_by(1) == [1]).await;
    });
}

/// A flood for one member does not keep the thread from the others.
#[test]
fn others_get_turns_during_a_flood() {
    on_a_thread_of_actors(async {
        let bench = Bench::new();
        let (busy, other) = (bench.spawn(0), bench.spawn(1));
        for n in 0..200_000 {
            busy.address.send(1_000 + n);
        }
        other.address.send(1);
        bench.until(|bench| bench.received_by(1) == [1]).await;
        assert!(bench.received_by(0).len() < 200_000, "it waited for all of them");
        bench.until(|bench| bench.received_by(0).len() == 200_000).await;
    });
}

#[test]
fn no_member_is_left_when_the_thread_ends() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&dropped);
    on_a_thread_of_actors(async move {
        let bench = Bench { dropped: counted, ..Bench::new() };
        let members: Vec<_> = (0..10).map(|number| bench.spawn(number)).collect();
        bench.until(|bench| members[9].address.send(1) && !bench.received_by(9).is_empty()).await;
        bench.actix.clear();
        assert!(!members[0].address.send(1));
        assert!(bench.deaths.borrow().is_empty(), "parents get no report");
    });
    assert_eq!(dropped.load(Ordering::SeqCst), 10);
}
