//! The journal of an attempt against a partition in memory. Random programs are in `program`,
//! individual cases here.

mod program;
mod world;

use std::{
    cell::Cell,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use forebay_messages::{
    Timestamp, VQueueName,
    actor::AttemptEnd,
    command::{NewChild, Operation, RetryPolicy},
    journal::{JournalFailureKind, StepId},
};

use super::{Driven, Ended, Journal, Notification, OneOf2, OperationError, Slot};
use crate::HandlerError;
use world::{Logged, Site, Task};

fn child(service: &str) -> NewChild {
    let vqueue = VQueueName::service(service);
    NewChild { vqueue, payload: "work".into(), ..NewChild::default() }
}

/// Polls and applies until nothing changes any more.
fn settle<F: Future + Unpin>(site: &Site, task: &mut Task<F>) -> Poll<F::Output> {
    for _ in 0..1_000 {
        if task.is_woken()
            && let Poll::Ready(output) = task.poll()
        {
            return Poll::Ready(output);
        }
        let mut world = site.world();
        if !world.log.is_empty() {
            world.apply();
        } else if !task.is_woken() {
            return Poll::Pending;
        }
    }
    panic!("it does not settle");
}

/// The attempt of a handler.
type Attempt<F> = Task<Driven<Slot, Pin<Box<F>>>>;

/// Begins an attempt of a handler.
fn begin<F: Future>(
    site: &Site,
    handler: impl FnOnce(Arc<Journal>) -> F,
) -> (Arc<Slot>, Attempt<F>) {
    let slot = site.begin();
    let handler = Box::pin(handler(Arc::clone(slot.get().unwrap())));
    (Arc::clone(&slot), Task::new(Driven::new(slot, handler)))
}

fn ended<T>(poll: Poll<Result<T, Ended>>) -> T {
    match poll {
        Poll::Ready(Ok(output)) => output,
        Poll::Ready(Err(end)) => panic!("the attempt ended: {end:?}"),
        Poll::Pending => panic!("the attempt waits"),
    }
}

async fn double(journal: Arc<Journal>, name: &str, of: u64) -> Result<u64, OperationError> {
    let compute = |_: StepId| async move { Ok::<_, HandlerError>(2 * of) };
    journal.step(name.to_owned().into(), None, compute).await
}

#[test]
fn a_handler_that_uses_no_operation_has_no_journal() {
    let slot = Arc::new(Slot::default());
    let mut driven = Driven::new(Arc::clone(&slot), Box::pin(async { 5 }));
    let polled = Pin::new(&mut driven).poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(polled, Poll::Ready(Ok(5))), "{polled:?}");
    assert!(slot.get().is_none());
}

#[test]
fn a_second_operation_of_a_name_is_ambiguous_until_the_first_has_ended() {
    let site = Site::new(1);
    let (_slot, mut task) = begin(&site, |journal| async move {
        let twice = futures_util::future::join(
            double(Arc::clone(&journal), "a", 1),
            double(Arc::clone(&journal), "a", 2),
        );
        let (first, second) = twice.await;
        // One after the other, or in different branches, is allowed.
        let third = double(Arc::clone(&journal), "a", 3).await;
        let members = (double(Arc::clone(&journal), "a", 4), double(Arc::clone(&journal), "a", 5));
        (first, second, third, journal.join(members).await)
    });
    let (first, second, third, joined) = ended(settle(&site, &mut task));
    assert_eq!(second, Err(OperationError::AmbiguousName { name: "a".into() }));
    assert_eq!((first, third, joined), (Ok(2), Ok(6), (Ok(8), Ok(10))));
}

#[test]
fn operations_are_refused_outside_of_the_handler_and_inside_of_steps() {
    let site = Site::new(1);
    let (slot, mut task) = begin(&site, |journal| async move {
        let inner = Arc::clone(&journal);
        let compute = move |_: StepId| {
            let inner = Arc::clone(&inner);
            async move {
                let nested = double(inner, "nested", 1).await;
                Ok::<_, HandlerError>(nested.unwrap_err().to_string())
            }
        };
        journal.step("outer".into(), None, compute).await
    });
    let text = ended(settle(&site, &mut task)).unwrap();
    assert!(text.contains("`nested` was awaited inside of a step"), "{text}");

    let outside = Box::pin(double(Arc::clone(slot.get().unwrap()), "spawned", 1));
    let Poll::Ready(Err(error)) = Task::new(outside).poll() else { panic!("it was not refused") };
    assert_eq!(error, OperationError::OutsideOfHandler { name: "spawned".into() });
    // Also refused in the handler of another entry.
    let journal = Arc::clone(slot.get().unwrap());
    let (_other, mut task) = begin(&Site::new(2), |_| double(journal, "other", 1));
    let error = ended(task.poll()).unwrap_err();
    assert_eq!(error, OperationError::OutsideOfHandler { name: "other".into() });
}

