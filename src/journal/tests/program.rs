//! Random programs of operations, interrupted anywhere and replayed: they must take the same path
//! each time, and never compute a stored result again.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use futures_util::{
    StreamExt,
    future::{BoxFuture, FutureExt},
    stream::FuturesUnordered,
};
use proptest::prelude::*;

use super::{
    child,
    world::{Site, Task},
};
use crate::{
    HandlerError,
    journal::{Driven, Ended, Journal, OperationError},
};

#[derive(Clone, Debug)]
enum Op {
    Step(u8),
    Call(u8),
    Send(u8),
    Sleep(u8),
    Promise(u8),
    Random,
    Join(Vec<Vec<Op>>),
    Select(Vec<Vec<Op>>),
    Branches(Vec<Vec<Op>>),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let leaf = prop_oneof![
        4 => (0..3_u8).prop_map(Op::Step),
        3 => (0..3_u8).prop_map(Op::Call),
        1 => (0..3_u8).prop_map(Op::Send),
        1 => (0..3_u8).prop_map(Op::Sleep),
        1 => (0..2_u8).prop_map(Op::Promise),
        1 => Just(Op::Random),
    ];
    let op = leaf.prop_recursive(3, 24, 4, |inner| {
        let branches = prop::collection::vec(prop::collection::vec(inner, 0..4), 1..4);
        prop_oneof![
            branches.clone().prop_map(Op::Join),
            branches.clone().prop_map(Op::Select),
            branches.prop_map(Op::Branches),
        ]
    });
    prop::collection::vec(op, 1..6)
}

/// The results in each branch, in order. There is no order between branches: `FuturesUnordered`
/// polls them in any order.
type Trace = BTreeMap<String, Vec<String>>;

#[derive(Clone)]
struct Run {
    site: Site,
    journal: Arc<Journal>,
    branch: String,
    trace: Arc<Mutex<Trace>>,
}

impl Run {
    /// The same program in a part of this branch.
    fn part(&self, which: usize) -> Self {
        Self { branch: format!("{}/{which}", self.branch), ..self.clone() }
    }

    fn saw(&self, what: impl std::fmt::Debug) {
        let now = self.journal.now().0;
        let mut trace = self.trace.lock().unwrap();
        trace.entry(self.branch.clone()).or_default().push(format!("{what:?} at {now}"));
    }

    /// Computes after some polls; fails sometimes.
    async fn step(&self, name: u8) -> Result<u64, OperationError> {
        let site = self.site.clone();
        let compute = |id: forebay_messages::journal::StepId| {
            let (mut turns, failure, value) = {
                let mut world = site.world();
                let row = world.rows.get(&id.key);
                assert!(row.is_none(), "{} is remembered and computed again", id.key);
                (world.draw(3), world.draw(12), world.fresh())
            };
            async move {
                std::future::poll_fn(|context| {
                    if turns == 0 {
                        return Poll::Ready(());
                    }
                    turns -= 1;
                    context.waker().wake_by_ref();
                    Poll::Pending
                })
                .await;
                match failure {
                    0 => Err(HandlerError::retry("not now")),
                    1 => Err(HandlerError::terminal("never")),
                    _ => Ok(value),
                }
            }
        };
        Arc::clone(&self.journal).step(format!("s{name}").into(), None, compute).await
    }

    async fn op(&self, op: &Op) {
        let journal = || Arc::clone(&self.journal);
        match op {
            Op::Step(name) => {
                let result = self.step(*name).await;
                // The rest depends on the result.
                let is_more = result.as_ref().is_ok_and(|value| value % 3 == 0);
                self.saw((name, result));
                if is_more {
                    let id = journal().send("more".into(), child("more")).await;
                    self.saw(("more", id));
                }
            }
            Op::Call(name) => {
                let result = journal().call::<u64>(format!("c{name}").into(), child("c")).await;
                self.saw((name, result));
            }
            Op::Send(name) => {
                self.saw(journal().send(format!("d{name}").into(), child("d")).await);
            }
            Op::Sleep(name) => {
                let name = format!("z{name}").into();
                self.saw(journal().sleep(name, Duration::ZERO).await);
            }
            Op::Promise(name) => {
                self.saw(journal().promise::<u64>(format!("p{name}").into()).await);
            }
            Op::Random => self.saw((journal().random(), journal().uuid())),
            Op::Join(parts) => {
                let parts = parts.iter().enumerate();
                let parts: Vec<_> = parts.map(|(i, part)| self.part(i).ops(part)).collect();
                journal().join(parts).await;
            }
            Op::Select(parts) => {
                let parts = parts.iter().enumerate();
                let parts: Vec<_> = parts.map(|(i, part)| self.part(i).ops(part)).collect();
                let (winner, ()) = journal().select(parts).await;
                self.saw(("winner", winner));
            }
            Op::Branches(parts) => {
                let parts = parts.iter().enumerate().map(|(i, part)| {
                    journal().keyed(&format!("key {i}"), self.part(i).ops(part)).map(move |()| i)
                });
                let mut parts: FuturesUnordered<_> = parts.collect();
                while let Some(i) = parts.next().await {
                    self.saw(("branch", i));
                }
            }
        }
    }

