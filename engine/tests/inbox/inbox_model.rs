//! The inbox compared with a set as storage.
//!
//! Storage changes first and reports it later, in order, as late as the case requires. A scan's
//! snapshot is taken at any point between its start and its end, and may stop early. After every
//! step the guarantees of the inbox are checked against storage; at the end, draining must hand out
//! exactly the stored keys.
//!
//! Each of the small capacities gets [`CASES_DEFAULT`] cases; `FOREBAY_CASES` sets another number.

use std::collections::{BTreeSet, VecDeque};

use forebay_engine::inbox::{INBOX_CACHE_CAPACITY, Inbox};
use forebay_messages::{
    VQueueId,
    actor::{RefillDone, RefillRequest},
};
use proptest::prelude::*;

use super::{key, number};

/// Cases of each property, and in the long mode (`make test-long`).
const CASES_DEFAULT: u32 = 20_000;
const CASES_LONG: u32 = 200_000;

/// Numbers per capacity: few, so that they collide often.
const UNIVERSE_PER_CAPACITY: u64 = 12;
const UNIVERSE_MAX: usize = 12 * INBOX_CACHE_CAPACITY;

/// The number of cases set by the environment; at least the default, unless `FOREBAY_CASES` is set.
#[expect(clippy::disallowed_methods, reason = "the environment sets the number of cases")]
fn cases() -> u32 {
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse().unwrap());
    let is_long = std::env::var("FOREBAY_TEST_LONG").is_ok_and(|value| value == "1");
    let default = if is_long { CASES_LONG } else { CASES_DEFAULT };
    number("FOREBAY_CASES").unwrap_or_else(|| number("PROPTEST_CASES").unwrap_or(0).max(default))
}

/// The next step. Numbers choose among the existing items, modulo their number.
#[derive(Clone, Copy, Debug)]
enum Op {
    Put(u64),
    PutRun(u64, u64),
    Delete(usize),
    Tell(usize),
    Dispatch(usize),
    Confirm(usize),
    Yield(usize),
    Void(usize),
    Start,
    Snapshot(usize),
    Finish(usize),
    Fail,
    Cancel,
    AnswerLate,
    Restart,
}

/// One number makes one step, so that cases are cheap to generate and to shrink.
fn op(raw: u16) -> Op {
    let (what, arg) = (raw % 40, usize::from(raw / 40));
    let at = arg as u64;
    match what {
        0..=8 => Op::Put(at),
        9 | 10 => Op::PutRun(at / 8, 1 + at % 8),
        11..=14 => Op::Delete(arg),
        15 | 16 => Op::Tell(1 + arg % 4),
        17..=20 => Op::Dispatch(1 + arg % 4),
        21..=24 => Op::Confirm(arg),
        25 | 26 => Op::Yield(arg),
        27 => Op::Void(arg),
        28..=31 => Op::Start,
        32 => Op::Snapshot(arg),
        33..=35 => Op::Finish(arg),
        36 => Op::Fail,
        37 => Op::Cancel,
        38 => Op::AnswerLate,
        _ if arg.is_multiple_of(4) => Op::Restart,
        _ => Op::Start,
    }
}

/// A change in storage that the inbox may not know yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Enqueued(u64),
    Removed(u64),
    Void(u64),
}

impl News {
    fn number(self) -> u64 {
        match self {
            Self::Enqueued(n) | Self::Removed(n) | Self::Void(n) => n,
        }
    }
}

struct Scan {
    request: RefillRequest,
    snapshot: Option<RefillDone>,
}

/// The expected state of one number.
#[derive(Clone, Copy, Default)]
struct Marks {
    stored: bool,
    cached: bool,
    dispatched: bool,
    decided: bool,
    has_news: bool,
}

struct World {
    inbox: Inbox,
    capacity: usize,
    /// Numbers are taken modulo this, so that they collide often.
    universe: u64,
    /// Whether changes are reported late; otherwise at once.
    lags: bool,
    stored: BTreeSet<u64>,
    news: VecDeque<News>,
    /// Handed-out keys that the partition has not answered.
    decisions: BTreeSet<u64>,
    scan: Option<Scan>,
    /// Late answers of abandoned scans.
    late: Vec<RefillDone>,
}