#[test]
fn code_that_does_not_fit_the_journal_ends_the_attempt() {
    let site = Site::new(1);
    let (_, mut task) = begin(&site, |journal| double(journal, "charge", 1));
    assert_eq!(ended(settle(&site, &mut task)), Ok(2));
    let (_, mut task) = begin(&site, |journal| async move {
        journal.call::<u64>("charge".into(), child("charge")).await
    });
    let Poll::Ready(Err(Ended::Mismatch(mismatch))) = settle(&site, &mut task) else {
        panic!("it was taken")
    };
    let text = mismatch.to_string();
    assert!(text.contains("at `charge` it has a step, the code does a call"), "{text}");
}

#[test]
fn steps_that_end_together_are_handed_over_together() {
    let site = Site::new(1);
    let (_, mut task) = begin(&site, |journal| {
        let steps = (0..100).map(|i| double(Arc::clone(&journal), "s", i)).collect::<Vec<_>>();
        journal.join(steps)
    });
    let all = ended(settle(&site, &mut task));
    assert_eq!(all[99], Ok(198));
    assert_eq!(site.world().batches, [100]);
}

#[test]
fn a_result_over_the_bound_is_a_failure_that_is_remembered() {
    let site = Site::new(1);
    for attempt in 0..2 {
        let calls = Cell::new(0);
        let (_, mut task) = begin(&site, |journal| {
            let compute = |_: StepId| {
                calls.set(calls.get() + 1);
                async { Ok::<_, HandlerError>("x".repeat(2_000)) }
            };
            journal.step::<String, _, _, _>("large".into(), None, compute)
        });
        let error = ended(settle(&site, &mut task)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("2002 bytes as JSON; 1000 are allowed"), "{text}");
        drop(task);
        assert_eq!(calls.get(), 1 - attempt, "calls in attempt {attempt}");
        // With `?` it ends the entry: another attempt would get the same failure.
        let end = HandlerError::from(error).into_end();
        assert!(matches!(end, AttemptEnd::Terminal { .. }), "{end:?}");
    }
}

#[test]
fn a_failure_is_tried_again_by_the_steps_policy_or_ends_the_attempt() {
    let site = Site::new(1);
    let calls = Cell::new(0);
    let fail = |_: StepId| {
        calls.set(calls.get() + 1);
        async { Err::<u64, _>(HandlerError::retry("busy")) }
    };
    let (_, mut task) = begin(&site, |journal| journal.step("a".into(), None, fail));
    let Poll::Ready(Err(Ended::Attempt(end))) = settle(&site, &mut task) else {
        panic!("the attempt continues")
    };
    let AttemptEnd::Retry { message, .. } = end else { panic!("{end:?}") };
    assert_eq!(message, "step `a`: busy");
    drop(task);
    assert!(site.world().rows.is_empty(), "a failure that is not final is not remembered");

    calls.set(0);
    let policy = RetryPolicy { attempts_max: 3, ..RetryPolicy::default() };
    let (_, mut task) = begin(&site, |journal| journal.step("a".into(), Some(policy), fail));
    let result = loop {
        match settle(&site, &mut task) {
            Poll::Pending => assert!(site.world().fire(), "nothing wakes it"),
            ready => break ended(ready),
        }
    };
    drop(task);
    assert_eq!(calls.get(), 3);
    let Err(OperationError::Failed { kind, message, .. }) = result else { panic!("{result:?}") };
    assert_eq!((kind, &*message), (JournalFailureKind::Exhausted, "busy"));
}