    fn ops(self, ops: &[Op]) -> BoxFuture<'static, ()> {
        let ops = ops.to_vec();
        async move {
            for op in &ops {
                self.op(op).await;
            }
        }
        .boxed()
    }
}

/// How an attempt ended.
#[derive(Debug, PartialEq)]
enum Ending {
    Returned,
    Interrupted,
}

/// Runs one attempt until it ends, is interrupted (if it may be) or is suspended.
fn attempt(site: &Site, program: &[Op], interruptions: u64) -> (Ending, Trace) {
    let slot = site.begin();
    let journal = Arc::clone(slot.get().unwrap());
    let trace = Arc::<Mutex<Trace>>::default();
    let branch = String::new();
    let run = Run { site: site.clone(), journal, branch, trace: Arc::clone(&trace) };
    let mut task = Task::new(Driven::new(slot, run.ops(program)));
    let trace = || trace.lock().unwrap().clone();
    for _ in 0..20_000 {
        let draw = site.world().draw(100);
        if draw < interruptions {
            return (Ending::Interrupted, trace());
        }
        if draw < 50 && task.is_woken() {
            match task.poll() {
                Poll::Ready(Ok(())) => return (Ending::Returned, trace()),
                Poll::Ready(Err(Ended::Attempt(_))) => return (Ending::Interrupted, trace()),
                Poll::Ready(Err(Ended::Mismatch(mismatch))) => panic!("{mismatch}"),
                Poll::Pending => {}
            }
            continue;
        }
        let mut world = site.world();
        if draw < 70 && !world.log.is_empty() {
            world.apply();
            if world.suspended.is_some() {
                world.suspensions += 1;
                return (Ending::Interrupted, trace());
            }
            continue;
        }
        let unfinished = world.unfinished();
        let is_idle = world.log.is_empty() && !task.is_woken();
        let patience_ends = draw.is_multiple_of(2) && is_idle && world.fire();
        if !patience_ends && (draw < 90 || is_idle) && !unfinished.is_empty() {
            let which = world.draw(unfinished.len() as u64);
            let key = &unfinished[usize::try_from(which).unwrap()];
            world.answer(key);
        } else if !patience_ends && is_idle && unfinished.is_empty() {
            drop(world);
            panic!("nothing will wake the attempt, which saw {:?}", trace());
        }
    }
    panic!("the attempt does not end");
}

/// Runs attempts until one returns; the trace of that one.
fn run_to_end(site: &Site, program: &[Op], interruptions: u64) -> Trace {
    let mut before = Trace::new();
    for round in 0..2_000 {
        let often = if round < 200 { interruptions } else { 0 };
        let (ending, trace) = attempt(site, program, often);
        for (branch, saw) in &trace {
            let known = before.entry(branch.clone()).or_default();
            let both = known.len().min(saw.len());
            assert_eq!(known[..both], saw[..both], "attempt {round}, {branch}: another way");
            if saw.len() > known.len() {
                known.clone_from(saw);
            }
        }
        if ending == Ending::Returned {
            assert_eq!(trace.get(""), before.get(""), "it saw less than before");
            return trace;
        }
        let mut world = site.world();
        // Operations that were handed over may be in the log or lost; their order is kept.
        while !world.log.is_empty() && world.draw(2) == 0 && world.suspended.is_none() {
            world.apply();
        }
        world.log.clear();
        if let Some(waits) = world.suspended.take() {
            let which = world.draw(waits.len() as u64);
            world.answer(&waits[usize::try_from(which).unwrap()]);
        }
    }
    panic!("no attempt returns");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_program_takes_the_same_way_however_it_is_interrupted(
        program in ops(),
        seed in any::<u64>(),
        interruptions in 0..8_u64,
    ) {
        let site = Site::new(seed);
        let first = run_to_end(&site, &program, interruptions);
        site.world().log.clear();
        let again = run_to_end(&site, &program, 0);
        prop_assert_eq!(first.get(""), again.get(""), "the finished journal replays otherwise");
    }
}

#[test]
fn attempts_are_suspended_and_continue() {
    let program = [Op::Join(vec![vec![Op::Call(0)], vec![Op::Sleep(0)]]), Op::Promise(0)];
    let suspensions = (0..50).map(|seed| {
        let site = Site::new(seed);
        run_to_end(&site, &program, 0);
        let world = site.world();
        world.suspensions
    });
    let suspensions: usize = suspensions.sum();
    assert!(suspensions > 10, "only {suspensions} suspensions in 50 runs");
}