impl World {
    fn new(capacity: usize, lags: bool) -> Self {
        Self {
            inbox: Inbox::with_capacity(capacity, Vec::new()),
            capacity,
            universe: UNIVERSE_PER_CAPACITY * capacity as u64,
            lags,
            stored: BTreeSet::new(),
            news: VecDeque::new(),
            decisions: BTreeSet::new(),
            scan: None,
            late: Vec::new(),
        }
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Put(n) => self.put(n),
            Op::PutRun(first, count) => (first..first + count).for_each(|n| self.put(n)),
            Op::Delete(pick) => self.delete(pick),
            Op::Tell(count) => self.tell(count),
            Op::Dispatch(count) => (0..count).for_each(|_| self.dispatch()),
            Op::Confirm(pick) => self.answer(pick, &[News::Removed]),
            Op::Yield(pick) => self.answer(pick, &[News::Removed, News::Enqueued]),
            Op::Void(pick) => self.answer(pick, &[News::Void]),
            Op::Start => self.start(),
            Op::Snapshot(arg) => self.snapshot(arg),
            Op::Finish(arg) => self.finish(arg),
            Op::Fail => {
                if let Some(scan) = self.scan.take() {
                    self.inbox.refill_failed(scan.request.id);
                }
            }
            Op::Cancel => self.inbox.cancel_refill(),
            Op::AnswerLate => {
                if let Some(done) = self.late.pop() {
                    assert!(!self.inbox.refill_done(&done), "took the answer of another scan");
                }
            }
            Op::Restart => self.restart(),
        }
        if !self.lags {
            self.tell(usize::MAX);
        }
        self.drop_canceled_scan();
        self.check();
    }

    fn is_reported(&self, n: u64) -> bool {
        self.news.iter().all(|news| news.number() != n)
    }

    /// A key is stored again only after its removal was reported: sequence numbers ensure that.
    fn put(&mut self, n: u64) {
        let n = n % self.universe;
        let is_fresh = self.is_reported(n) && !self.inbox.dispatched().any(|k| number(*k) == n);
        if is_fresh && self.stored.insert(n) {
            self.news.push_back(News::Enqueued(n));
        }
    }

    fn delete(&mut self, pick: usize) {
        if let Some(n) = nth(&self.stored, pick) {
            self.stored.remove(&n);
            self.decisions.remove(&n); // its decision will be applied as a no-op
            self.news.push_back(News::Removed(n));
        }
    }

    fn tell(&mut self, count: usize) {
        for news in self.news.drain(..count.min(self.news.len())) {
            match news {
                News::Enqueued(n) => self.inbox.enqueue(key(n)),
                News::Removed(n) => self.inbox.remove(key(n)),
                News::Void(n) => assert!(self.inbox.yield_back(key(n)), "{n} was handed out"),
            }
            self.inbox.check();
        }
    }

    fn dispatch(&mut self) {
        let Some(n) = self.inbox.take_head().map(number) else {
            return;
        };
        if self.stored.contains(&n) {
            assert!(self.decisions.insert(n), "{n} was handed out twice");
        } else {
            let removal = News::Removed(n);
            assert!(
                self.news.contains(&removal),
                "{n} was handed out after its removal was reported"
            );
        }
    }

    /// The partition answers one of its decisions.
    fn answer(&mut self, pick: usize, news: &[fn(u64) -> News]) {
        if let Some(n) = nth(&self.decisions, pick) {
            self.decisions.remove(&n);
            for news in news {
                match news(n) {
                    News::Removed(_) => assert!(self.stored.remove(&n)),
                    News::Enqueued(_) => assert!(self.stored.insert(n)),
                    News::Void(_) => {}
                }
                self.news.push_back(news(n));
            }
        }
    }

    fn start(&mut self) {
        if !self.inbox.is_complete() && !self.inbox.is_refill_in_flight() {
            let request = self.inbox.start_refill(VQueueId::default());
            assert!(request.limit > 0);
            self.scan = Some(Scan { request, snapshot: None });
        }
    }

    /// The scan reads the current rows: all requested ones, or fewer.
    fn snapshot(&mut self, arg: usize) {
        let Some(scan) = &mut self.scan else {
            return;
        };
        if scan.snapshot.is_none() {
            let limit = if arg.is_multiple_of(3) { 1 + arg % 5 } else { scan.request.limit };
            let after = scan.request.after.map(number);
            let mut rows = self.stored.iter().filter(|n| after.is_none_or(|after| **n > after));
            let read = rows.by_ref().take(limit.min(scan.request.limit)).map(|n| key(*n)).collect();
            scan.snapshot = Some(RefillDone {
                id: scan.request.id,
                rows: read,
                reached_end: rows.next().is_none(),
            });
        }
    }

    fn finish(&mut self, arg: usize) {
        self.snapshot(arg);
        if let Some(Scan { request, snapshot: Some(done) }) = self.scan.take() {
            let has_room = self.inbox.items().len() < self.capacity;
            assert!(self.inbox.refill_done(&done), "refused its own scan");
            let advanced = self.inbox.anchor() > request.after;
            let is_stuck = has_room && !done.rows.is_empty() && !advanced;
            assert!(!is_stuck, "the next scan would read the same rows again");
        }
    }

    fn drop_canceled_scan(&mut self) {
        if self.scan.as_ref().is_some_and(|scan| scan.request.cancel.is_canceled()) {
            self.snapshot(1);
            self.late.extend(self.scan.take().and_then(|scan| scan.snapshot));
        }
        assert_eq!(self.scan.is_some(), self.inbox.is_refill_in_flight());
    }

    /// The actor dies and loses its state and all unreported changes.
    fn restart(&mut self) {
        self.news.clear();
        self.scan = None;
        self.late.clear();
        let dispatched = self.decisions.iter().map(|n| key(*n)).collect();
        self.inbox = Inbox::with_capacity(self.capacity, dispatched);
        assert!(!self.inbox.is_empty_for_sure(), "a new incarnation knows nothing");
    }

    fn check(&self) {
        self.inbox.check();
        assert!(self.inbox.items().len() <= self.capacity);
        let mut marks = [Marks::default(); UNIVERSE_MAX];
        let at = |n: u64| usize::try_from(n).unwrap();
        self.inbox.items().for_each(|k| marks[at(number(*k))].cached = true);
        self.inbox.dispatched().for_each(|k| marks[at(number(*k))].dispatched = true);
        self.news.iter().for_each(|news| marks[at(news.number())].has_news = true);
        self.decisions.iter().for_each(|n| marks[at(*n)].decided = true);
        self.stored.iter().for_each(|n| marks[at(*n)].stored = true);

        let anchor = self.inbox.anchor().map(number);
        let head = self.inbox.head().map(number);
        for (n, marks) in (0..self.universe).zip(marks) {
            assert!(!marks.decided || marks.dispatched, "lost the handed-out key {n}");
            if marks.cached && !marks.stored {
                let is_late = marks.has_news && self.news.contains(&News::Removed(n));
                assert!(is_late, "{n} is cached after its removal was reported");
            }
            let is_news = marks.has_news || marks.cached || marks.dispatched;
            if marks.stored && !is_news {
                let is_covered = anchor.is_some_and(|anchor| n <= anchor);
                assert!(!is_covered, "{n} is stored, below the anchor {anchor:?}, and lost");
                assert!(
                    !self.inbox.is_complete(),
                    "{n} is stored but the inbox claims to be complete"
                );
                assert!(head.is_none_or(|head| head < n), "{n} sorts before the head {head:?}");
            }
        }
    }

    /// Reports and answers everything, then drains the inbox: exactly the stored keys.
    fn drain(&mut self) {
        self.tell(usize::MAX);
        while !self.decisions.is_empty() {
            self.answer(0, &[News::Removed]);
        }
        self.tell(usize::MAX);
        let mut scans_max = 2 + self.stored.len();
        while !self.inbox.is_empty_for_sure() {
            if let Some(head) = self.inbox.head() {
                assert_eq!(Some(number(head)), self.stored.first().copied(), "out of order");
                self.dispatch();
                self.answer(0, &[News::Removed]);
                self.tell(usize::MAX);
            } else {
                assert!(scans_max > 0, "refills make no progress");
                scans_max -= 1;
                self.start();
                self.finish(1);
            }
            self.check();
        }
        assert!(self.stored.is_empty(), "called empty while {:?} remain", self.stored);
        assert_eq!(self.inbox.dispatched().len(), 0);
    }
}