#[test]
fn the_loser_of_a_select_is_dropped_and_does_not_start_in_a_replay() {
    let site = Site::new(1);
    let calls = Cell::new(0);
    let handler = |journal: Arc<Journal>| {
        let slow = |_: StepId| {
            calls.set(calls.get() + 1);
            std::future::pending::<Result<u64, HandlerError>>()
        };
        let slow = Arc::clone(&journal).step("slow".into(), None, slow);
        let sleep = Arc::clone(&journal).sleep("nap".into(), Duration::ZERO);
        journal.select((slow, sleep))
    };
    let (_, mut task) = begin(&site, handler);
    assert!(settle(&site, &mut task).is_pending());
    let nap = site.world().unfinished();
    site.world().answer(&nap[0]);
    assert_eq!(ended(settle(&site, &mut task)), OneOf2::Second(Ok(())));
    drop(task);
    assert_eq!(calls.get(), 1);
    let (_, mut task) = begin(&site, handler);
    assert_eq!(ended(settle(&site, &mut task)), OneOf2::Second(Ok(())));
    drop(task);
    assert_eq!(calls.get(), 1, "the loser started in the replay");
}

#[test]
fn an_invalid_name_is_refused() {
    let site = Site::new(1);
    let (_, mut task) = begin(&site, |journal| double(journal, "", 1));
    let text = ended(settle(&site, &mut task)).unwrap_err().to_string();
    assert!(text.contains("is empty"), "{text}");
    let (_, mut task) =
        begin(&site, |journal| async move { double(journal, &"x".repeat(129), 1).await });
    let text = ended(settle(&site, &mut task)).unwrap_err().to_string();
    assert!(text.contains("129 bytes; 128 are allowed"), "{text}");
}

#[test]
fn now_is_the_time_of_the_record_that_was_delivered_last_in_a_replay_too() {
    let site = Site::new(1);
    let seen = [(); 2].map(|()| {
        let (_, mut task) = begin(&site, |journal| async move {
            let before = journal.now();
            double(Arc::clone(&journal), "a", 1).await.unwrap();
            let between = (journal.now(), journal.random(), journal.uuid());
            double(Arc::clone(&journal), "b", 1).await.unwrap();
            (before, between, journal.now(), journal.random())
        });
        ended(settle(&site, &mut task))
    });
    assert_eq!(seen[0], seen[1]);
    let (before, (between, random, uuid), after, again) = seen[0].clone();
    assert!(before.0 == 1_000 && before < between && between < after, "{seen:?}");
    assert_ne!(random, again);
    assert_eq!(uuid.unwrap()[6] >> 4, 8, "its version");
}

#[test]
fn an_attempt_asks_once_to_be_suspended_until_something_changes() {
    let site = Site::new(1);
    let (_, mut task) = begin(&site, |journal| async move {
        let name = "nap";
        let waits = (
            Arc::clone(&journal).sleep(name.into(), Duration::from_secs(60)),
            Arc::clone(&journal).promise::<u64>("approved".into()),
        );
        journal.join(waits).await
    });
    assert!(settle(&site, &mut task).is_pending());
    // The request is void, as for an entry that is being canceled.
    let refuse = |task: &mut Attempt<_>| {
        for _ in 0..3 {
            site.world().fire();
            while task.is_woken() {
                assert!(task.poll().is_pending());
            }
            let mut world = site.world();
            if world.log.pop_front().is_some() {
                world.mailbox.push(Notification::NotSuspended);
            }
        }
    };
    refuse(&mut task);
    assert_eq!(site.world().asked, 1);
    let unfinished = site.world().unfinished();
    site.world().answer(&unfinished[0]);
    assert!(settle(&site, &mut task).is_pending());
    refuse(&mut task);
    assert_eq!(site.world().asked, 2, "it waits for less than before");
}

#[test]
fn a_cancel_ends_an_attempt_that_only_waits() {
    let site = Site::new(1);
    let (_, mut task) = begin(&site, |journal| journal.promise::<u64>("approved".into()));
    assert!(settle(&site, &mut task).is_pending());
    assert!(site.world().is_resting, "no heartbeat is needed");
    site.world().cancel();
    let Poll::Ready(Err(Ended::Attempt(AttemptEnd::Canceled { .. }))) = settle(&site, &mut task)
    else {
        panic!("it still waits");
    };
}

#[test]
fn a_sleep_ends_by_the_clock_and_not_by_the_last_record() {
    let site = Site::new(1);
    let (_, mut task) = begin(&site, |journal| journal.sleep("nap".into(), Duration::from_secs(2)));
    assert!(task.poll().is_pending());
    let Some(Logged::Write(write)) = site.world().log.pop_front() else { panic!("no write") };
    assert_eq!(write.operation, Some(Operation::Sleep(Timestamp(7_000))));
}