fn nth(set: &BTreeSet<u64>, pick: usize) -> Option<u64> {
    (!set.is_empty()).then(|| *set.iter().nth(pick % set.len()).unwrap())
}

fn run(capacity: usize, lags: bool, raw: &[u16]) {
    let mut world = World::new(capacity, lags);
    for raw in raw {
        world.step(op(*raw));
    }
    world.drain();
}

fn case(len_max: usize) -> impl Strategy<Value = (bool, Vec<u16>)> {
    (any::<bool>(), prop::collection::vec(any::<u16>(), 0..len_max))
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(cases()))]

    #[test]
    fn inbox_of_3_loses_nothing((lags, raw) in case(120)) {
        run(3, lags, &raw);
    }

    #[test]
    fn inbox_of_4_loses_nothing((lags, raw) in case(120)) {
        run(4, lags, &raw);
    }

    #[test]
    fn inbox_of_1_loses_nothing((lags, raw) in case(60)) {
        run(1, lags, &raw);
    }
}

proptest! {
    // A case costs as much as ten of the others, and finds less.
    #![proptest_config(config(cases() / 10))]

    #[test]
    fn inbox_of_24_loses_nothing((lags, raw) in case(250)) {
        run(INBOX_CACHE_CAPACITY, lags, &raw);
    }
}

/// The cases reach the situations they are meant for. Guards the generator, not the inbox.
#[test]
fn inbox_model_reaches_overflows() {
    use proptest::strategy::ValueTree as _;
    use std::cell::Cell;
    let (overflows, cancels, late) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..300 {
        let (lags, raw) = case(120).new_tree(&mut runner).map(|tree| tree.current()).unwrap();
        let mut world = World::new(3, lags);
        for raw in raw {
            let (full, covered) = (world.inbox.items().len() == 3, world.inbox.anchor());
            let was_late = world.late.len();
            world.step(op(raw));
            overflows.set(overflows.get() + u32::from(full && world.inbox.anchor() < covered));
            cancels.set(cancels.get() + u32::from(world.late.len() > was_late));
            late.set(late.get() + u32::from(world.late.len() < was_late));
        }
    }
    let reached = [overflows.get(), cancels.get(), late.get()];
    assert!(reached.iter().all(|count| *count > 50), "reached only {reached:?}");
}
